//! Consuming a queue: the task that owns a consumer's channel.
//!
//! It puts what comes on the shelf, settles what was decided, and counts. Acks are sent in
//! groups; whatever leads elsewhere is done first. What the broker says was in hand at two
//! crashes never reaches the shelf: it is set aside for the ward.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::TransportError;
use brickwork::{DeliveryParts, Settlement};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep};

use super::ack_tracker::{Ack, AckTracker};
use super::close_delay::CommandRate;
use super::codec;
use super::declarer::count_ready;
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::prefetch::{PrefetchBuffer, QueueConsumer};
use super::settlement::{BrokerAction, Settler};
use super::suspects::SuspectQueue;

/// How long an ack waits for others to go with it: each costs the broker as much as a
/// message does. Longer means more that comes again after a crash.
const ACK_WAIT: Duration = Duration::from_millis(10);
/// The most acks that go together.
const ACKS_MAX: usize = 32;
/// How many deliveries are put on the shelf at once.
const BUFFER_BATCH_MAX: usize = 64;
/// How often a queue is counted until two counts agree.
const COUNT_ATTEMPTS_MAX: u32 = 6;

/// Asks a pump.
pub(super) enum ConsumerQuery {
    /// What it has, and what the broker has ready.
    Count(oneshot::Sender<Result<Count, TransportError>>),
    /// Until everything that was settled before is done.
    Flush(oneshot::Sender<()>),
}

/// How much of a queue is where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    /// At the broker.
    pub(super) ready: u64,
    /// Here, not handed out.
    pub(super) fetched: u64,
    /// Here, handed out.
    pub(super) in_flight: u64,
}

/// Consumes, on the current runtime: a consumer, and where its pump can be asked.
///
/// # Errors
/// The broker's.
pub(super) async fn consume(
    channel: Channel,
    settler: Settler,
    suspects: &Arc<SuspectQueue>,
    bound: usize,
) -> lapin::Result<(QueueConsumer, mpsc::Sender<ConsumerQuery>)> {
    let bound = bound.clamp(1, usize::from(u16::MAX)) as u16;
    channel.basic_qos(bound, BasicQosOptions::default()).await?;
    let ack_batch = (usize::from(bound) / 4).clamp(1, ACKS_MAX);
    let buffer = Arc::new(PrefetchBuffer::new(
        settler.source.clone(),
        ack_batch,
        suspects.exclusive().clone(),
        suspects.non_crash().clone(),
    ));
    if settler.dead_letters.is_some() {
        // Before anything comes: what is suspected goes first.
        suspects.register(&settler.source.queue, &buffer).await;
    }
    let deliveries = channel
        .basic_consume(
            settler.source.name.clone(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let (queries, received) = mpsc::channel(4);
    let pump = ConsumerTask {
        channel,
        settler: Arc::new(settler),
        suspects: suspects.clone(),
        buffer: buffer.clone(),
        deliveries: Some(deliveries),
        ack_tracker: AckTracker::new(),
        work: FuturesUnordered::new(),
        open: BTreeSet::new(),
        next: 0,
        moving_to_suspects: 0,
        to_requeue: Vec::new(),
        flushes: Vec::new(),
        ack_due: Box::pin(sleep(Duration::ZERO)),
        acks_scheduled: false,
        command_rate: CommandRate::default(),
        bound,
        stopped: false,
    };
    tokio::spawn(pump.run(received));
    Ok((QueueConsumer(buffer), queries))
}

/// What a pump has under way.
enum Event {
    Settled {
        number: u64,
        tag: u64,
        outcome: BrokerAction,
        /// Handed out, not set aside.
        was_in_flight: bool,
    },
    Counted {
        ready: lapin::Result<u64>,
        before: Option<Count>,
        attempts: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    },
    Flushed(Vec<oneshot::Sender<()>>),
    Cancelled,
}

struct ConsumerTask {
    /// Tags mean something on this channel only, and it never reconnects.
    channel: Channel,
    settler: Arc<Settler>,
    suspects: Arc<SuspectQueue>,
    buffer: Arc<PrefetchBuffer>,
    /// `None` once it has ended.
    deliveries: Option<lapin::Consumer>,
    ack_tracker: AckTracker,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Settlements under way, by number.
    open: BTreeSet<u64>,
    next: u64,
    /// Suspects on their way to the ward's queue.
    moving_to_suspects: usize,
    /// What is given back once nothing comes any more.
    to_requeue: Vec<u64>,
    /// Who waits until no settlement before this number is open.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    /// When the acks that wait are sent, if any do.
    ack_due: Pin<Box<Sleep>>,
    acks_scheduled: bool,
    command_rate: CommandRate,
    bound: u16,
    stopped: bool,
}

impl ConsumerTask {
    async fn run(mut self, mut queries: mpsc::Receiver<ConsumerQuery>) {
        let (buffer, settler) = (self.buffer.clone(), self.settler.clone());
        let ended = settler.session_state.ended();
        tokio::pin!(ended);
        while !self.is_done() {
            tokio::select! {
                biased;
                error = &mut ended => {
                    self.connection_lost(error);
                    break;
                }
                Some(done) = self.work.next() => self.on_event(done),
                () = buffer.settled_notify.notified() => self.apply_settlements(),
                Some(query) = queries.recv() => {
                    self.apply_settlements();
                    self.send_acks();
                    self.answer(query);
                }
                delivery = next(&mut self.deliveries) => self.received(delivery),
                () = &mut self.ack_due, if self.acks_scheduled => self.send_acks(),
                () = buffer.stop.notified(), if !self.stopped => self.stop(),
            }
        }
        self.send_acks();
        if settler.session_state.check().is_ok() {
            sleep(self.command_rate.close_delay(Instant::now())).await;
        }
        // With the channel goes what is still unsettled: back to the queue.
        let _closed = self.channel.close(200, "done".into()).await;
    }

    /// Nothing comes any more, and nothing is left to settle.
    fn is_done(&self) -> bool {
        self.deliveries.is_none() && self.work.is_empty() && self.buffer.in_flight() == 0
    }

    /// Puts on the shelf what comes, as much as has come already at once.
    fn received(&mut self, first: Option<lapin::Result<Delivery>>) {
        let mut group = Vec::new();
        let mut received = Some(first);
        while let Some(Some(Ok(delivery))) = received {
            self.quarantine_or_deliver(delivery, &mut group);
            received = match &mut self.deliveries {
                Some(deliveries) if group.len() < BUFFER_BATCH_MAX => {
                    deliveries.next().now_or_never()
                }
                _ => None,
            };
        }
        if !group.is_empty() {
            self.buffer.mark_served();
            self.buffer.put(group);
        }
        match received {
            None | Some(Some(Ok(_))) => {}
            Some(Some(Err(error))) => {
                if !is_channel_error(&error) {
                    // Known to all before this consumer ends.
                    self.settler
                        .session_state
                        .fail(format!("consuming: {error}"));
                }
                self.consumer_ended(&error.to_string());
            }
            Some(None) => {
                self.consumer_ended("the broker cancelled the consumer: is the queue deleted?")
            }
        }
    }

    fn quarantine_or_deliver(&mut self, delivery: Delivery, group: &mut Vec<Delivery>) {
        let tag = delivery.delivery_tag;
        self.ack_tracker.received(tag);
        let suspect = self.settler.dead_letters.is_some()
            && self.settler.source.is_suspect(
                delivery.redelivered,
                delivery.exchange.as_str(),
                &delivery.properties,
                || {
                    let id = codec::id_of(&delivery.properties);
                    id.map_or(0, |id| self.non_crash().count(self.name(), &id))
                },
            );
        if !suspect {
            return group.push(delivery);
        }
        self.buffer.mark_served();
        self.moving_to_suspects += 1;
        let (settler, suspects) = (self.settler.clone(), self.suspects.clone());
        self.start_settlement(tag, false, async move {
            let outcome = settler.move_to_suspects(delivery).await;
            suspects.check(&settler.source.queue.id.service);
            outcome
        });
    }

    /// The consumer has ended without being told to.
    fn consumer_ended(&mut self, why: &str) {
        self.deliveries = None;
        let error = match self.settler.session_state.check() {
            Err(ended) => ended,
            Ok(()) => TransportError::Lost(format!("queue {}: {why}", self.settler.source.name)),
        };
        self.requeue_fetched(error);
    }

    fn apply_settlements(&mut self) {
        let mut acks = 0;
        for (parts, settlement) in self.buffer.take_settlements() {
            if let Settlement::Ack(None) = settlement {
                self.non_crash().forget(self.name(), &parts.message.id);
                self.ack_tracker.mark_to_ack(parts.tag);
                acks += 1;
            } else {
                self.settle(parts, settlement);
            }
        }
        if acks > 0 {
            self.buffer.release(acks);
            self.schedule_acks();
        }
    }

    fn settle(&mut self, parts: DeliveryParts, settlement: Settlement) {
        let (settler, channel) = (self.settler.clone(), self.channel.clone());
        let non_crash = self.non_crash().clone();
        self.start_settlement(parts.tag, true, async move {
            let settled = match channel.status().connected() {
                true => settler.settle(&parts, settlement).await,
                false => BrokerAction::Stale,
            };
            let (queue, id) = (settler.source.name.as_str(), &parts.message.id);
            match settled {
                BrokerAction::Ack => non_crash.forget(queue, id),
                BrokerAction::Requeue | BrokerAction::Stale => non_crash.add(queue, id),
            }
            settled
        });
    }

    /// Begins what is to be done before the broker is told of a delivery.
    fn start_settlement(
        &mut self,
        tag: u64,
        was_in_flight: bool,
        work: impl Future<Output = BrokerAction> + Send + 'static,
    ) {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        self.work.push(Box::pin(async move {
            Event::Settled {
                number,
                tag,
                outcome: work.await,
                was_in_flight,
            }
        }));
    }

    fn answer(&mut self, query: ConsumerQuery) {
        match query {
            ConsumerQuery::Flush(done) => {
                self.flushes.push((self.next, done));
                self.report_flushes();
            }
            ConsumerQuery::Count(answer) => self.count(None, COUNT_ATTEMPTS_MAX, answer),
        }
    }

    /// Counts on the channel of the deliveries. What the broker no longer counts as ready
    /// has come by the answer, or comes right after it: so it is asked until two answers
    /// agree.
    fn count(
        &mut self,
        before: Option<Count>,
        attempts: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    ) {
        let (channel, name) = (self.channel.clone(), self.settler.source.name.clone());
        self.work.push(Box::pin(async move {
            Event::Counted {
                ready: count_ready(&channel, name).await,
                before,
                attempts,
                answer,
            }
        }));
    }

    fn on_event(&mut self, done: Event) {
        match done {
            Event::Settled {
                number,
                tag,
                outcome,
                was_in_flight,
            } => {
                match outcome {
                    BrokerAction::Ack => {
                        self.ack_tracker.mark_to_ack(tag);
                        self.schedule_acks();
                    }
                    BrokerAction::Requeue => self.nack_requeue(tag),
                    BrokerAction::Stale => {}
                }
                match was_in_flight {
                    true => self.buffer.release(1),
                    false => self.moving_to_suspects -= 1,
                }
                self.open.remove(&number);
                self.report_flushes();
            }
            Event::Counted {
                ready,
                before,
                attempts,
                answer,
            } => self.counted(ready, before, attempts, answer),
            Event::Flushed(queries) => {
                for flushed in queries {
                    let _gone = flushed.send(());
                }
            }
            Event::Cancelled => {
                self.buffer_ready();
                self.deliveries = None;
                self.requeue_fetched(TransportError::Closed);
            }
        }
    }

    fn counted(
        &mut self,
        ready: lapin::Result<u64>,
        before: Option<Count>,
        attempts: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    ) {
        self.buffer_ready();
        let (fetched, in_flight) = self.buffer.counts();
        let count = ready.map(|ready| Count {
            ready,
            fetched: (fetched + self.moving_to_suspects) as u64,
            in_flight: in_flight as u64,
        });
        let _gone = match count {
            Ok(count) if before != Some(count) && attempts > 1 => {
                return self.count(Some(count), attempts - 1, answer);
            }
            Ok(count) => answer.send(Ok(count)),
            Err(error) => answer.send(Err(TransportError::Lost(error.to_string()))),
        };
    }

    /// Puts on the shelf what has come already.
    fn buffer_ready(&mut self) {
        if let Some(deliveries) = &mut self.deliveries
            && let Some(delivery) = deliveries.next().now_or_never()
        {
            self.received(delivery);
            self.buffer_ready();
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        let Some(deliveries) = &self.deliveries else {
            return;
        };
        let (channel, tag) = (self.channel.clone(), deliveries.tag());
        self.work.push(Box::pin(async move {
            // If this fails, the channel is gone, and everything is given back.
            let _gone = channel
                .basic_cancel(tag, BasicCancelOptions::default())
                .await;
            Event::Cancelled
        }));
    }

    fn requeue_fetched(&mut self, error: TransportError) {
        for tag in std::mem::take(&mut self.to_requeue) {
            self.nack_requeue(tag);
        }
        let fetched = self.buffer.end(error);
        for delivery in &fetched {
            self.record_non_crash(delivery);
            self.nack_requeue(delivery.delivery_tag);
        }
        self.buffer.release(fetched.len());
        self.report_flushes();
    }

    /// The connection is gone, and what was fetched with it.
    fn connection_lost(&self, error: TransportError) {
        for delivery in &self.buffer.end(error) {
            self.record_non_crash(delivery);
        }
    }

    /// What comes of this delivery isn't to be blamed on it.
    fn record_non_crash(&self, delivery: &Delivery) {
        if let Some(id) = codec::id_of(&delivery.properties) {
            self.non_crash().add(self.name(), &id);
        }
    }

    fn non_crash(&self) -> &Arc<NonCrashRedeliveries> {
        self.suspects.non_crash()
    }

    /// Of the queue that is consumed.
    fn name(&self) -> &str {
        self.settler.source.name.as_str()
    }

    /// Gives one delivery back; once nothing comes any more, if the consumer is about to
    /// end: it would come right back to it.
    fn nack_requeue(&mut self, tag: u64) {
        if self.deliveries.is_some() && self.buffer.is_ended() {
            self.to_requeue.push(tag);
            return;
        }
        if !self.ack_tracker.mark_settled(tag) || !self.channel.status().connected() {
            return;
        }
        let options = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        // The first poll hands it to the connection. If it fails after that, the channel is
        // gone: that gives it back, too.
        let _sent = self.channel.basic_nack(tag, options).now_or_never();
        self.command_rate.sent(Instant::now());
    }

    /// Acks wait a moment for more, unless there are enough.
    fn schedule_acks(&mut self) {
        if self.ack_tracker.to_ack() >= self.buffer.ack_batch {
            self.send_acks();
        } else if !self.acks_scheduled {
            self.acks_scheduled = true;
            self.ack_due.as_mut().reset(Instant::now() + ACK_WAIT);
        }
    }

    fn send_acks(&mut self) {
        self.acks_scheduled = false;
        for Ack { tag, multiple } in self.ack_tracker.take_acks() {
            // The first poll hands it to the connection: so they go out in order, and one
            // for many finds all before it settled. If it fails after that, the channel is
            // gone, and the broker delivers again.
            let options = BasicAckOptions { multiple };
            let _sent = self.channel.basic_ack(tag, options).now_or_never();
            self.command_rate.sent(Instant::now());
        }
    }

    fn report_flushes(&mut self) {
        if self.flushes.is_empty() || !self.to_requeue.is_empty() {
            return;
        }
        let first = self.open.first().copied();
        let mut done = Vec::new();
        self.flushes.retain_mut(|(before, flushed)| {
            let open = first.is_some_and(|first| first < *before);
            if !open {
                let (unused, _) = oneshot::channel();
                done.push(std::mem::replace(flushed, unused));
            }
            open
        });
        if done.is_empty() {
            return;
        }
        self.send_acks();
        // When the broker answers this, it has seen all that came before on the channel; but
        // the queue may not have.
        let (channel, bound) = (self.channel.clone(), self.bound);
        let wait = self.command_rate.close_delay(Instant::now());
        self.work.push(Box::pin(async move {
            sleep(wait).await;
            let _gone = channel.basic_qos(bound, BasicQosOptions::default()).await;
            Event::Flushed(done)
        }));
    }
}

impl Drop for ConsumerTask {
    /// However it ends: whoever takes learns of it.
    fn drop(&mut self) {
        self.connection_lost(self.settler.session_state.error());
        self.buffer.close_settlements();
    }
}

/// Whether an error ended one channel, and not the connection.
fn is_channel_error(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error() || matches!(error.kind(), ErrorKind::InvalidChannelState(..))
}

async fn next(deliveries: &mut Option<lapin::Consumer>) -> Option<lapin::Result<Delivery>> {
    match deliveries {
        Some(deliveries) => deliveries.next().await,
        None => std::future::pending().await,
    }
}
