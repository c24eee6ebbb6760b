//! What is handed out while a suspect is tried alone: nothing else, but what somebody in hand
//! waits for.
//!
//! A handler that asks waits for another one. Would its request be held back, everything
//! stood still until a deadline, and whoever asked were to blame. So the queues in which
//! handlers have asked stay open until they are answered.
//!
//! A suspect that asks is in company from then on. That is noted before its request can be
//! handed out: a death after that may be somebody else's work.
//!
//! Askers without an input of their own, as those who stand for the world outside, wait: they
//! never end, and are nobody's fault.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::in_flight_log::{DeliveryMode, InFlightLog};
use super::queue::Queue;
use super::schema::Id;
use super::state::TransportState;

/// How long what is in hand may take to end before a suspect is tried alone.
const QUIET_WAIT: Duration = Duration::from_secs(5);

/// Whether a suspect is alone, or is to be. One for a transport.
#[derive(Default)]
pub(super) struct ExclusiveMode {
    on: AtomicBool,
    state: Mutex<State>,
    less: Notify,
}

#[derive(Default)]
struct State {
    /// For how many requests handlers wait, by the number of the queue.
    asked: HashMap<u32, usize>,
    /// The suspect that is noted as alone, and where.
    alone: Option<(Id, u32)>,
}

impl ExclusiveMode {
    /// Whether nothing of this queue is handed out now, its suspect aside.
    pub(super) fn holds_back(&self, queue: &Queue) -> bool {
        self.on.load(Relaxed) && !self.state.lock().asked.contains_key(&queue.number)
    }

    /// Something was settled.
    pub(super) fn less_in_hand(&self) {
        if self.on.load(Relaxed) {
            self.less.notify_one();
        }
    }

    /// Notes the suspect that was waited for with [`ExclusiveGuard`], and tells where.
    pub(super) fn note(&self, hand: &InFlightLog, id: Id) -> u32 {
        let mut state = self.state.lock();
        if state.asked.is_empty() {
            let slot = hand.note_suspect(id, DeliveryMode::Alone);
            state.alone = Some((id, slot));
            slot
        } else {
            hand.note_suspect(id, DeliveryMode::Company)
        }
    }

    /// A suspect isn't in hand any more.
    pub(super) fn wipe(&self, hand: &InFlightLog, slot: u32) {
        let mut state = self.state.lock();
        if state.alone.is_some_and(|(_, alone)| alone == slot) {
            state.alone = None;
        }
        hand.wipe(slot);
    }

    /// A handler asks the readers of these queues: they are open until this is dropped.
    pub(super) fn ask(&self, core: &Arc<TransportState>, queues: Vec<Arc<Queue>>) -> PendingAsk {
        {
            let mut state = self.state.lock();
            if let Some((id, slot)) = state.alone.take_if(|_| !queues.is_empty()) {
                core.hand.note_anew(slot, id, DeliveryMode::Company);
            }
            for queue in &queues {
                *state.asked.entry(queue.number).or_default() += 1;
            }
        }
        if self.on.load(Relaxed) {
            // What came before the request goes before it.
            queues.iter().for_each(|queue| queue.wake_all());
        }
        PendingAsk {
            core: core.clone(),
            queues,
        }
    }
}

/// A handler waits for a reply.
pub(super) struct PendingAsk {
    core: Arc<TransportState>,
    queues: Vec<Arc<Queue>>,
}

impl Drop for PendingAsk {
    fn drop(&mut self) {
        let solitude = &self.core.ward.solitude;
        let mut state = solitude.state.lock();
        for queue in &self.queues {
            if let Entry::Occupied(mut asked) = state.asked.entry(queue.number) {
                *asked.get_mut() -= 1;
                if *asked.get() == 0 {
                    asked.remove();
                }
            }
        }
        drop(state);
        solitude.less_in_hand();
    }
}

/// Nothing else is handed out until this is dropped.
pub(super) struct ExclusiveGuard(Arc<TransportState>);

impl ExclusiveGuard {
    pub(super) fn begin(core: &Arc<TransportState>) -> Self {
        core.ward.solitude.on.store(true, Relaxed);
        let quiet = Self(core.clone());
        // Whoever takes holds the lock of its queue: after this, everybody sees it.
        for queue in core.wires.read().by_number.values() {
            drop(queue.lock());
        }
        quiet
    }

    /// Waits until nothing is in hand, or long enough.
    pub(super) async fn reached(&self) {
        let (wires, solitude) = (&self.0.wires, &self.0.ward.solitude);
        let is_reached = || {
            let wires = wires.read();
            let mut inputs = wires.by_number.values().filter(|it| it.letters.is_some());
            inputs.all(|queue| queue.lock().in_flight == 0)
                && solitude.state.lock().asked.is_empty()
        };
        let quiet = async {
            while !is_reached() {
                solitude.less.notified().await;
            }
        };
        // What takes longer than that is a handler that hangs: it has its own deadline.
        let _either = timeout(QUIET_WAIT, quiet).await;
    }
}

impl Drop for ExclusiveGuard {
    fn drop(&mut self) {
        self.0.ward.solitude.on.store(false, Relaxed);
        self.0.wake_all();
    }
}
