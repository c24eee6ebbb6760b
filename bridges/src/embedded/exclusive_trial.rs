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
use brickwork::transport::engine::{Engine, Queue};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::in_flight_log::InFlightLog;
use super::schema::Id;

/// The isolation of one transport.
pub(super) struct ExclusiveMode {
    /// Copy of `Isolation::is_on`, read for each delivery.
    is_on: AtomicBool,
    state: Mutex<State>,
    /// A message was settled, or a request is no longer open.
    settled: Notify,
    log: Arc<InFlightLog>,
}

#[derive(Default)]
struct State {
    /// Queues by number.
    isolation: Isolation<u32>,
    /// The suspect in flight, and its slot in the in-flight log.
    suspect: Option<(Id, u32)>,
}

impl ExclusiveMode {
    pub(super) fn new(log: Arc<InFlightLog>) -> Self {
        Self {
            is_on: AtomicBool::new(false),
            state: Mutex::default(),
            settled: Notify::new(),
            log,
        }
    }

    /// Returns whether a queue hands out nothing now but its suspect.
    pub(super) fn blocks(&self, queue: u32) -> bool {
        self.is_on.load(Relaxed) && self.state.lock().isolation.blocks(&queue)
    }

    /// A message was settled: the process may be drained now.
    pub(super) fn on_settled(&self) {
        if self.is_on.load(Relaxed) {
            self.settled.notify_one();
        }
    }

    /// Records a suspect that is handed out alone. Returns its slot.
    pub(super) fn record(&self, id: Id) -> u32 {
        let mut state = self.state.lock();
        let slot = self.log.record_suspect(id, state.isolation.deliver());
        state.suspect = Some((id, slot));
        slot
    }

    /// Erases a suspect that is no longer in flight.
    pub(super) fn erase(&self, slot: u32) {
        let mut state = self.state.lock();
        if state.suspect.take_if(|(_, alone)| *alone == slot).is_some() {
            state.isolation.settled();
        }
        self.log.erase(slot);
    }

    /// Opens the queues that a handler asks, until the result is dropped.
    pub(super) fn ask(self: &Arc<Self>, queues: &[Arc<Queue>]) -> PendingAsk {
        let numbers: Vec<u32> = queues.iter().map(|queue| queue.number()).collect();
        {
            let mut state = self.state.lock();
            let has_dependents = state.isolation.ask(&numbers);
            if let (true, Some((id, slot))) = (has_dependents, state.suspect) {
                self.log.update(slot, id, DeliveryMode::WithDependents);
            }
        }
        if self.is_on.load(Relaxed) {
            // Messages that wait before the request are handed out before it.
            queues.iter().for_each(|queue| queue.wake_all());
        }
        PendingAsk {
            exclusive: self.clone(),
            queues: numbers,
        }
    }
}

/// A handler that waits for an answer.
pub(super) struct PendingAsk {
    exclusive: Arc<ExclusiveMode>,
    queues: Vec<u32>,
}

impl Drop for PendingAsk {
    fn drop(&mut self) {
        let mut state = self.exclusive.state.lock();
        state.isolation.answered(&self.queues);
        drop(state);
        self.exclusive.on_settled();
    }
}

/// Isolation that lasts until this is dropped.
pub(super) struct ExclusiveGuard {
    exclusive: Arc<ExclusiveMode>,
    engine: Arc<Engine>,
}

impl ExclusiveGuard {
    /// Closes the queues.
    pub(super) fn start(exclusive: Arc<ExclusiveMode>, engine: Arc<Engine>) -> Self {
        exclusive.state.lock().isolation.start();
        exclusive.is_on.store(true, Relaxed);
        let guard = Self { exclusive, engine };
        for queue in guard.engine.queues() {
            queue.wait_for_takes();
        }
        guard
    }

    /// Waits until nothing is in flight, [`DRAIN_TIMEOUT`] at most.
    pub(super) async fn drained(&self) {
        let in_flight = || -> u64 {
            let queues = self.engine.queues();
            let inputs = queues.iter().filter(|it| it.dead_letters().is_some());
            inputs.map(|queue| queue.in_flight()).sum()
        };
        let exclusive = &self.exclusive;
        let is_drained = || {
            // Counted first: a consumer locks its queue, and then this state.
            let in_flight = in_flight();
            exclusive.state.lock().isolation.is_drained(in_flight)
        };
        let drained = async {
            while !is_drained() {
                exclusive.settled.notified().await;
            }
        };
        let _in_time = timeout(DRAIN_TIMEOUT, drained).await;
    }
}

impl Drop for ExclusiveGuard {
    fn drop(&mut self) {
        self.exclusive.is_on.store(false, Relaxed);
        self.exclusive.state.lock().isolation.finish();
        self.engine.wake_all();
    }
}
