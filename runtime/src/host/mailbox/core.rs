//! The mailbox: a bounded queue from which free instances pull.
//!
//! Owns the bound, the order of waiting instances, pause, hold and close. Any thread may use it. An
//! instance that is woken and does not pull passes the wake-up on, so that none is lost.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::sync::Mutex;

/// A queue that bridges push to and instances pull from.
pub(crate) struct Mailbox<T>(Mutex<State<T>>);

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    /// Slots of waiting instances, the longest wait first; stale entries are skipped.
    idle: VecDeque<usize>,
    /// One slot per instance.
    slots: Vec<Slot>,
    /// Wakers of bridges that wait for room.
    pushers: Vec<Waker>,
    /// Instances with this number or a higher one retire.
    limit: usize,
    paused: bool,
    /// The circuit breaker admits no attempt.
    held: bool,
    closed: bool,
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

    fn blocked(&self) -> bool {
        self.paused || self.held
    }

    fn ready(&self) -> bool {
        !self.blocked() && !self.queue.is_empty()
    }

    fn wake_for_queue(&mut self) {
        if !self.blocked() {
            for _ in 0..self.queue.len() {
                self.wake_one();
            }
        }
    }

    fn pop(&mut self) -> Option<T> {
        if self.blocked() {
            return None;
        }
        let item = self.queue.pop_front()?;
        // Bridges push groups: wake them when half of the mailbox is free, not at each item.
        if !self.pushers.is_empty() && self.queue.len() <= self.capacity / 2 {
            self.wake_pushers();
        }
        Some(item)
    }
}

impl<T> Mailbox<T> {
    /// Creates a mailbox for `capacity` items, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Mutex::new(State {
            queue: VecDeque::new(),
            capacity: capacity.max(1),
            idle: VecDeque::new(),
            slots: Vec::new(),
            pushers: Vec::new(),
            limit: usize::MAX,
            paused: false,
            held: false,
            closed: false,
        }))
    }

    /// Returns the number of waiting items.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().queue.len()
    }

    /// Returns the number of waiting items, and a value from the oldest one.
    pub(crate) fn oldest<R>(&self, value: impl FnOnce(&T) -> R) -> (usize, Option<R>) {
        let state = self.0.lock();
        (state.queue.len(), state.queue.front().map(value))
    }

    /// Visits all items, the oldest first.
    pub(crate) fn each(&self, visit: impl FnMut(&T)) {
        self.0.lock().queue.iter().for_each(visit);
    }

    /// Waits for room and returns it; 0 if the mailbox is closed.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut state = self.0.lock();
        if state.closed {
            return Poll::Ready(0);
        }
        let room = state.capacity.saturating_sub(state.queue.len());
        if room > 0 {
            return Poll::Ready(room);
        }
        state.wait_for_room(cx);
        Poll::Pending
    }

    /// Moves items from the front of `from` into the mailbox. Ready when all are moved, or when
    /// the mailbox is closed; then the rest stays in `from`.
    pub(crate) fn poll_push(&self, cx: &mut Context<'_>, from: &mut VecDeque<T>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.closed {
            return Poll::Ready(());
        }
        while state.queue.len() < state.capacity {
            let Some(item) = from.pop_front() else {
                return Poll::Ready(());
            };
            state.queue.push_back(item);
            if !state.blocked() {
                state.wake_one();
            }
        }
        if from.is_empty() {
            return Poll::Ready(());
        }
        state.wait_for_room(cx);
        Poll::Pending
    }

    /// Appends items, whatever the capacity is. If the mailbox is closed, they stay in `from`.
    pub(crate) fn push_all(&self, from: &mut VecDeque<T>) {
        let mut state = self.0.lock();
        if state.closed {
            return;
        }
        for item in from.drain(..) {
            state.queue.push_back(item);
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

    /// Puts a pulled item back: it is the next one again. Drops it if the mailbox is closed; a
    /// dropped delivery is requeued.
    pub(crate) fn put_back(&self, item: T) {
        let mut state = self.0.lock();
        if state.closed {
            // The item is dropped outside of the lock: its drop may call the mailbox.
            drop(state);
            return;
        }
        state.queue.push_front(item);
        if state.ready() {
            state.wake_one();
        }
    }

    /// Pulls the next item if there is one and `wanted` accepts it.
    pub(crate) fn pull_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.0.lock();
        if !state.closed && state.queue.front().is_some_and(wanted) {
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
        state.wake_pushers();
        let (taken, kept) = std::mem::take(&mut state.queue)
            .into_iter()
            .partition(wanted);
        state.queue = kept;
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
        state.wake_pushers();
        std::mem::take(&mut state.queue)
    }
}
