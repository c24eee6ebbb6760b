//! Exclusive trials: keeps queues closed while a suspect is tried alone.
//!
//! The rules are those of [`Isolation`]: most queues hand out nothing, and the queues in which
//! a handler asked stay open until it has its answer. This file carries them out. It wakes
//! consumers, waits for messages in flight, and writes the mode of the suspect to the in-flight
//! log. The log must say that a suspect has dependents before its request can be handed out: a
//! crash after that may be the work of another handler.
//!
//! A request from a service without inputs opens no queue: such a service has nothing in flight
//! that the trial waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use brickwork::supervision::quarantine::{DRAIN_TIMEOUT, DeliveryMode, Isolation};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::in_flight_log::InFlightLog;
use super::queue::Queue;
use super::schema::Id;
use super::state::TransportState;

/// The isolation of one transport.
#[derive(Default)]
pub(super) struct ExclusiveMode {
    /// Copy of `Isolation::is_on`, read for each delivery.
    is_on: AtomicBool,
    state: Mutex<State>,
    /// A message was settled, or a request is no longer open.
    settled: Notify,
}

#[derive(Default)]
struct State {
    /// Queues by number.
    isolation: Isolation<u32>,
    /// The suspect in flight, and its slot in the in-flight log.
    suspect: Option<(Id, u32)>,
}

impl ExclusiveMode {
    /// Returns whether a queue hands out nothing now but its suspect.
    pub(super) fn blocks(&self, queue: &Queue) -> bool {
        self.is_on.load(Relaxed) && self.state.lock().isolation.blocks(&queue.number)
    }

    /// A message was settled: the process may be drained now.
    pub(super) fn on_settled(&self) {
        if self.is_on.load(Relaxed) {
            self.settled.notify_one();
        }
    }

    /// Records a suspect that is handed out alone. Returns its slot.
    pub(super) fn record(&self, log: &InFlightLog, id: Id) -> u32 {
        let mut state = self.state.lock();
        let slot = log.note_suspect(id, state.isolation.deliver());
        state.suspect = Some((id, slot));
        slot
    }

    /// Erases a suspect that is no longer in flight.
    pub(super) fn erase(&self, log: &InFlightLog, slot: u32) {
        let mut state = self.state.lock();
        if state.suspect.take_if(|(_, alone)| *alone == slot).is_some() {
            state.isolation.settled();
        }
        log.wipe(slot);
    }

    /// Opens the queues that a handler asks, until the result is dropped.
    pub(super) fn ask(&self, core: &Arc<TransportState>, queues: Vec<Arc<Queue>>) -> PendingAsk {
        {
            let mut state = self.state.lock();
            let has_dependents = state.isolation.ask(queues.iter().map(|it| &it.number));
            if let (true, Some((id, slot))) = (has_dependents, state.suspect) {
                core.hand.note_anew(slot, id, DeliveryMode::WithDependents);
            }
        }
        if self.is_on.load(Relaxed) {
            // Messages that wait before the request are handed out before it.
            queues.iter().for_each(|queue| queue.wake_all());
        }
        PendingAsk {
            core: core.clone(),
            queues,
        }
    }
}

/// A handler that waits for an answer.
pub(super) struct PendingAsk {
    core: Arc<TransportState>,
    queues: Vec<Arc<Queue>>,
}

impl Drop for PendingAsk {
    fn drop(&mut self) {
        let exclusive = &self.core.ward.exclusive;
        let numbers = self.queues.iter().map(|it| &it.number);
        exclusive.state.lock().isolation.answered(numbers);
        exclusive.on_settled();
    }
}

/// Isolation that lasts until this is dropped.
pub(super) struct ExclusiveGuard(Arc<TransportState>);

impl ExclusiveGuard {
    /// Closes the queues.
    pub(super) fn start(core: &Arc<TransportState>) -> Self {
        let exclusive = &core.ward.exclusive;
        exclusive.state.lock().isolation.start();
        exclusive.is_on.store(true, Relaxed);
        let guard = Self(core.clone());
        // A consumer takes under the lock of its queue: after this, each of them sees `is_on`.
        for queue in core.wires.read().by_number.values() {
            drop(queue.lock());
        }
        guard
    }

    /// Waits until nothing is in flight, [`DRAIN_TIMEOUT`] at most.
    pub(super) async fn drained(&self) {
        let (wires, exclusive) = (&self.0.wires, &self.0.ward.exclusive);
        let in_flight = || -> u64 {
            let wires = wires.read();
            let inputs = wires.by_number.values().filter(|it| it.letters.is_some());
            inputs.map(|queue| queue.lock().in_flight).sum()
        };
        let drained = async {
            while !exclusive.state.lock().isolation.is_drained(in_flight()) {
                exclusive.settled.notified().await;
            }
        };
        let _in_time = timeout(DRAIN_TIMEOUT, drained).await;
    }
}

impl Drop for ExclusiveGuard {
    fn drop(&mut self) {
        let exclusive = &self.0.ward.exclusive;
        exclusive.is_on.store(false, Relaxed);
        exclusive.state.lock().isolation.finish();
        self.0.wake_all();
    }
}
