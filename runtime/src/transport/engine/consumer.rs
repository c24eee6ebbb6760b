//! Taking messages from a queue, and settling them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::delays::Wait;
use super::journal::{Append, Entry, NO_SLOT};
use super::queue::{Queue, wake};
use super::window::State;
use crate::delivery::{Delivery, DeliveryParts, Settle, Settlement};
use crate::transport::{Consumer, TransportError};

/// Bits of a delivery tag that hold the sequence number, if there is a journal. The other
/// bits hold the slot in the in-flight log.
const SEQUENCE_BITS: u32 = 40;

/// Settles the deliveries of one consumer.
struct DeliverySettler {
    queue: Arc<Queue>,
    /// Number of the consumer in its queue.
    number: usize,
}

/// Where a settled message goes.
enum Next {
    /// It leaves the queue.
    Gone,
    /// It counts as in flight until the journal has stored its dead letter.
    DeadLetter,
    /// It returns to its position as this attempt.
    Requeue(u32),
    /// It waits, and then becomes this attempt.
    Delay { after: Duration, attempt: u32 },
}

impl Settle for DeliverySettler {
    fn settle(&self, parts: DeliveryParts, settlement: Settlement) {
        let journal = self.queue.shared.journal.as_deref();
        let (slot, sequence) = match journal {
            Some(_) => (
                (parts.tag >> SEQUENCE_BITS) as u32,
                parts.tag & ((1 << SEQUENCE_BITS) - 1),
            ),
            None => (NO_SLOT, parts.tag),
        };
        match self.next(&parts, slot, sequence, settlement) {
            Next::Gone => self.leave(|state| state.in_flight -= 1, false),
            Next::DeadLetter => self.leave(|_| (), false),
            Next::Requeue(attempt) => {
                let entry = Entry {
                    sequence,
                    message: parts.message,
                    attempt,
                };
                let requeue = |state: &mut State| {
                    state.in_flight -= 1;
                    state.requeue(entry, journal.is_some());
                };
                self.leave(requeue, true);
            }
            Next::Delay { after, attempt } => self.delay(parts, sequence, after, attempt),
        }
        if let Some(journal) = journal {
            journal.on_settled();
        }
    }

    fn note_attempt(&self, parts: &DeliveryParts) -> bool {
        if let Some(journal) = &self.queue.shared.journal {
            let sequence = parts.tag & ((1 << SEQUENCE_BITS) - 1);
            journal.set_attempt(self.queue.entry_id(sequence), parts.attempt);
        }
        true
    }
}

impl DeliverySettler {
    /// Does everything that must happen before the queue counts the message as settled, so
    /// that a message is never nowhere.
    fn next(
        &self,
        parts: &DeliveryParts,
        slot: u32,
        sequence: u64,
        settlement: Settlement,
    ) -> Next {
        let queue = &self.queue;
        let journal = queue.shared.journal.as_deref();
        let id = queue.entry_id(sequence);
        match (settlement, journal) {
            (Settlement::Ack(reply), journal) => {
                if let Some(reply) = reply {
                    queue.shared.replies.answer(&parts.message, reply);
                }
                if let Some(journal) = journal {
                    journal.free_slot(slot);
                    journal.ack(id);
                }
                Next::Gone
            }
            (Settlement::DeadLetter(letter), None) => {
                match queue.dead_letter(&parts.message, &letter) {
                    true => Next::Gone,
                    false => Next::Requeue(parts.attempt),
                }
            }
            (Settlement::DeadLetter(letter), Some(journal)) => {
                let Some(dead_letters) = queue.dead_letters() else {
                    journal.erase_slot(slot);
                    return Next::Requeue(parts.attempt);
                };
                let replies = &queue.shared.replies;
                replies.answer(&parts.message, Err(letter.error.clone()));
                journal.free_slot(slot);
                let letter = Append {
                    queue: dead_letters.number(),
                    message: letter.letter(&parts.message),
                    delay: Duration::ZERO,
                    reserved: false,
                };
                journal.dead_letter(id, letter);
                Next::DeadLetter
            }
            (Settlement::Requeue, journal) => {
                if let Some(journal) = journal {
                    journal.erase_slot(slot);
                }
                Next::Requeue(parts.attempt)
            }
            (Settlement::Retry { after, attempt }, journal) => {
                if let Some(journal) = journal {
                    journal.erase_slot(slot);
                }
                if !after.is_zero() {
                    return Next::Delay { after, attempt };
                }
                if let Some(journal) = journal {
                    journal.set_attempt(id, attempt);
                }
                Next::Requeue(attempt)
            }
        }
    }

    /// Applies `change` to the queue, and ends the message's count in its consumer.
    fn leave(&self, change: impl FnOnce(&mut State), requeued: bool) {
        let queue = &self.queue;
        let mut state = queue.lock();
        change(&mut state);
        let consumer = &mut state.consumers[self.number];
        let was_full = consumer.unsettled == consumer.bound;
        consumer.unsettled -= 1;
        let waker = match requeued || was_full {
            true => state.wake_for_work(),
            false => None,
        };
        queue.report_depth(&state);
        drop(state);
        wake(waker);
    }

    /// Delays a message: in the journal, or in memory if there is none or disk space is low.
    fn delay(&self, parts: DeliveryParts, sequence: u64, after: Duration, attempt: u32) {
        let queue = &self.queue;
        let shared = &queue.shared;
        let count = |state: &mut State| {
            state.in_flight -= 1;
            state.delayed += 1;
            state.retrying += 1;
        };
        let entry = Entry {
            sequence,
            message: parts.message,
            attempt,
        };
        let Some(journal) = &shared.journal else {
            self.leave(count, false);
            return shared.delays.add(queue.clone(), entry, after, Wait::Retry);
        };
        let (id, bytes) = (queue.entry_id(sequence), entry.message.size());
        if !journal.has_low_space() {
            self.leave(count, false);
            return journal.delay(id, after, attempt, bytes);
        }
        if attempt != parts.attempt {
            journal.set_attempt(id, attempt);
        }
        let wait = shared.delays.in_place(bytes, after, self.number);
        if let Wait::RetryInPlace { consumer: None, .. } = wait {
            self.leave(count, false);
        }
        shared.delays.add(queue.clone(), entry, after, wait);
    }
}

/// The consuming end of a queue.
pub struct QueueConsumer {
    settler: Arc<DeliverySettler>,
    slots: Vec<u32>,
    /// Another consumer may have got the number of this one.
    stopped: bool,
}

impl QueueConsumer {
    pub(super) fn new(queue: Arc<Queue>, bound: usize) -> Self {
        let mut state = queue.lock();
        let number = state.add_consumer(bound.max(1));
        let load = state.start_load();
        drop(state);
        if let (Some(request), Some(journal)) = (load, &queue.shared.journal) {
            journal.load(queue.number(), request);
        }
        Self {
            settler: Arc::new(DeliverySettler { queue, number }),
            slots: Vec::new(),
            stopped: false,
        }
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.settler.queue
    }
}

impl Consumer for QueueConsumer {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>> {
        let DeliverySettler { queue, number } = &*self.settler;
        let journal = queue.shared.journal.as_deref();
        let mut guard = queue.lock();
        let state = &mut *guard;
        if self.stopped || state.closed {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let consumer = &mut state.consumers[*number];
        let room = max.min(consumer.bound - consumer.unsettled);
        if room > 0
            && let Some((delivery, taken_by)) = state.offered.take()
        {
            // The cell is new: the offer is taken once.
            let _first = taken_by.set(*number);
            consumer.unsettled += 1;
            consumer.waker = None;
            state.in_flight += 1;
            state.suspects -= 1;
            state.suspects_in_flight += 1;
            into.push_back(delivery);
            return Poll::Ready(Ok(()));
        }
        let count = match journal {
            Some(journal) if journal.blocks(queue.number()) => 0,
            _ if state.waits_for_suspects() => 0,
            _ => room.min(state.ready().len()),
        };
        let consumer = &mut state.consumers[*number];
        if count == 0 {
            consumer.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        consumer.waker = None;
        consumer.unsettled += count;
        state.in_flight += count as u64;
        let (settler, slots) = (&self.settler, &mut self.slots);
        record_in_flight(queue, state, count, slots);
        let taken = Instant::now();
        into.reserve(count);
        let mut slots = slots.iter();
        state.take(count, journal.is_some(), |entry| {
            let slot = slots.next().copied().unwrap_or_default();
            let parts = DeliveryParts {
                message: entry.message,
                attempt: entry.attempt,
                crashes: 0,
                tag: (u64::from(slot) << SEQUENCE_BITS) | entry.sequence,
            };
            into.push_back(Delivery::taken_at(parts, settler.clone(), taken));
        });
        let load = state.start_load();
        // Another consumer may have waited for the wake-up that this one got.
        let waker = state.wake_for_work();
        drop(guard);
        wake(waker);
        if let (Some(request), Some(journal)) = (load, journal) {
            journal.load(queue.number(), request);
        }
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let mut state = self.settler.queue.lock();
        let consumer = &mut state.consumers[self.settler.number];
        consumer.stopped = true;
        consumer.bound = 0;
        consumer.waker = None;
        let suspect = match state.has_consumers() {
            true => None,
            false => state.offered.take(),
        };
        let waker = state.wake_for_work();
        drop(state);
        wake(waker);
        // Without consumers it returns to the suspects: its drop locks the queue.
        drop(suspect);
    }
}

/// Records the next messages of a queue as in flight, and sets their slots. There are no
/// slots without a journal. A reader of dead letters handles none of them, so no crash is
/// their fault.
fn record_in_flight(queue: &Queue, state: &State, count: usize, slots: &mut Vec<u32>) {
    slots.clear();
    let Some(journal) = &queue.shared.journal else {
        return;
    };
    if queue.dead_letters().is_none() {
        return slots.resize(count, NO_SLOT);
    }
    let mut sequences = state.ready().range(..count).map(|it| it.sequence);
    journal.record_in_flight(queue.number(), &mut sequences, slots);
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        self.stop();
    }
}
