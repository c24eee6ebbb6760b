//! The prefetch buffer, and the consumer that a service takes from.
//!
//! The consumer task fills the buffer and applies settlements. The service takes from any
//! thread; the messages are decoded there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use brickwork::transport::{Consumer, TransportError};
use brickwork::{Delivery, DeliveryParts, Settle, Settlement};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock_skew::ClockSkew;
use super::codec;
use super::exclusive_trial::ExclusiveMode;
use super::non_crash_redeliveries::{MessageKey, NonCrashRedeliveries};
use super::routing::Queue;
use super::source_queue::SourceQueue;

/// The buffer between a consumer task and its reader.
pub(super) struct PrefetchBuffer {
    state: Mutex<State>,
    settlements: Mutex<Settlements>,
    /// Wakes the task after a settlement.
    pub(super) settled_notify: Notify,
    /// Number of acks that wakes the task.
    pub(super) ack_batch: usize,
    pub(super) stop: Notify,
    /// While it is on, only suspects are handed out.
    exclusive: Arc<ExclusiveMode>,
    non_crash: Arc<NonCrashRedeliveries>,
    /// A delivery has arrived: with a single active consumer, this process is the active one.
    is_served: AtomicBool,
    /// Notified when a buffer that is paused has nothing in flight.
    drained: Notify,
    /// Suspects of a part move one after the other. Whether one could not be moved: then the later ones
    /// stay, too.
    pub(super) moves: tokio::sync::Mutex<bool>,
    source: SourceQueue,
    clock_skew: Arc<ClockSkew>,
}

enum Settlements {
    /// Settlements that the task hasn't seen.
    Open(Vec<(DeliveryParts, Settlement)>),
    /// The task has ended, and the broker redelivers: the messages that the service has, by tag.
    Lost(HashMap<u64, MessageKey>),
}

#[derive(Default)]
struct State {
    fetched: VecDeque<lapin::message::Delivery>,
    /// Suspects, handed out before other messages.
    suspects: VecDeque<Delivery>,
    /// Deliveries that are handed out and unsettled, or being requeued.
    in_flight: usize,
    waker: Option<Waker>,
    ended: Option<TransportError>,
    gate: Gate,
}

/// Keeps the messages of a part of a keyed input back while there are suspects before them.
#[derive(Default)]
struct Gate {
    /// There may be suspects of the part.
    is_closed: bool,
    /// Suspects on their way to the queue of suspects.
    moving: usize,
    /// Suspects that have ever left for the queue of suspects.
    moves: u64,
    /// When the first delivery arrived.
    served_at: Option<Instant>,
    /// The part is about to be given to another process.
    is_paused: bool,
    /// The service still has an earlier message of the part, from a lost channel.
    is_held: bool,
    /// A message of the part was requeued: the consumer is about to end.
    is_over: bool,
}

impl Gate {
    /// The state that an answer of the broker will be about: `None` before the first delivery, since
    /// until then another process may have suspects of the part.
    fn asked(&self) -> Option<SuspectsAsked> {
        self.served_at.map(|_| SuspectsAsked(self.moves))
    }

    /// Opens the gate if the part had no suspects when the broker was asked, and has none now. Returns
    /// whether it is open. An empty queue of suspects proves that only after a moment: the broker may
    /// be about to requeue those of a process that died. A suspect that has left since may be in the
    /// queue by now: the broker is asked again.
    fn opens(&mut self, asked: Option<SuspectsAsked>, there_is_no_queue: bool) -> bool {
        let is_about_now = asked.is_some_and(|SuspectsAsked(moves)| moves == self.moves);
        let since = self.served_at.map(|at| at.elapsed());
        let is_sure = there_is_no_queue || since.is_some_and(|since| since >= SUSPECTS_BACK);
        if is_about_now && is_sure && self.moving == 0 {
            self.is_closed = false;
        }
        !self.is_closed
    }
}

/// The moment at which the broker was asked for the suspects of a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct SuspectsAsked(u64);

/// Time after which the suspects of a process that died are surely back in their queue.
const SUSPECTS_BACK: Duration = Duration::from_secs(1);

impl PrefetchBuffer {
    pub(super) fn new(
        source: SourceQueue,
        ack_batch: usize,
        exclusive: Arc<ExclusiveMode>,
        non_crash: Arc<NonCrashRedeliveries>,
        clock_skew: Arc<ClockSkew>,
    ) -> Self {
        let state = State {
            gate: Gate {
                is_closed: source.queue.part_of.is_some(),
                ..Gate::default()
            },
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            settlements: Mutex::new(Settlements::Open(Vec::new())),
            settled_notify: Notify::new(),
            ack_batch,
            stop: Notify::new(),
            exclusive,
            non_crash,
            is_served: AtomicBool::new(false),
            drained: Notify::new(),
            moves: tokio::sync::Mutex::new(false),
            source,
            clock_skew,
        }
    }

    /// Adds deliveries.
    pub(super) fn put(&self, deliveries: Vec<lapin::message::Delivery>) {
        let mut state = self.state.lock();
        state.fetched.extend(deliveries);
        if !self.exclusive.blocks(&self.source.queue.id) {
            state.wake();
        }
    }

    /// Adds deliveries that arrived before others did.
    pub(super) fn put_in_order(&self, deliveries: Vec<lapin::message::Delivery>) {
        let mut state = self.state.lock();
        for delivery in deliveries {
            let before =
                |other: &lapin::message::Delivery| other.delivery_tag < delivery.delivery_tag;
            let index = state.fetched.partition_point(before);
            state.fetched.insert(index, delivery);
        }
        state.wake();
    }

    /// Counts a suspect of this queue as in flight until it is settled.
    pub(super) fn mark_in_flight(&self) {
        self.state.lock().in_flight += 1;
    }

    /// Hands a suspect out next. After the end, the suspect is dropped, which requeues it.
    pub(super) fn put_suspect(&self, delivery: Delivery) {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            drop(state);
            return drop(delivery);
        }
        state.suspects.push_back(delivery);
        state.wake();
    }

    /// Ends the consumer; the first reason stays. Returns the deliveries that were not handed
    /// out and counts them as in flight.
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

    /// Records that a delivery has arrived. Returns whether it is the first one of a part, which
    /// waits until the suspects before it are done.
    pub(super) fn mark_served(&self) -> bool {
        if self.is_served.swap(true, Relaxed) {
            return false;
        }
        let mut state = self.state.lock();
        state.gate.served_at = Some(Instant::now());
        state.gate.is_closed
    }

    /// A suspect of a part moves to the queue of suspects: later messages wait for its trial.
    pub(super) fn suspect_leaves(&self) {
        let mut state = self.state.lock();
        state.gate.is_closed = true;
        state.gate.moving += 1;
        state.gate.moves += 1;
    }

    /// Begins to ask the broker for the suspects of the part.
    pub(super) fn suspects_asked(&self) -> Option<SuspectsAsked> {
        self.state.lock().gate.asked()
    }

    /// A suspect of a part is in the queue of suspects.
    pub(super) fn suspect_moved(&self) {
        self.state.lock().gate.moving -= 1;
    }

    /// Hands messages out again, because the part had no suspects when the broker was asked.
    pub(super) fn no_suspects(&self, asked: Option<SuspectsAsked>, there_is_no_queue: bool) {
        let mut state = self.state.lock();
        if state.gate.opens(asked, there_is_no_queue) {
            state.wake();
        }
    }

    /// Messages of a part wait for earlier ones that the service has from a lost channel, or no longer.
    pub(super) fn set_held(&self, is_held: bool) {
        let mut state = self.state.lock();
        state.gate.is_held = is_held && self.source.queue.part_of.is_some();
        state.wake();
    }

    /// Returns whether messages of a part wait for its suspects.
    pub(super) fn waits_for_suspects(&self) -> bool {
        let state = self.state.lock();
        state.gate.is_closed && state.gate.served_at.is_some()
    }

    /// Returns how long this process has received the messages of a part.
    pub(super) fn served_for(&self) -> Option<Duration> {
        Some(self.state.lock().gate.served_at?.elapsed())
    }

    /// Stops handing out messages, or goes on.
    pub(super) fn pause(&self, is_paused: bool) {
        let mut state = self.state.lock();
        state.gate.is_paused = is_paused;
        state.wake();
        if state.in_flight == 0 {
            self.drained.notify_one();
        }
    }

    /// Waits until a buffer that is paused has nothing in flight.
    pub(super) async fn drained(&self) {
        while self.in_flight() > 0 {
            self.drained.notified().await;
        }
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.source.queue
    }

    /// Returns whether a delivery has arrived yet.
    pub(super) fn is_served(&self) -> bool {
        self.is_served.load(Relaxed)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    /// Wakes the reader: the set of available messages has changed.
    pub(super) fn wake(&self) {
        self.state.lock().wake();
    }

    /// Counts deliveries as no longer in flight.
    pub(super) fn release(&self, count: usize) {
        let mut state = self.state.lock();
        state.in_flight -= count;
        if state.gate.is_paused && state.in_flight == 0 {
            self.drained.notify_one();
        }
        drop(state);
        self.exclusive.on_settled();
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }

    /// Returns the numbers of buffered and in-flight deliveries.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.fetched.len(), state.in_flight)
    }

    /// Takes the settlements since the last call.
    pub(super) fn take_settlements(&self) -> Vec<(DeliveryParts, Settlement)> {
        match &mut *self.settlements.lock() {
            Settlements::Open(settlements) => std::mem::take(settlements),
            Settlements::Lost(_) => Vec::new(),
        }
    }

    /// The task ends. Returns the settlements since the last call of
    /// [`take_settlements`](Self::take_settlements). Later ones are those of lost deliveries.
    pub(super) fn close_settlements(
        &self,
        lost: HashMap<u64, MessageKey>,
    ) -> Vec<(DeliveryParts, Settlement)> {
        let lost = Settlements::Lost(lost);
        match std::mem::replace(&mut *self.settlements.lock(), lost) {
            Settlements::Open(settlements) => settlements,
            Settlements::Lost(_) => Vec::new(),
        }
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
        if matches!(settlement, Settlement::Requeue) && self.source.queue.part_of.is_some() {
            // From now on: the task learns it later.
            self.state.lock().gate.is_over = true;
        }
        // A plain ack can wait for others; any other settlement starts work at once.
        let is_ack = matches!(settlement, Settlement::Ack(None));
        let mut settlements = self.settlements.lock();
        let settlements = match &mut *settlements {
            Settlements::Open(settlements) => settlements,
            Settlements::Lost(lost) => {
                let ended = |key| self.non_crash.ended(key, is_ack);
                return lost.remove(&parts.tag).into_iter().for_each(ended);
            }
        };
        settlements.push((parts, settlement));
        if !is_ack || settlements.len() == 1 || settlements.len() == self.ack_batch {
            self.settled_notify.notify_one();
        }
    }
}

/// The reader's end of the buffer.
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
        let gate = &state.gate;
        let waits = gate.is_closed || gate.is_paused || gate.is_held || gate.is_over;
        let count = match waits || self.0.exclusive.blocks(&self.0.source.queue.id) {
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
                message: self.0.clock_skew.localize(decoded.message),
                attempt: decoded.attempt,
                crashes: 0,
                tag: fetched.delivery_tag,
            };
            Delivery::taken_at(parts, self.0.clone(), taken)
        }));
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self) {
        // The task requeues the buffered deliveries.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(served_at: Option<Instant>) -> Gate {
        Gate {
            is_closed: true,
            served_at,
            ..Gate::default()
        }
    }

    #[tokio::test]
    async fn an_answer_from_before_the_first_delivery_or_the_last_move_opens_no_gate() {
        let mut standby = closed(None);
        let early = standby.asked();
        standby.served_at = Some(Instant::now());
        assert!(!standby.opens(early, true), "another process had the part");
        assert!(standby.opens(standby.asked(), true));

        let mut gate = closed(Some(Instant::now()));
        let before = gate.asked();
        (gate.moves, gate.moving) = (1, 1);
        assert!(!gate.opens(gate.asked(), true), "a suspect is on its way");
        gate.moving = 0;
        assert!(!gate.opens(before, true), "the suspect is there by now");
        assert!(gate.opens(gate.asked(), true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_queue_of_suspects_opens_the_gate_after_a_moment() {
        let mut gate = closed(Some(Instant::now()));
        assert!(!gate.opens(gate.asked(), false));
        tokio::time::advance(SUSPECTS_BACK).await;
        assert!(gate.opens(gate.asked(), false));
    }
}
