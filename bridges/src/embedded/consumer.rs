//! Taking from a queue, and settling what was taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use brickwork::transport::{Consumer, TransportError};
use brickwork::{Delivery, DeliveryParts, Settle, Settlement};
use tokio::time::{Instant, sleep};

use super::delays::due_ms;
use super::in_flight_log::NO_SLOT;
use super::queue::{Entry, Queue};
use super::schema::PLACE_BITS;
use super::state::TransportState;
use super::write_op::{PendingMessage, WriteOp};

/// While there is no room on the disk, so much that was taken waits for its next attempt in
/// memory, beside what consumers have in hand. In bytes.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What each of these costs beside its own size, about, in bytes.
const WAITING_EACH_BYTES: usize = 1024;
/// What waits no longer than this is still being worked off.
const SOON: Duration = Duration::from_secs(10);

/// The consumer's end, shared with the deliveries that came from it.
struct DeliverySettler {
    core: Arc<TransportState>,
    queue: Arc<Queue>,
    number: usize,
}

/// The transport's mark on a delivery: where it is noted that it is in hand, and its place.
fn tag(slot: u32, place: u64) -> u64 {
    (u64::from(slot) << PLACE_BITS) | place
}

fn of_tag(tag: u64) -> (u32, u64) {
    ((tag >> PLACE_BITS) as u32, tag & ((1 << PLACE_BITS) - 1))
}

impl Settle for DeliverySettler {
    fn settle(&self, parcel: DeliveryParts, settlement: Settlement) {
        let (core, queue) = (&self.core, &self.queue);
        let (slot, place) = of_tag(parcel.tag);
        let id = queue.at(place);
        let mut buried = false;
        let mut waits = false;
        let mut stays = false;
        let back = match settlement {
            Settlement::Ack(reply) => {
                if let Some(reply) = reply {
                    core.replies.answer(&parcel.message, reply);
                }
                core.hand.free(slot);
                core.desk.ack(core, id);
                None
            }
            Settlement::Requeue => Some(parcel.attempt),
            Settlement::Retry { after, attempt } if after.is_zero() => {
                core.desk.push(core, WriteOp::Attempt { id, attempt });
                Some(attempt)
            }
            Settlement::Retry { after, attempt } if core.desk.is_scarce() => {
                // Moving it takes room that there isn't. It stays where it is on the disk.
                core.hand.wipe(slot);
                let bytes = parcel.message.size() + WAITING_EACH_BYTES;
                let waiting = core.waiting_bytes.fetch_add(bytes, Relaxed) + bytes;
                // Of what waits in memory, there must not be any number.
                stays = waiting > WAITING_BYTES_MAX;
                waits = !stays;
                if attempt != parcel.attempt {
                    core.desk.push(core, WriteOp::Attempt { id, attempt });
                }
                let entry = Entry {
                    place,
                    message: parcel.message.clone(),
                    attempt,
                };
                let soon = usize::from(after <= SOON);
                core.waiting_soon.fetch_add(soon, Relaxed);
                let (weak, queue) = (Arc::downgrade(core), queue.clone());
                let holder = stays.then_some(self.number);
                core.runtime.spawn(async move {
                    sleep(after).await;
                    queue.waited(entry, holder);
                    if let Some(core) = weak.upgrade() {
                        core.waiting_bytes.fetch_sub(bytes, Relaxed);
                        core.waiting_soon.fetch_sub(soon, Relaxed);
                        core.ward.on_settled();
                    }
                });
                None
            }
            Settlement::Retry { after, attempt } => {
                core.hand.wipe(slot);
                waits = true;
                let wait = WriteOp::Wait {
                    id,
                    suspect: false,
                    queue: queue.clone(),
                    due_ms: due_ms(after),
                    attempt,
                    bytes: parcel.message.size(),
                };
                core.desk.push(core, wait);
                None
            }
            Settlement::DeadLetter(letter) => match &queue.letters {
                Some(letters) => {
                    core.replies
                        .answer(&parcel.message, Err(letter.error.clone()));
                    core.hand.free(slot);
                    buried = true;
                    let bury = WriteOp::Bury {
                        id,
                        suspect: false,
                        queue: queue.clone(),
                        row: PendingMessage::new(letters.clone(), letter.letter(&parcel.message)),
                    };
                    core.desk.push(core, bury);
                    None
                }
                None => Some(parcel.attempt),
            },
        };
        if back.is_some() {
            core.hand.wipe(slot);
        }
        if stays {
            return;
        }
        let mut state = queue.lock();
        // What goes to the dead letters stays in hand until it is there.
        state.in_flight -= u64::from(!buried);
        if waits {
            state.delayed += 1;
            state.retrying += 1;
        }
        let consumer = &mut state.consumers[self.number];
        let was_full = consumer.unsettled == consumer.bound;
        consumer.unsettled -= 1;
        let back = back.map(|attempt| Entry {
            place,
            message: parcel.message,
            attempt,
        });
        let wake = back.is_some() || (was_full && state.has_work());
        if let Some(entry) = back {
            state.put_back(entry);
        }
        queue.measure(&state);
        let waker = match wake {
            true => state.one_to_wake(),
            false => None,
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        core.ward.on_settled();
    }
}

/// Takes from a queue.
pub(super) struct QueueConsumer {
    tap: Arc<DeliverySettler>,
    slots: Vec<u32>,
    /// Its place among the consumers may be another one's.
    stopped: bool,
}

impl QueueConsumer {
    pub(super) fn new(core: Arc<TransportState>, queue: Arc<Queue>, bound: usize) -> Self {
        let mut state = queue.lock();
        let number = state.add_consumer(bound.max(1));
        let wants_more = state.wants_more();
        drop(state);
        if wants_more {
            core.desk.load(&core, &queue);
        }
        Self {
            tap: Arc::new(DeliverySettler {
                core,
                queue,
                number,
            }),
            slots: Vec::new(),
            stopped: false,
        }
    }
}

impl Consumer for QueueConsumer {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>> {
        let DeliverySettler {
            core,
            queue,
            number,
        } = &*self.tap;
        let mut guard = queue.lock();
        let state = &mut *guard;
        if self.stopped {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let consumer = &mut state.consumers[*number];
        if state.closed {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let room = max.min(consumer.bound - consumer.unsettled);
        if room > 0
            && let Some((delivery, trial)) = state.suspect.take()
        {
            trial.taken_by(*number);
            consumer.unsettled += 1;
            consumer.waker = None;
            state.in_flight += 1;
            state.suspects -= 1;
            into.push_back(delivery);
            return Poll::Ready(Ok(()));
        }
        let count = match core.ward.exclusive.blocks(queue) || core.desk.is_clogged() {
            true => 0,
            false => room.min(state.ready()),
        };
        if count == 0 {
            state.consumers[*number].waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let consumer = &mut state.consumers[*number];
        consumer.waker = None;
        consumer.unsettled += count;
        state.in_flight += count as u64;
        let entries = state.take(count);
        self.slots.clear();
        if queue.letters.is_some() {
            let ids = entries.iter().map(|entry| queue.at(entry.place));
            core.hand.note(ids, &mut self.slots);
        } else {
            // Whoever looks at dead letters does nothing with them.
            self.slots.resize(count, NO_SLOT);
        }
        let taken = Instant::now();
        into.extend(entries.into_iter().zip(&self.slots).map(|(entry, slot)| {
            let parcel = DeliveryParts {
                message: entry.message,
                attempt: entry.attempt,
                crashes: 0,
                tag: tag(*slot, entry.place),
            };
            Delivery::taken_at(parcel, self.tap.clone(), taken)
        }));
        let wants_more = state.wants_more();
        // Others may have waited for the wake that this one got.
        let waker = match state.has_work() {
            true => state.one_to_wake(),
            false => None,
        };
        drop(guard);
        if let Some(waker) = waker {
            waker.wake();
        }
        if wants_more {
            core.desk.load(core, queue);
        }
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let mut state = self.tap.queue.lock();
        let consumer = &mut state.consumers[self.tap.number];
        consumer.stopped = true;
        consumer.bound = 0;
        consumer.waker = None;
        let suspect = match state.has_consumers() {
            true => None,
            false => state.suspect.take(),
        };
        let waker = match state.has_work() {
            true => state.one_to_wake(),
            false => None,
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        // Nobody is there to try it: it gives itself back.
        drop(suspect);
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        self.stop();
    }
}
