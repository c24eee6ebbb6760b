//! A queue with numbered entries: numbers are given in order, and most entries leave in order.

use std::collections::VecDeque;

/// A queue whose entries are found by number and leave in any order.
#[derive(Debug)]
pub(super) struct SlotQueue<T> {
    /// Number of the first slot.
    first: u64,
    slots: VecDeque<Option<T>>,
    count: usize,
}

impl<T> Default for SlotQueue<T> {
    fn default() -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            count: 0,
        }
    }
}

impl<T> SlotQueue<T> {
    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The number of the oldest entry.
    pub(super) fn first(&self) -> Option<u64> {
        (self.count > 0).then_some(self.first)
    }

    /// Adds an entry and returns its number.
    pub(super) fn push(&mut self, value: T) -> u64 {
        let number = self.next();
        self.slots.push_back(Some(value));
        self.count += 1;
        number
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = number.checked_sub(self.first)?;
        self.slots.get_mut(place as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let place = number.checked_sub(self.first)?;
        let value = self.slots.get_mut(place as usize)?.take()?;
        self.count -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        Some(value)
    }

    /// Iterates over all entries, oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let numbered = (self.first..).zip(&mut self.slots);
        numbered.filter_map(|(number, slot)| Some((number, slot.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_map_from_numbers(steps in prop::collection::vec(any::<Option<u8>>(), 0..200)) {
            let (mut ring, mut map) = (SlotQueue::default(), BTreeMap::new());
            for step in steps {
                match step {
                    None => {
                        let number = ring.next();
                        prop_assert_eq!(ring.push(number), number);
                        map.insert(number, number);
                    }
                    Some(number) => {
                        let number = u64::from(number) % (ring.next() + 1);
                        prop_assert_eq!(ring.get_mut(number).copied(), map.get(&number).copied());
                        prop_assert_eq!(ring.remove(number), map.remove(&number));
                    }
                }
                prop_assert_eq!(ring.len(), map.len());
                prop_assert_eq!(ring.first(), map.keys().next().copied());
                let all: Vec<u64> = ring.iter_mut().map(|(number, _)| number).collect();
                prop_assert_eq!(all, map.keys().copied().collect::<Vec<_>>());
            }
        }
    }
}
