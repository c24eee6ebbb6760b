//! The consumer of a keyed input: it consumes all parts, and moves messages to them.
//!
//! Each part has a consumer and a channel of its own. Every process consumes every part; the broker
//! hands the messages of a part to one of them. A part whose consumer ends is consumed again, and the
//! others go on: a message that was requeued, or a part that was given to another process, concerns
//! that part only. `partition_share` decides which parts this process gives up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use brickwork::Delivery;
use brickwork::supervision::Backoff;
use brickwork::transport::{Consumer, TransportError};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all, try_join_all};
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::consumer_query::ConsumerQuery;
use super::partition_mover::{self, OpenChannel};
use super::partition_share::{Held, PERIOD, Share};
use super::prefetch::{PrefetchBuffer, QueueConsumer};
use super::router::Router;
use super::routing::Queue;
use super::session_state::SessionState;
use super::topology::processes_id;

/// Back-off before a part is consumed again.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(10),
    jitter: 0.5,
};
/// Time in which a part must have nothing in flight before it is given up. A message that waits for
/// its retry stays in flight: meanwhile the part stays here, so that its other keys go on.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A consumer of one queue, and the sender to its task.
pub(super) type Consuming = (QueueConsumer, mpsc::Sender<ConsumerQuery>);
/// Opens a consumer of one queue with a prefetch.
pub(super) type OpenConsumer = dyn Fn(Arc<Queue>, usize) -> BoxFuture<'static, Result<Consuming, TransportError>>
    + Send
    + Sync;

/// Consumes all parts of an input, on the current runtime.
///
/// # Errors
/// A part can't be consumed.
pub(super) async fn start(
    router: Arc<Router>,
    input: Arc<Queue>,
    bound: usize,
    open: Arc<OpenConsumer>,
    open_channel: Arc<OpenChannel>,
) -> Result<PartsConsumer, TransportError> {
    let parts = input.parts.iter().flat_map(|parts| &parts.queues);
    let parts: Vec<Arc<Queue>> = parts.cloned().collect();
    let bound = (bound / parts.len().max(1)).max(1);
    let opened = try_join_all(parts.iter().map(|part| open(part.clone(), bound))).await?;
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        stop: watch::Sender::new(false),
        session_state: router.session_state.clone(),
    });
    shared.state.lock().buffers = vec![None; parts.len()];
    for (number, ((consumer, task), queue)) in opened.into_iter().zip(parts).enumerate() {
        shared.put(number, consumer);
        let keeper = PartKeeper {
            shared: shared.clone(),
            router: router.clone(),
            open: open.clone(),
            number,
            queue,
            bound,
        };
        tokio::spawn(keeper.run(task));
    }
    let processes = router.queue(&processes_id(&input.id))?;
    tokio::spawn(partition_mover::run(
        router.clone(),
        input,
        open_channel.clone(),
        shared.stop.subscribe(),
    ));
    tokio::spawn(share_out(shared.clone(), router, processes, open_channel));
    let consumers = shared.state.lock().buffers.iter().map(|_| None).collect();
    Ok(PartsConsumer {
        shared,
        consumers,
        next: 0,
    })
}

/// The part of the consumer that its tasks know.
struct Shared {
    state: Mutex<State>,
    /// The input is no longer consumed.
    stop: watch::Sender<bool>,
    session_state: Arc<SessionState>,
}

#[derive(Default)]
struct State {
    /// New consumers, with the numbers of their parts.
    arrived: Vec<(usize, QueueConsumer)>,
    /// The buffers of the present consumers, by part.
    buffers: Vec<Option<Arc<PrefetchBuffer>>>,
    waker: Option<Waker>,
}

impl Shared {
    /// Passes a new consumer to the reader.
    fn put(&self, number: usize, consumer: QueueConsumer) {
        if *self.stop.borrow() {
            return;
        }
        let mut state = self.state.lock();
        state.buffers[number] = Some(consumer.0.clone());
        state.arrived.push((number, consumer));
        state.wake();
    }

    /// Waits until the input is no longer consumed, or the session has ended.
    async fn over(&self) {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            _stop = stop.wait_for(|stop| *stop) => {}
            _ended = self.session_state.ended() => {}
        }
        // The reader learns of the end, even if no part has a consumer now.
        self.state.lock().wake();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Consumes one part again when its consumer has ended.
struct PartKeeper {
    shared: Arc<Shared>,
    router: Arc<Router>,
    open: Arc<OpenConsumer>,
    number: usize,
    queue: Arc<Queue>,
    bound: usize,
}

impl PartKeeper {
    async fn run(self, task: mpsc::Sender<ConsumerQuery>) {
        let keeping = async {
            let mut task = task;
            loop {
                // Its channel is closed then.
                task.closed().await;
                task = self.consume_again().await;
            }
        };
        tokio::select! {
            () = self.shared.over() => {}
            () = keeping => {}
        }
    }

    async fn consume_again(&self) -> mpsc::Sender<ConsumerQuery> {
        for failures in 0.. {
            match (self.open)(self.queue.clone(), self.bound).await {
                Ok((consumer, task)) => {
                    self.shared.put(self.number, consumer);
                    return task;
                }
                Err(TransportError::NoQueue(_)) if failures == 0 => {
                    let _later = self.router.redeclare().await;
                }
                Err(error) => {
                    debug!(queue = %self.queue.id, %error, "partition is not consumed, trying again");
                }
            }
            sleep(BACKOFF.delay(failures, fastrand::f64())).await;
        }
        unreachable!("it tries for ever")
    }
}

/// Gives parts to other processes when this one has more than its share.
async fn share_out(
    shared: Arc<Shared>,
    router: Arc<Router>,
    processes: Arc<Queue>,
    open: Arc<OpenChannel>,
) {
    let sharing = async {
        for failures in 0.. {
            if let Err(error) = share_over(&shared, &router, &processes, &*open).await {
                debug!(%error, "the processes of a keyed input are unknown");
            }
            sleep(BACKOFF.delay(failures, fastrand::f64())).await;
        }
    };
    tokio::select! {
        () = shared.over() => {}
        () = sharing => {}
    }
}

/// Compares and shares over one channel, whose consumer stands for this process.
async fn share_over(
    shared: &Shared,
    router: &Router,
    processes: &Queue,
    open: &OpenChannel,
) -> Result<(), TransportError> {
    let lost = |error: lapin::Error| TransportError::Lost(error.to_string());
    let name = &processes.name;
    if router.declarer.look(name.clone()).await?.is_none() {
        router.redeclare().await?;
    }
    let channel = open().await.map_err(lost)?;
    let (options, arguments) = (Default::default(), Default::default());
    let consuming = channel.basic_consume(name.clone(), "".into(), options, arguments);
    let mut present = consuming.await.map_err(lost)?;
    let mut share = Share::default();
    loop {
        // Not all processes at once.
        let pause = PERIOD.mul_f64(0.9 + 0.2 * fastrand::f64());
        tokio::select! {
            () = sleep(pause) => share_once(shared, router, name, &mut share).await?,
            delivery = present.next() => match delivery {
                // Nothing of the app: another program put it there.
                Some(Ok(delivery)) => drop(delivery.acker.ack(Default::default()).await),
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(TransportError::Lost(format!("{name} was deleted"))),
            },
        }
    }
}

async fn share_once(
    shared: &Shared,
    router: &Router,
    processes: &ShortString,
    share: &mut Share,
) -> Result<(), TransportError> {
    let counts = router.declarer.look(processes.clone()).await?;
    let count = counts.map_or(0, |counts| counts.consumers);
    let buffers: Vec<_> = shared.state.lock().buffers.clone();
    let held = buffers.iter().enumerate().filter_map(|(number, buffer)| {
        let buffer = buffer.as_ref().filter(|buffer| !buffer.is_ended())?;
        let held_for = buffer.served_for()?;
        Some(Held { number, held_for })
    });
    let held: Vec<Held> = held.collect();
    let surplus = share.surplus(&held, buffers.len(), count);
    let given = surplus.iter().filter_map(|number| {
        let buffer = buffers[*number].as_ref()?;
        Some(async move { (*number, give_up(buffer).await) })
    });
    for (number, is_given) in join_all(given).await {
        if !is_given {
            share.stuck(number);
        }
    }
    Ok(())
}

/// Gives a part up as soon as nothing of it is in flight: the consumer closes its channel, and the next
/// one in the line gets the messages in order. Returns whether it was given up.
async fn give_up(buffer: &PrefetchBuffer) -> bool {
    if buffer.waits_for_suspects() {
        return false;
    }
    buffer.pause(true);
    match timeout(DRAIN_TIMEOUT, buffer.drained()).await {
        Ok(()) => {
            info!(queue = %buffer.queue().id, "giving the partition to another process");
            buffer.stop.notify_one();
            true
        }
        Err(_) => {
            buffer.pause(false);
            false
        }
    }
}

/// Takes from all parts in turns.
pub(super) struct PartsConsumer {
    shared: Arc<Shared>,
    /// `None` while a part is not consumed.
    consumers: Vec<Option<QueueConsumer>>,
    /// The part that is asked first.
    next: usize,
}

impl Consumer for PartsConsumer {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>> {
        if *self.shared.stop.borrow() {
            return Poll::Ready(Err(TransportError::Closed));
        }
        {
            let mut state = self.shared.state.lock();
            for (number, consumer) in state.arrived.drain(..) {
                self.consumers[number] = Some(consumer);
            }
            state.waker = Some(cx.waker().clone());
        }
        if let Err(ended) = self.shared.session_state.check() {
            self.stop();
            return Poll::Ready(Err(ended));
        }
        let (before, parts) = (into.len(), self.consumers.len());
        for offset in 0..parts {
            let number = (self.next + offset) % parts;
            let left = max.saturating_sub(into.len() - before);
            if left == 0 {
                break;
            }
            let slot = &mut self.consumers[number];
            let Some(consumer) = slot else { continue };
            match consumer.poll_take(cx, into, left) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                // Its keeper consumes the part again.
                Poll::Ready(Err(error)) => {
                    debug!(part = number, %error, "consumer of a partition ended");
                    *slot = None;
                }
            }
        }
        self.next = (self.next + 1) % parts.max(1);
        match into.len() > before {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn stop(&mut self) {
        self.shared.stop.send_replace(true);
        for consumer in self.consumers.iter_mut().flatten() {
            consumer.stop();
        }
        self.shared.state.lock().arrived.clear();
    }
}

impl Drop for PartsConsumer {
    fn drop(&mut self) {
        self.stop();
    }
}
