//! The inbound bridge: an actor that moves deliveries from a queue into the mailbox.
//!
//! When the consumer ends, for any reason, the bridge consumes again: after a back-off, or as
//! soon as a transport that was down works again. Such a failure is the transport's and does
//! not count against the service.
//!
//! While the circuit breaker is open, the bridge has no consumer, and the messages that it has
//! taken go back to their queue. While it is half-open, the bridge takes one message at a time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::input_consumer::InputConsumer;
use super::keyed::HELD_MAX;
use super::service_run::ServiceRun;
use crate::delivery::Delivery;
use crate::metrics::Cause;
use crate::names::QueueId;
use crate::panic::panic_text;
use crate::supervision::{BreakerPhase, History};
use crate::transport::TransportError;

/// Maximum deliveries taken at once; they share the cost of one wake-up.
const GROUP: usize = 32;

/// Groups moved before the bridge yields the thread.
const ROUNDS_MAX: u32 = 8;

/// A consumer that worked for this long starts with the first back-off again.
const HEALTHY_AFTER: Duration = Duration::from_secs(1);

/// Stops consuming. Prefetched deliveries are requeued.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct StopConsuming;

/// The bridge of one input.
pub(crate) struct InboundBridge {
    env: Arc<ServiceRun>,
    input: u16,
    stop: watch::Sender<bool>,
    done: watch::Sender<bool>,
}

impl InboundBridge {
    pub(crate) fn new(env: Arc<ServiceRun>, input: u16) -> Self {
        Self {
            env,
            input,
            stop: watch::Sender::new(false),
            done: watch::Sender::new(false),
        }
    }
}

impl Actor for InboundBridge {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        let (env, input, done) = (self.env.clone(), self.input, self.done.clone());
        let consume_loop = ConsumeLoop {
            breaker: env.breaker_changes(),
            env,
            input,
            stop: self.stop.subscribe(),
        };
        // A task of its own: deliveries do not pass through the loop of the actor.
        tokio::task::spawn_local(async move {
            consume_loop.run().await;
            done.send_replace(true);
        });
    }
}

impl Handler<StopConsuming> for InboundBridge {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopConsuming, cx: &mut Context<Self>) -> ResponseFuture<()> {
        self.stop.send_replace(true);
        let mut done = self.done.subscribe();
        let address = cx.address();
        Box::pin(async move {
            // An error means that the actor is gone, so the loop has ended too.
            let _gone = done.wait_for(|done| *done).await;
            drop(address);
        })
    }
}

struct ConsumeLoop {
    env: Arc<ServiceRun>,
    input: u16,
    stop: watch::Receiver<bool>,
    /// `None` without a circuit breaker.
    breaker: Option<watch::Receiver<BreakerPhase>>,
}

/// The reason for the end of a consumer.
enum Ended {
    /// The bridge stops.
    Stopped,
    /// The breaker has opened or closed: the consumer needs another bound.
    Breaker,
    Failed(TransportError),
}

impl ConsumeLoop {
    async fn run(mut self) {
        let origin = Instant::now();
        let mut history = History::default();
        let queue = QueueId::new(&self.env.label, &self.env.inputs[usize::from(self.input)]);
        while !*self.stop.borrow() {
            let mut stop = self.stop.clone();
            let is_closed = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                is_closed = self.breaker_admits() => is_closed,
            };
            let bound = match is_closed || self.env.keyed.is_some() {
                true => self.env.unsettled_max(),
                // With keys, the next message may be one that waits behind its key.
                false => 1,
            };
            let consumer = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                consumer = self.env.transport.consume(&queue, bound) => consumer,
            };
            let ended = match consumer {
                Ok(consumer) => {
                    let env = self.env.clone();
                    let consumer_slot = &env.consumers[usize::from(self.input)];
                    consumer_slot.open(consumer);
                    env.liveness.consuming.send_modify(|count| *count += 1);
                    let began = origin.elapsed();
                    // A panic of the transport must not end the bridge.
                    let ended = AssertUnwindSafe(self.consume(consumer_slot, is_closed))
                        .catch_unwind()
                        .await;
                    env.liveness.consuming.send_modify(|count| *count -= 1);
                    if origin.elapsed().saturating_sub(began) >= HEALTHY_AFTER {
                        history.success();
                    }
                    consumer_slot.close();
                    ended.unwrap_or_else(|payload| {
                        let text = format!("panicked: {}", panic_text(payload));
                        Ended::Failed(TransportError::Lost(text))
                    })
                }
                Err(error) => Ended::Failed(error),
            };
            let error = match ended {
                Ended::Stopped => return,
                Ended::Breaker => continue,
                Ended::Failed(error) => error,
            };
            // They come again, so that a later one must not overtake them.
            self.env.requeue_waiting(usize::from(self.input));
            if self.env.transport_is_down() {
                // `consume` waits until the transport works; it logs its failure itself.
                self.note(&error);
                let mut stop = self.stop.clone();
                let wait = self.env.settings.restart.policy.backoff.min;
                let _either = timeout(wait, stop.wait_for(|stop| *stop)).await;
                continue;
            }
            let (restart, next) = history.failure(
                &self.env.settings.restart.policy,
                origin.elapsed(),
                fastrand::f64(),
            );
            history = next;
            let wait = restart.wait();
            self.report(&queue, &error, wait);
            let mut stop = self.stop.clone();
            // Both ends of the wait mean the same: go on.
            let _either = timeout(wait, stop.wait_for(|stop| *stop)).await;
        }
    }

    /// Waits until the breaker is not open. Returns whether it is closed; otherwise it is
    /// half-open.
    async fn breaker_admits(&mut self) -> bool {
        let Some(breaker) = &mut self.breaker else {
            return true;
        };
        if *breaker.borrow() == BreakerPhase::Open {
            // This bridge has no consumer now, so the messages don't come back to it at once.
            self.env.requeue_waiting(usize::from(self.input));
        }
        // Never an error: the service holds the sender.
        let admits = breaker.wait_for(|phase| *phase != BreakerPhase::Open);
        admits
            .await
            .is_ok_and(|phase| *phase == BreakerPhase::Closed)
    }

    fn report(&self, queue: &QueueId, error: &TransportError, wait: Duration) {
        let text = self.note(error);
        warn!(%queue, error = %text, ?wait, "consumer ended, consuming again");
    }

    fn note(&self, error: &TransportError) -> String {
        let text = self.env.redactor.clean(&error.to_string()).into_owned();
        self.env.meters.restarted(Cause::Bridge);
        self.env.note(Cause::Bridge, &text);
        text
    }

    /// Moves deliveries until the bridge stops, the breaker changes, or the consumer ends.
    ///
    /// One hand-written future, because every message passes here.
    async fn consume(&mut self, consumer: &InputConsumer, breaker_is_closed: bool) -> Ended {
        let mut taken: VecDeque<Delivery> = VecDeque::with_capacity(GROUP);
        let mut stop = self.stop.clone();
        let keyed = self.env.keyed.is_some();
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        let mut breaker_changed = pin!(leaves(self.breaker.clone(), breaker_is_closed, keyed));
        let mut listening = false;
        let mut rounds = 0;
        let rank = self.env.ranks[usize::from(self.input)];
        poll_fn(|cx| {
            // After the first poll a stop wakes this task: no need to poll at each message.
            if (!listening || self.stop.has_changed().unwrap_or(true))
                && stopped.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ended::Stopped);
            }
            let has_changed = |breaker: &watch::Receiver<_>| breaker.has_changed().unwrap_or(true);
            if (!listening || self.breaker.as_ref().is_some_and(has_changed))
                && breaker_changed.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ended::Breaker);
            }
            listening = true;
            loop {
                // Takes only deliveries that fit into the mailbox, where a revocation from
                // another thread can take them.
                let room = match self.env.poll_room(cx, rank) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(0) => return Poll::Ready(Ended::Stopped),
                    Poll::Ready(room) => room,
                };
                rounds += 1;
                if rounds % ROUNDS_MAX == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                match consumer.poll_take(cx, &mut taken, room.min(GROUP)) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Ended::Failed(error)),
                    Poll::Ready(Ok(false)) => return Poll::Ready(Ended::Stopped),
                    Poll::Ready(Ok(true)) => {
                        for delivery in &mut taken {
                            delivery.set_input(self.input);
                        }
                        if !self.env.take_in(cx, rank, &mut taken) {
                            // The mailbox was closed: the rest is requeued by its drop.
                            return Poll::Ready(Ended::Stopped);
                        }
                    }
                }
            }
        })
        .await
    }
}

/// Resolves when the breaker is no longer closed, or no longer half-open; with keys, when it is
/// open: the bound of the consumer is the same in the other phases.
async fn leaves(breaker: Option<watch::Receiver<BreakerPhase>>, closed: bool, keyed: bool) {
    let Some(mut breaker) = breaker else {
        return std::future::pending().await;
    };
    let left = breaker.wait_for(|phase| match phase {
        BreakerPhase::Open => true,
        BreakerPhase::Closed => !closed && !keyed,
        BreakerPhase::HalfOpen | BreakerPhase::Probing => closed && !keyed,
    });
    // Never an error: the service holds the sender.
    let _changed = left.await;
}

impl ServiceRun {
    /// Returns the maximum unsettled deliveries of a queue: the capacity of the mailbox, the
    /// messages in flight, and those that wait behind their keys.
    fn unsettled_max(&self) -> usize {
        let held = self.keyed.as_ref().map_or(0, |_| HELD_MAX);
        self.settings.mailbox + self.loops.max * self.batch_max + held
    }
}
