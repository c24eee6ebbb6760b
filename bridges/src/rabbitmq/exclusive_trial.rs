//! Exclusive trials: keeps queues closed while a suspect is tried alone.
//!
//! Shares the [`Isolation`] of a session between its consumers, its handlers that ask, and the
//! task that tries suspects. The broker can't store that a suspect asked. So a suspect that
//! crashes the process counts as one that was tried alone, even if it had dependents.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use brickwork::QueueId;
use brickwork::supervision::quarantine::{DRAIN_TIMEOUT, DeliveryMode, Isolation};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

/// The isolation of one session.
#[derive(Default)]
pub(super) struct ExclusiveMode {
    /// Copy of `Isolation::is_on`, read for each delivery.
    is_on: AtomicBool,
    isolation: Mutex<Isolation<QueueId>>,
    /// A message was settled, or a request is no longer open.
    settled: Notify,
}

impl ExclusiveMode {
    /// Returns whether a queue hands out nothing now but its suspect.
    pub(super) fn blocks(&self, queue: &QueueId) -> bool {
        self.is_on() && self.isolation.lock().blocks(queue)
    }

    /// Returns whether a suspect is tried alone, or is about to be.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// A message was settled: the process may be drained now.
    pub(super) fn on_settled(&self) {
        if self.is_on() {
            self.settled.notify_one();
        }
    }

    /// Closes the queues.
    pub(super) fn start(&self) {
        self.isolation.lock().start();
        self.is_on.store(true, Relaxed);
    }

    /// Waits until nothing but the suspect is in flight, [`DRAIN_TIMEOUT`] at most. Returns the
    /// mode in which the suspect is handed out.
    pub(super) async fn drained(&self, in_flight: impl Fn() -> u64) -> DeliveryMode {
        let drained = async {
            loop {
                // Counted before the lock is taken: a consumer that holds its own lock waits for
                // this one.
                let in_flight = in_flight();
                if self.isolation.lock().is_drained(in_flight) {
                    break;
                }
                self.settled.notified().await;
            }
        };
        let _in_time = timeout(DRAIN_TIMEOUT, drained).await;
        self.isolation.lock().deliver()
    }

    /// Opens the queues again.
    pub(super) fn finish(&self) {
        self.is_on.store(false, Relaxed);
        self.isolation.lock().finish();
    }

    /// Opens the queues that a handler asks. Returns whether the suspect in flight has
    /// dependents from now on.
    pub(super) fn ask(&self, queues: &[QueueId]) -> bool {
        self.isolation.lock().ask(queues)
    }

    /// A request to these queues is answered, or no longer waited for.
    pub(super) fn answered(&self, queues: &[QueueId]) {
        self.isolation.lock().answered(queues);
        self.on_settled();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A consumer asks whether its queue is blocked while it holds the lock of its buffer, and
    /// counting what is in flight takes that lock.
    #[test]
    fn messages_in_flight_are_counted_without_the_lock_that_consumers_wait_for() {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            let mode = ExclusiveMode::default();
            mode.start();
            let queue = QueueId::new("stock", "in");
            let in_flight = || u64::from(!mode.blocks(&queue));
            let drained = runtime.unwrap().block_on(mode.drained(in_flight));
            sender.send(drained).unwrap();
        });
        let drained = receiver.recv_timeout(Duration::from_secs(10));
        assert!(drained.is_ok(), "the trial waits for its own lock");
    }
}
