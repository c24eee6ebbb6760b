//! One queue: its state behind a lock, its limit, and its place in the engine.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};

use super::delays::{DelayTarget, Wait};
use super::journal::{Change, Entry, EntryId, InitialCounts};
use super::shared::Shared;
use super::window::State;
use crate::dead_letter::DeadLetter;
use crate::delivery::Delivery;
use crate::message::Message;
use crate::names::QueueId;
use crate::transport::{Depth, DepthGauge, Limit};

/// A queue of an engine.
pub struct Queue {
    id: QueueId,
    number: u32,
    state: Mutex<State>,
    gauge: DepthGauge,
    limit: Option<Limit>,
    /// Number of messages that went to the dead letters because the queue was full.
    overflowed: AtomicU64,
    dead_letters: Option<Arc<Queue>>,
    pub(super) shared: Arc<Shared>,
}

/// Outcome of a settled suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspectOutcome {
    /// The message leaves the queue.
    Gone,
    /// The message stays a suspect.
    Stays,
    /// The message waits for another attempt.
    Delayed,
    /// The message counts as in flight until its dead letter is stored.
    DeadLettered,
}

impl Queue {
    pub(super) fn new(
        id: QueueId,
        number: u32,
        start: InitialCounts,
        gauge: DepthGauge,
        limit: Option<Limit>,
        dead_letters: Option<Arc<Self>>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        let state = State::new(start);
        gauge.update(state.held());
        Arc::new(Self {
            id,
            number,
            state: Mutex::new(state),
            gauge,
            limit,
            overflowed: AtomicU64::new(0),
            dead_letters,
            shared,
        })
    }

    /// Name of the queue.
    pub fn id(&self) -> &QueueId {
        &self.id
    }

    /// Number of the queue in its journal.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Queue of the dead letters. A dead-letter queue has none: it keeps its own messages.
    pub fn dead_letters(&self) -> Option<&Arc<Self>> {
        self.dead_letters.as_ref()
    }

    /// Whether the queue has consumers.
    pub fn has_consumers(&self) -> bool {
        self.state.lock().has_consumers()
    }

    /// Whether messages of the queue have keys.
    pub fn is_keyed(&self) -> bool {
        self.state.lock().keyed
    }

    /// Number of messages in flight.
    pub fn in_flight(&self) -> u64 {
        self.state.lock().in_flight
    }

    /// Waits for consumers that take at this moment: they hold the lock.
    pub fn wait_for_takes(&self) {
        drop(self.state.lock());
    }

    /// Wakes every consumer that waits.
    pub fn wake_all(&self) {
        let mut state = self.state.lock();
        let consumers = state.consumers.iter_mut();
        let wakers: Vec<Waker> = consumers
            .filter_map(|consumer| consumer.waker.take())
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Offers a suspect: the next consumer that takes gets it alone, and sets its own number
    /// in `taken_by`.
    ///
    /// # Errors
    /// Returns the delivery if the queue has no consumers.
    pub fn offer_suspect(
        &self,
        delivery: Delivery,
        taken_by: Arc<OnceLock<usize>>,
    ) -> Result<(), Delivery> {
        let mut state = self.state.lock();
        if state.closed || !state.has_consumers() {
            return Err(delivery);
        }
        state.offered = Some((delivery, taken_by));
        drop(state);
        self.wake_all();
        Ok(())
    }

    /// Counts a suspect that was settled, by the consumer that took it, if any did.
    pub fn suspect_settled(&self, taken_by: Option<usize>, outcome: SuspectOutcome) {
        let stays = outcome == SuspectOutcome::Stays;
        let dead_lettered = outcome == SuspectOutcome::DeadLettered;
        let mut state = self.state.lock();
        if let Some(consumer) = taken_by {
            state.in_flight -= u64::from(!dead_lettered);
            state.suspects += u64::from(stays);
            state.suspects_in_flight -= 1;
            state.consumers[consumer].unsettled -= 1;
        } else if !stays {
            state.suspects -= 1;
            state.in_flight += u64::from(dead_lettered);
        }
        if outcome == SuspectOutcome::Delayed {
            state.delayed += 1;
            state.retrying += 1;
        }
        self.report_depth(&state);
        let waker = state.wake_for_work();
        drop(state);
        wake(waker);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn limit(&self) -> Option<Limit> {
        self.limit
    }

    pub(super) fn entry_id(&self, sequence: u64) -> EntryId {
        EntryId {
            queue: self.number,
            sequence,
        }
    }

    pub(super) fn is_journaled(&self) -> bool {
        self.shared.journal.is_some()
    }

    /// Updates the gauge. The lock on the state keeps updates from overlapping.
    pub(super) fn report_depth(&self, state: &State) {
        self.gauge.update(state.held());
    }

    /// Reserves capacity, unless the queue is full. A queue that is not full accepts a batch
    /// of any size: a batch larger than the limit would never be accepted otherwise.
    pub(super) fn reserve(&self, messages: u64) -> bool {
        let mut state = self.state.lock();
        let full = self.is_full(&state);
        if !full {
            state.reserved += messages;
        }
        !full
    }

    /// Releases reserved capacity that no message used.
    pub(super) fn release(&self, messages: u64) {
        if messages > 0 {
            let mut state = self.state.lock();
            state.reserved -= messages;
            self.report_depth(&state);
        }
    }

    fn is_full(&self, state: &State) -> bool {
        self.limit
            .is_some_and(|limit| state.held() >= limit.messages)
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

    /// Whether consumers work on messages of this queue, which frees disk space. A message
    /// that only waits for another attempt frees none.
    pub(super) fn is_draining(&self) -> bool {
        let state = self.state.lock();
        let is_held = state.held() > state.retrying;
        self.dead_letters.is_some() && is_held && state.has_consumers()
    }

    /// Ends all consumers.
    pub(super) fn close(&self) {
        let suspect = {
            let mut state = self.state.lock();
            state.closed = true;
            state.offered.take()
        };
        self.wake_all();
        // Its drop settles it, for which the queue must not be locked.
        drop(suspect);
    }

    /// Applies the changes of one commit, and continues to load if the window has room.
    pub(super) fn apply(&self, change: Change) {
        let mut state = self.state.lock();
        state.apply(change);
        self.report_depth(&state);
        let load = state.start_load();
        let waker = state.wake_for_work();
        drop(state);
        wake(waker);
        if let (Some(request), Some(journal)) = (load, &self.shared.journal) {
            journal.load(self.number, request);
        }
    }

    /// Returns up to `max` ready messages, in order, beginning after a sequence number.
    pub(super) fn ready_after(&self, after: Option<u64>, max: usize) -> Vec<(u64, Message, u32)> {
        let state = self.state.lock();
        let ready = state.ready();
        let first = after.map_or(0, |after| ready.partition_point(|it| it.sequence <= after));
        let part = ready.range(first..ready.len().min(first + max));
        part.map(|it| (it.sequence, it.message.clone(), it.attempt))
            .collect()
    }
}

/// Arrivals in a queue without a journal.
impl Queue {
    /// Appends a message, whatever the limit is.
    pub(super) fn push(&self, message: Message, attempt: u32) {
        self.push_locked(self.state.lock(), message, attempt);
    }

    /// Appends a message that was published by topic, or makes it a dead letter if the queue
    /// is full.
    pub(super) fn push_by_topic(&self, message: Message) {
        let state = self.state.lock();
        match (self.limit, &self.dead_letters) {
            (Some(limit), Some(_)) if self.is_full(&state) => {
                drop(state);
                self.count_overflow();
                self.dead_letter(&message, &limit.letter(&self.id));
            }
            _ => self.push_locked(state, message, 1),
        }
    }

    /// Appends a message for which capacity is reserved.
    pub(super) fn push_reserved(&self, message: Message) {
        let mut state = self.state.lock();
        state.reserved -= 1;
        self.push_locked(state, message, 1);
    }

    /// Appends a message to the dead-letter queue, and answers its asker. Returns `false` if
    /// this is a dead-letter queue itself.
    pub(super) fn dead_letter(&self, message: &Message, letter: &DeadLetter) -> bool {
        let Some(dead_letters) = &self.dead_letters else {
            return false;
        };
        let replies = &self.shared.replies;
        replies.answer(message, Err(letter.error.clone()));
        dead_letters.push(letter.letter(message), 1);
        true
    }

    /// Counts a message that was published for later.
    pub(super) fn count_scheduled(&self) {
        self.state.lock().delayed += 1;
    }

    fn push_locked(&self, mut state: MutexGuard<'_, State>, message: Message, attempt: u32) {
        state.append(message, attempt);
        self.report_depth(&state);
        let waker = state.one_to_wake();
        drop(state);
        wake(waker);
    }
}

impl DelayTarget for Queue {
    fn id(&self) -> &QueueId {
        &self.id
    }

    fn delay_elapsed(&self, entry: Entry, wait: Wait) {
        let mut state = self.state.lock();
        match wait {
            Wait::Scheduled => state.delayed -= 1,
            Wait::Retry => {
                state.delayed -= 1;
                state.retrying -= 1;
            }
            Wait::RetryInPlace { consumer: None, .. } => {
                state.delayed = state.delayed.saturating_sub(1);
                state.retrying = state.retrying.saturating_sub(1);
            }
            Wait::RetryInPlace {
                consumer: Some(consumer),
                ..
            } => {
                state.in_flight -= 1;
                state.consumers[consumer].unsettled -= 1;
            }
        }
        let Wait::RetryInPlace { .. } = wait else {
            return self.push_locked(state, entry.message, entry.attempt);
        };
        state.requeue(entry, self.is_journaled());
        self.report_depth(&state);
        let waker = state.one_to_wake();
        drop(state);
        wake(waker);
        if let Some(journal) = &self.shared.journal {
            journal.on_settled();
        }
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({})", self.id)
    }
}
