//! What this process knows of messages that came back to the broker otherwise than by its
//! death: given back by whoever stopped, or lost with a connection.
//!
//! The broker counts every delivery that wasn't acked, whatever the reason. With this, only
//! what is left counts as a crash. A process that dies forgets it all; then what was given
//! back before looks a little more suspect than it is, which costs time and no blame.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use brickwork::MessageId;
use parking_lot::Mutex;

/// More than that is an app in great trouble, and then all of it may as well be suspect.
const ALIBIS_MAX: usize = 65_536;

/// How often which message was in hand without being blamed for its return. Outlives
/// sessions.
#[derive(Default)]
pub(super) struct NonCrashRedeliveries {
    any: AtomicBool,
    /// By a hash of queue and id, which are long: two that share one share it.
    known: Mutex<HashMap<u64, u64>>,
    hash: RandomState,
}

impl NonCrashRedeliveries {
    /// One more time in hand that doesn't count.
    pub(super) fn add(&self, queue: &str, id: &MessageId) {
        let mut known = self.known.lock();
        if known.len() >= ALIBIS_MAX {
            known.clear();
        }
        *known.entry(self.key(queue, id)).or_default() += 1;
        self.any.store(true, Relaxed);
    }

    /// How many times don't count.
    pub(super) fn of(&self, queue: &str, id: &MessageId) -> u64 {
        let known = self.known.lock();
        known.get(&self.key(queue, id)).copied().unwrap_or(0)
    }

    /// It is settled. Cheap as long as nothing is known.
    pub(super) fn forget(&self, queue: &str, id: &MessageId) {
        if !self.any.load(Relaxed) {
            return;
        }
        let mut known = self.known.lock();
        known.remove(&self.key(queue, id));
        self.any.store(!known.is_empty(), Relaxed);
    }

    fn key(&self, queue: &str, id: &MessageId) -> u64 {
        self.hash.hash_one((queue, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_of_one_message_in_one_queue() {
        let alibis = NonCrashRedeliveries::default();
        let [a, b]: [MessageId; 2] = ["a", "b"].map(|id| id.parse().unwrap());
        alibis.add("q", &a);
        alibis.add("q", &a);
        assert_eq!(alibis.of("q", &a), 2);
        assert_eq!((alibis.of("q", &b), alibis.of("other", &a)), (0, 0));
        alibis.forget("other", &a);
        assert_eq!(alibis.of("q", &a), 2);
        alibis.forget("q", &a);
        assert_eq!(alibis.of("q", &a), 0);
        assert!(!alibis.any.load(Relaxed));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let alibis = NonCrashRedeliveries::default();
        for number in 0..ALIBIS_MAX + 10 {
            alibis.add("q", &number.to_string().parse().unwrap());
        }
        assert!(alibis.known.lock().len() <= ALIBIS_MAX);
    }
}
