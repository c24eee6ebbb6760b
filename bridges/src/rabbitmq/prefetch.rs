//! The end of a consumer that a service takes from: a shelf with what was fetched ahead.
//!
//! The pump puts on it and settles; whoever takes, takes from any thread, and messages are
//! decoded there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use brickwork::transport::{Consumer, TransportError};
use brickwork::{Delivery, DeliveryParts, Settle, Settlement};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::codec;
use super::exclusive_trial::ExclusiveMode;
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::source_queue::SourceQueue;

/// Between a pump and who takes.
pub(super) struct PrefetchBuffer {
    state: Mutex<State>,
    /// What was decided and the pump hasn't seen; `None` once the pump is gone, and its
    /// channel with it: then the broker delivers again.
    settlements: Mutex<Option<Vec<(DeliveryParts, Settlement)>>>,
    /// Tells the pump that something was decided.
    pub(super) settled_notify: Notify,
    /// So many acks are worth the pump's while.
    pub(super) ack_batch: usize,
    pub(super) stop: Notify,
    /// While it is set, only suspects are handed out.
    exclusive: Arc<ExclusiveMode>,
    non_crash: Arc<NonCrashRedeliveries>,
    /// Something has come: of several processes, this one gets messages.
    is_served: AtomicBool,
    source: SourceQueue,
}

#[derive(Default)]
struct State {
    fetched: VecDeque<lapin::message::Delivery>,
    /// Suspects, to be handed out before anything else.
    suspects: VecDeque<Delivery>,
    /// Handed out and not settled, or being given back.
    in_flight: usize,
    waker: Option<Waker>,
    ended: Option<TransportError>,
}

impl PrefetchBuffer {
    pub(super) fn new(
        source: SourceQueue,
        ack_batch: usize,
        exclusive: Arc<ExclusiveMode>,
        non_crash: Arc<NonCrashRedeliveries>,
    ) -> Self {
        Self {
            state: Mutex::default(),
            settlements: Mutex::new(Some(Vec::new())),
            settled_notify: Notify::new(),
            ack_batch,
            stop: Notify::new(),
            exclusive,
            non_crash,
            is_served: AtomicBool::new(false),
            source,
        }
    }

    /// Puts on it what came.
    pub(super) fn put(&self, deliveries: Vec<lapin::message::Delivery>) {
        let mut state = self.state.lock();
        state.fetched.extend(deliveries);
        if !self.exclusive.blocks(&self.source.queue.id) {
            state.wake();
        }
    }

    /// A suspect of this queue is in hand from now on, until it is settled.
    pub(super) fn mark_in_flight(&self) {
        self.state.lock().in_flight += 1;
    }

    /// Hands a suspect out next. One that comes after the end is dropped, which gives it
    /// back.
    pub(super) fn put_suspect(&self, delivery: Delivery) {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            drop(state);
            return drop(delivery);
        }
        state.suspects.push_back(delivery);
        state.wake();
    }

    /// Ends the consumer; the first reason stays. Returns what was not handed out, which
    /// now counts as in hand.
    pub(super) fn end(&self, error: TransportError) -> VecDeque<lapin::message::Delivery> {
        let mut state = self.state.lock();
        state.ended.get_or_insert(error);
        state.wake();
        let suspects = std::mem::take(&mut state.suspects);
        let fetched = std::mem::take(&mut state.fetched);
        state.in_flight += fetched.len();
        drop(state);
        drop(suspects);
        fetched
    }

    pub(super) fn mark_served(&self) {
        self.is_served.store(true, Relaxed);
    }

    /// Whether the broker has given it anything yet.
    pub(super) fn is_served(&self) -> bool {
        self.is_served.load(Relaxed)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    /// Wakes who takes: what may be handed out has changed.
    pub(super) fn wake(&self) {
        self.state.lock().wake();
    }

    /// So many are no longer in hand.
    pub(super) fn release(&self, count: usize) {
        self.state.lock().in_flight -= count;
        self.exclusive.on_settled();
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }

    /// How many are on it, and how many in hand.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.fetched.len(), state.in_flight)
    }

    /// What was decided since it was asked last.
    pub(super) fn take_settlements(&self) -> Vec<(DeliveryParts, Settlement)> {
        match &mut *self.settlements.lock() {
            Some(settlements) => std::mem::take(settlements),
            None => Vec::new(),
        }
    }

    /// The pump goes: nothing is settled any more.
    pub(super) fn close_settlements(&self) {
        self.settlements.lock().take();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Settle for PrefetchBuffer {
    fn settle(&self, parts: DeliveryParts, settlement: Settlement) {
        let mut settlements = self.settlements.lock();
        let Some(settlements) = &mut *settlements else {
            // It has come back to the queue with the connection, and not by a crash.
            let queue = self.source.name.as_str();
            return self.non_crash.add(queue, &parts.message.id);
        };
        // An ack alone can wait a moment for others; the rest is work to begin with.
        let is_ack = matches!(settlement, Settlement::Ack(None));
        settlements.push((parts, settlement));
        if !is_ack || settlements.len() == 1 || settlements.len() == self.ack_batch {
            self.settled_notify.notify_one();
        }
    }
}

/// Takes from a queue.
pub(super) struct QueueConsumer(pub(super) Arc<PrefetchBuffer>);

impl Consumer for QueueConsumer {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>> {
        let mut state = self.0.state.lock();
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(error.clone()));
        }
        if let Some(suspect) = state.suspects.pop_front() {
            into.push_back(suspect);
            return Poll::Ready(Ok(()));
        }
        let count = match self.0.exclusive.blocks(&self.0.source.queue.id) {
            true => 0,
            false => state.fetched.len().min(max),
        };
        if count == 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.waker = None;
        state.in_flight += count;
        let fetched: Vec<_> = state.fetched.drain(..count).collect();
        drop(state);
        let taken = Instant::now();
        into.extend(fetched.into_iter().map(|fetched| {
            let (exchange, key) = (fetched.exchange.as_str(), fetched.routing_key.as_str());
            let arrival = self.0.source.topic_source(exchange, key);
            let decoded = codec::decode(arrival, &fetched.properties, fetched.data);
            let parts = DeliveryParts {
                message: decoded.message,
                attempt: decoded.attempt,
                crashes: 0,
                tag: fetched.delivery_tag,
            };
            Delivery::taken_at(parts, self.0.clone(), taken)
        }));
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self) {
        // What is on the shelf is left to the pump to give back.
        let mut state = self.0.state.lock();
        state.ended.get_or_insert(TransportError::Closed);
        let suspects = std::mem::take(&mut state.suspects);
        drop(state);
        drop(suspects);
        self.0.stop.notify_one();
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        self.stop();
    }
}
