//! One queue in memory, and its consumers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::delays::{Delay, Delays};
use crate::dead_letter::DeadLetter;
use crate::delivery::{Delivery, DeliveryParts, Settle, Settlement};
use crate::message::Message;
use crate::names::QueueId;
use crate::transport::{BoundedQueue, Consumer, Depth, DepthGauge, Limit, Replies, TransportError};

/// A queue: what is ready, and who consumes.
pub(super) struct Queue {
    id: QueueId,
    state: Mutex<State>,
    gauge: DepthGauge,
    limit: Option<Limit>,
    /// How many messages came beyond it and went to the dead letters.
    overflowed: AtomicU64,
    /// Where given-up messages go; a dead-letter queue has none: it keeps its own.
    letters: Option<Arc<Queue>>,
    delays: Arc<Delays>,
    replies: Arc<Replies>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Entry>,
    next: u64,
    in_flight: usize,
    delayed: usize,
    /// Of these, those that wait for another attempt.
    retrying: usize,
    /// Places that are kept for messages which are about to be put.
    coming: u64,
    consumers: Vec<ConsumerState>,
    closed: bool,
}

struct Entry {
    /// Its place in the order of arrival.
    place: u64,
    message: Message,
    attempt: u32,
}

#[derive(Default)]
struct ConsumerState {
    unsettled: usize,
    bound: usize,
    waker: Option<Waker>,
    stopped: bool,
    /// Nobody consumes any more: when all is settled, another one may have its place.
    gone: bool,
}

impl State {
    /// Wakes one consumer that waits and may take.
    fn wake_one(&mut self) {
        let waiting = self
            .consumers
            .iter_mut()
            .find(|consumer| consumer.waker.is_some() && consumer.unsettled < consumer.bound);
        if let Some(waker) = waiting.and_then(|consumer| consumer.waker.take()) {
            waker.wake();
        }
    }

    /// What counts as pressure: also what was put off, or a service that puts everything
    /// off would be sent more and more. What was scheduled for later doesn't.
    fn held(&self) -> u64 {
        (self.ready.len() + self.in_flight + self.retrying) as u64 + self.coming
    }
}

impl Queue {
    pub(super) fn new(
        id: QueueId,
        gauge: DepthGauge,
        limit: Option<Limit>,
        letters: Option<Arc<Self>>,
        delays: Arc<Delays>,
        replies: Arc<Replies>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            state: Mutex::default(),
            gauge,
            limit,
            overflowed: AtomicU64::new(0),
            letters,
            delays,
            replies,
        })
    }

    pub(super) fn id(&self) -> &QueueId {
        &self.id
    }

    /// Puts a message, whatever the limit says.
    pub(super) fn push(&self, message: Message, attempt: u32) {
        self.put_last(&mut self.state.lock(), message, attempt);
    }

    /// Puts a message that was published by topic, or gives it up if the queue is full.
    pub(super) fn push_by_topic(&self, message: Message) {
        let mut state = self.state.lock();
        match (self.limit, &self.letters) {
            (Some(limit), Some(letters)) if state.held() >= limit.messages => {
                drop(state);
                let letter = limit.letter(&self.id);
                self.overflowed.fetch_add(1, Relaxed);
                self.bury(letters, &message, &letter);
            }
            _ => self.put_last(&mut state, message, 1),
        }
    }

    /// Puts a message for which a place was kept.
    pub(super) fn push_into_place(&self, message: Message) {
        let mut state = self.state.lock();
        state.coming -= 1;
        self.put_last(&mut state, message, 1);
    }

    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    /// Puts a message with the dead letters, and tells who asks for an answer.
    fn bury(&self, letters: &Self, message: &Message, letter: &DeadLetter) {
        self.replies.answer(message, Err(letter.error.clone()));
        letters.push(letter.letter(message), 1);
    }

    fn put_last(&self, state: &mut State, message: Message, attempt: u32) {
        let place = state.next;
        state.next += 1;
        let entry = Entry {
            place,
            message,
            attempt,
        };
        state.ready.push_back(entry);
        self.gauge.update(state.held());
        state.wake_one();
    }

    /// Puts a message where it was in the order of arrival.
    fn put_back(&self, state: &mut State, parcel: DeliveryParts) {
        let place = parcel.tag;
        let at = state.ready.partition_point(|entry| entry.place < place);
        let entry = Entry {
            place,
            message: parcel.message,
            attempt: parcel.attempt,
        };
        state.ready.insert(at, entry);
        state.wake_one();
    }

    /// A message is to wait: it counts before it does. One that waits for another attempt
    /// was in hand until now.
    pub(super) fn add_delayed(&self, why: Delay) {
        let mut state = self.state.lock();
        state.delayed += 1;
        if why == Delay::Retry {
            state.retrying += 1;
            state.in_flight -= 1;
        }
    }

    /// A message whose time has come.
    pub(super) fn push_delayed(&self, message: Message, attempt: u32, why: Delay) {
        let mut state = self.state.lock();
        state.delayed -= 1;
        if why == Delay::Retry {
            state.retrying -= 1;
        }
        self.put_last(&mut state, message, attempt);
    }

    /// Some of what is ready, in order: those after a place, each with its own.
    pub(super) fn piece(&self, after: Option<u64>, max: usize) -> Vec<(u64, Message, u32)> {
        let state = self.state.lock();
        let ready = &state.ready;
        let first = after.map_or(0, |place| ready.partition_point(|it| it.place <= place));
        let piece = ready.range(first..ready.len().min(first + max));
        piece
            .map(|it| (it.place, it.message.clone(), it.attempt))
            .collect()
    }

    pub(super) fn depth(&self) -> Depth {
        let state = self.state.lock();
        Depth {
            ready: state.ready.len() as u64,
            in_flight: state.in_flight as u64,
            delayed: state.delayed as u64,
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for consumer in &mut state.consumers {
            if let Some(waker) = consumer.waker.take() {
                waker.wake();
            }
        }
    }
}

impl BoundedQueue for Queue {
    fn id(&self) -> &QueueId {
        &self.id
    }

    fn limit(&self) -> Option<Limit> {
        self.limit
    }

    fn keep_places(&self, places: u64) -> bool {
        let mut state = self.state.lock();
        let full = self
            .limit
            .is_some_and(|limit| state.held() >= limit.messages);
        if !full {
            state.coming += places;
        }
        !full
    }

    fn free_places(&self, places: u64) {
        if places > 0 {
            self.state.lock().coming -= places;
        }
    }
}

/// The consumer's end, shared with the deliveries that came from it.
struct Tap {
    queue: Arc<Queue>,
    number: usize,
}

impl Settle for Tap {
    fn settle(&self, parcel: DeliveryParts, settlement: Settlement) {
        let queue = &self.queue;
        // What leads elsewhere goes there before it leaves here, so that at no time it
        // is nowhere.
        let mut waits = false;
        let back = match settlement {
            Settlement::Ack(reply) => {
                if let Some(reply) = reply {
                    queue.replies.answer(&parcel.message, reply);
                }
                None
            }
            Settlement::Requeue => Some(parcel),
            Settlement::Retry { after, attempt } if after.is_zero() => {
                Some(DeliveryParts { attempt, ..parcel })
            }
            Settlement::Retry { after, attempt } => {
                queue
                    .delays
                    .add(queue, parcel.message, attempt, after, Delay::Retry);
                waits = true;
                None
            }
            Settlement::DeadLetter(letter) => match &queue.letters {
                Some(letters) => {
                    queue.bury(letters, &parcel.message, &letter);
                    None
                }
                None => Some(parcel),
            },
        };
        let mut state = queue.state.lock();
        if !waits {
            state.in_flight -= 1;
        }
        let consumer = &mut state.consumers[self.number];
        let was_full = consumer.unsettled == consumer.bound;
        consumer.unsettled -= 1;
        if let Some(parcel) = back {
            queue.put_back(&mut state, parcel);
        } else if was_full && !state.ready.is_empty() {
            state.wake_one();
        }
        queue.gauge.update(state.held());
    }
}

/// Takes from a queue.
pub(super) struct QueueConsumer {
    tap: Arc<Tap>,
}

impl QueueConsumer {
    pub(super) fn new(queue: Arc<Queue>, bound: usize) -> Self {
        let mut state = queue.state.lock();
        let consumers = &mut state.consumers;
        let consumer = ConsumerState {
            bound: bound.max(1),
            ..ConsumerState::default()
        };
        // Dead letters are looked at again and again, by ever new consumers.
        let free = |it: &ConsumerState| it.gone && it.unsettled == 0;
        let number = match consumers.iter().position(free) {
            Some(number) => {
                consumers[number] = consumer;
                number
            }
            None => {
                consumers.push(consumer);
                consumers.len() - 1
            }
        };
        drop(state);
        Self {
            tap: Arc::new(Tap { queue, number }),
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
        let mut state = self.tap.queue.state.lock();
        let state = &mut *state;
        let consumer = &mut state.consumers[self.tap.number];
        if state.closed || consumer.stopped {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let room = consumer.bound - consumer.unsettled;
        let count = max.min(room).min(state.ready.len());
        if count == 0 {
            consumer.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        consumer.waker = None;
        consumer.unsettled += count;
        state.in_flight += count;
        let taken = Instant::now();
        into.extend(state.ready.drain(..count).map(
            |Entry {
                 place,
                 message,
                 attempt,
             }| {
                let parcel = DeliveryParts {
                    message,
                    attempt,
                    crashes: 0,
                    tag: place,
                };
                Delivery::taken_at(parcel, self.tap.clone(), taken)
            },
        ));
        if !state.ready.is_empty() {
            // Others may have waited for the wake that this one got.
            state.wake_one();
        }
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self) {
        let mut state = self.tap.queue.state.lock();
        let consumer = &mut state.consumers[self.tap.number];
        consumer.stopped = true;
        consumer.bound = 0;
        consumer.waker = None;
        if !state.ready.is_empty() {
            state.wake_one();
        }
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        self.stop();
        self.tap.queue.state.lock().consumers[self.tap.number].gone = true;
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Envelope;
    use crate::transport::{Backpressure, take};

    #[tokio::test]
    async fn consumers_that_are_gone_leave_no_trace_and_what_they_held_comes_in_order() {
        let gauge = Arc::<Backpressure>::default().gauge(1000);
        let id = QueueId::dead_letters("stock");
        let queue = Queue::new(
            id,
            gauge,
            None,
            None,
            Delays::start(),
            Arc::new(Replies::new("memory")),
        );
        for number in 0..100 {
            queue.push(Envelope::new("order", number.to_string()).into(), 1);
        }
        let mut taken = VecDeque::new();
        for round in 0..50 {
            let mut consumers: Vec<QueueConsumer> = (0..10)
                .map(|_| QueueConsumer::new(queue.clone(), 10))
                .collect();
            for consumer in &mut consumers {
                take(consumer, &mut taken, 10).await.unwrap();
            }
            let payloads = taken.iter().map(|it| it.message().payload.clone());
            let expected = (0..100).map(|number| number.to_string());
            assert!(payloads.eq(expected), "{round}");
            drop(consumers);
            // Backwards, and what came first last.
            while let Some(delivery) = taken.pop_back() {
                delivery.nack_requeue();
            }
            assert_eq!(queue.depth().ready, 100);
        }
        assert_eq!(queue.state.lock().consumers.len(), 10);
    }
}
