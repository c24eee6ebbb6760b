//! The suspect lane: messages that were in hand when a process died, tried one at a time.
//!
//! A process that dies had many messages in hand, and died of one, or of something else. So
//! nothing is blamed on what was in hand among others: what was so twice is tried by itself,
//! whatever its queue. The first time beside the usual work; if the process died then, too,
//! alone: nothing else is handed out, and what is in hand is given some time to end. Only
//! what a process died of while it was tried alone counts against it, as an attempt.
//!
//! A suspect that is given back (the app stops) was not to blame for that.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use brickwork::{Delivery, Parcel, Settle, Settlement};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::core::Core;
use super::delays::due_ms;
use super::hand::Way;
use super::op::{Op, Row};
use super::queue::Queue;
use super::schema::Id;

/// So often a message was in hand at a death when it becomes suspect,
const HELD_SUSPECT: u32 = 2;
/// and so often when it is tried alone.
const HELD_ALONE: u32 = 3;
/// How long what is in hand may take to end before a suspect is tried alone.
const QUIET_WAIT: Duration = Duration::from_secs(5);
/// How long a consumer waits for a look at its suspects.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// What is kept about a message that was in hand at deaths of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// At how many.
    pub(super) held: u32,
    /// Of these: tried alone.
    pub(super) crashes: u32,
    /// Which attempt the next one is.
    pub(super) attempt: u32,
}

impl Record {
    /// After another death with it in hand.
    pub(super) fn after(self, way: Way) -> Self {
        let blamed = u32::from(way == Way::Alone);
        Self {
            held: self.held.saturating_add(1),
            crashes: self.crashes.saturating_add(blamed),
            attempt: self.attempt.saturating_add(blamed),
        }
    }

    /// How it is to be tried next.
    pub(super) fn way(self) -> Way {
        match self.held {
            HELD_ALONE.. => Way::Alone,
            HELD_SUSPECT.. => Way::Beside,
            _ => Way::Usual,
        }
    }
}

/// A suspect as it was read.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) message: brickwork::Message,
    pub(super) record: Record,
}

/// Where suspects are tried. One for a transport.
pub(super) struct Ward {
    waiting: Mutex<VecDeque<Id>>,
    changed: Notify,
    alone: AtomicBool,
    less: Notify,
    /// Nothing is left to be looked at: who may be tried now is, or nobody.
    looked: watch::Sender<bool>,
}

impl Ward {
    pub(super) fn new(waiting: VecDeque<Id>) -> Self {
        Self {
            waiting: Mutex::new(waiting),
            changed: Notify::new(),
            alone: AtomicBool::new(false),
            less: Notify::new(),
            looked: watch::Sender::new(true),
        }
    }

    /// Whether only the suspect is handed out now.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.load(Relaxed)
    }

    /// Something was settled.
    pub(super) fn less_in_hand(&self) {
        if self.is_alone() {
            self.less.notify_one();
        }
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
    pub(super) async fn run(&self, core: &Arc<Core>) {
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
    fn next(&self, core: &Core) -> Option<(Id, Arc<Queue>)> {
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

    async fn try_one(&self, core: &Arc<Core>, id: Id, queue: &Arc<Queue>) {
        let (reply, read) = oneshot::channel();
        core.desk.push(core, Op::LoadSuspect { id, reply });
        let Ok(Some(Suspect { message, record })) = read.await else {
            // It can't be read, which was said; or the transport is closed.
            queue.lock().suspects -= 1;
            return;
        };
        let way = match record.way() {
            Way::Alone => Way::Alone,
            Way::Usual | Way::Beside => Way::Beside,
        };
        let alone = (way == Way::Alone).then(|| Quiet::begin(core));
        if alone.is_some() {
            self.looked.send_replace(true);
            quiet(core).await;
        }
        let (decided, decision) = oneshot::channel();
        let trial = Arc::new(Trial {
            core: core.clone(),
            queue: queue.clone(),
            id,
            slot: core.hand.note_suspect(id, way),
            state: Mutex::new(TrialState {
                taken_by: None,
                decided: Some(decided),
            }),
        });
        let parcel = Parcel {
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

/// Waits until nothing is in hand, or long enough.
async fn quiet(core: &Core) {
    let in_hand = || {
        let wires = core.wires.read();
        let queues = wires.by_number.values();
        let inputs = queues.filter(|queue| queue.letters.is_some());
        inputs.map(|queue| queue.lock().in_hand).sum::<u64>()
    };
    let quiet = async {
        while in_hand() > 0 {
            core.ward.less.notified().await;
        }
    };
    // What takes longer than that is a handler that hangs: it has its own deadline.
    let _either = timeout(QUIET_WAIT, quiet).await;
}

/// Nothing else is handed out until this is dropped.
struct Quiet(Arc<Core>);

impl Quiet {
    fn begin(core: &Arc<Core>) -> Self {
        core.ward.alone.store(true, Relaxed);
        let quiet = Self(core.clone());
        // Whoever takes holds the lock of its queue: after this, everybody sees it.
        for queue in core.wires.read().by_number.values() {
            drop(queue.lock());
        }
        quiet
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.ward.alone.store(false, Relaxed);
        self.0.wake_all();
    }
}

/// One suspect in hand, or on its way there.
pub(super) struct Trial {
    core: Arc<Core>,
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

impl Trial {
    pub(super) fn taken_by(&self, consumer: usize) {
        self.state.lock().taken_by = Some(consumer);
    }
}

impl Settle for Trial {
    fn settle(&self, parcel: Parcel, settlement: Settlement) {
        let (core, queue, id) = (&self.core, &self.queue, self.id);
        // What comes next may end the process: this one has nothing to do with it.
        core.hand.wipe(self.slot);
        let mut stays = false;
        let mut buried = false;
        let mut waits = false;
        match settlement {
            Settlement::Ack(reply) => {
                if let Some(reply) = reply {
                    core.replies.answer(&parcel.message, reply);
                }
                core.desk.push(core, Op::Forget { id });
            }
            Settlement::GiveBack => stays = true,
            Settlement::Again { after, attempt } => {
                waits = true;
                let wait = Op::Wait {
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
                    let bury = Op::Bury {
                        id,
                        suspect: true,
                        queue: queue.clone(),
                        row: Row::new(letters.clone(), letter.letter(&parcel.message)),
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
            state.in_hand -= u64::from(!buried);
            state.suspects += u64::from(stays);
            state.consumers[consumer].unsettled -= 1;
        } else if !stays {
            state.suspects -= 1;
            state.in_hand += u64::from(buried);
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

    const NEW: Record = Record {
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
        use Way::{Alone, Beside, Usual};
        assert_eq!(ways, [Usual, Usual, Beside, Alone, Alone, Alone]);
    }

    #[test]
    fn only_a_death_while_it_was_alone_is_blamed_on_it() {
        for way in [Way::Usual, Way::Beside] {
            let record = NEW.after(way).after(way).after(way);
            assert_eq!((record.crashes, record.attempt), (0, 1));
        }
        let record = NEW.after(Way::Alone).after(Way::Alone);
        assert_eq!((record.crashes, record.attempt), (2, 3));
    }
}
