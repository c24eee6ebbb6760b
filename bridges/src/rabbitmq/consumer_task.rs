//! The task that consumes one queue: it owns the channel.
//!
//! It buffers deliveries, applies settlements and counts. Acks are sent in groups. A retry, a
//! dead letter or a reply is published and confirmed before its input is acked. A message that
//! was in flight during two crashes never reaches the buffer: the task moves it to the
//! quarantine queue. A message that the service still has from a lost channel waits for the end
//! of that run. `ending` has the ways in which a consumer ends.

use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::TransportError;
use brickwork::{DeliveryParts, Settlement};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::debug;

use super::ack_sender::AckSender;
use super::codec;
use super::consumer_query::{ConsumerQuery, Count};
use super::flushes::Flushes;
use super::non_crash_redeliveries::{LostRun, MessageKey, NonCrashRedeliveries};
use super::prefetch::{PrefetchBuffer, QueueConsumer};
use super::settlement::{BrokerAction, Settler};
use super::slot_queue::SlotQueue;
use super::suspects::SuspectQueue;

mod ending;
mod queries;

/// Maximum acks that are sent together.
const ACKS_MAX: usize = 32;
/// Interval at which a part of a keyed input looks for its suspects, while it waits for them.
const SUSPECTS_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum deliveries that are buffered at once.
const BUFFER_BATCH_MAX: usize = 64;

/// Starts consuming, on the current runtime. Returns the consumer and the task's query sender.
/// The consumer ends when a delivery is unsettled for `settle_within`.
///
/// # Errors
/// The broker refuses to consume.
pub(super) async fn consume(
    channel: Channel,
    settler: Settler,
    suspects: &Arc<SuspectQueue>,
    bound: usize,
    settle_within: Duration,
) -> lapin::Result<(QueueConsumer, mpsc::Sender<ConsumerQuery>)> {
    let bound = bound.clamp(1, usize::from(u16::MAX)) as u16;
    channel.basic_qos(bound, BasicQosOptions::default()).await?;
    let ack_batch = (usize::from(bound) / 4).clamp(1, ACKS_MAX);
    let buffer = Arc::new(PrefetchBuffer::new(
        settler.source.clone(),
        ack_batch,
        suspects.exclusive().clone(),
        suspects.non_crash().clone(),
        settler.session_state.clock_skew().clone(),
    ));
    if settler.dead_letters.is_some() {
        // Before the first delivery: suspects are tried first.
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
    let task = ConsumerTask {
        acks: AckSender::new(channel.clone(), ack_batch),
        channel,
        settler: Arc::new(settler),
        suspects: suspects.clone(),
        buffer: buffer.clone(),
        deliveries: Some(deliveries),
        work: FuturesUnordered::new(),
        settling: SlotQueue::default(),
        moving_to_suspects: 0,
        held: Vec::new(),
        to_requeue: Vec::new(),
        flushes: Flushes::default(),
        bound,
        settle_within,
        stopped: false,
        leaving: false,
        lost: false,
    };
    tokio::spawn(task.run(received));
    Ok((QueueConsumer(buffer), queries))
}

/// The end of an operation of a consumer task.
enum Event {
    Settled {
        number: u64,
        tag: u64,
        outcome: BrokerAction,
        /// The service had it: it wasn't moved to quarantine.
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
    /// Delivery tags are valid on this channel only. It never reconnects.
    channel: Channel,
    settler: Arc<Settler>,
    suspects: Arc<SuspectQueue>,
    buffer: Arc<PrefetchBuffer>,
    /// `None` after the consumer has ended.
    deliveries: Option<lapin::Consumer>,
    acks: AckSender,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    /// The settlements in progress.
    settling: SlotQueue<()>,
    /// Suspects on their way to the quarantine queue.
    moving_to_suspects: usize,
    /// Redeliveries of messages that the service still has from a lost channel.
    held: Vec<Delivery>,
    /// Deliveries to requeue after the last one has arrived.
    to_requeue: Vec<u64>,
    flushes: Flushes,
    bound: u16,
    settle_within: Duration,
    stopped: bool,
    /// The channel closes as soon as nothing is in flight, without a cancel.
    leaving: bool,
    /// The channel is gone: the broker redelivers all unacked messages.
    lost: bool,
}

impl ConsumerTask {
    async fn run(mut self, mut queries: mpsc::Receiver<ConsumerQuery>) {
        let (buffer, settler) = (self.buffer.clone(), self.settler.clone());
        let ended = settler.session_state.ended();
        tokio::pin!(ended);
        let mut run_ends = self.non_crash().ends();
        let mut overdue = Box::pin(sleep(self.settle_within));
        let mut suspects_left = interval(SUSPECTS_INTERVAL);
        suspects_left.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_part = self.settler.source.queue.part_of.is_some();
        while !self.is_done() {
            tokio::select! {
                biased;
                error = &mut ended => {
                    self.lose(error);
                    break;
                }
                Some(done) = self.work.next() => self.on_event(done),
                () = buffer.settled_notify.notified() => self.apply_settlements(),
                Some(query) = queries.recv() => {
                    self.apply_settlements();
                    self.acks.send();
                    self.answer(query);
                }
                delivery = next(&mut self.deliveries) => self.received(delivery),
                () = self.acks.due() => self.acks.send(),
                () = buffer.stop.notified(), if !self.stopped => self.stop(TransportError::Closed),
                Ok(()) = run_ends.changed(), if !self.held.is_empty() => self.release_held(),
                () = &mut overdue, if !self.stopped => {
                    let next = self.check_overdue();
                    overdue.as_mut().reset(next);
                }
                _ = suspects_left.tick(), if is_part => {
                    if buffer.waits_for_suspects() {
                        self.suspects.check(&settler.source.queue.suspects());
                    }
                }
            }
        }
        self.close_channel().await;
    }

    /// Buffers a delivery and those that have arrived with it.
    fn received(&mut self, first: Option<lapin::Result<Delivery>>) {
        let mut group = Vec::new();
        let mut received = Some(first);
        while let Some(Some(Ok(delivery))) = received {
            self.register(delivery, &mut group);
            received = match &mut self.deliveries {
                Some(deliveries) if group.len() < BUFFER_BATCH_MAX => {
                    deliveries.next().now_or_never()
                }
                _ => None,
            };
        }
        if !group.is_empty() {
            self.mark_served();
            self.buffer.put(group);
        }
        match received {
            None | Some(Some(Ok(_))) => {}
            Some(Some(Err(error))) => {
                if !is_channel_error(&error) {
                    // The session must fail before the consumer ends.
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

    fn register(&mut self, delivery: Delivery, group: &mut Vec<Delivery>) {
        let (tag, key) = (delivery.delivery_tag, self.key_of(&delivery));
        let tracker = self.acks.tracker();
        tracker.received(tag, key, Instant::now());
        if self.leaving {
            tracker.keep(tag);
            return self.non_crash().add(key);
        }
        self.hold_or_deliver(delivery, key, group);
    }

    /// Acks or holds the redelivery of a message that the service had when a channel was lost;
    /// adds another one to the group.
    fn hold_or_deliver(&mut self, delivery: Delivery, key: MessageKey, group: &mut Vec<Delivery>) {
        let (tag, queue) = (delivery.delivery_tag, &self.settler.source.name);
        match self.non_crash().lost_run(key) {
            LostRun::Done if delivery.redelivered => {
                debug!(%queue, tag, "acking a message that is done");
                self.non_crash().take_done(key);
                self.acks.mark(tag);
                return self.acks.schedule();
            }
            // Published again under the same id.
            LostRun::Done if key.has_id => self.non_crash().take_done(key),
            LostRun::Running if delivery.redelivered => {
                debug!(%queue, tag, "holding a message that is being handled");
                self.held.push(delivery);
                return self.buffer.set_held(true);
            }
            _ => {}
        }
        self.quarantine_or_deliver(delivery, key, group);
    }

    /// Delivers the messages whose earlier runs have ended.
    fn release_held(&mut self) {
        let mut group = Vec::new();
        for delivery in std::mem::take(&mut self.held) {
            let key = self.key_of(&delivery);
            self.hold_or_deliver(delivery, key, &mut group);
        }
        self.buffer.put_in_order(group);
        self.buffer.set_held(!self.held.is_empty());
    }

    fn quarantine_or_deliver(
        &mut self,
        delivery: Delivery,
        key: MessageKey,
        group: &mut Vec<Delivery>,
    ) {
        let tag = delivery.delivery_tag;
        let suspect = self.settler.dead_letters.is_some()
            && self.settler.source.is_suspect(
                delivery.redelivered,
                delivery.exchange.as_str(),
                &delivery.properties,
                || self.non_crash().count(key),
            );
        if !suspect {
            return group.push(delivery);
        }
        self.mark_served();
        self.moving_to_suspects += 1;
        let (settler, suspects) = (self.settler.clone(), self.suspects.clone());
        let part = settler.source.queue.part_of.is_some();
        let part = part.then(|| self.buffer.clone());
        if let Some(buffer) = &part {
            buffer.suspect_leaves();
        }
        // The service never gets it: if the channel is lost, no run of it ends later.
        self.acks.tracker().mark_settling(tag);
        self.start_settlement(tag, false, async move {
            let outcome = match &part {
                None => settler.move_to_suspects(delivery).await,
                Some(buffer) => {
                    let mut has_failed = buffer.moves.lock().await;
                    let outcome = match *has_failed {
                        true => BrokerAction::Requeue,
                        false => settler.move_to_suspects(delivery).await,
                    };
                    *has_failed = outcome != BrokerAction::Ack;
                    buffer.suspect_moved();
                    outcome
                }
            };
            suspects.check(&settler.source.queue.suspects());
            outcome
        });
    }

    fn mark_served(&self) {
        if self.buffer.mark_served() {
            self.suspects.check(&self.settler.source.queue.suspects());
        }
    }

    fn apply_settlements(&mut self) {
        let mut acks = 0;
        for (parts, settlement) in self.buffer.take_settlements() {
            if let Settlement::Ack(None) = settlement {
                self.apply(parts.tag, BrokerAction::Ack);
                acks += 1;
            } else {
                self.settle(parts, settlement);
            }
        }
        self.buffer.release(acks);
    }

    fn settle(&mut self, parts: DeliveryParts, settlement: Settlement) {
        let (settler, tag) = (self.settler.clone(), parts.tag);
        self.acks.tracker().mark_settling(tag);
        // The channel may be lost. Then the redelivery is acked if this succeeds.
        self.start_settlement(tag, true, async move {
            settler.settle(&parts, settlement).await
        });
    }

    /// Starts the work that precedes the ack or nack of a delivery.
    fn start_settlement(
        &mut self,
        tag: u64,
        was_in_flight: bool,
        work: impl Future<Output = BrokerAction> + Send + 'static,
    ) {
        let number = self.settling.push(());
        self.work.push(Box::pin(async move {
            Event::Settled {
                number,
                tag,
                outcome: work.await,
                was_in_flight,
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
                self.apply(tag, outcome);
                match was_in_flight {
                    true => self.buffer.release(1),
                    false => self.moving_to_suspects -= 1,
                }
                self.settling.remove(number);
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

    /// Acks or requeues a delivery, and records a redelivery to come.
    fn apply(&mut self, tag: u64, action: BrokerAction) {
        let is_done = action == BrokerAction::Ack;
        if let Some(key) = self.acks.tracker().key(tag) {
            match (self.lost, is_done) {
                (true, _) => self.non_crash().ended(key, is_done),
                (false, true) => self.non_crash().forget(key),
                (false, false) => self.non_crash().add(key),
            }
        }
        if self.lost {
            self.acks.tracker().mark_settled(tag);
            return;
        }
        match action {
            BrokerAction::Ack => {
                self.acks.mark(tag);
                self.acks.schedule();
            }
            BrokerAction::Requeue => self.requeue(tag),
            BrokerAction::Stale => {
                self.acks.tracker().mark_settled(tag);
            }
        }
    }

    /// Buffers the deliveries that have arrived.
    fn buffer_ready(&mut self) {
        if let Some(deliveries) = &mut self.deliveries
            && let Some(delivery) = deliveries.next().now_or_never()
        {
            self.received(delivery);
            self.buffer_ready();
        }
    }

    /// Records that the coming redelivery isn't the effect of a crash.
    fn record_non_crash(&self, delivery: &Delivery) {
        self.non_crash().add(self.key_of(delivery));
    }

    /// Returns the key of a message: by its id, or by its content if it has none.
    fn key_of(&self, delivery: &Delivery) -> MessageKey {
        match codec::id_of(&delivery.properties) {
            Some(id) => self.non_crash().key(self.name(), &id),
            None => {
                let properties = codec::lasting_properties(&delivery.properties);
                let content = (delivery.routing_key.as_str(), properties, &delivery.data);
                self.non_crash().content_key(self.name(), content)
            }
        }
    }

    fn non_crash(&self) -> &Arc<NonCrashRedeliveries> {
        self.suspects.non_crash()
    }

    /// The name of the consumed queue.
    fn name(&self) -> &str {
        self.settler.source.name.as_str()
    }
}

/// Returns whether an error ended only the channel, not the connection.
fn is_channel_error(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error() || matches!(error.kind(), ErrorKind::InvalidChannelState(..))
}

async fn next(deliveries: &mut Option<lapin::Consumer>) -> Option<lapin::Result<Delivery>> {
    match deliveries {
        Some(deliveries) => deliveries.next().await,
        None => std::future::pending().await,
    }
}
