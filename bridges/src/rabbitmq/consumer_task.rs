//! The task that consumes one queue: it owns the channel.
//!
//! It buffers deliveries, applies settlements and counts. Acks are sent in groups. A retry, a
//! dead letter or a reply is published and confirmed before its input is acked. A message that
//! was in flight during two crashes never reaches the buffer: the task moves it to the
//! quarantine queue.

use std::sync::Arc;

use brickwork::transport::TransportError;
use brickwork::{DeliveryParts, Settlement};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::ack_sender::AckSender;
use super::codec;
use super::consumer_query::{ConsumerQuery, Count};
use super::declarer::count_ready;
use super::flushes::Flushes;
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::prefetch::{PrefetchBuffer, QueueConsumer};
use super::settlement::{BrokerAction, Settler};
use super::slot_queue::SlotQueue;
use super::suspects::SuspectQueue;

/// Maximum acks that are sent together.
const ACKS_MAX: usize = 32;
/// Maximum deliveries that are buffered at once.
const BUFFER_BATCH_MAX: usize = 64;
/// Maximum counts of a queue until two agree.
const COUNT_ATTEMPTS_MAX: u32 = 6;

/// Starts consuming, on the current runtime. Returns the consumer and the task's query sender.
///
/// # Errors
/// The broker refuses to consume.
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
        to_requeue: Vec::new(),
        flushes: Flushes::default(),
        bound,
        stopped: false,
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
    /// Deliveries to requeue after the last one has arrived.
    to_requeue: Vec<u64>,
    flushes: Flushes,
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
                    self.acks.send();
                    self.answer(query);
                }
                delivery = next(&mut self.deliveries) => self.received(delivery),
                () = self.acks.due() => self.acks.send(),
                () = buffer.stop.notified(), if !self.stopped => self.stop(),
            }
        }
        self.acks.send();
        if settler.session_state.check().is_ok() {
            sleep(self.acks.close_delay()).await;
        }
        // The broker requeues unsettled deliveries when the channel closes.
        let _closed = self.channel.close(200, "done".into()).await;
    }

    /// Whether no more deliveries arrive and none is unsettled.
    fn is_done(&self) -> bool {
        self.deliveries.is_none() && self.work.is_empty() && self.buffer.in_flight() == 0
    }

    /// Buffers a delivery and those that have arrived with it.
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

    fn quarantine_or_deliver(&mut self, delivery: Delivery, group: &mut Vec<Delivery>) {
        let tag = delivery.delivery_tag;
        self.acks.received(tag);
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

    /// Handles the end of a consumer that wasn't stopped.
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
                self.acks.mark(parts.tag);
                acks += 1;
            } else {
                self.settle(parts, settlement);
            }
        }
        if acks > 0 {
            self.buffer.release(acks);
            self.acks.schedule();
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

    fn answer(&mut self, query: ConsumerQuery) {
        match query {
            ConsumerQuery::Flush(done) => {
                self.flushes.add(self.settling.next(), done);
                self.report_flushes();
            }
            ConsumerQuery::Count(answer) => self.count(None, COUNT_ATTEMPTS_MAX, answer),
        }
    }

    /// Counts on the channel of the deliveries. Between the broker's count and the reply a
    /// delivery may be neither ready nor buffered, so the count is repeated until two agree.
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
                        self.acks.mark(tag);
                        self.acks.schedule();
                    }
                    BrokerAction::Requeue => self.requeue(tag),
                    BrokerAction::Stale => {}
                }
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

    /// Buffers the deliveries that have arrived.
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
            // If this fails, the channel is gone, and the broker requeues everything.
            let _gone = channel
                .basic_cancel(tag, BasicCancelOptions::default())
                .await;
            Event::Cancelled
        }));
    }

    fn requeue_fetched(&mut self, error: TransportError) {
        for tag in std::mem::take(&mut self.to_requeue) {
            self.requeue(tag);
        }
        let fetched = self.buffer.end(error);
        for delivery in &fetched {
            self.record_non_crash(delivery);
            self.requeue(delivery.delivery_tag);
        }
        self.buffer.release(fetched.len());
        self.report_flushes();
    }

    /// Ends the consumer because the connection was lost.
    fn connection_lost(&self, error: TransportError) {
        for delivery in &self.buffer.end(error) {
            self.record_non_crash(delivery);
        }
    }

    /// Records that the coming redelivery isn't the effect of a crash.
    fn record_non_crash(&self, delivery: &Delivery) {
        if let Some(id) = codec::id_of(&delivery.properties) {
            self.non_crash().add(self.name(), &id);
        }
    }

    fn non_crash(&self) -> &Arc<NonCrashRedeliveries> {
        self.suspects.non_crash()
    }

    /// The name of the consumed queue.
    fn name(&self) -> &str {
        self.settler.source.name.as_str()
    }

    /// Requeues a delivery. If the consumer is about to end, this waits until no more
    /// deliveries arrive: the broker would send the delivery right back.
    fn requeue(&mut self, tag: u64) {
        if self.deliveries.is_some() && self.buffer.is_ended() {
            self.to_requeue.push(tag);
            return;
        }
        self.acks.requeue(tag);
    }

    fn report_flushes(&mut self) {
        if self.flushes.is_empty() || !self.to_requeue.is_empty() {
            return;
        }
        let done = self.flushes.take_done(self.settling.first());
        if done.is_empty() {
            return;
        }
        self.acks.send();
        // The reply shows that the broker has seen all earlier commands on the channel, though
        // its queue may not have applied them.
        let (channel, bound) = (self.channel.clone(), self.bound);
        let wait = self.acks.close_delay();
        self.work.push(Box::pin(async move {
            sleep(wait).await;
            let _gone = channel.basic_qos(bound, BasicQosOptions::default()).await;
            Event::Flushed(done)
        }));
    }
}

impl Drop for ConsumerTask {
    /// On every exit path the reader learns of the end.
    fn drop(&mut self) {
        self.connection_lost(self.settler.session_state.error());
        self.buffer.close_settlements();
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
