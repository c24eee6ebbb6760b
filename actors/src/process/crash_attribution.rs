//! Who is to blame when a child ends: a decision over values, and the memory of suspects.
//!
//! The rule: what a child had in hand is tried again, and only what certainly ended it
//! has spent an attempt. Of several that were in hand nobody knows which one it was: each
//! is a suspect, and suspects are given to a child one at a time, with nothing beside
//! them, until they are answered.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// What becomes of a message that a child had in hand when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It ended the child: a failed attempt. From now on it is handled alone.
    Guilty,
    /// It may have: again, uncounted, and alone.
    Suspect,
    /// Another one did: again, uncounted.
    Innocent,
}

/// Judges a message. `culprit` is the one that is known to have ended the child, and
/// `in_hand` how many it had.
pub(super) fn verdict(id: &str, culprit: Option<&str>, in_hand: usize) -> Verdict {
    match culprit {
        Some(culprit) if culprit == id => Verdict::Guilty,
        Some(_) => Verdict::Innocent,
        None if in_hand == 1 => Verdict::Guilty,
        None => Verdict::Suspect,
    }
}

/// The messages that are handled alone.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    ids: HashSet<Box<str>>,
    /// The oldest first.
    order: VecDeque<Box<str>>,
}

impl Suspects {
    /// More are forgotten, the oldest first: they are handled in company again, and are
    /// found again if they deserve it.
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
            let oldest = known.order.pop_front().expect("it has more than none");
            known.ids.remove(&oldest);
        }
    }

    /// It was answered.
    pub(super) fn clear(&self, id: &str) {
        let mut known = self.known();
        if known.ids.remove(id) {
            known.order.retain(|other| **other != *id);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_certainly_did_it_is_guilty() {
        assert_eq!(verdict("a", None, 1), Verdict::Guilty);
        assert_eq!(verdict("a", None, 2), Verdict::Suspect);
        assert_eq!(verdict("a", Some("a"), 2), Verdict::Guilty);
        assert_eq!(verdict("a", Some("b"), 2), Verdict::Innocent);
        assert_eq!(verdict("a", Some("b"), 1), Verdict::Innocent);
    }

    #[test]
    fn suspects_are_remembered_until_they_are_cleared_and_never_too_many() {
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
