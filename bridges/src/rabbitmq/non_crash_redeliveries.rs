//! Redeliveries without a crash: messages that this process requeued, or that were in flight
//! when a connection was lost.
//!
//! The broker counts every delivery without an ack, whatever the reason. The redeliveries
//! recorded here are subtracted, so that only crashes remain. A process that crashes loses the
//! record. Then a message that was requeued before becomes a suspect sooner, which takes time
//! but blames no message.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use brickwork::MessageId;
use parking_lot::Mutex;

/// Maximum messages in the record. A process with more is in serious trouble: the record is
/// cleared, and all of them may become suspects.
const MESSAGES_MAX: usize = 65_536;

/// Redeliveries without a crash, by message. Outlives sessions.
#[derive(Default)]
pub(super) struct NonCrashRedeliveries {
    /// False if nothing is recorded, which is the usual case.
    any: AtomicBool,
    /// Counts by a hash of queue and message id. Messages with equal hashes share a count.
    counts: Mutex<HashMap<u64, u64>>,
    hash: RandomState,
}

impl NonCrashRedeliveries {
    /// Records one redelivery.
    pub(super) fn add(&self, queue: &str, id: &MessageId) {
        let mut counts = self.counts.lock();
        if counts.len() >= MESSAGES_MAX {
            counts.clear();
        }
        *counts.entry(self.key(queue, id)).or_default() += 1;
        self.any.store(true, Relaxed);
    }

    /// Returns the recorded redeliveries of a message.
    pub(super) fn count(&self, queue: &str, id: &MessageId) -> u64 {
        let counts = self.counts.lock();
        counts.get(&self.key(queue, id)).copied().unwrap_or(0)
    }

    /// Forgets a settled message. Cheap while nothing is recorded.
    pub(super) fn forget(&self, queue: &str, id: &MessageId) {
        if !self.any.load(Relaxed) {
            return;
        }
        let mut counts = self.counts.lock();
        counts.remove(&self.key(queue, id));
        self.any.store(!counts.is_empty(), Relaxed);
    }

    fn key(&self, queue: &str, id: &MessageId) -> u64 {
        self.hash.hash_one((queue, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redeliveries_count_for_one_message_in_one_queue() {
        let redeliveries = NonCrashRedeliveries::default();
        let [a, b]: [MessageId; 2] = ["a", "b"].map(|id| id.parse().unwrap());
        redeliveries.add("q", &a);
        redeliveries.add("q", &a);
        assert_eq!(redeliveries.count("q", &a), 2);
        assert_eq!(redeliveries.count("q", &b), 0);
        assert_eq!(redeliveries.count("other", &a), 0);
        redeliveries.forget("other", &a);
        assert_eq!(redeliveries.count("q", &a), 2);
        redeliveries.forget("q", &a);
        assert_eq!(redeliveries.count("q", &a), 0);
        assert!(!redeliveries.any.load(Relaxed));
    }

    #[test]
    fn the_record_is_bounded() {
        let redeliveries = NonCrashRedeliveries::default();
        for number in 0..MESSAGES_MAX + 10 {
            redeliveries.add("q", &number.to_string().parse().unwrap());
        }
        assert!(redeliveries.counts.lock().len() <= MESSAGES_MAX);
    }
}
