//! The mailbox: a bounded queue from which free instances pull.
//!
//! Owns the bound, the order of waiting instances, pause, hold and close. Any thread may use it. An
//! instance that is woken and does not pull passes the wake-up on, so that none is lost.
//!
//! Items have one of two ranks, and each rank has a queue with room of its own: ordinary items
//! never take the room of first ones. First items are pulled before ordinary ones, but after
//! [`FIRST_IN_A_ROW`] of them an ordinary one that waits has its turn.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::sync::Mutex;

/// Maximum first items that are pulled in a row while an ordinary one waits.
pub(super) const FIRST_IN_A_ROW: usize = 8;

/// The rank of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    Ordinary,
    /// Goes before ordinary items.
    First,
}

/// A queue that bridges push to and instances pull from.
pub(crate) struct Mailbox<T>(Mutex<State<T>>);

struct State<T> {
    ordinary: Queue<T>,
    first: Queue<T>,
    /// First items that were pulled since an ordinary one, while an ordinary one waited.
    in_a_row: usize,
    /// Capacity of each rank.
    capacity: usize,
    /// Slots of waiting instances, the longest wait first; stale entries are skipped.
    idle: VecDeque<usize>,
    /// One slot per instance.
    slots: Vec<Slot>,
    /// Instances with this number or a higher one retire.
    limit: usize,
    paused: bool,
    /// The circuit breaker admits no attempt.
    held: bool,
    closed: bool,
}

/// The items of one rank.
struct Queue<T> {
    items: VecDeque<T>,
    /// Wakers of bridges that wait for room.
    pushers: Vec<Waker>,
}

#[derive(Default)]
struct Slot {
    waiting: bool,
    /// `idle` has an entry for this slot.
    queued: bool,
    waker: Option<Waker>,
}

/// The result of a pull.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulled<T> {
    /// The next item.
    Item(T),
    /// The mailbox is closed: no more items follow.
    Closed,
    /// The instance of this slot retires.
    Retired,
}

impl<T> State<T> {
    fn wake_one(&mut self) {
        while let Some(number) = self.idle.pop_front() {
            let Some(slot) = self.slots.get_mut(number) else {
                continue;
            };
            slot.queued = false;
            if std::mem::take(&mut slot.waiting) {
                if let Some(waker) = &slot.waker {
                    waker.wake_by_ref();
                }
                return;
            }
        }
    }

    fn wake_all(&mut self) {
        self.idle.clear();
        for slot in &mut self.slots {
            slot.queued = false;
            if std::mem::take(&mut slot.waiting)
                && let Some(waker) = &slot.waker
            {
                waker.wake_by_ref();
            }
        }
    }

    fn queue(&mut self, rank: Rank) -> &mut Queue<T> {
        match rank {
            Rank::Ordinary => &mut self.ordinary,
            Rank::First => &mut self.first,
        }
    }

    fn len(&self) -> usize {
        self.first.items.len() + self.ordinary.items.len()
    }

    /// Returns the rank of the next item. It says nothing of whether there is one.
    fn next_rank(&self) -> Rank {
        let is_turn_of_ordinary =
            self.in_a_row >= FIRST_IN_A_ROW && !self.ordinary.items.is_empty();
        match self.first.items.is_empty() || is_turn_of_ordinary {
            true => Rank::Ordinary,
            false => Rank::First,
        }
    }

    /// Takes all items out, the first ones before the ordinary ones.
    fn take_all(&mut self) -> VecDeque<T> {
        let mut taken = self.first.take();
        taken.append(&mut self.ordinary.take());
        taken
    }

    fn blocked(&self) -> bool {
        self.paused || self.held
    }

    fn ready(&self) -> bool {
        !self.blocked() && self.len() > 0
    }

    fn wake_for_queue(&mut self) {
        if !self.blocked() {
            for _ in 0..self.len() {
                self.wake_one();
            }
        }
    }

    fn pop(&mut self) -> Option<T> {
        if self.blocked() {
            return None;
        }
        let (rank, capacity) = (self.next_rank(), self.capacity);
        let queue = self.queue(rank);
        let item = queue.items.pop_front()?;
        // Bridges push groups: wake them when half of the queue is free, not at each item.
        if !queue.pushers.is_empty() && queue.items.len() <= capacity / 2 {
            queue.wake_pushers();
        }
        self.in_a_row = match rank {
            Rank::First if !self.ordinary.items.is_empty() => self.in_a_row + 1,
            Rank::First | Rank::Ordinary => 0,
        };
        Some(item)
    }
}

impl<T> Queue<T> {
    const EMPTY: Self = Self {
        items: VecDeque::new(),
        pushers: Vec::new(),
    };

    fn wake_pushers(&mut self) {
        for waker in self.pushers.drain(..) {
            waker.wake();
        }
    }

    fn wait_for_room(&mut self, cx: &mut Context<'_>) {
        let mut pushers = self.pushers.iter();
        if !pushers.any(|waker| waker.will_wake(cx.waker())) {
            self.pushers.push(cx.waker().clone());
        }
    }

    fn take(&mut self) -> VecDeque<T> {
        self.wake_pushers();
        std::mem::take(&mut self.items)
    }

    /// Takes the items that `wanted` accepts out.
    fn take_if(&mut self, wanted: impl Fn(&T) -> bool) -> VecDeque<T> {
        let (taken, kept) = self.take().into_iter().partition(wanted);
        self.items = kept;
        taken
    }
}

impl<T> Mailbox<T> {
    /// Creates a mailbox for `capacity` items of each rank, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Mutex::new(State {
            ordinary: Queue::EMPTY,
            first: Queue::EMPTY,
            in_a_row: 0,
            capacity: capacity.max(1),
            idle: VecDeque::new(),
            slots: Vec::new(),
            limit: usize::MAX,
            paused: false,
            held: false,
            closed: false,
        }))
    }

    /// Returns the number of waiting items.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Returns the number of waiting items, and the time of the oldest one.
    pub(crate) fn oldest<R: Ord>(&self, time: impl Fn(&T) -> R) -> (usize, Option<R>) {
        let state = self.0.lock();
        let fronts = [state.first.items.front(), state.ordinary.items.front()];
        let oldest = fronts.into_iter().flatten().map(time).min();
        (state.len(), oldest)
    }

    /// Visits all items: the first ones, then the ordinary ones, the oldest of each first.
    pub(crate) fn each(&self, visit: impl FnMut(&T)) {
        let state = self.0.lock();
        let items = state.first.items.iter().chain(&state.ordinary.items);
        items.for_each(visit);
    }

    /// Waits for room for items of this rank and returns it; 0 if the mailbox is closed.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, rank: Rank) -> Poll<usize> {
        let mut state = self.0.lock();
        if state.closed {
            return Poll::Ready(0);
        }
        let capacity = state.capacity;
        let queue = state.queue(rank);
        let room = capacity.saturating_sub(queue.items.len());
        if room > 0 {
            return Poll::Ready(room);
        }
        queue.wait_for_room(cx);
        Poll::Pending
    }

    /// Moves items of this rank from the front of `from` into the mailbox. Ready when all are
    /// moved, or when the mailbox is closed; then the rest stays in `from`.
    pub(crate) fn poll_push(
        &self,
        cx: &mut Context<'_>,
        rank: Rank,
        from: &mut VecDeque<T>,
    ) -> Poll<()> {
        let mut state = self.0.lock();
        if state.closed {
            return Poll::Ready(());
        }
        while state.queue(rank).items.len() < state.capacity {
            let Some(item) = from.pop_front() else {
                return Poll::Ready(());
            };
            state.queue(rank).items.push_back(item);
            if !state.blocked() {
                state.wake_one();
            }
        }
        if from.is_empty() {
            return Poll::Ready(());
        }
        state.queue(rank).wait_for_room(cx);
        Poll::Pending
    }

    /// Appends items, whatever the capacity is. If the mailbox is closed, they stay in `from`.
    pub(crate) fn push_all(&self, from: &mut VecDeque<T>, rank: impl Fn(&T) -> Rank) {
        let mut state = self.0.lock();
        if state.closed {
            return;
        }
        for item in from.drain(..) {
            let rank = rank(&item);
            state.queue(rank).items.push_back(item);
            if !state.blocked() {
                state.wake_one();
            }
        }
    }

    /// Pulls the next item for the instance of a slot.
    pub(crate) fn poll_pull(&self, cx: &mut Context<'_>, number: usize) -> Poll<Pulled<T>> {
        let mut state = self.0.lock();
        if state.closed {
            return Poll::Ready(Pulled::Closed);
        }
        if number >= state.limit {
            return Poll::Ready(Pulled::Retired);
        }
        if let Some(item) = state.pop() {
            if let Some(slot) = state.slots.get_mut(number) {
                slot.waiting = false;
            }
            return Poll::Ready(Pulled::Item(item));
        }
        let state = &mut *state;
        if state.slots.len() <= number {
            state.slots.resize_with(number + 1, Slot::default);
        }
        let slot = &mut state.slots[number];
        if !slot
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            slot.waker = Some(cx.waker().clone());
        }
        slot.waiting = true;
        if !std::mem::replace(&mut slot.queued, true) {
            state.idle.push_back(number);
        }
        Poll::Pending
    }

    /// Puts a pulled item back: it is the next one of its rank again, and an ordinary one has its
    /// turn. Drops it if the mailbox is closed; a dropped delivery is requeued.
    pub(crate) fn put_back(&self, item: T, rank: Rank) {
        let mut state = self.0.lock();
        if state.closed {
            // The item is dropped outside of the lock: its drop may call the mailbox.
            drop(state);
            return;
        }
        state.queue(rank).items.push_front(item);
        state.in_a_row = match rank {
            Rank::Ordinary => FIRST_IN_A_ROW,
            Rank::First => state.in_a_row.saturating_sub(1),
        };
        if state.ready() {
            state.wake_one();
        }
    }

    /// Pulls the next item if there is one and `wanted` accepts it.
    pub(crate) fn pull_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.0.lock();
        let rank = state.next_rank();
        if !state.closed && state.queue(rank).items.front().is_some_and(wanted) {
            state.pop()
        } else {
            None
        }
    }

    /// Passes a wake-up on to another instance, because the one of this slot has other work or
    /// is gone.
    pub(crate) fn pass_on(&self, number: usize, gone: bool) {
        let mut state = self.0.lock();
        if let Some(slot) = state.slots.get_mut(number) {
            slot.waiting = false;
            if gone {
                slot.waker = None;
            }
        }
        if state.ready() {
            state.wake_one();
        }
    }

    /// Stops pulls until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.0.lock().paused = true;
    }

    /// Allows pulls again.
    pub(crate) fn resume(&self) {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.paused) {
            state.wake_for_queue();
        }
    }

    /// Stops pulls, or allows them again. Independent of [`pause`](Self::pause).
    pub(crate) fn hold(&self, held: bool) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.held, held) && !held {
            state.wake_for_queue();
        }
    }

    /// Takes the waiting items that `wanted` accepts out.
    pub(crate) fn take_if(&self, wanted: impl Fn(&T) -> bool) -> VecDeque<T> {
        let mut state = self.0.lock();
        let mut taken = state.first.take_if(&wanted);
        taken.append(&mut state.ordinary.take_if(&wanted));
        taken
    }

    /// Retires the instances with this number or a higher one; the others may pull. A retiring
    /// instance calls [`pass_on`](Self::pass_on), so that its wake-up is not lost.
    pub(crate) fn limit(&self, limit: usize) {
        let mut state = self.0.lock();
        state.limit = limit;
        let slots = state.slots.iter_mut().skip(limit);
        for slot in slots {
            if std::mem::take(&mut slot.waiting)
                && let Some(waker) = &slot.waker
            {
                waker.wake_by_ref();
            }
        }
    }

    /// Returns the number of entries in `idle`.
    #[cfg(test)]
    pub(crate) fn idle_entries(&self) -> usize {
        self.0.lock().idle.len()
    }

    /// Closes the mailbox for good and returns the waiting items.
    pub(crate) fn close(&self) -> VecDeque<T> {
        let mut state = self.0.lock();
        state.closed = true;
        state.wake_all();
        state.take_all()
    }
}
