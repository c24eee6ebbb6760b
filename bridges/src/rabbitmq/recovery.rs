//! Recovery: replaces a session that has ended.
//!
//! Owns the current session and the task that opens the next one, with everything that was
//! declared, until that succeeds. The client library's own recovery stays off: it hangs forever
//! after its last attempt (lapin 4.12).

use std::sync::Arc;
use std::time::Duration;

use brickwork::supervision::Backoff;
use brickwork::transport::TransportError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::session::{Session, SharedAcrossSessions};

/// Back-off between attempts. The maximum is short because it prolongs every outage, and an
/// attempt without a broker costs little.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(1),
    jitter: 0.5,
};
/// A session this old resets the back-off.
const STABLE: Duration = Duration::from_secs(5);
/// After this time no right is reported as missing.
const LASTING: Duration = Duration::from_secs(10);

/// The sessions of a transport, one after the other.
pub(super) struct Recovery {
    pub(super) shared: SharedAcrossSessions,
    /// `None` between two sessions.
    session: watch::Sender<Option<Arc<Session>>>,
}

impl Recovery {
    /// Opens the first session, on the current runtime, and starts recovery.
    ///
    /// # Errors
    /// The first session can't be opened.
    pub(super) async fn start(shared: SharedAcrossSessions) -> Result<Arc<Self>, TransportError> {
        let session = Session::open(&shared).await?;
        let recovery = Arc::new(Self {
            shared,
            session: watch::Sender::new(Some(session.clone())),
        });
        tokio::spawn(recovery.clone().run(session));
        Ok(recovery)
    }

    /// Returns the current session.
    ///
    /// # Errors
    /// There is no session now: the reason.
    pub(super) fn current(&self) -> Result<Arc<Session>, TransportError> {
        let session = self.session.borrow().clone();
        session
            .filter(|session| session.session_state.check().is_ok())
            .ok_or_else(|| self.shared.health.error())
    }

    /// Returns the current session, or waits for the next one.
    ///
    /// # Errors
    /// The transport was closed.
    pub(super) async fn wait_for_session(&self) -> Result<Arc<Session>, TransportError> {
        let mut sessions = self.session.subscribe();
        let open = |session: &Option<Arc<Session>>| {
            session
                .as_ref()
                .is_some_and(|session| session.session_state.check().is_ok())
        };
        tokio::select! {
            biased;
            () = self.shared.health.closed() => Err(TransportError::Closed),
            session = sessions.wait_for(open) => {
                // `self` holds the sender, so this can't fail.
                let session = session.ok().and_then(|session| session.clone());
                session.ok_or(TransportError::Closed)
            }
        }
    }

    /// Ends the last session after its operations are done. No session follows.
    pub(super) async fn close(&self) {
        if let Ok(session) = self.current() {
            // The broker redelivers the rest.
            let _lost = session.flush().await;
        }
        self.shared.health.close();
        let session = self.session.send_replace(None);
        if let Some(session) = session {
            session.close().await;
        }
    }

    /// Ends without closing the connections.
    pub(super) fn abandon(&self) {
        self.shared.health.close();
        if let Some(session) = &*self.session.borrow() {
            session.session_state.close();
        }
    }

    async fn run(self: Arc<Self>, mut session: Arc<Session>) {
        let health = &self.shared.health;
        let mut attempts = 0;
        loop {
            let since = Instant::now();
            let why = {
                let mut ended = std::pin::pin!(session.session_state.ended());
                match timeout(LASTING, &mut ended).await {
                    Ok(why) => why,
                    Err(_) => {
                        health.session_lasts();
                        ended.await
                    }
                }
            };
            if health.is_closed() {
                return;
            }
            health.lost(&why.to_string());
            self.session.send_replace(None);
            // The other connection may still be open and hold unacked messages.
            tokio::spawn(async move { session.close().await });
            if since.elapsed() >= STABLE {
                attempts = 0;
            }
            session = tokio::select! {
                session = self.reopen(&mut attempts) => session,
                () = health.closed() => return,
            };
            // `close` may have run in between without seeing this session.
            self.session.send_replace(Some(session.clone()));
            if health.is_closed() {
                return session.close().await;
            }
            health.restored();
        }
    }

    async fn reopen(&self, attempts: &mut u32) -> Arc<Session> {
        loop {
            sleep(BACKOFF.delay(*attempts, fastrand::f64())).await;
            *attempts = attempts.saturating_add(1);
            match Session::open(&self.shared).await {
                Ok(session) => return session,
                Err(error) => self.shared.health.reconnect_failed(&error),
            }
        }
    }
}
