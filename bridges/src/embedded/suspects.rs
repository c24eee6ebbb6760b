//! Trials of suspects: hands out one suspect at a time and stores the result.
//!
//! A suspect is a message that was in flight during crashes of its process. The rules are those
//! of [`brickwork::supervision::quarantine`]; this file carries them out. The table `suspect`
//! keeps the messages with their crash records. Which of them were in flight during a crash is
//! read from the in-flight log when the queues are opened.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use brickwork::supervision::quarantine::{DeliveryMode, SUSPECT_CHECK_TIMEOUT, TrialOrder};
use brickwork::transport::engine::{Append, Queue, SuspectOutcome};
use brickwork::{Delivery, DeliveryParts, Settle, Settlement};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::delays::due_ms;
use super::exclusive_trial::ExclusiveGuard;
use super::schema::Id;
use super::state::TransportState;
use super::statements::StoredSuspect;
use super::write_op::{PendingMessage, WriteOp};

/// Maximum delay before a suspect is tried again.
const RETRY_MAX: Duration = Duration::from_secs(24 * 3600);

/// The suspects of one transport.
pub(super) struct SuspectQueue {
    state: Arc<TransportState>,
    order: Mutex<TrialOrder<Id>>,
    /// Suspects that wait for their retry, in a queue whose messages have keys.
    retries: Mutex<HashMap<Id, Instant>>,
    /// A queue with suspects has a consumer.
    consumed: Notify,
    /// The suspects were checked: the one that can be tried now is handed out.
    checked: watch::Sender<bool>,
}

impl SuspectQueue {
    pub(super) fn new(state: Arc<TransportState>, suspects: VecDeque<Id>) -> Self {
        Self {
            state,
            order: Mutex::new(suspects.into_iter().collect()),
            retries: Mutex::default(),
            consumed: Notify::new(),
            checked: watch::Sender::new(true),
        }
    }

    /// Returns the number of suspects of a queue that wait for their trial.
    pub(super) fn count(&self, queue: u32) -> u64 {
        let order = self.order.lock();
        order.iter().filter(|id| id.queue() == queue).count() as u64
    }

    /// Tries the suspects of a queue with a new consumer before anything else is handed out.
    pub(super) async fn try_before_consuming(&self, queue: u32) {
        if self.count(queue) == 0 {
            return;
        }
        self.checked.send_replace(false);
        self.consumed.notify_one();
        let mut checked = self.checked.subscribe();
        let checked = checked.wait_for(|checked| *checked);
        let _in_time = timeout(SUSPECT_CHECK_TIMEOUT, checked).await;
    }

    /// Tries one suspect after the other.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let consumed = self.consumed.notified();
            match self.next() {
                Some((id, queue)) => self.try_one(id, &queue).await,
                None => {
                    self.checked.send_replace(true);
                    let retry = self.retries.lock().values().min().copied();
                    tokio::select! {
                        () = consumed => {}
                        () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
                    }
                }
            }
        }
    }

    /// The next suspect whose queue has a consumer. If messages have keys, it is the oldest one of
    /// its queue.
    fn next(&self) -> Option<(Id, Arc<Queue>)> {
        let queues = self.state.engine.queues();
        let consumed = queues.iter().filter(|queue| queue.has_consumers());
        let consumed: HashSet<u32> = consumed.map(|queue| queue.number()).collect();
        let keyed = queues.iter().filter(|queue| queue.is_keyed());
        let keyed: HashSet<u32> = keyed.map(|queue| queue.number()).collect();
        let mut retries = self.retries.lock();
        let now = Instant::now();
        retries.retain(|_, at| *at > now);
        let mut order = self.order.lock();
        let mut oldest: HashMap<u32, Id> = HashMap::new();
        for id in order.iter().filter(|id| keyed.contains(&id.queue())) {
            let first = oldest.entry(id.queue()).or_insert(*id);
            *first = (*first).min(*id);
        }
        let id = order.next(|id| {
            let is_oldest = oldest.get(&id.queue()).is_none_or(|oldest| oldest == id);
            is_oldest && consumed.contains(&id.queue()) && !retries.contains_key(id)
        })?;
        drop(order);
        let queue = queues.into_iter().find(|it| it.number() == id.queue())?;
        Some((id, queue))
    }

    /// Hands out one suspect and waits until it is settled.
    async fn try_one(&self, id: Id, queue: &Arc<Queue>) {
        let state = &self.state;
        let (reply, read) = oneshot::channel();
        state.journal.push(WriteOp::LoadSuspect { id, reply });
        let Ok(Some(StoredSuspect { message, record })) = read.await else {
            // The row is unreadable, which is recorded, or the transport is closed.
            return queue.suspect_settled(None, SuspectOutcome::Gone);
        };
        let is_exclusive = record.mode() == DeliveryMode::Exclusive;
        let guard = is_exclusive
            .then(|| ExclusiveGuard::start(state.exclusive.clone(), state.engine.clone()));
        let slot = match &guard {
            Some(guard) => {
                self.checked.send_replace(true);
                guard.drained().await;
                state.exclusive.record(id)
            }
            None => state.in_flight_log.record_suspect(id, record.mode()),
        };
        let (settled, settlement) = oneshot::channel();
        let taken_by = Arc::new(OnceLock::new());
        let trial = Arc::new(SuspectDelivery {
            state: state.clone(),
            queue: queue.clone(),
            id,
            slot,
            taken_by: taken_by.clone(),
            settled: Mutex::new(Some(settled)),
        });
        let parts = DeliveryParts {
            message,
            attempt: record.attempt,
            crashes: record.crashes,
            tag: id.sequence(),
        };
        let offered = queue.offer_suspect(Delivery::new(parts, trial), taken_by);
        // Dropping a delivery that was not accepted requeues it.
        drop(offered);
        self.checked.send_replace(true);
        // A trial always reports.
        if let Some(after) = settlement.await.unwrap_or(Some(Duration::ZERO)) {
            if !after.is_zero() {
                self.retries.lock().insert(id, Instant::now() + after);
            }
            self.order.lock().push(id);
        }
        drop(guard);
    }
}

/// A suspect in flight, or on offer to the consumers of its queue.
struct SuspectDelivery {
    state: Arc<TransportState>,
    queue: Arc<Queue>,
    id: Id,
    /// Slot in the in-flight log.
    slot: u32,
    /// The number of the consumer that took it.
    taken_by: Arc<OnceLock<usize>>,
    /// Gets the delay before the next trial if the message is still a suspect.
    settled: Mutex<Option<oneshot::Sender<Option<Duration>>>>,
}

impl Settle for SuspectDelivery {
    fn settle(&self, parts: DeliveryParts, settlement: Settlement) {
        // First: if the next step crashes the process, this message is not to blame.
        self.state.exclusive.erase(self.slot);
        let after = match settlement {
            Settlement::Retry { after, .. } => after.min(RETRY_MAX),
            _ => Duration::ZERO,
        };
        let outcome = self.store(parts, settlement);
        let taken_by = self.taken_by.get().copied();
        self.queue.suspect_settled(taken_by, outcome);
        if let Some(settled) = self.settled.lock().take() {
            // Without a receiver the transport is closed, and the row stays a suspect.
            let stays = outcome == SuspectOutcome::Stays;
            let _gone = settled.send(stays.then_some(after));
        }
    }

    /// An exclusive trial keeps other queues closed, and must not last for the delay of a retry.
    fn note_attempt(&self, _: &DeliveryParts) -> bool {
        false
    }
}

impl SuspectDelivery {
    fn store(&self, parts: DeliveryParts, settlement: Settlement) -> SuspectOutcome {
        let (journal, replies) = (&self.state.journal, self.state.engine.replies());
        let id = self.id;
        match settlement {
            Settlement::Ack(reply) => {
                if let Some(reply) = reply {
                    replies.answer(&parts.message, reply);
                }
                journal.push(WriteOp::AckSuspect { id });
                SuspectOutcome::Gone
            }
            Settlement::Requeue => SuspectOutcome::Stays,
            Settlement::Retry { attempt, .. } if self.queue.is_keyed() => {
                // It stays in front of the later messages of its key.
                journal.push(WriteOp::SetAttempt {
                    id,
                    suspect: true,
                    attempt,
                });
                SuspectOutcome::Stays
            }
            Settlement::Retry { after, attempt } => {
                journal.push(WriteOp::Delay {
                    id,
                    suspect: true,
                    due_ms: due_ms(after),
                    attempt,
                    bytes: parts.message.size(),
                });
                SuspectOutcome::Delayed
            }
            Settlement::DeadLetter(letter) => {
                let Some(dead_letters) = self.queue.dead_letters() else {
                    return SuspectOutcome::Stays;
                };
                replies.answer(&parts.message, Err(letter.error.clone()));
                let letter = PendingMessage::new(Append {
                    queue: dead_letters.number(),
                    message: letter.letter(&parts.message),
                    delay: Duration::ZERO,
                    reserved: false,
                });
                journal.push(WriteOp::DeadLetter {
                    id,
                    suspect: true,
                    letter,
                });
                SuspectOutcome::DeadLettered
            }
        }
    }
}
