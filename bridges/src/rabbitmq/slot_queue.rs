//! Things by number, where numbers are given in order and most go in that order, too.

use std::collections::VecDeque;

/// A queue whose entries are found by their numbers and leave in any order.
#[derive(Debug)]
pub(super) struct SlotQueue<T> {
    /// The number of the first slot.
    first: u64,
    slots: VecDeque<Option<T>>,
    count: usize,
}

impl<T> SlotQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            count: 0,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number that the next one gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Adds one and returns its number.
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

    /// All of them, the oldest first.
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
        fn it_is_a_map_from_numbers(steps in prop::collection::vec(any::<Option<u8>>(), 0..200)) {
            let (mut ring, mut map) = (SlotQueue::new(), BTreeMap::new());
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
                let all: Vec<u64> = ring.iter_mut().map(|(number, _)| number).collect();
                prop_assert_eq!(all, map.keys().copied().collect::<Vec<_>>());
            }
        }
    }
}
