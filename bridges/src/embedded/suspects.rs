//! Trials of suspects: hands out one suspect at a time and stores the result.
//!
//! A suspect is a message that was in flight during crashes of its process. The rules are those
//! of [`brickwork::supervision::quarantine`]; this file carries them out. The table `suspect`
//! keeps the messages with their [`CrashRecord`]s. Which of them were in flight during a crash
//! is read from the in-flight log when the queues are opened.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use brickwork::supervision::quarantine::{
    CrashRecord, DeliveryMode, SUSPECT_CHECK_TIMEOUT, TrialOrder,
};
use brickwork::{Delivery, DeliveryParts, Settle, Settlement};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::delays::due_ms;
use super::exclusive_trial::{ExclusiveGuard, ExclusiveMode};
use super::queue::Queue;
use super::schema::Id;
use super::state::TransportState;
use super::write_op::{PendingMessage, WriteOp};

/// A suspect as it was read from its table.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) message: brickwork::Message,
    pub(super) record: CrashRecord,
}

/// The suspects of one transport.
pub(super) struct SuspectQueue {
    order: Mutex<TrialOrder<Id>>,
    /// A queue with suspects has a consumer.
    consumed: Notify,
    pub(super) exclusive: ExclusiveMode,
    /// The suspects were checked: the one that can be tried now is handed out.
    checked: watch::Sender<bool>,
}

impl SuspectQueue {
    pub(super) fn new(suspects: VecDeque<Id>) -> Self {
        Self {
            order: Mutex::new(suspects.into_iter().collect()),
            consumed: Notify::new(),
            exclusive: ExclusiveMode::default(),
            checked: watch::Sender::new(true),
        }
    }

    /// A message was settled.
    pub(super) fn on_settled(&self) {
        self.exclusive.on_settled();
    }

    /// Returns the number of suspects of a queue that wait for their trial.
    pub(super) fn count(&self, queue: u32) -> u64 {
        let order = self.order.lock();
        order.iter().filter(|id| id.queue() == queue).count() as u64
    }

    /// Tries the suspects of a queue with a new consumer before anything else is handed out.
    pub(super) async fn try_before_consuming(&self, queue: &Queue) {
        if self.count(queue.number) == 0 {
            return;
        }
        self.checked.send_replace(false);
        self.consumed.notify_one();
        let mut checked = self.checked.subscribe();
        let _in_time = timeout(SUSPECT_CHECK_TIMEOUT, checked.wait_for(|checked| *checked)).await;
    }

    /// Tries one suspect after the other.
    pub(super) async fn run(&self, core: &Arc<TransportState>) {
        loop {
            let consumed = self.consumed.notified();
            match self.next(core) {
                Some((id, queue)) => self.try_one(core, id, &queue).await,
                None => {
                    self.checked.send_replace(true);
                    consumed.await;
                }
            }
        }
    }

    /// The next suspect whose queue has a consumer.
    fn next(&self, core: &TransportState) -> Option<(Id, Arc<Queue>)> {
        let queues = core.wires.read().by_number.clone();
        let consumed: HashSet<u32> = queues
            .values()
            .filter(|queue| queue.lock().has_consumers())
            .map(|queue| queue.number)
            .collect();
        let id = self
            .order
            .lock()
            .next(|id| consumed.contains(&id.queue()))?;
        Some((id, queues[&id.queue()].clone()))
    }

    /// Hands out one suspect and waits until it is settled.
    async fn try_one(&self, core: &Arc<TransportState>, id: Id, queue: &Arc<Queue>) {
        let (reply, read) = oneshot::channel();
        core.desk.push(core, WriteOp::LoadSuspect { id, reply });
        let Ok(Some(Suspect { message, record })) = read.await else {
            // The row is unreadable, which is recorded, or the transport is closed.
            queue.lock().suspects -= 1;
            return;
        };
        let is_exclusive = record.mode() == DeliveryMode::Exclusive;
        let guard = is_exclusive.then(|| ExclusiveGuard::start(core));
        let slot = match &guard {
            Some(guard) => {
                self.checked.send_replace(true);
                guard.drained().await;
                self.exclusive.record(&core.hand, id)
            }
            None => core.hand.note_suspect(id, record.mode()),
        };
        let (settled, settlement) = oneshot::channel();
        let trial = Arc::new(SuspectDelivery {
            core: core.clone(),
            queue: queue.clone(),
            id,
            slot,
            state: Mutex::new(TrialState {
                taken_by: None,
                settled: Some(settled),
            }),
        });
        let parts = DeliveryParts {
            message,
            attempt: record.attempt,
            crashes: record.crashes,
            tag: id.place(),
        };
        let delivery = Delivery::new(parts, trial.clone());
        let rejected = {
            let mut state = queue.lock();
            if state.closed || !state.has_consumers() {
                Some(delivery)
            } else {
                state.suspect = Some((delivery, trial));
                None
            }
        };
        // Dropping requeues it. That locks the queue, so not above.
        drop(rejected);
        queue.wake_all();
        self.checked.send_replace(true);
        // A trial always reports.
        if settlement.await.unwrap_or(true) {
            self.order.lock().push(id);
        }
        drop(guard);
    }
}

/// A suspect in flight, or on offer to the consumers of its queue.
pub(super) struct SuspectDelivery {
    core: Arc<TransportState>,
    queue: Arc<Queue>,
    id: Id,
    /// Slot in the in-flight log.
    slot: u32,
    state: Mutex<TrialState>,
}

struct TrialState {
    /// The number of the consumer that took it.
    taken_by: Option<usize>,
    /// Gets whether the message is still a suspect.
    settled: Option<oneshot::Sender<bool>>,
}

impl SuspectDelivery {
    pub(super) fn taken_by(&self, consumer: usize) {
        self.state.lock().taken_by = Some(consumer);
    }
}

impl Settle for SuspectDelivery {
    fn settle(&self, parts: DeliveryParts, settlement: Settlement) {
        let (core, queue, id) = (&self.core, &self.queue, self.id);
        // First: if the next step crashes the process, this message is not to blame.
        core.ward.exclusive.erase(&core.hand, self.slot);
        let mut stays = false;
        let mut is_dead_letter = false;
        let mut waits = false;
        match settlement {
            Settlement::Ack(reply) => {
                if let Some(reply) = reply {
                    core.replies.answer(&parts.message, reply);
                }
                core.desk.push(core, WriteOp::Forget { id });
            }
            Settlement::Requeue => stays = true,
            Settlement::Retry { after, attempt } => {
                waits = true;
                let wait = WriteOp::Wait {
                    id,
                    suspect: true,
                    queue: queue.clone(),
                    due_ms: due_ms(after),
                    attempt,
                    bytes: parts.message.size(),
                };
                core.desk.push(core, wait);
            }
            Settlement::DeadLetter(letter) => match &queue.letters {
                Some(letters) => {
                    core.replies
                        .answer(&parts.message, Err(letter.error.clone()));
                    is_dead_letter = true;
                    let bury = WriteOp::Bury {
                        id,
                        suspect: true,
                        queue: queue.clone(),
                        row: PendingMessage::new(letters.clone(), letter.letter(&parts.message)),
                    };
                    core.desk.push(core, bury);
                }
                None => stays = true,
            },
        }
        let (taken_by, settled) = {
            let mut trial = self.state.lock();
            (trial.taken_by, trial.settled.take())
        };
        let mut state = queue.lock();
        if let Some(consumer) = taken_by {
            state.in_flight -= u64::from(!is_dead_letter);
            state.suspects += u64::from(stays);
            state.consumers[consumer].unsettled -= 1;
        } else if !stays {
            state.suspects -= 1;
            state.in_flight += u64::from(is_dead_letter);
        }
        if waits {
            state.delayed += 1;
            state.retrying += 1;
        }
        queue.measure(&state);
        let waker = match state.has_work() {
            true => state.one_to_wake(),
            false => None,
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(settled) = settled {
            // Without a receiver the transport is closed, and the row stays a suspect.
            let _gone = settled.send(stays);
        }
    }
}
