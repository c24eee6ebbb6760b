//! Exclusive mode: while a suspect is tried alone, no other message is handed out.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::Notify;

/// The switch of one session.
#[derive(Default)]
pub(super) struct ExclusiveMode {
    on: AtomicBool,
    settled: Notify,
}

impl ExclusiveMode {
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    pub(super) fn set(&self, on: bool) {
        self.on.store(on, Relaxed);
    }

    /// Reports that a message is no longer in flight.
    pub(super) fn on_settled(&self) {
        if self.is_on() {
            self.settled.notify_one();
        }
    }

    /// Waits until a message is no longer in flight.
    pub(super) async fn settled(&self) {
        self.settled.notified().await;
    }
}
