//! The order in which suspects are tried.

use std::collections::VecDeque;

/// Suspects that wait for their trial, oldest first, each once.
///
/// `K` identifies a suspect, or a queue of suspects for a transport whose broker keeps the
/// suspects in order.
#[derive(Debug, Clone)]
pub struct TrialOrder<K>(VecDeque<K>);

impl<K> Default for TrialOrder<K> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<K> FromIterator<K> for TrialOrder<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl<K: PartialEq> TrialOrder<K> {
    /// Adds a suspect behind all others; a suspect that waits already keeps its place.
    pub fn push(&mut self, key: K) {
        if !self.0.contains(&key) {
            self.0.push_back(key);
        }
    }

    /// Removes the oldest suspect that can be tried now and returns it. A suspect can be
    /// tried if its queue has a consumer.
    pub fn next(&mut self, can_try: impl FnMut(&K) -> bool) -> Option<K> {
        let place = self.0.iter().position(can_try)?;
        self.0.remove(place)
    }

    /// Returns the waiting suspects, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &K> {
        self.0.iter()
    }

    /// Returns whether no suspect waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
