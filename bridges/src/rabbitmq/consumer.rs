//! Consuming a queue: a channel with a prefetch, a shelf with what was fetched ahead,
//! and a pump between them.
//!
//! The pump is one task on the transport's thread. It owns the channel: it puts what
//! comes on the shelf, settles what was decided, and counts. The consumer takes from the
//! shelf, wherever it is; messages are decoded there, by whoever takes them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use brickwork::transport::{Consumer, TransportError};
use brickwork::{Delivery, Parcel, Settle, Settlement};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::ErrorKind;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::declarer::passive;
use super::origin::Origin;
use super::settling::Settling;
use super::wire;

/// The end of a consumer that the pump talks to, from any thread.
struct Shelf {
    state: Mutex<State>,
    /// Has room for everything that can be unsettled: sending never waits.
    settlements: mpsc::Sender<(Parcel, Settlement)>,
    stop: Notify,
    origin: Origin,
}

#[derive(Default)]
struct State {
    fetched: VecDeque<lapin::message::Delivery>,
    /// Handed out and not settled.
    in_hand: usize,
    waker: Option<Waker>,
    ended: Option<TransportError>,
}

/// Takes from a queue.
pub(super) struct QueueConsumer(Arc<Shelf>);

/// Asks a pump.
pub(super) enum Question {
    /// What it has, and what the broker has ready.
    Count(oneshot::Sender<Result<Count, TransportError>>),
    /// Until everything that was settled before is done.
    Flush(oneshot::Sender<()>),
}

/// How much of a queue is where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    /// At the broker.
    pub(super) ready: u64,
    /// Here, not handed out.
    pub(super) fetched: u64,
    /// Here, handed out.
    pub(super) in_hand: u64,
}

/// Consumes, on the current runtime: a consumer, and where its pump can be asked.
///
/// # Errors
/// The broker's.
pub(super) async fn consume(
    settling: Settling,
    bound: usize,
) -> lapin::Result<(QueueConsumer, mpsc::Sender<Question>)> {
    let bound = bound.clamp(1, usize::from(u16::MAX)) as u16;
    let channel = &settling.channel;
    channel.basic_qos(bound, BasicQosOptions::default()).await?;
    let deliveries = channel
        .basic_consume(
            settling.origin.name.clone(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let (settlements, decided) = mpsc::channel(usize::from(bound));
    let (questions, asked) = mpsc::channel(4);
    let shelf = Arc::new(Shelf {
        state: Mutex::default(),
        settlements,
        stop: Notify::new(),
        origin: settling.origin.clone(),
    });
    let pump = Pump {
        settling: Arc::new(settling),
        shelf: shelf.clone(),
        deliveries: Some(deliveries),
        work: FuturesUnordered::new(),
        open: BTreeSet::new(),
        next: 0,
        flushes: Vec::new(),
        stopped: false,
    };
    tokio::spawn(pump.run(decided, asked));
    Ok((QueueConsumer(shelf), questions))
}

impl Shelf {
    fn put(&self, delivery: lapin::message::Delivery) {
        let mut state = self.state.lock();
        state.fetched.push_back(delivery);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Ends the consumer; the first reason stays. Returns what was not handed out.
    fn end(&self, error: TransportError) -> VecDeque<lapin::message::Delivery> {
        let mut state = self.state.lock();
        state.ended.get_or_insert(error);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        std::mem::take(&mut state.fetched)
    }
}

impl Settle for Shelf {
    fn settle(&self, parcel: Parcel, settlement: Settlement) {
        // Fails only if the pump is gone, and the channel with it: then the broker
        // delivers it again.
        let _again = self.settlements.try_send((parcel, settlement));
    }
}

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
        let count = state.fetched.len().min(max);
        if count == 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.waker = None;
        state.in_hand += count;
        let fetched: Vec<_> = state.fetched.drain(..count).collect();
        drop(state);
        let taken = Instant::now();
        into.extend(fetched.into_iter().map(|fetched| {
            let (exchange, key) = (fetched.exchange.as_str(), fetched.routing_key.as_str());
            let arrival = self.0.origin.arrival(exchange, key);
            let (message, attempt) = wire::decode(arrival, &fetched.properties, fetched.data);
            let parcel = Parcel {
                message,
                attempt,
                tag: fetched.delivery_tag,
            };
            Delivery::taken_at(parcel, self.0.clone(), taken)
        }));
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self) {
        // What is on the shelf is left to the pump to give back.
        self.0
            .state
            .lock()
            .ended
            .get_or_insert(TransportError::Closed);
        self.0.stop.notify_one();
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a pump has under way.
enum Done {
    Settled(u64),
    Counted(
        lapin::Result<u64>,
        oneshot::Sender<Result<Count, TransportError>>,
    ),
    Cancelled,
}

struct Pump {
    settling: Arc<Settling>,
    shelf: Arc<Shelf>,
    /// `None` once it has ended.
    deliveries: Option<lapin::Consumer>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Settlements under way, by number.
    open: BTreeSet<u64>,
    next: u64,
    /// Who waits until no settlement before this number is open.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    stopped: bool,
}

impl Pump {
    async fn run(
        mut self,
        mut decided: mpsc::Receiver<(Parcel, Settlement)>,
        mut asked: mpsc::Receiver<Question>,
    ) {
        let (shelf, settling) = (self.shelf.clone(), self.settling.clone());
        let ended = settling.link.ended();
        tokio::pin!(ended);
        while !self.is_done() {
            tokio::select! {
                biased;
                error = &mut ended => {
                    shelf.end(error);
                    break;
                }
                Some(done) = self.work.next() => self.done(done).await,
                Some((parcel, settlement)) = decided.recv() => self.settle(parcel, settlement),
                Some(question) = asked.recv() => {
                    while let Ok((parcel, settlement)) = decided.try_recv() {
                        self.settle(parcel, settlement);
                    }
                    self.answer(question);
                }
                delivery = next(&mut self.deliveries) => self.received(delivery),
                () = shelf.stop.notified(), if !self.stopped => self.stop(),
            }
        }
        // With the channel goes what is still unsettled: back to the queue.
        let _closed = settling.channel.close(200, "done".into()).await;
    }

    /// Nothing comes any more, and nothing is left to settle.
    fn is_done(&self) -> bool {
        self.deliveries.is_none() && self.work.is_empty() && self.shelf.state.lock().in_hand == 0
    }

    fn received(&mut self, delivery: Option<lapin::Result<lapin::message::Delivery>>) {
        let why = match delivery {
            Some(Ok(delivery)) => return self.shelf.put(delivery),
            Some(Err(error)) => {
                if !is_channels_own(&error) {
                    // Known to all before this consumer ends.
                    self.settling.link.fail(format!("consuming: {error}"));
                }
                error.to_string()
            }
            None => "the broker cancelled the consumer: is the queue deleted?".to_owned(),
        };
        self.deliveries = None;
        let error = match self.settling.link.check() {
            Err(ended) => ended,
            Ok(()) => TransportError::Lost(format!("queue {}: {why}", self.settling.origin.name)),
        };
        self.give_back_fetched(error);
    }

    fn settle(&mut self, parcel: Parcel, settlement: Settlement) {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        let settling = self.settling.clone();
        self.work.push(Box::pin(async move {
            settling.settle(parcel, settlement).await;
            Done::Settled(number)
        }));
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Flush(done) => {
                self.flushes.push((self.next, done));
                self.report_flushes();
            }
            Question::Count(answer) => {
                // On the channel of the deliveries: whatever the broker no longer counts
                // as ready has come before its answer.
                let settling = self.settling.clone();
                self.work.push(Box::pin(async move {
                    let name = settling.origin.name.clone();
                    Done::Counted(passive(&settling.channel, name).await, answer)
                }));
            }
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Settled(number) => {
                self.shelf.state.lock().in_hand -= 1;
                self.open.remove(&number);
                self.report_flushes();
            }
            Done::Counted(ready, answer) => {
                self.take_in();
                let state = self.shelf.state.lock();
                let count = ready
                    .map(|ready| Count {
                        ready,
                        fetched: state.fetched.len() as u64,
                        in_hand: state.in_hand as u64,
                    })
                    .map_err(|error| TransportError::Lost(error.to_string()));
                drop(state);
                let _gone = answer.send(count);
            }
            Done::Cancelled => {
                self.take_in();
                self.deliveries = None;
                self.give_back_fetched(TransportError::Closed);
            }
        }
    }

    /// Puts on the shelf what has come already.
    fn take_in(&mut self) {
        while let Some(deliveries) = &mut self.deliveries
            && let Some(delivery) = deliveries.next().now_or_never()
        {
            match delivery {
                Some(Ok(delivery)) => self.shelf.put(delivery),
                ended => self.received(ended),
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        let Some(deliveries) = &self.deliveries else {
            return;
        };
        let (settling, tag) = (self.settling.clone(), deliveries.tag());
        self.work.push(Box::pin(async move {
            // If this fails, the channel is gone, and everything is given back.
            let cancelled = settling
                .channel
                .basic_cancel(tag, BasicCancelOptions::default());
            let _gone = cancelled.await;
            Done::Cancelled
        }));
    }

    fn give_back_fetched(&mut self, error: TransportError) {
        for delivery in self.shelf.end(error) {
            let settling = self.settling.clone();
            let number = self.next;
            self.next += 1;
            self.open.insert(number);
            self.shelf.state.lock().in_hand += 1;
            self.work.push(Box::pin(async move {
                settling.give_back(delivery.delivery_tag).await;
                Done::Settled(number)
            }));
        }
    }

    fn report_flushes(&mut self) {
        let first = self.open.first().copied();
        self.flushes.retain_mut(|(before, done)| {
            let open = first.is_some_and(|first| first < *before);
            if !open {
                let (unused, _) = oneshot::channel();
                let _gone = std::mem::replace(done, unused).send(());
            }
            open
        });
    }
}

impl Drop for Pump {
    /// However it ends: whoever takes learns of it.
    fn drop(&mut self) {
        self.shelf.end(self.settling.link.error());
    }
}

/// Whether an error ended one channel, and not the connection.
fn is_channels_own(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error() || matches!(error.kind(), ErrorKind::InvalidChannelState(..))
}

async fn next(
    deliveries: &mut Option<lapin::Consumer>,
) -> Option<lapin::Result<lapin::message::Delivery>> {
    match deliveries {
        Some(deliveries) => deliveries.next().await,
        None => std::future::pending().await,
    }
}
