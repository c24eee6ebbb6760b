//! Isolation: which queues hand out messages while a suspect is tried alone.

use std::collections::HashMap;
use std::hash::Hash;

use super::DeliveryMode;

/// The isolation of one process: whether a suspect is tried alone, and which queues stay
/// open because a handler asked in them.
///
/// `Q` identifies a queue. The order of calls for one trial is [`start`](Isolation::start),
/// then [`deliver`](Isolation::deliver) once [`is_drained`](Isolation::is_drained) holds or
/// the time for that is over, then [`settled`](Isolation::settled), then
/// [`finish`](Isolation::finish). Handlers may ask at any time, in isolation or not.
#[derive(Debug, Clone)]
pub struct Isolation<Q> {
    is_on: bool,
    /// A suspect is in flight and has not asked.
    is_alone: bool,
    /// Open requests of handlers by the queue that they went to.
    asked: HashMap<Q, usize>,
}

impl<Q> Default for Isolation<Q> {
    fn default() -> Self {
        Self {
            is_on: false,
            is_alone: false,
            asked: HashMap::new(),
        }
    }
}

impl<Q: Eq + Hash + Clone> Isolation<Q> {
    /// Begins the isolation: from now on most queues hand out nothing.
    pub fn start(&mut self) {
        self.is_on = true;
    }

    /// Returns whether a suspect is tried alone, or is about to be.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Returns whether a queue must not hand out messages now. Its suspect is exempt.
    pub fn blocks(&self, queue: &Q) -> bool {
        self.is_on && !self.asked.contains_key(queue)
    }

    /// Returns whether the suspect can be delivered: `in_flight` counts the messages in
    /// flight beside it.
    pub fn is_drained(&self, in_flight: u64) -> bool {
        in_flight == 0 && self.asked.is_empty()
    }

    /// Returns the mode in which the suspect is handed out now. If a handler still waits for
    /// an answer, the suspect is not alone.
    pub fn deliver(&mut self) -> DeliveryMode {
        self.is_alone = self.asked.is_empty();
        match self.is_alone {
            true => DeliveryMode::Exclusive,
            false => DeliveryMode::WithDependents,
        }
    }

    /// Opens the queues that a handler asks. Returns whether the suspect has dependents from
    /// now on; store that before any of these queues can hand out the request.
    #[must_use]
    pub fn ask<'a>(&mut self, queues: impl IntoIterator<Item = &'a Q>) -> bool
    where
        Q: 'a,
    {
        for queue in queues {
            *self.asked.entry(queue.clone()).or_default() += 1;
        }
        !self.asked.is_empty() && std::mem::take(&mut self.is_alone)
    }

    /// Closes the queues of a request that is answered or no longer waited for.
    pub fn answered<'a>(&mut self, queues: impl IntoIterator<Item = &'a Q>)
    where
        Q: 'a,
    {
        for queue in queues {
            if let Some(open) = self.asked.get_mut(queue) {
                *open -= 1;
                if *open == 0 {
                    self.asked.remove(queue);
                }
            }
        }
    }

    /// The suspect is no longer in flight.
    pub fn settled(&mut self) {
        self.is_alone = false;
    }

    /// Ends the isolation: all queues hand out messages again.
    pub fn finish(&mut self) {
        self.is_on = false;
        self.is_alone = false;
    }
}
