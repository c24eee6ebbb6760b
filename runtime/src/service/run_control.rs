//! Run control: the state of one run that a service's code shares with its host.
//!
//! The host stops, revokes and pauses a run from any thread, also while a handler blocks the
//! thread of the service. Handlers and sources see the stop signal, ask for a pause, and
//! register work and hooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::abandon_hooks::AbandonHooks;
use super::pending_work::PendingWork;
use super::shared_values::SharedValues;
use crate::log_throttle::LogThrottle;

/// Pauses the mailbox of a run for a duration.
pub(crate) type Pause = Box<dyn Fn(Duration) + Send + Sync>;

/// Control state of one run of a service, from a start to the next stop.
pub(crate) struct RunControl {
    /// Set once: the service takes no more messages.
    closing: watch::Sender<bool>,
    /// Set once: the thread was abandoned, and results of this run no longer count.
    revoked: AtomicBool,
    revocation: Notify,
    pub(crate) shared: SharedValues,
    pub(crate) pending_work: PendingWork,
    pub(crate) abandon_hooks: Arc<AbandonHooks>,
    /// Throttle of log lines about messages that can't be published.
    pub(crate) publish_log: LogThrottle,
    /// Messages of this source that the transport did not accept.
    publish_failures: AtomicU64,
    pause: Pause,
}

impl RunControl {
    pub(crate) fn new(pause: Pause) -> Self {
        Self {
            closing: watch::Sender::new(false),
            revoked: AtomicBool::new(false),
            revocation: Notify::new(),
            shared: SharedValues::default(),
            pending_work: PendingWork::default(),
            abandon_hooks: Arc::default(),
            publish_log: LogThrottle::default(),
            publish_failures: AtomicU64::default(),
            pause,
        }
    }

    /// Pauses the service: its instances take no messages for this long.
    pub(crate) fn pause(&self, duration: Duration) {
        (self.pause)(duration);
    }

    /// Tells the service to stop.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Resolves when the service is to stop.
    pub(crate) async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        // Never an error: `self` owns the sender.
        let _open = closing.wait_for(|closing| *closing).await;
    }

    /// Marks the run as revoked. [`notify_revoked`](Self::notify_revoked) follows.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Relaxed);
    }

    /// Wakes the tasks that wait in [`revoked`](Self::revoked).
    pub(crate) fn notify_revoked(&self) {
        self.revocation.notify_waiters();
    }

    /// Returns whether the thread was abandoned: results of this run must have no effect.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Relaxed)
    }

    /// Resolves when the thread was abandoned.
    pub(crate) async fn revoked(&self) {
        let revocation = self.revocation.notified();
        if !self.is_revoked() {
            revocation.await;
        }
    }

    /// Counts a message of this source that the transport did not accept.
    pub(crate) fn count_publish_failure(&self) {
        self.publish_failures.fetch_add(1, Relaxed);
    }

    /// Returns the number of messages of this source that the transport did not accept.
    pub(crate) fn publish_failures(&self) -> u64 {
        self.publish_failures.load(Relaxed)
    }
}
