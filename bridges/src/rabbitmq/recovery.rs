//! Recovery: whatever ends a session, another one takes its place.
//!
//! Owns the session of now, and the task that makes the next one, with everything that
//! was declared, until that works. The client library's own recovery stays off: it hangs
//! for ever once its tries are spent.

use std::sync::Arc;
use std::time::Duration;

use brickwork::supervision::Backoff;
use brickwork::transport::TransportError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::session::{Session, SharedAcrossSessions};

/// Between tries. The longest wait is short, because it is what is added to every
/// outage; a try at a broker that isn't there costs next to nothing.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(1),
    jitter: 0.5,
};
/// A session that ended sooner goes on with the back-off of the one before.
const STABLE: Duration = Duration::from_secs(5);

/// Sessions, one after the other.
pub(super) struct Recovery {
    pub(super) shared: SharedAcrossSessions,
    /// `None` while there is none.
    session: watch::Sender<Option<Arc<Session>>>,
}

impl Recovery {
    /// Opens the first session, on the current runtime, and watches over it.
    ///
    /// # Errors
    /// It can't be had: then there is nothing to recover.
    pub(super) async fn start(shared: SharedAcrossSessions) -> Result<Arc<Self>, TransportError> {
        let session = Session::open(&shared).await?;
        let recovery = Arc::new(Self {
            shared,
            session: watch::Sender::new(Some(session.clone())),
        });
        tokio::spawn(recovery.clone().run(session));
        Ok(recovery)
    }

    /// The session of now.
    ///
    /// # Errors
    /// There is none, and why.
    pub(super) fn current(&self) -> Result<Arc<Session>, TransportError> {
        let session = self.session.borrow().clone();
        session
            .filter(|session| session.session_state.check().is_ok())
            .ok_or_else(|| self.shared.health.error())
    }

    /// The session of now, or the next one.
    ///
    /// # Errors
    /// It was closed: there won't be one.
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
                // The sender is `self`: it can't be gone.
                let session = session.ok().and_then(|session| session.clone());
                session.ok_or(TransportError::Closed)
            }
        }
    }

    /// No more sessions. What the last one was given is done first.
    pub(super) async fn close(&self) {
        if let Ok(session) = self.current() {
            // What can't be done any more is delivered again.
            let _lost = session.flush().await;
        }
        self.shared.health.close();
        let session = self.session.send_replace(None);
        if let Some(session) = session {
            session.close().await;
        }
    }

    /// Without a good-bye.
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
            let why = session.session_state.ended().await;
            if health.is_closed() {
                return;
            }
            health.lost(&why.to_string());
            self.session.send_replace(None);
            // The other connection may be open still, with what it has in hand.
            tokio::spawn(async move { session.close().await });
            if since.elapsed() >= STABLE {
                attempts = 0;
            }
            session = tokio::select! {
                session = self.reopen(&mut attempts) => session,
                () = health.closed() => return,
            };
            // Closed in this very moment: whoever closed didn't see this one.
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
