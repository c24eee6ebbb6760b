//! The entities in memory. A value without threads and clocks.
//!
//! # Invariants
//! - An entity that handles a message is not here: it was taken out, and comes back only after
//!   its state is saved. So a dropped handler leaves no entity behind that was half changed.
//! - `order` has each entity once, by the number of its last use.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::key::Key;

/// The entities in memory, by key and by last use.
pub(super) struct Active<T> {
    entities: HashMap<Key, Used<T>>,
    /// Keys by number of use, the least recently used first.
    order: BTreeMap<u64, Key>,
    uses: u64,
}

struct Used<T> {
    entity: T,
    use_number: u64,
    at: Instant,
}

impl<T> Default for Active<T> {
    fn default() -> Self {
        Self {
            entities: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }
}

impl<T> Active<T> {
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.entities.contains_key(key)
    }

    /// Takes an entity out.
    pub(super) fn take(&mut self, key: &Key) -> Option<T> {
        let used = self.entities.remove(key)?;
        self.order.remove(&used.use_number);
        Some(used.entity)
    }

    /// Puts an entity in that was used now.
    pub(super) fn put(&mut self, key: Key, entity: T, now: Instant) {
        self.uses += 1;
        let used = Used {
            entity,
            use_number: self.uses,
            at: now,
        };
        self.order.insert(self.uses, key.clone());
        if let Some(replaced) = self.entities.insert(key, used) {
            self.order.remove(&replaced.use_number);
        }
    }

    /// Takes the entities out that were not used for `idle`, and the least recently used above
    /// `max`.
    pub(super) fn passivate(&mut self, idle: Duration, max: usize, now: Instant) -> Vec<T> {
        let mut passivated = Vec::new();
        while let Some(first) = self.order.first_entry() {
            let used = &self.entities[first.get()];
            let is_idle = now.saturating_duration_since(used.at) >= idle;
            if !is_idle && self.entities.len() <= max {
                break;
            }
            let key = first.remove();
            let used = self.entities.remove(&key);
            passivated.extend(used.map(|used| used.entity));
        }
        passivated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[derive(Debug, Clone)]
    enum Step {
        /// A message of a key is handled, with success or not.
        Handle(u8, bool),
        Wait(u64),
        Passivate,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..12u8, any::<bool>()).prop_map(|(key, ok)| Step::Handle(key, ok)),
            1 => (0..40u64).prop_map(Step::Wait),
            2 => Just(Step::Passivate),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn idle_entities_leave_and_then_the_least_recently_used(steps in steps(), max in 0..6usize) {
            let start = Instant::now();
            let (mut active, mut now) = (Active::default(), start);
            // In order of use, the last one at the end.
            let mut model: Vec<(u8, Instant)> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Handle(number, ok) => {
                        let key = Key::new(&number.to_string()).unwrap();
                        let is_active = model.iter().any(|(key, _)| *key == number);
                        prop_assert_eq!(active.contains(&key), is_active);
                        prop_assert_eq!(active.take(&key), is_active.then_some(number));
                        model.retain(|(key, _)| *key != number);
                        if ok {
                            active.put(key, number, now);
                            model.push((number, now));
                        }
                    }
                    Step::Passivate => {
                        let is_idle = |(_, at): &(u8, Instant)| now - *at >= IDLE;
                        let idle = model.iter().filter(|it| is_idle(it)).count();
                        let leave = idle.max(model.len().saturating_sub(max));
                        let left: Vec<u8> = model.drain(..leave).map(|(key, _)| key).collect();
                        prop_assert_eq!(active.passivate(IDLE, max, now), left);
                    }
                }
                prop_assert_eq!(active.entities.len(), model.len());
                prop_assert_eq!(active.order.len(), model.len());
            }
        }
    }
}
