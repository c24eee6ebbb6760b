//! One queue, as far as it is in memory: a window on its front, counts, and who consumes.
//!
//! What is on the disk is in the window, in hand, a suspect, or lies beyond the cursor: then
//! it is only counted, and loaded when the window has room. Changes come in when they are on
//! the disk, in the order in which they were written there.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Waker;

use brickwork::transport::{BoundedQueue, Depth, DepthGauge, Limit};
use brickwork::{Delivery, Message, QueueId};
use parking_lot::{Mutex, MutexGuard};

use super::schema::Id;
use super::suspects::SuspectDelivery;

/// So much of a queue is in memory at most: messages,
pub(super) const WINDOW: usize = 1024;
/// and their bytes; one message at least.
pub(super) const WINDOW_BYTES: usize = 1024 * 1024;

/// A queue.
pub(super) struct Queue {
    pub(super) id: QueueId,
    pub(super) number: u32,
    state: Mutex<State>,
    gauge: DepthGauge,
    limit: Option<Limit>,
    /// How many messages came beyond it and went to the dead letters.
    overflowed: AtomicU64,
    /// Where given-up messages go; a dead-letter queue has none: it keeps its own.
    pub(super) letters: Option<Arc<Queue>>,
}

/// A message in the window.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its place in the order of arrival.
    pub(super) place: u64,
    pub(super) message: Message,
    pub(super) attempt: u32,
}

/// What there is of a queue when it is opened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InitialCounts {
    /// The place of the next message that arrives.
    pub(super) next_place: u64,
    pub(super) messages: u64,
    pub(super) delayed: u64,
    pub(super) retrying: u64,
    pub(super) suspects: u64,
}

/// What one commit has changed in a queue.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Appended, in order.
    pub(super) arrived: Vec<Entry>,
    /// So many of these, or of what went elsewhere, had a place kept.
    pub(super) places: u64,
    /// Waits for its time, from now on.
    pub(super) scheduled: u64,
    /// Waits no more;
    pub(super) due: u64,
    /// of these: had waited for another attempt.
    pub(super) due_retrying: u64,
    /// Was in hand, and is with the dead letters.
    pub(super) buried: u64,
    pub(super) loaded: Option<Loaded>,
}

/// What was read from the disk, beyond the cursor.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) entries: Vec<Entry>,
    /// Looked at, up to this place.
    pub(super) last: u64,
    /// There was no more up to that place.
    pub(super) end: bool,
    /// What was there and can't be read, as far as it can be counted.
    pub(super) damaged: u64,
}

#[derive(Default)]
pub(super) struct State {
    ready: VecDeque<Entry>,
    ready_bytes: usize,
    /// Everything up to this place has been in the window.
    cursor: u64,
    /// Everything before this place has arrived.
    next_place: u64,
    /// So much lies beyond, on the disk.
    beyond: u64,
    /// Somebody is about to read it.
    loading: bool,
    pub(super) in_flight: u64,
    pub(super) delayed: u64,
    pub(super) retrying: u64,
    /// Places that are kept for what is being written.
    coming: u64,
    /// In the suspect lane, and not in hand.
    pub(super) suspects: u64,
    /// The one that is to be tried now.
    pub(super) suspect: Option<(Delivery, Arc<SuspectDelivery>)>,
    pub(super) consumers: Vec<ConsumerState>,
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct ConsumerState {
    pub(super) unsettled: usize,
    pub(super) bound: usize,
    pub(super) waker: Option<Waker>,
    pub(super) stopped: bool,
}

impl State {
    /// What counts as pressure: also what was put off, or a service that puts everything
    /// off would be sent more and more. What was scheduled for later doesn't.
    pub(super) fn held(&self) -> u64 {
        self.waiting() + self.in_flight + self.retrying + self.coming
    }

    fn waiting(&self) -> u64 {
        self.ready.len() as u64 + self.beyond + self.suspects
    }

    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty() || self.suspect.is_some()
    }

    /// One consumer that waits and may take.
    pub(super) fn one_to_wake(&mut self) -> Option<Waker> {
        let mut waiting = self.consumers.iter_mut();
        let waiting = waiting
            .find(|consumer| consumer.waker.is_some() && consumer.unsettled < consumer.bound);
        waiting.and_then(|consumer| consumer.waker.take())
    }

    /// A place for one more who consumes: that of somebody who is gone, if there is one.
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

    fn has_room(&self) -> bool {
        self.ready.is_empty() || (self.ready.len() < WINDOW && self.ready_bytes < WINDOW_BYTES)
    }

    fn push(&mut self, entry: Entry) {
        self.ready_bytes += entry.message.size();
        self.ready.push_back(entry);
    }

    /// Takes from the front.
    pub(super) fn take(&mut self, count: usize) -> Vec<Entry> {
        let taken: Vec<Entry> = self.ready.drain(..count).collect();
        let bytes: usize = taken.iter().map(|entry| entry.message.size()).sum();
        self.ready_bytes -= bytes;
        taken
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Puts a message where it was in the order of arrival.
    pub(super) fn put_back(&mut self, entry: Entry) {
        let at = self
            .ready
            .partition_point(|other| other.place < entry.place);
        self.ready_bytes += entry.message.size();
        self.ready.insert(at, entry);
    }

    /// Whether more is to be read from the disk: whoever is told so does it.
    pub(super) fn wants_more(&mut self) -> bool {
        let wants = !self.loading
            && self.beyond > 0
            && self.ready.len() < WINDOW / 2
            && self.ready_bytes < WINDOW_BYTES / 2
            && self.has_consumers();
        self.loading |= wants;
        wants
    }

    fn apply(&mut self, change: Change) {
        self.coming -= change.places;
        self.delayed = (self.delayed + change.scheduled).saturating_sub(change.due);
        self.retrying = self.retrying.saturating_sub(change.due_retrying);
        self.in_flight -= change.buried;
        for entry in change.arrived {
            self.next_place = entry.place + 1;
            if self.beyond == 0 && !self.loading && self.has_room() {
                self.cursor = entry.place;
                self.push(entry);
            } else {
                // It stays on the disk until there is room.
                self.beyond += 1;
            }
        }
        if let Some(loaded) = change.loaded {
            self.loading = false;
            self.cursor = self.cursor.max(loaded.last);
            let found = loaded.entries.len() as u64 + loaded.damaged;
            self.beyond = match loaded.end {
                // What has come since, if anything.
                true => self.next_place.saturating_sub(self.cursor + 1),
                // There is more, whatever was counted: it must not be passed over.
                false => self.beyond.saturating_sub(found).max(1),
            };
            loaded
                .entries
                .into_iter()
                .for_each(|entry| self.push(entry));
        }
    }
}

impl Queue {
    pub(super) fn new(
        id: QueueId,
        number: u32,
        start: InitialCounts,
        gauge: DepthGauge,
        limit: Option<Limit>,
        letters: Option<Arc<Self>>,
    ) -> Arc<Self> {
        let state = State {
            next_place: start.next_place,
            beyond: start.messages,
            delayed: start.delayed,
            retrying: start.retrying,
            suspects: start.suspects,
            ..State::default()
        };
        gauge.update(state.held());
        Arc::new(Self {
            id,
            number,
            state: Mutex::new(state),
            gauge,
            limit,
            overflowed: AtomicU64::new(0),
            letters,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Tells the gauge; the lock is proof that nobody else does.
    pub(super) fn measure(&self, state: &State) {
        self.gauge.update(state.held());
    }

    pub(super) fn at(&self, place: u64) -> Id {
        Id::new(self.number, place)
    }

    /// Lets in what a commit has changed. Whether more is to be loaded.
    pub(super) fn apply(&self, change: Change) -> bool {
        let mut state = self.state.lock();
        state.apply(change);
        self.measure(&state);
        let wants_more = state.wants_more();
        let waker = match state.has_work() {
            true => state.one_to_wake(),
            false => None,
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        wants_more
    }

    /// A message that waited in memory is ready again: here, or in the hand of a consumer.
    pub(super) fn waited(&self, entry: Entry, holder: Option<usize>) {
        let mut state = self.state.lock();
        match holder {
            None => {
                state.delayed = state.delayed.saturating_sub(1);
                state.retrying = state.retrying.saturating_sub(1);
            }
            Some(consumer) => {
                state.in_flight -= 1;
                state.consumers[consumer].unsettled -= 1;
            }
        }
        state.put_back(entry);
        self.measure(&state);
        let waker = state.one_to_wake();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What was to be read couldn't be.
    pub(super) fn not_loaded(&self) {
        self.state.lock().loading = false;
    }

    /// From where to load, and how much.
    pub(super) fn to_load(&self) -> (u64, usize) {
        let state = self.state.lock();
        (
            state.cursor,
            WINDOW.saturating_sub(state.ready.len()).max(1),
        )
    }

    /// Between which places, both excluded, lies what has arrived and was not loaded.
    pub(super) fn not_seen(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.cursor, state.next_place)
    }

    pub(super) fn count_overflow(&self) {
        self.overflowed.fetch_add(1, Relaxed);
    }

    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    pub(super) fn depth(&self) -> Depth {
        let state = self.state.lock();
        Depth {
            ready: state.waiting(),
            in_flight: state.in_flight,
            delayed: state.delayed,
        }
    }

    /// Wakes whoever waits, to look again.
    pub(super) fn wake_all(&self) {
        let mut state = self.state.lock();
        let consumers = state.consumers.iter_mut();
        let wakers: Vec<Waker> = consumers
            .filter_map(|consumer| consumer.waker.take())
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Consumers end.
    pub(super) fn close(&self) {
        let suspect = {
            let mut state = self.state.lock();
            state.closed = true;
            state.suspect.take()
        };
        self.wake_all();
        // It gives itself back, for which the queue must not be locked.
        drop(suspect);
    }
}

impl BoundedQueue for Queue {
    fn id(&self) -> &QueueId {
        &self.id
    }

    fn limit(&self) -> Option<Limit> {
        self.limit
    }

    fn keep_places(&self, places: u64) -> bool {
        let mut state = self.state.lock();
        let full = self
            .limit
            .is_some_and(|limit| state.held() >= limit.messages);
        if !full {
            state.coming += places;
        }
        !full
    }

    fn free_places(&self, places: u64) {
        if places > 0 {
            let mut state = self.state.lock();
            state.coming -= places;
            self.measure(&state);
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use brickwork::Envelope;
    use proptest::prelude::*;

    use super::*;

    fn entry(place: u64) -> Entry {
        Entry {
            place,
            message: Envelope::new("", "").into(),
            attempt: 1,
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        Arrive(u64),
        Ask,
        Load(usize),
        Take(usize),
        Requeue,
        Ack,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            (1..700u64).prop_map(Act::Arrive),
            Just(Act::Ask),
            (1..1024usize).prop_map(Act::Load),
            (1..900usize).prop_map(Act::Take),
            Just(Act::Requeue),
            Just(Act::Ack),
        ];
        proptest::collection::vec(act, 1..60)
    }

    proptest! {
        /// Whatever happens in whatever order, each message is handed out once, in the order
        /// of arrival, and none is passed over.
        #[test]
        fn the_window_passes_over_nothing(acts in acts()) {
            let mut state = State::default();
            state.consumers.push(ConsumerState { bound: 1, ..ConsumerState::default() });
            let mut disk = BTreeSet::new();
            let mut next = 1u64;
            let mut asked = false;
            let mut hand = BTreeSet::new();
            let mut gone = 0u64;
            for act in acts {
                match act {
                    Act::Arrive(count) => {
                        let arrived = (next..next + count).map(entry).collect();
                        disk.extend(next..next + count);
                        next += count;
                        state.apply(Change { arrived, ..Change::default() });
                    }
                    Act::Ask => asked |= state.wants_more(),
                    Act::Load(max) => if std::mem::take(&mut asked) {
                        let found: Vec<u64> = disk.range(state.cursor + 1..).copied().collect();
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
                        let count = count.min(state.ready());
                        for entry in state.take(count) {
                            prop_assert!(hand.insert(entry.place), "handed out twice");
                        }
                    }
                    Act::Requeue => if let Some(place) = hand.pop_first() {
                        state.put_back(entry(place));
                    },
                    Act::Ack => if let Some(place) = hand.pop_last() {
                        disk.remove(&place);
                        gone += 1;
                    },
                }
                let all = state.ready.len() as u64 + state.beyond + hand.len() as u64;
                prop_assert_eq!(all, disk.len() as u64);
                prop_assert!(state.ready.iter().map(|it| it.place).is_sorted());
                let within = disk.range(..=state.cursor).count();
                prop_assert_eq!(within, state.ready.len() + hand.len());
            }
            prop_assert_eq!(gone + disk.len() as u64, next - 1);
        }
    }
}
