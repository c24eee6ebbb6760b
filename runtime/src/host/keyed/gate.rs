//! The key gate: lets one message of each key pass at a time, in the order of arrival.
//!
//! # Invariants
//! - A key is *busy* from the message that passes until that message is finished. A message that
//!   arrives meanwhile waits behind its key, and passes when it is the oldest one there.
//! - A message that waits for its retry keeps its key busy, and no other key.
//! - Each message is in one place: behind its key, among the retries, or passed.
//! - A closed gate holds nothing and lets nothing pass.
//!
//! The gate is a value. [`KeyedDispatch`](super::KeyedDispatch) moves the messages.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::time::Instant;

use crate::key::Key;

/// Maximum messages that wait behind busy keys or for their retries. They are taken from the queue
/// so that messages of other keys behind them can be handled.
pub(crate) const HELD_MAX: usize = 4_096;
/// Maximum bytes of these messages, unless a single message is larger.
pub(crate) const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A message with a key.
pub(super) trait Keyed {
    fn key(&self) -> &Key;

    /// Number of its input.
    fn input(&self) -> usize;

    fn bytes(&self) -> usize;
}

/// The result of an arrival.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival<T> {
    /// The message passes.
    Passes(T),
    /// The gate holds the message.
    Waits,
    /// The gate is closed.
    Closed(T),
}

/// See the module.
pub(super) struct KeyGate<T> {
    /// The busy keys, with the messages behind each.
    busy: HashMap<Key, VecDeque<T>>,
    /// Messages that wait for their retries, by time. The number keeps equal times apart.
    retries: BTreeMap<(Instant, u64), T>,
    next_number: u64,
    behind: usize,
    held_bytes: usize,
    closed: bool,
}

impl<T> Default for KeyGate<T> {
    fn default() -> Self {
        Self {
            busy: HashMap::new(),
            retries: BTreeMap::new(),
            next_number: 0,
            behind: 0,
            held_bytes: 0,
            closed: false,
        }
    }
}

impl<T: Keyed> KeyGate<T> {
    /// Takes a message from a queue.
    pub(super) fn arrive(&mut self, message: T) -> Arrival<T> {
        if self.closed {
            return Arrival::Closed(message);
        }
        match self.busy.get_mut(message.key()) {
            None => {
                self.busy.insert(message.key().clone(), VecDeque::new());
                Arrival::Passes(message)
            }
            Some(behind) => {
                self.behind += 1;
                self.held_bytes += message.bytes();
                behind.push_back(message);
                Arrival::Waits
            }
        }
    }

    /// Ends the message that passed last. Returns the next one of the key, which passes.
    pub(super) fn finish(&mut self, key: &Key) -> Option<T> {
        let next = self.busy.get_mut(key)?.pop_front();
        match &next {
            Some(next) => {
                self.behind -= 1;
                self.held_bytes -= next.bytes();
            }
            None => {
                self.busy.remove(key);
            }
        }
        next
    }

    /// Holds a message that passed until its retry. Its key stays busy.
    ///
    /// # Errors
    /// Returns the message if the gate is closed.
    pub(super) fn retry(&mut self, message: T, at: Instant) -> Result<(), T> {
        if self.closed {
            return Err(message);
        }
        self.held_bytes += message.bytes();
        self.retries.insert((at, self.next_number), message);
        self.next_number += 1;
        Ok(())
    }

    /// Returns the time of the next retry.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Returns the messages whose retry is due. They pass.
    pub(super) fn due(&mut self, now: Instant) -> Vec<T> {
        let mut due = Vec::new();
        while let Some(first) = self.retries.first_entry().filter(|it| it.key().0 <= now) {
            let message = first.remove();
            self.held_bytes -= message.bytes();
            due.push(message);
        }
        due
    }

    /// Takes the messages of an input that wait behind a key: they must not overtake the one that
    /// returns to their queue.
    pub(super) fn take_behind(&mut self, key: &Key, input: usize) -> VecDeque<T> {
        let Some(behind) = self.busy.get_mut(key) else {
            return VecDeque::new();
        };
        let taken = take_of_input(behind, input);
        self.uncount(&taken);
        taken
    }

    /// Takes the messages of an input that wait behind any key, those of each key in order.
    pub(super) fn take_all_behind(&mut self, input: usize) -> VecDeque<T> {
        let behind = self.busy.values_mut();
        let taken = behind
            .flat_map(|behind| take_of_input(behind, input))
            .collect();
        self.uncount(&taken);
        taken
    }

    /// Closes the gate for good and returns every message that it holds, those of each key in
    /// order.
    pub(super) fn close(&mut self) -> Vec<T> {
        self.closed = true;
        let retries = std::mem::take(&mut self.retries).into_values();
        let behind = std::mem::take(&mut self.busy).into_values().flatten();
        (self.behind, self.held_bytes) = (0, 0);
        retries.chain(behind).collect()
    }

    /// Visits every message that the gate holds.
    pub(super) fn each(&self, visit: impl FnMut(&T)) {
        let behind = self.busy.values().flatten();
        self.retries.values().chain(behind).for_each(visit);
    }

    /// Returns the number of messages that may arrive now.
    pub(super) fn room(&self) -> usize {
        match self.held_bytes < HELD_BYTES_MAX {
            true => HELD_MAX.saturating_sub(self.behind + self.retries.len()),
            false => 0,
        }
    }

    /// Returns the number of messages that wait behind busy keys.
    pub(super) fn behind(&self) -> usize {
        self.behind
    }

    /// Returns the number of keys whose message waits for its retry.
    pub(super) fn retrying(&self) -> usize {
        self.retries.len()
    }

    fn uncount(&mut self, taken: &VecDeque<T>) {
        self.behind -= taken.len();
        self.held_bytes -= taken.iter().map(Keyed::bytes).sum::<usize>();
    }
}

fn take_of_input<T: Keyed>(behind: &mut VecDeque<T>, input: usize) -> VecDeque<T> {
    if behind.iter().all(|message| message.input() == input) {
        return std::mem::take(behind);
    }
    let (taken, kept) = std::mem::take(behind)
        .into_iter()
        .partition(|message| message.input() == input);
    *behind = kept;
    taken
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Item {
        key: Key,
        input: usize,
        number: u64,
    }

    impl Keyed for Item {
        fn key(&self) -> &Key {
            &self.key
        }

        fn input(&self) -> usize {
            self.input
        }

        fn bytes(&self) -> usize {
            1 + self.number as usize % 3
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        /// A message of this key and input arrives.
        Arrive(u8, usize),
        /// A message that passed is done.
        Done(usize),
        /// A message that passed fails, and is retried after this time.
        Retry(usize, u64),
        /// A message that passed returns to its queue.
        Requeue(usize),
        /// Time passes.
        Wait(u64),
        /// The consumer of an input ends: waiting messages return to the queue.
        ConsumerEnds(usize),
        Close,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            8 => (0..4_u8, 0..2_usize).prop_map(|(key, input)| Act::Arrive(key, input)),
            4 => (0..9_usize).prop_map(Act::Done),
            3 => (0..9_usize, 0..5_u64).prop_map(|(which, after)| Act::Retry(which, after)),
            1 => (0..9_usize).prop_map(Act::Requeue),
            3 => (0..4_u64).prop_map(Act::Wait),
            1 => (0..2_usize).prop_map(Act::ConsumerEnds),
        ];
        (proptest::collection::vec(act, 1..80), any::<bool>()).prop_map(|(mut acts, closes)| {
            acts.extend(closes.then_some(Act::Close));
            acts
        })
    }

    /// The gate, and the lists that it should behave like.
    struct Model {
        gate: KeyGate<Item>,
        now: Instant,
        passed: Vec<Item>,
        retrying: Vec<Item>,
        /// Messages behind keys, in the order of arrival.
        behind: Vec<Item>,
        /// The last message of a key and an input that was done.
        done: HashMap<(Key, usize), u64>,
        next: u64,
    }

    impl Model {
        fn new() -> Self {
            Self {
                gate: KeyGate::default(),
                now: Instant::now(),
                passed: Vec::new(),
                retrying: Vec::new(),
                behind: Vec::new(),
                done: HashMap::new(),
                next: 0,
            }
        }

        fn is_busy(&self, key: &Key) -> bool {
            let mut all = self.passed.iter().chain(&self.retrying);
            all.any(|it| it.key == *key)
        }

        /// The oldest message behind a key passes.
        fn pass_next(&mut self, key: &Key, next: Option<Item>) {
            let expected = self.behind.iter().position(|it| it.key == *key);
            assert_eq!(next, expected.map(|place| self.behind.remove(place)));
            self.passed.extend(next);
        }

        fn remove_behind(&mut self, gone: impl Fn(&Item) -> bool, taken: VecDeque<Item>) {
            let (gone, kept) = self.behind.drain(..).partition(|item| gone(item));
            self.behind = kept;
            let by_key = |items: Vec<Item>| {
                let mut keys: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
                for item in items {
                    keys.entry(item.key).or_default().push(item.number);
                }
                keys
            };
            assert_eq!(by_key(taken.into()), by_key(gone));
        }

        fn act(&mut self, act: Act) {
            match act {
                Act::Arrive(key, input) => {
                    let key = Key::new(&key.to_string()).unwrap();
                    let number = self.next;
                    self.next += 1;
                    let item = Item { key, input, number };
                    match self.gate.arrive(item.clone()) {
                        Arrival::Passes(passed) => {
                            assert_eq!(passed, item);
                            assert!(!self.is_busy(&item.key), "two of one key");
                            self.passed.push(item);
                        }
                        Arrival::Waits => {
                            assert!(self.is_busy(&item.key), "held without a reason");
                            self.behind.push(item);
                        }
                        Arrival::Closed(_) => panic!("not closed"),
                    }
                }
                Act::Done(which) if which < self.passed.len() => {
                    let item = self.passed.remove(which);
                    let place = (item.key.clone(), item.input);
                    let before = self.done.insert(place, item.number);
                    assert!(
                        before.is_none_or(|before| before < item.number),
                        "overtaken"
                    );
                    let next = self.gate.finish(&item.key);
                    self.pass_next(&item.key, next);
                }
                Act::Retry(which, after) if which < self.passed.len() => {
                    let item = self.passed.remove(which);
                    let at = self.now + Duration::from_millis(after);
                    self.gate.retry(item.clone(), at).unwrap();
                    self.retrying.push(item);
                }
                Act::Requeue(which) if which < self.passed.len() => {
                    let Item { key, input, .. } = self.passed.remove(which);
                    let taken = self.gate.take_behind(&key, input);
                    self.remove_behind(|it| it.key == key && it.input == input, taken);
                    let next = self.gate.finish(&key);
                    self.pass_next(&key, next);
                }
                Act::Done(_) | Act::Retry(..) | Act::Requeue(_) => {}
                Act::Wait(ms) => {
                    self.now += Duration::from_millis(ms);
                    for item in self.gate.due(self.now) {
                        let place = self.retrying.iter().position(|it| *it == item).unwrap();
                        self.passed.push(self.retrying.remove(place));
                    }
                    let next = self.gate.next_retry();
                    assert!(next.is_none_or(|next| next > self.now), "a retry is late");
                }
                Act::ConsumerEnds(input) => {
                    let taken = self.gate.take_all_behind(input);
                    self.remove_behind(|it| it.input == input, taken);
                }
                Act::Close => {
                    let mut held = self.gate.close();
                    held.sort_by_key(|it| it.number);
                    let mut expected = [&self.retrying[..], &self.behind].concat();
                    expected.sort_by_key(|it| it.number);
                    assert_eq!(held, expected);
                    self.retrying.clear();
                    self.behind.clear();
                    for item in std::mem::take(&mut self.passed) {
                        assert_eq!(self.gate.finish(&item.key), None);
                        assert_eq!(self.gate.retry(item.clone(), self.now), Err(item.clone()));
                        assert_eq!(self.gate.arrive(item.clone()), Arrival::Closed(item));
                    }
                }
            }
            assert_eq!(self.gate.behind(), self.behind.len());
            assert_eq!(self.gate.retrying(), self.retrying.len());
            let held = self.behind.iter().chain(&self.retrying);
            assert_eq!(self.gate.held_bytes, held.map(Keyed::bytes).sum::<usize>());
        }
    }

    proptest! {
        /// In any order of events, one message of a key passes at a time, in the order of
        /// arrival, and the gate loses none.
        #[test]
        fn the_gate_keeps_the_order_of_each_key(acts in acts()) {
            let mut model = Model::new();
            for act in acts {
                model.act(act);
            }
            // In the end no key is stuck.
            model.act(Act::Wait(1_000));
            while !model.passed.is_empty() {
                model.act(Act::Done(0));
            }
            prop_assert!(model.behind.is_empty() && model.retrying.is_empty());
            prop_assert!(model.gate.busy.is_empty());
        }
    }

    #[test]
    fn the_gate_holds_a_bounded_number_of_messages_and_bytes() {
        let mut gate = KeyGate::default();
        let item = |number| Item {
            key: Key::new("slow").unwrap(),
            input: 0,
            number,
        };
        assert_eq!(gate.room(), HELD_MAX);
        for number in 0..=HELD_MAX as u64 {
            assert!(gate.room() > 0, "{number}");
            gate.arrive(item(number));
        }
        assert_eq!(gate.room(), 0);
        assert!(gate.finish(&item(0).key).is_some());
        assert_eq!(gate.room(), 1);
        gate.held_bytes = HELD_BYTES_MAX;
        assert_eq!(gate.room(), 0);
    }
}
