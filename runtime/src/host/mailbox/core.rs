//! A bounded queue from which free instances pull.
//!
//! Owns the bound, fairness among waiting instances, pause and close. It can be
//! reached from any thread. A wake that goes to an instance which does not use it is
//! passed on, so none is lost.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::sync::Mutex;

/// The queue, shared by bridges that push and instances that pull.
pub(crate) struct Mailbox<T>(Mutex<State<T>>);

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    /// Instances that wait, oldest first; stale entries are skipped.
    idle: VecDeque<usize>,
    /// A slot for each instance.
    slots: Vec<Slot>,
    /// Bridges that wait for room.
    pushers: Vec<Waker>,
    /// Instances from this number on are to go.
    limit: usize,
    paused: bool,
    closed: bool,
}

#[derive(Default)]
struct Slot {
    waiting: bool,
    /// Its number stands in `idle`.
    queued: bool,
    waker: Option<Waker>,
}

/// What a pull gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulled<T> {
    /// The next one.
    Item(T),
    /// There will be no more.
    Closed,
    /// The instance of this slot is to go; the others go on.
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

    fn ready(&self) -> bool {
        !self.paused && !self.queue.is_empty()
    }

    fn pop(&mut self) -> Option<T> {
        if self.paused {
            return None;
        }
        let item = self.queue.pop_front()?;
        // Bridges push in groups: wake them when there is room for one, not for each.
        if !self.pushers.is_empty() && self.queue.len() <= self.capacity / 2 {
            self.wake_pushers();
        }
        Some(item)
    }
}

impl<T> Mailbox<T> {
    /// A mailbox for up to `capacity` items.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Mutex::new(State {
            queue: VecDeque::new(),
            capacity: capacity.max(1),
            idle: VecDeque::new(),
            slots: Vec::new(),
            pushers: Vec::new(),
            limit: usize::MAX,
            paused: false,
            closed: false,
        }))
    }

    /// How many items wait.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().queue.len()
    }

    /// How many items wait, and something of the oldest.
    pub(crate) fn look<R>(&self, of: impl FnOnce(&T) -> R) -> (usize, Option<R>) {
        let state = self.0.lock();
        (state.queue.len(), state.queue.front().map(of))
    }

    /// Looks at all items, the oldest first.
    pub(crate) fn each(&self, look: impl FnMut(&T)) {
        self.0.lock().queue.iter().for_each(look);
    }

    /// Waits for room and says how much there is; none if it has closed.
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

    /// Moves items from the front of `from` into the mailbox; ready when all are in,
    /// or when it has closed (what is left in `from` stays there).
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
            if !state.paused {
                state.wake_one();
            }
        }
        if from.is_empty() {
            return Poll::Ready(());
        }
        state.wait_for_room(cx);
        Poll::Pending
    }

    /// Takes the next item for the instance of a slot.
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

    /// Puts an item back that was pulled and isn't wanted yet: it is the next one again.
    /// Given back, if it has closed meanwhile.
    pub(crate) fn put_back(&self, item: T) {
        let mut state = self.0.lock();
        if state.closed {
            // Dropped outside of the lock: it may come back here.
            drop(state);
            return;
        }
        state.queue.push_front(item);
        if state.ready() {
            state.wake_one();
        }
    }

    /// Takes the next item now, if there is one and it is wanted.
    pub(crate) fn pull_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.0.lock();
        if !state.closed && state.queue.front().is_some_and(wanted) {
            state.pop()
        } else {
            None
        }
    }

    /// Says that the instance of a slot has other things to do, or is gone: a wake that
    /// it got goes to another one.
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

    /// Gives nothing out until it is resumed.
    pub(crate) fn pause(&self) {
        self.0.lock().paused = true;
    }

    /// Gives out again.
    pub(crate) fn resume(&self) {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.paused) {
            let waiting = state.queue.len();
            for _ in 0..waiting {
                state.wake_one();
            }
        }
    }

    /// Instances from this number on are to go, those below may pull. A wake that one of
    /// them got goes to another one when it says [`pass_on`](Self::pass_on).
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

    /// How many entries there are in the list of who waits.
    #[cfg(test)]
    pub(crate) fn idle_entries(&self) -> usize {
        self.0.lock().idle.len()
    }

    /// Closes it for good and returns what was in it.
    pub(crate) fn close(&self) -> VecDeque<T> {
        let mut state = self.0.lock();
        state.closed = true;
        state.wake_all();
        state.wake_pushers();
        std::mem::take(&mut state.queue)
    }
}
