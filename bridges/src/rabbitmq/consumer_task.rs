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
use super::declarer::passive;
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
const GROUP: usize = 64;
/// How often a queue is counted until two counts agree.
const COUNTS_MAX: u32 = 6;

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
    settling: Settler,
    ward: &Arc<SuspectQueue>,
    bound: usize,
) -> lapin::Result<(QueueConsumer, mpsc::Sender<ConsumerQuery>)> {
    let bound = bound.clamp(1, usize::from(u16::MAX)) as u16;
    channel.basic_qos(bound, BasicQosOptions::default()).await?;
    let enough = (usize::from(bound) / 4).clamp(1, ACKS_MAX);
    let shelf = Arc::new(PrefetchBuffer::new(settling.origin.clone(), enough, ward));
    if settling.letters.is_some() {
        // Before anything comes: what is suspected goes first.
        ward.take_in(&settling.origin.queue, &shelf).await;
    }
    let deliveries = channel
        .basic_consume(
            settling.origin.name.clone(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let (questions, asked) = mpsc::channel(4);
    let pump = ConsumerTask {
        channel,
        settling: Arc::new(settling),
        ward: ward.clone(),
        shelf: shelf.clone(),
        deliveries: Some(deliveries),
        tags: AckTracker::new(),
        work: FuturesUnordered::new(),
        open: BTreeSet::new(),
        next: 0,
        setting_aside: 0,
        to_give_back: Vec::new(),
        flushes: Vec::new(),
        ack_due: Box::pin(sleep(Duration::ZERO)),
        acks_wait: false,
        saying: CommandRate::default(),
        bound,
        stopped: false,
    };
    tokio::spawn(pump.run(asked));
    Ok((QueueConsumer(shelf), questions))
}

/// What a pump has under way.
enum Done {
    Settled {
        number: u64,
        tag: u64,
        outcome: BrokerAction,
        /// Handed out, not set aside.
        was_in_hand: bool,
    },
    Counted {
        ready: lapin::Result<u64>,
        before: Option<Count>,
        tries: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    },
    Flushed(Vec<oneshot::Sender<()>>),
    Cancelled,
}

struct ConsumerTask {
    /// Tags mean something on this channel only, and it never reconnects.
    channel: Channel,
    settling: Arc<Settler>,
    ward: Arc<SuspectQueue>,
    shelf: Arc<PrefetchBuffer>,
    /// `None` once it has ended.
    deliveries: Option<lapin::Consumer>,
    tags: AckTracker,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Settlements under way, by number.
    open: BTreeSet<u64>,
    next: u64,
    /// Suspects on their way to the ward's queue.
    setting_aside: usize,
    /// What is given back once nothing comes any more.
    to_give_back: Vec<u64>,
    /// Who waits until no settlement before this number is open.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    /// When the acks that wait are sent, if any do.
    ack_due: Pin<Box<Sleep>>,
    acks_wait: bool,
    saying: CommandRate,
    bound: u16,
    stopped: bool,
}

impl ConsumerTask {
    async fn run(mut self, mut asked: mpsc::Receiver<ConsumerQuery>) {
        let (shelf, settling) = (self.shelf.clone(), self.settling.clone());
        let ended = settling.link.ended();
        tokio::pin!(ended);
        while !self.is_done() {
            tokio::select! {
                biased;
                error = &mut ended => {
                    self.lose(error);
                    break;
                }
                Some(done) = self.work.next() => self.done(done),
                () = shelf.news.notified() => self.take_decided(),
                Some(question) = asked.recv() => {
                    self.take_decided();
                    self.send_acks();
                    self.answer(question);
                }
                delivery = next(&mut self.deliveries) => self.received(delivery),
                () = &mut self.ack_due, if self.acks_wait => self.send_acks(),
                () = shelf.stop.notified(), if !self.stopped => self.stop(),
            }
        }
        self.send_acks();
        if settling.link.check().is_ok() {
            sleep(self.saying.wait(Instant::now())).await;
        }
        // With the channel goes what is still unsettled: back to the queue.
        let _closed = self.channel.close(200, "done".into()).await;
    }

    /// Nothing comes any more, and nothing is left to settle.
    fn is_done(&self) -> bool {
        self.deliveries.is_none() && self.work.is_empty() && self.shelf.in_flight() == 0
    }

    /// Puts on the shelf what comes, as much as has come already at once.
    fn received(&mut self, first: Option<lapin::Result<Delivery>>) {
        let mut group = Vec::new();
        let mut received = Some(first);
        while let Some(Some(Ok(delivery))) = received {
            self.sort(delivery, &mut group);
            received = match &mut self.deliveries {
                Some(deliveries) if group.len() < GROUP => deliveries.next().now_or_never(),
                _ => None,
            };
        }
        if !group.is_empty() {
            self.shelf.serve();
            self.shelf.put(group);
        }
        match received {
            None | Some(Some(Ok(_))) => {}
            Some(Some(Err(error))) => {
                if !is_channels_own(&error) {
                    // Known to all before this consumer ends.
                    self.settling.link.fail(format!("consuming: {error}"));
                }
                self.over(&error.to_string());
            }
            Some(None) => self.over("the broker cancelled the consumer: is the queue deleted?"),
        }
    }

    fn sort(&mut self, delivery: Delivery, group: &mut Vec<Delivery>) {
        let tag = delivery.delivery_tag;
        self.tags.came(tag);
        let suspect = self.settling.letters.is_some()
            && self.settling.origin.is_suspect(
                delivery.redelivered,
                delivery.exchange.as_str(),
                &delivery.properties,
                || {
                    let id = codec::id_of(&delivery.properties);
                    id.map_or(0, |id| self.alibis().of(self.name(), &id))
                },
            );
        if !suspect {
            return group.push(delivery);
        }
        self.shelf.serve();
        self.setting_aside += 1;
        let (settling, ward) = (self.settling.clone(), self.ward.clone());
        self.begin(tag, false, async move {
            let outcome = settling.set_aside(delivery).await;
            ward.look(&settling.origin.queue.id.service);
            outcome
        });
    }

    /// The consumer has ended without being told to.
    fn over(&mut self, why: &str) {
        self.deliveries = None;
        let error = match self.settling.link.check() {
            Err(ended) => ended,
            Ok(()) => TransportError::Lost(format!("queue {}: {why}", self.settling.origin.name)),
        };
        self.give_back_fetched(error);
    }

    fn take_decided(&mut self) {
        let mut acks = 0;
        for (parcel, settlement) in self.shelf.take_decided() {
            if let Settlement::Ack(None) = settlement {
                self.alibis().forget(self.name(), &parcel.message.id);
                self.tags.decide(parcel.tag);
                acks += 1;
            } else {
                self.settle(parcel, settlement);
            }
        }
        if acks > 0 {
            self.shelf.settled(acks);
            self.acks_wait();
        }
    }

    fn settle(&mut self, parcel: DeliveryParts, settlement: Settlement) {
        let (settling, channel) = (self.settling.clone(), self.channel.clone());
        let alibis = self.alibis().clone();
        self.begin(parcel.tag, true, async move {
            let settled = match channel.status().connected() {
                true => settling.settle(&parcel, settlement).await,
                false => BrokerAction::Stale,
            };
            let (queue, id) = (settling.origin.name.as_str(), &parcel.message.id);
            match settled {
                BrokerAction::Forget => alibis.forget(queue, id),
                BrokerAction::Requeue | BrokerAction::Stale => alibis.add(queue, id),
            }
            settled
        });
    }

    /// Begins what is to be done before the broker is told of a delivery.
    fn begin(
        &mut self,
        tag: u64,
        was_in_hand: bool,
        work: impl Future<Output = BrokerAction> + Send + 'static,
    ) {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        self.work.push(Box::pin(async move {
            Done::Settled {
                number,
                tag,
                outcome: work.await,
                was_in_hand,
            }
        }));
    }

    fn answer(&mut self, question: ConsumerQuery) {
        match question {
            ConsumerQuery::Flush(done) => {
                self.flushes.push((self.next, done));
                self.report_flushes();
            }
            ConsumerQuery::Count(answer) => self.count(None, COUNTS_MAX, answer),
        }
    }

    /// Counts on the channel of the deliveries. What the broker no longer counts as ready
    /// has come by the answer, or comes right after it: so it is asked until two answers
    /// agree.
    fn count(
        &mut self,
        before: Option<Count>,
        tries: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    ) {
        let (channel, name) = (self.channel.clone(), self.settling.origin.name.clone());
        self.work.push(Box::pin(async move {
            Done::Counted {
                ready: passive(&channel, name).await,
                before,
                tries,
                answer,
            }
        }));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Settled {
                number,
                tag,
                outcome,
                was_in_hand,
            } => {
                match outcome {
                    BrokerAction::Forget => {
                        self.tags.decide(tag);
                        self.acks_wait();
                    }
                    BrokerAction::Requeue => self.nack_requeue(tag),
                    BrokerAction::Stale => {}
                }
                match was_in_hand {
                    true => self.shelf.settled(1),
                    false => self.setting_aside -= 1,
                }
                self.open.remove(&number);
                self.report_flushes();
            }
            Done::Counted {
                ready,
                before,
                tries,
                answer,
            } => self.counted(ready, before, tries, answer),
            Done::Flushed(asked) => {
                for flushed in asked {
                    let _gone = flushed.send(());
                }
            }
            Done::Cancelled => {
                self.take_in();
                self.deliveries = None;
                self.give_back_fetched(TransportError::Closed);
            }
        }
    }

    fn counted(
        &mut self,
        ready: lapin::Result<u64>,
        before: Option<Count>,
        tries: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    ) {
        self.take_in();
        let (fetched, in_flight) = self.shelf.counts();
        let count = ready.map(|ready| Count {
            ready,
            fetched: (fetched + self.setting_aside) as u64,
            in_flight: in_flight as u64,
        });
        let _gone = match count {
            Ok(count) if before != Some(count) && tries > 1 => {
                return self.count(Some(count), tries - 1, answer);
            }
            Ok(count) => answer.send(Ok(count)),
            Err(error) => answer.send(Err(TransportError::Lost(error.to_string()))),
        };
    }

    /// Puts on the shelf what has come already.
    fn take_in(&mut self) {
        if let Some(deliveries) = &mut self.deliveries
            && let Some(delivery) = deliveries.next().now_or_never()
        {
            self.received(delivery);
            self.take_in();
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
            Done::Cancelled
        }));
    }

    fn give_back_fetched(&mut self, error: TransportError) {
        for tag in std::mem::take(&mut self.to_give_back) {
            self.nack_requeue(tag);
        }
        let fetched = self.shelf.end(error);
        for delivery in &fetched {
            self.excuse(delivery);
            self.nack_requeue(delivery.delivery_tag);
        }
        self.shelf.settled(fetched.len());
        self.report_flushes();
    }

    /// The connection is gone, and what was fetched with it.
    fn lose(&self, error: TransportError) {
        for delivery in &self.shelf.end(error) {
            self.excuse(delivery);
        }
    }

    /// What comes of this delivery isn't to be blamed on it.
    fn excuse(&self, delivery: &Delivery) {
        if let Some(id) = codec::id_of(&delivery.properties) {
            self.alibis().add(self.name(), &id);
        }
    }

    fn alibis(&self) -> &Arc<NonCrashRedeliveries> {
        self.ward.alibis()
    }

    /// Of the queue that is consumed.
    fn name(&self) -> &str {
        self.settling.origin.name.as_str()
    }

    /// Gives one delivery back; once nothing comes any more, if the consumer is about to
    /// end: it would come right back to it.
    fn nack_requeue(&mut self, tag: u64) {
        if self.deliveries.is_some() && self.shelf.is_ended() {
            self.to_give_back.push(tag);
            return;
        }
        if !self.tags.told(tag) || !self.channel.status().connected() {
            return;
        }
        let options = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        // The first poll hands it to the connection. If it fails after that, the channel is
        // gone: that gives it back, too.
        let _sent = self.channel.basic_nack(tag, options).now_or_never();
        self.saying.said(Instant::now());
    }

    /// Acks wait a moment for more, unless there are enough.
    fn acks_wait(&mut self) {
        if self.tags.decided() >= self.shelf.enough {
            self.send_acks();
        } else if !self.acks_wait {
            self.acks_wait = true;
            self.ack_due.as_mut().reset(Instant::now() + ACK_WAIT);
        }
    }

    fn send_acks(&mut self) {
        self.acks_wait = false;
        for Ack { tag, multiple } in self.tags.acks() {
            // The first poll hands it to the connection: so they go out in order, and one
            // for many finds all before it settled. If it fails after that, the channel is
            // gone, and the broker delivers again.
            let options = BasicAckOptions { multiple };
            let _sent = self.channel.basic_ack(tag, options).now_or_never();
            self.saying.said(Instant::now());
        }
    }

    fn report_flushes(&mut self) {
        if self.flushes.is_empty() || !self.to_give_back.is_empty() {
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
        let wait = self.saying.wait(Instant::now());
        self.work.push(Box::pin(async move {
            sleep(wait).await;
            let _gone = channel.basic_qos(bound, BasicQosOptions::default()).await;
            Done::Flushed(done)
        }));
    }
}

impl Drop for ConsumerTask {
    /// However it ends: whoever takes learns of it.
    fn drop(&mut self) {
        self.lose(self.settling.link.error());
        self.shelf.shut();
    }
}

/// Whether an error ended one channel, and not the connection.
fn is_channels_own(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error() || matches!(error.kind(), ErrorKind::InvalidChannelState(..))
}

async fn next(deliveries: &mut Option<lapin::Consumer>) -> Option<lapin::Result<Delivery>> {
    match deliveries {
        Some(deliveries) => deliveries.next().await,
        None => std::future::pending().await,
    }
}
