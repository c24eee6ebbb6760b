//! Whether the way to the broker is open, and why not.
//!
//! Everything that can wait for the broker also waits for [`Link::ended`], so that
//! nothing hangs once the way is gone. An ended link stays ended: to connect again is
//! to make another transport.

use std::sync::Arc;

use brickwork::transport::{Status, TransportError};
use tokio::sync::watch;
use tracing::warn;

/// The state of a transport's connections, shared by all that use them.
pub(super) struct Link {
    status: watch::Sender<Status>,
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

impl Link {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            status: watch::Sender::default(),
            end: watch::Sender::new(None),
        })
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// It is lost. The first reason stays.
    pub(super) fn fail(&self, why: impl std::fmt::Display) {
        if self.end(End::Lost(why.to_string().into())) {
            warn!(error = %why, "the connection to the broker is lost");
            self.status.send_modify(|status| {
                status.down = Some(why.to_string());
                status.ended = true;
            });
        }
    }

    /// It was closed by this side.
    pub(super) fn close(&self) {
        self.end(End::Closed);
        self.status.send_modify(|status| {
            status.down = Some("the transport is closed".into());
            status.ended = true;
        });
    }

    /// The broker takes nothing for now (`Some(why)`), or does so again.
    pub(super) fn blocked(&self, why: Option<String>) {
        if self.check().is_ok() {
            let down = why.map(|why| format!("the broker takes nothing for now: {why}"));
            self.status.send_modify(|status| status.down = down);
        }
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

    fn end(&self, end: End) -> bool {
        self.end.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(end);
            }
            first
        })
    }
}
