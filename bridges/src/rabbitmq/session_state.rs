//! One way to the broker: whether it is open, and how it ended.
//!
//! Everything that can wait for the broker also waits for [`SessionState::ended`], so that
//! nothing hangs once the way is gone. A link that has ended stays ended: `recovery`
//! makes another.

use std::sync::Arc;

use brickwork::transport::TransportError;
use tokio::sync::watch;

use super::health::Health;

/// The state of a session's connections, shared by all that use them.
pub(super) struct SessionState {
    health: Arc<Health>,
    end: watch::Sender<Option<End>>,
}

#[derive(Debug, Clone)]
enum End {
    Closed,
    Lost(Arc<str>),
}

impl End {
    fn error(&self) -> TransportError {
        match self {
            Self::Closed => TransportError::Closed,
            Self::Lost(why) => TransportError::Lost(why.to_string()),
        }
    }
}

impl SessionState {
    pub(super) fn new(health: Arc<Health>) -> Arc<Self> {
        Arc::new(Self {
            health,
            end: watch::Sender::new(None),
        })
    }

    /// It is lost. The first reason stays, and is known to all before anything fails
    /// because of it.
    pub(super) fn fail(&self, why: impl std::fmt::Display) {
        let why = why.to_string();
        if self.check().is_ok() {
            self.health.lost(&why);
        }
        self.end(End::Lost(why.into()));
    }

    /// It was closed by this side.
    pub(super) fn close(&self) {
        self.end(End::Closed);
    }

    /// The broker takes nothing for now (`Some(why)`), or does so again.
    pub(super) fn blocked(&self, why: Option<String>) {
        if self.check().is_ok() {
            self.health.blocked(why);
        }
    }

    /// Nothing was confirmed for longer than it should take (`Some(why)`), or it is again.
    pub(super) fn confirms_stalled(&self, why: Option<String>) {
        if self.check().is_ok() {
            self.health.confirms_stalled(why);
        }
    }

    /// Whether the broker takes nothing for now, and has said so.
    pub(super) fn is_blocked(&self) -> bool {
        self.health.is_blocked()
    }

    /// # Errors
    /// It has ended, and how.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        match &*self.end.borrow() {
            None => Ok(()),
            Some(end) => Err(end.error()),
        }
    }

    /// How it ended; if it has not, then it is as good as lost.
    pub(super) fn error(&self) -> TransportError {
        self.check()
            .err()
            .unwrap_or_else(|| TransportError::Lost("the transport's thread is gone".into()))
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) -> TransportError {
        let mut end = self.end.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = end.wait_for(Option::is_some).await;
        self.error()
    }

    fn end(&self, end: End) {
        self.end.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(end);
            }
            first
        });
    }
}
