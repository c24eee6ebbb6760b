//! The suspect lane: messages that were in hand when a process died, tried one at a time.
//!
//! A process that dies had many messages in hand, and died of one, or of something else. So
//! nothing is blamed on what was in hand among others: what was so twice is tried by itself,
//! whatever its queue. The first time beside the usual work; if the process died then, too,
//! alone: nothing else is handed out, and what is in hand is given some time to end. What a
//! process died of while it was tried alone counts against it, as an attempt.
//!
//! One that asks others can't be alone (see [`solitude`](suspects::exclusive_trial)). What it asked may
//! be to blame, or what came with that, so its first deaths in such company don't count.
//! Whatever else was in hand at two of them is in the lane itself, and never beside it again;
//! if the process dies a third time, this one counts, and so it does from then on: what
//! kills only after it has asked is given up, too.
//!
//! A suspect that is given back (the app stops) was not to blame for that.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use brickwork::{Delivery, DeliveryParts, Settle, Settlement};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::delays::due_ms;
use super::exclusive_trial::{ExclusiveGuard, ExclusiveMode};
use super::in_flight_log::DeliveryMode;
use super::queue::Queue;
use super::schema::Id;
use super::state::TransportState;
use super::write_op::{PendingMessage, WriteOp};

/// So often a message was in hand at a death when it becomes suspect,
const HELD_SUSPECT: u32 = 2;
/// and so often when it is tried alone.
const HELD_ALONE: u32 = 3;
/// With so many deaths it is to blame for another one also in company.
const HELD_COMPANY: u32 = HELD_ALONE + 2;
/// How long a consumer waits for a look at its suspects.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// What is kept about a message that was in hand at deaths of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CrashRecord {
    /// At how many.
    pub(super) held: u32,
    /// Of these: blamed on it.
    pub(super) crashes: u32,
    /// Which attempt the next one is.
    pub(super) attempt: u32,
}

impl CrashRecord {
    /// After another death with it in hand.
    pub(super) fn after(self, way: DeliveryMode) -> Self {
        let blamed = match way {
            DeliveryMode::Usual | DeliveryMode::Beside => false,
            DeliveryMode::Company => self.held >= HELD_COMPANY,
            DeliveryMode::Alone => true,
        };
        let blamed = u32::from(blamed);
        Self {
            held: self.held.saturating_add(1),
            crashes: self.crashes.saturating_add(blamed),
            attempt: self.attempt.saturating_add(blamed),
        }
    }

    /// How it is to be tried next.
    pub(super) fn way(self) -> DeliveryMode {
        match self.held {
            HELD_ALONE.. => DeliveryMode::Alone,
            HELD_SUSPECT.. => DeliveryMode::Beside,
            _ => DeliveryMode::Usual,
        }
    }
}

/// A suspect as it was read.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) message: brickwork::Message,
    pub(super) record: CrashRecord,
}

/// Where suspects are tried. One for a transport.
pub(super) struct SuspectQueue {
    waiting: Mutex<VecDeque<Id>>,
    changed: Notify,
    pub(super) solitude: ExclusiveMode,
    /// Nothing is left to be looked at: who may be tried now is, or nobody.
    looked: watch::Sender<bool>,
}

impl SuspectQueue {
    pub(super) fn new(waiting: VecDeque<Id>) -> Self {
        Self {
            waiting: Mutex::new(waiting),
            changed: Notify::new(),
            solitude: ExclusiveMode::default(),
            looked: watch::Sender::new(true),
        }
    }

    /// Something was settled.
    pub(super) fn less_in_hand(&self) {
        self.solitude.less_in_hand();
    }

    /// How many suspects a queue has.
    pub(super) fn count(&self, queue: u32) -> u64 {
        let waiting = self.waiting.lock();
        waiting.iter().filter(|id| id.queue() == queue).count() as u64
    }

    /// A queue is consumed from now on: its suspects are tried before anything else comes.
    pub(super) async fn look(&self, queue: &Queue) {
        if self.count(queue.number) == 0 {
            return;
        }
        self.looked.send_replace(false);
        self.changed.notify_one();
        let mut looked = self.looked.subscribe();
        // Not for long, if another suspect is being tried.
        let _either = timeout(LOOK_WAIT, looked.wait_for(|looked| *looked)).await;
    }

    /// Tries one after the other.
    pub(super) async fn run(&self, core: &Arc<TransportState>) {
        loop {
            let changed = self.changed.notified();
            match self.next(core) {
                Some((id, queue)) => self.try_one(core, id, &queue).await,
                None => {
                    self.looked.send_replace(true);
                    changed.await;
                }
            }
        }
    }

    /// The first of those whose queue is consumed.
    fn next(&self, core: &TransportState) -> Option<(Id, Arc<Queue>)> {
        let queues = core.wires.read().by_number.clone();
        let consumed: HashSet<u32> = queues
            .values()
            .filter(|queue| queue.lock().has_consumers())
            .map(|queue| queue.number)
            .collect();
        let mut waiting = self.waiting.lock();
        let at = waiting
            .iter()
            .position(|id| consumed.contains(&id.queue()))?;
        let id = waiting.remove(at)?;
        Some((id, queues[&id.queue()].clone()))
    }

    async fn try_one(&self, core: &Arc<TransportState>, id: Id, queue: &Arc<Queue>) {
        let (reply, read) = oneshot::channel();
        core.desk.push(core, WriteOp::LoadSuspect { id, reply });
        let Ok(Some(Suspect { message, record })) = read.await else {
            // It can't be read, which was said; or the transport is closed.
            queue.lock().suspects -= 1;
            return;
        };
        let alone = (record.way() == DeliveryMode::Alone).then(|| ExclusiveGuard::begin(core));
        let slot = match &alone {
            Some(alone) => {
                self.looked.send_replace(true);
                alone.reached().await;
                self.solitude.note(&core.hand, id)
            }
            None => core.hand.note_suspect(id, DeliveryMode::Beside),
        };
        let (decided, decision) = oneshot::channel();
        let trial = Arc::new(SuspectDelivery {
            core: core.clone(),
            queue: queue.clone(),
            id,
            slot,
            state: Mutex::new(TrialState {
                taken_by: None,
                decided: Some(decided),
            }),
        });
        let parcel = DeliveryParts {
            message,
            attempt: record.attempt,
            crashes: record.crashes,
            tag: id.place(),
        };
        let delivery = Delivery::new(parcel, trial.clone());
        let refused = {
            let mut state = queue.lock();
            if state.closed || !state.has_consumers() {
                Some(delivery)
            } else {
                state.suspect = Some((delivery, trial));
                None
            }
        };
        // It gives itself back.
        drop(refused);
        queue.wake_all();
        self.looked.send_replace(true);
        // The trial always tells.
        let stays = decision.await.unwrap_or(true);
        if stays {
            self.waiting.lock().push_back(id);
        }
        drop(alone);
    }
}

/// One suspect in hand, or on its way there.
pub(super) struct SuspectDelivery {
    core: Arc<TransportState>,
    queue: Arc<Queue>,
    id: Id,
    slot: u32,
    state: Mutex<TrialState>,
}

struct TrialState {
    /// The number of the consumer that has it.
    taken_by: Option<usize>,
    /// Told whether it is still a suspect.
    decided: Option<oneshot::Sender<bool>>,
}

impl SuspectDelivery {
    pub(super) fn taken_by(&self, consumer: usize) {
        self.state.lock().taken_by = Some(consumer);
    }
}

impl Settle for SuspectDelivery {
    fn settle(&self, parcel: DeliveryParts, settlement: Settlement) {
        let (core, queue, id) = (&self.core, &self.queue, self.id);
        // What comes next may end the process: this one has nothing to do with it.
        core.ward.solitude.wipe(&core.hand, self.slot);
        let mut stays = false;
        let mut buried = false;
        let mut waits = false;
        match settlement {
            Settlement::Ack(reply) => {
                if let Some(reply) = reply {
                    core.replies.answer(&parcel.message, reply);
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
                    bytes: parcel.message.size(),
                };
                core.desk.push(core, wait);
            }
            Settlement::DeadLetter(letter) => match &queue.letters {
                Some(letters) => {
                    core.replies
                        .answer(&parcel.message, Err(letter.error.clone()));
                    buried = true;
                    let bury = WriteOp::Bury {
                        id,
                        suspect: true,
                        queue: queue.clone(),
                        row: PendingMessage::new(letters.clone(), letter.letter(&parcel.message)),
                    };
                    core.desk.push(core, bury);
                }
                None => stays = true,
            },
        }
        let (taken_by, decided) = {
            let mut trial = self.state.lock();
            (trial.taken_by, trial.decided.take())
        };
        let mut state = queue.lock();
        if let Some(consumer) = taken_by {
            state.in_flight -= u64::from(!buried);
            state.suspects += u64::from(stays);
            state.consumers[consumer].unsettled -= 1;
        } else if !stays {
            state.suspects -= 1;
            state.in_flight += u64::from(buried);
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
        if let Some(decided) = decided {
            // The ward is gone when the transport is: the row stays where it is.
            let _gone = decided.send(stays);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: CrashRecord = CrashRecord {
        held: 0,
        crashes: 0,
        attempt: 1,
    };

    #[test]
    fn what_was_in_hand_twice_is_tried_beside_others_and_then_alone() {
        let mut record = NEW;
        let mut ways = Vec::new();
        for _ in 0..6 {
            ways.push(record.way());
            record = record.after(record.way());
        }
        use DeliveryMode::{Alone, Beside, Usual};
        assert_eq!(ways, [Usual, Usual, Beside, Alone, Alone, Alone]);
    }

    #[test]
    fn a_death_while_it_was_alone_is_blamed_on_it_and_none_in_the_usual_company() {
        for way in [DeliveryMode::Usual, DeliveryMode::Beside] {
            let record = NEW.after(way).after(way).after(way);
            assert_eq!((record.crashes, record.attempt), (0, 1));
        }
        let record = NEW.after(DeliveryMode::Alone).after(DeliveryMode::Alone);
        assert_eq!((record.crashes, record.attempt), (2, 3));
    }

    #[test]
    fn in_company_that_it_asked_for_it_is_blamed_from_the_third_death() {
        let mut record = NEW
            .after(DeliveryMode::Usual)
            .after(DeliveryMode::Usual)
            .after(DeliveryMode::Beside);
        let mut crashes = Vec::new();
        for _ in 0..4 {
            assert_eq!(record.way(), DeliveryMode::Alone);
            record = record.after(DeliveryMode::Company);
            crashes.push(record.crashes);
        }
        assert_eq!(crashes, [0, 0, 1, 2]);
        assert_eq!(record.attempt, 3);
    }
}
