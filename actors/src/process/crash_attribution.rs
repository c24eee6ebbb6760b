//! Which message caused the exit of a child: a decision over values, and the list of suspects.
//!
//! The rule: all messages in flight are tried again, and only a message that certainly caused
//! the exit loses an attempt. With several messages in flight the cause is unknown: each is a
//! suspect. A suspect is sent to a child with no other message in flight, until it is
//! answered.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// The part of a message in the exit of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It caused the exit: a failed attempt. From now on the message is handled alone.
    Guilty,
    /// It may have caused the exit: retried alone, without the loss of an attempt.
    Suspect,
    /// Another message caused the exit: retried without the loss of an attempt.
    Innocent,
}

/// Judges a message. `culprit` is the message that certainly caused the exit, `in_flight` the
/// number of messages in flight.
pub(super) fn verdict(id: &str, culprit: Option<&str>, in_flight: usize) -> Verdict {
    match culprit {
        Some(culprit) if culprit == id => Verdict::Guilty,
        Some(_) => Verdict::Innocent,
        None if in_flight == 1 => Verdict::Guilty,
        None => Verdict::Suspect,
    }
}

/// The messages that are handled alone.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    ids: HashSet<Box<str>>,
    /// Oldest first.
    order: VecDeque<Box<str>>,
}

impl Suspects {
    /// Maximum number of suspects. The oldest are forgotten: they are no longer handled
    /// alone, and become suspects again if they cause another exit.
    const MAX: usize = 4096;

    pub(super) fn has(&self, id: &str) -> bool {
        self.known().ids.contains(id)
    }

    pub(super) fn add(&self, id: &str) {
        let mut known = self.known();
        if !known.ids.insert(id.into()) {
            return;
        }
        known.order.push_back(id.into());
        while known.order.len() > Self::MAX {
            let oldest = known.order.pop_front().expect("the list is not empty");
            known.ids.remove(&oldest);
        }
    }

    /// Removes a message: it was answered.
    pub(super) fn clear(&self, id: &str) {
        let mut known = self.known();
        if known.ids.remove(id) {
            known.order.retain(|other| **other != *id);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certain_culprit_is_guilty() {
        assert_eq!(verdict("a", None, 1), Verdict::Guilty);
        assert_eq!(verdict("a", None, 2), Verdict::Suspect);
        assert_eq!(verdict("a", Some("a"), 2), Verdict::Guilty);
        assert_eq!(verdict("a", Some("b"), 2), Verdict::Innocent);
        assert_eq!(verdict("a", Some("b"), 1), Verdict::Innocent);
    }

    #[test]
    fn suspects_are_kept_until_they_are_cleared_and_their_number_is_bounded() {
        let suspects = Suspects::default();
        suspects.add("a");
        suspects.add("a");
        assert!(suspects.has("a"));
        suspects.clear("a");
        assert!(!suspects.has("a"));
        for n in 0..=Suspects::MAX {
            suspects.add(&n.to_string());
        }
        assert!(!suspects.has("0") && suspects.has("1"));
        assert_eq!(suspects.known().ids.len(), Suspects::MAX);
        assert_eq!(suspects.known().order.len(), Suspects::MAX);
    }
}
