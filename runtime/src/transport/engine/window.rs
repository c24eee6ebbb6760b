//! State of one queue: the window on its front, the counts, and its consumers.
//!
//! # Invariants
//! - Each stored message is in exactly one place: in the window (`ready`), in flight, a
//!   suspect, delayed, or on disk beyond the cursor. A message beyond the cursor is only
//!   counted (`on_disk`).
//! - Every message up to `cursor` has been in the window. The window is sorted by sequence
//!   number; a requeued message returns to its position.
//! - A new message enters the window only if `on_disk` is 0 and no load is running.
//!   Otherwise it would overtake messages on disk.
//! - At most one load runs. It starts when the window is half empty and the queue
//!   has consumers.
//! - Without a journal, `on_disk` is always 0 and the window has no bound.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use super::journal::{Change, Entry, InitialCounts, LoadRequest};
use crate::delivery::Delivery;

/// Maximum messages of a queue that are in memory.
pub const WINDOW: usize = 1024;
/// Maximum bytes of a queue that are in memory, unless a single message is larger.
pub const WINDOW_BYTES: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct State {
    ready: VecDeque<Entry>,
    /// Bytes in the window. Counted with a journal only.
    ready_bytes: usize,
    cursor: u64,
    /// Sequence number of the next message.
    next_sequence: u64,
    on_disk: u64,
    loading: bool,
    pub(super) in_flight: u64,
    pub(super) delayed: u64,
    /// Delayed messages that wait for another attempt.
    pub(super) retrying: u64,
    /// Capacity reserved for messages that are about to arrive.
    pub(super) reserved: u64,
    /// Suspects that are not in flight.
    pub(super) suspects: u64,
    /// Suspects in flight.
    pub(super) suspects_in_flight: u64,
    /// Messages have keys: none is handed out before the suspects, which are older, are done.
    pub(super) keyed: bool,
    /// The suspect that the next consumer takes.
    pub(super) offered: Option<OfferedSuspect>,
    pub(super) consumers: Vec<ConsumerState>,
    pub(super) closed: bool,
}

/// A suspect on offer, and the cell that gets the number of the consumer that takes it.
pub(super) type OfferedSuspect = (Delivery, Arc<OnceLock<usize>>);

#[derive(Default)]
pub(super) struct ConsumerState {
    pub(super) unsettled: usize,
    pub(super) bound: usize,
    pub(super) waker: Option<Waker>,
    pub(super) stopped: bool,
}

impl State {
    pub(super) fn new(start: InitialCounts) -> Self {
        Self {
            next_sequence: start.next_sequence,
            on_disk: start.messages,
            delayed: start.delayed,
            retrying: start.retrying,
            suspects: start.suspects,
            ..Self::default()
        }
    }

    /// Returns the depth that counts for limits and backpressure. A message that waits for
    /// another attempt counts: a service that retries everything must not get more and more.
    /// A message that was published for later does not.
    pub(super) fn held(&self) -> u64 {
        self.waiting() + self.in_flight + self.retrying + self.reserved
    }

    /// Returns the number of messages that wait for a consumer.
    pub(super) fn waiting(&self) -> u64 {
        self.ready.len() as u64 + self.on_disk + self.suspects
    }

    pub(super) fn ready(&self) -> &VecDeque<Entry> {
        &self.ready
    }

    /// Whether messages must wait because suspects of their keys come first.
    pub(super) fn waits_for_suspects(&self) -> bool {
        self.keyed && self.suspects + self.suspects_in_flight > 0
    }

    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty() || self.offered.is_some()
    }

    /// Returns the waker of one consumer that waits and may take.
    pub(super) fn one_to_wake(&mut self) -> Option<Waker> {
        let mut waiting = self.consumers.iter_mut();
        let waiting = waiting
            .find(|consumer| consumer.waker.is_some() && consumer.unsettled < consumer.bound);
        waiting.and_then(|consumer| consumer.waker.take())
    }

    /// As [`one_to_wake`](Self::one_to_wake), if there is something to take.
    pub(super) fn wake_for_work(&mut self) -> Option<Waker> {
        match self.has_work() {
            true => self.one_to_wake(),
            false => None,
        }
    }

    /// Adds a consumer and returns its number. It gets the number of one that has stopped
    /// and settled everything, if there is one: dead letters are read by ever new consumers.
    pub(super) fn add_consumer(&mut self, bound: usize) -> usize {
        let consumer = ConsumerState {
            bound,
            ..ConsumerState::default()
        };
        let mut known = self.consumers.iter();
        match known.position(|it| it.stopped && it.unsettled == 0) {
            Some(number) => {
                self.consumers[number] = consumer;
                number
            }
            None => {
                self.consumers.push(consumer);
                self.consumers.len() - 1
            }
        }
    }

    pub(super) fn has_consumers(&self) -> bool {
        self.consumers.iter().any(|consumer| !consumer.stopped)
    }

    /// Appends a message of a queue without a journal.
    pub(super) fn append(&mut self, message: crate::message::Message, attempt: u32) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.ready.push_back(Entry {
            sequence,
            message,
            attempt,
        });
    }

    /// Takes `count` messages from the front and passes each to `with`.
    pub(super) fn take(&mut self, count: usize, journaled: bool, mut with: impl FnMut(Entry)) {
        let mut bytes = 0;
        for entry in self.ready.drain(..count) {
            if journaled {
                bytes += entry.message.size();
            }
            with(entry);
        }
        self.ready_bytes -= bytes;
    }

    /// Puts a message back into its position in the order of arrival.
    pub(super) fn requeue(&mut self, entry: Entry, journaled: bool) {
        if journaled {
            self.ready_bytes += entry.message.size();
        }
        let at = self
            .ready
            .partition_point(|other| other.sequence < entry.sequence);
        self.ready.insert(at, entry);
    }

    /// Starts a load if the window has room, messages are on disk, and there are consumers.
    /// The caller passes the request to the journal.
    pub(super) fn start_load(&mut self) -> Option<LoadRequest> {
        let wanted = !self.loading
            && self.on_disk > 0
            && self.ready.len() < WINDOW / 2
            && self.ready_bytes < WINDOW_BYTES / 2
            && self.has_consumers();
        self.loading |= wanted;
        wanted.then(|| LoadRequest {
            after: self.cursor,
            max: WINDOW.saturating_sub(self.ready.len()).max(1),
        })
    }

    /// Applies the changes of one commit.
    pub(super) fn apply(&mut self, change: Change) {
        self.reserved -= change.reserved;
        self.delayed = (self.delayed + change.scheduled).saturating_sub(change.due);
        self.retrying = self.retrying.saturating_sub(change.due_retrying);
        self.in_flight -= change.dead_lettered;
        for entry in change.arrived {
            self.next_sequence = entry.sequence + 1;
            if self.on_disk == 0 && !self.loading && self.has_room() {
                self.cursor = entry.sequence;
                self.push(entry);
            } else {
                self.on_disk += 1;
            }
        }
        if let Some(loaded) = change.loaded {
            self.loading = false;
            self.cursor = self.cursor.max(loaded.last);
            let found = loaded.entries.len() as u64 + loaded.damaged;
            self.on_disk = match loaded.end {
                // Only messages that have arrived since the load.
                true => self.next_sequence.saturating_sub(self.cursor + 1),
                // There is more, even if the count is wrong: the next load must happen.
                false => self.on_disk.saturating_sub(found).max(1),
            };
            let entries = loaded.entries.into_iter();
            entries.for_each(|entry| self.push(entry));
        }
        if change.load_failed {
            self.loading = false;
        }
    }

    fn has_room(&self) -> bool {
        self.ready.is_empty() || (self.ready.len() < WINDOW && self.ready_bytes < WINDOW_BYTES)
    }

    fn push(&mut self, entry: Entry) {
        self.ready_bytes += entry.message.size();
        self.ready.push_back(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::journal::Loaded;
    use super::*;
    use crate::message::Envelope;

    fn entry(sequence: u64) -> Entry {
        Entry {
            sequence,
            message: Envelope::new("", "").into(),
            attempt: 1,
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        Arrive(u64),
        StartLoad,
        Load,
        Take(usize),
        Requeue,
        Ack,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            (1..700u64).prop_map(Act::Arrive),
            Just(Act::StartLoad),
            Just(Act::Load),
            (1..900usize).prop_map(Act::Take),
            Just(Act::Requeue),
            Just(Act::Ack),
        ];
        proptest::collection::vec(act, 1..60)
    }

    proptest! {
        /// In any order of events, each message is handed out once, in the order of arrival,
        /// and the window skips none.
        #[test]
        fn the_window_skips_no_message(acts in acts()) {
            let mut state = State::default();
            state.consumers.push(ConsumerState { bound: 1, ..ConsumerState::default() });
            let mut disk = BTreeSet::new();
            let mut next = 1u64;
            let mut request = None;
            let mut in_flight = BTreeSet::new();
            let mut acked = 0u64;
            for act in acts {
                match act {
                    Act::Arrive(count) => {
                        let arrived = (next..next + count).map(entry).collect();
                        disk.extend(next..next + count);
                        next += count;
                        state.apply(Change { arrived, ..Change::default() });
                    }
                    Act::StartLoad => request = state.start_load().or(request),
                    Act::Load => if let Some(LoadRequest { after, max }) = request.take() {
                        let found: Vec<u64> = disk.range(after + 1..).copied().collect();
                        let end = found.len() <= max;
                        let found = &found[..found.len().min(max)];
                        let last = match end {
                            true => next - 1,
                            false => found[found.len() - 1],
                        };
                        let entries = found.iter().copied().map(entry).collect();
                        let loaded = Some(Loaded { entries, last, end, damaged: 0 });
                        state.apply(Change { loaded, ..Change::default() });
                    },
                    Act::Take(count) => {
                        let mut taken = Vec::new();
                        state.take(count.min(state.ready.len()), true, |it| taken.push(it));
                        for entry in taken {
                            prop_assert!(in_flight.insert(entry.sequence), "handed out twice");
                        }
                    }
                    Act::Requeue => if let Some(sequence) = in_flight.pop_first() {
                        state.requeue(entry(sequence), true);
                    },
                    Act::Ack => if let Some(sequence) = in_flight.pop_last() {
                        disk.remove(&sequence);
                        acked += 1;
                    },
                }
                let all = state.ready.len() as u64 + state.on_disk + in_flight.len() as u64;
                prop_assert_eq!(all, disk.len() as u64);
                prop_assert!(state.ready.iter().map(|it| it.sequence).is_sorted());
                let seen = disk.range(..=state.cursor).count();
                prop_assert_eq!(seen, state.ready.len() + in_flight.len());
            }
            prop_assert_eq!(acked + disk.len() as u64, next - 1);
        }
    }
}
