//! The state of one session: open, closed or lost.
//!
//! Everything that waits for the broker also waits for [`SessionState::ended`], so nothing
//! hangs after the connections are gone. A session that has ended stays ended: `recovery` opens
//! another.

use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::TransportError;
use tokio::sync::watch;
use tokio::time::sleep;

use super::clock_skew::ClockSkew;
use super::health::{Degraded, Health, SettlementTrouble};

/// The state of a session, shared by everything that uses its connections.
pub(super) struct SessionState {
    health: Arc<Health>,
    end: watch::Sender<Option<End>>,
    /// Number of flushes. Settlements that fail don't wait any longer when it changes.
    hurries: watch::Sender<u64>,
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
            hurries: watch::Sender::new(0),
        })
    }

    /// Ends the session as lost. The first reason stays. The status reports the loss before any
    /// operation fails because of it.
    pub(super) fn fail(&self, why: impl std::fmt::Display) {
        let why = why.to_string();
        if self.check().is_ok() {
            self.health.lost(&why);
        }
        self.end(End::Lost(why.into()));
    }

    /// Ends the session because this side closes it.
    pub(super) fn close(&self) {
        self.end(End::Closed);
    }

    /// Records that the broker has blocked publications (`Some(why)`) or unblocked them.
    pub(super) fn blocked(&self, why: Option<String>) {
        if self.check().is_ok() {
            self.health.blocked(why);
        }
    }

    /// Records that confirms have stalled (`Some(why)`) or arrive again.
    pub(super) fn confirms_stalled(&self, why: Option<String>) {
        if self.check().is_ok() {
            self.health.confirms_stalled(why);
        }
    }

    /// Records the problem of a part of the transport (`Some(why)`) or that it works.
    pub(super) fn degraded(&self, part: Degraded, why: Option<String>) {
        if self.check().is_ok() {
            self.health.degraded(part, why);
        }
    }

    /// Records the number of delays whose messages are overdue.
    pub(super) fn overdue_delays(&self, count: u64) {
        if self.check().is_ok() {
            self.health.overdue_delays(count);
        }
    }

    /// Records by how much the broker's clock is ahead.
    pub(super) fn set_clock_skew(&self, skew_ms: i64) {
        if self.check().is_ok() {
            self.health.set_clock_skew(skew_ms);
        }
    }

    pub(super) fn clock_skew(&self) -> &Arc<ClockSkew> {
        self.health.clock_skew()
    }

    /// Returns a record of a delivery that can't be settled at first.
    pub(super) fn settlement_trouble(&self) -> SettlementTrouble {
        self.health.settlement_trouble()
    }

    /// Ends the pauses of settlements that fail, so that a flush does not wait for them.
    pub(super) fn hurry(&self) {
        self.hurries.send_modify(|count| *count += 1);
    }

    /// Returns the flushes from now on, for [`pause`](Self::pause).
    pub(super) fn hurries(&self) -> watch::Receiver<u64> {
        self.hurries.subscribe()
    }

    /// Waits. Returns `false`, early, if the session ends or was flushed since `hurries` was made.
    pub(super) async fn pause(&self, time: Duration, hurries: &mut watch::Receiver<u64>) -> bool {
        tokio::select! {
            biased;
            _ended = self.ended() => false,
            // `self` holds the sender, so this can't fail.
            _flushed = hurries.changed() => false,
            () = sleep(time) => true,
        }
    }

    /// Returns whether the broker has blocked publications.
    pub(super) fn is_blocked(&self) -> bool {
        self.health.is_blocked()
    }

    /// # Errors
    /// The session has ended: the reason.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        match &*self.end.borrow() {
            None => Ok(()),
            Some(end) => Err(end.error()),
        }
    }

    /// Returns the error of an operation that failed with `error`: the reason for the end, if
    /// the session has ended.
    pub(super) fn lost(&self, error: &lapin::Error) -> TransportError {
        let ended = self.check().err();
        ended.unwrap_or_else(|| TransportError::Lost(error.to_string()))
    }

    /// Returns the reason for the end. Without one, the transport's thread is gone.
    pub(super) fn error(&self) -> TransportError {
        self.check()
            .err()
            .unwrap_or_else(|| TransportError::Lost("the transport's thread is gone".into()))
    }

    /// Waits for the end of the session.
    pub(super) async fn ended(&self) -> TransportError {
        let mut end = self.end.subscribe();
        // `self` holds the sender, so this can't fail.
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
