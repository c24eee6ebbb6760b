//! The inbound bridge: an actor that carries deliveries from a transport's queue into
//! a mailbox.
//!
//! It consumes, waits for room in the mailbox, and consumes again when the consumer
//! has ended, for whatever reason, after a back-off, or as soon as a transport that is
//! down works again: a service is never deaf for good. Such a failure is the transport's
//! and doesn't count against the service.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, ResponseFuture};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::actor::Stop;
use super::guard::panic_text;
use super::input_consumer::InputConsumer;
use super::service_run::ServiceRun;
use crate::delivery::Delivery;
use crate::metrics::Cause;
use crate::names::QueueId;
use crate::supervision::History;
use crate::transport::TransportError;

/// How many deliveries are taken at once: enough to share the cost of a wake.
const GROUP: usize = 32;

/// How many groups are carried before others on the thread get a turn.
const ROUNDS_MAX: u32 = 8;

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
        let pump = ConsumeLoop {
            env,
            input,
            stop: self.stop.subscribe(),
        };
        // Beside the actor, not in it: a message needn't go through the actor's own loop.
        tokio::task::spawn_local(async move {
            pump.run().await;
            done.send_replace(true);
        });
    }
}

impl Handler<Stop> for InboundBridge {
    type Result = ResponseFuture<()>;

    /// Stops consuming; what was fetched ahead is given back.
    fn handle(&mut self, _: Stop, cx: &mut Context<Self>) -> ResponseFuture<()> {
        self.stop.send_replace(true);
        let mut done = self.done.subscribe();
        let address = cx.address();
        Box::pin(async move {
            // An actor that is gone is done, too.
            let _gone = done.wait_for(|done| *done).await;
            drop(address);
        })
    }
}

struct ConsumeLoop {
    env: Arc<ServiceRun>,
    input: u16,
    stop: watch::Receiver<bool>,
}

impl ConsumeLoop {
    async fn run(mut self) {
        let origin = Instant::now();
        let mut history = History::default();
        let queue = QueueId::new(&self.env.label, &self.env.inputs[usize::from(self.input)]);
        while !*self.stop.borrow() {
            let bound = self.env.unsettled_max();
            let mut stop = self.stop.clone();
            let consumer = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                consumer = self.env.transport.consume(&queue, bound) => consumer,
            };
            let ended = match consumer {
                Ok(consumer) => {
                    let env = self.env.clone();
                    let tap = &env.taps[usize::from(self.input)];
                    tap.open(consumer);
                    env.pulse.consuming.send_modify(|count| *count += 1);
                    let began = origin.elapsed();
                    // A transport's mistake must not make the service deaf.
                    let ended = AssertUnwindSafe(self.carry(tap)).catch_unwind().await;
                    env.pulse.consuming.send_modify(|count| *count -= 1);
                    if origin.elapsed().saturating_sub(began) >= Duration::from_secs(1) {
                        history.success();
                    }
                    tap.close();
                    ended.unwrap_or_else(|payload| {
                        let text = format!("panicked: {}", panic_text(payload));
                        Some(TransportError::Lost(text))
                    })
                }
                Err(error) => Some(error),
            };
            let Some(error) = ended else { return };
            if self.env.transport_is_down() {
                // Consuming waits until it works again. What is wrong was said.
                self.note(&error);
                let mut stop = self.stop.clone();
                let moment = self.env.settings.restart.policy.backoff.min;
                let _either = timeout(moment, stop.wait_for(|stop| *stop)).await;
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
            // Until the time is over or the bridge stops: both go on.
            let _either = timeout(wait, stop.wait_for(|stop| *stop)).await;
        }
    }

    fn report(&self, queue: &QueueId, error: &TransportError, wait: Duration) {
        let text = self.note(error);
        warn!(%queue, error = %text, ?wait, "the queue is not consumed, trying again");
    }

    fn note(&self, error: &TransportError) -> String {
        let text = self.env.redactor.clean(&error.to_string()).into_owned();
        self.env.meters.restarted(Cause::Bridge);
        self.env.note(Cause::Bridge, &text);
        text
    }

    /// Carries until told to stop (`None`) or the consumer ends.
    ///
    /// One future for all of it: this is on every message's way.
    async fn carry(&mut self, tap: &InputConsumer) -> Option<TransportError> {
        let mut taken: VecDeque<Delivery> = VecDeque::with_capacity(GROUP);
        let mut stop = self.stop.clone();
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        let mut listening = false;
        let mut rounds = 0;
        poll_fn(|cx| {
            // Once it listens it is woken by a change: no need to ask at every message.
            if (!listening || self.stop.has_changed().unwrap_or(true))
                && stopped.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(None);
            }
            listening = true;
            loop {
                // Nothing is taken that doesn't fit: all that this service has is in its
                // mailbox or in hand, where it can be reached from any thread.
                let room = match self.env.mailbox.poll_room(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(0) => return Poll::Ready(None),
                    Poll::Ready(room) => room,
                };
                rounds += 1;
                if rounds % ROUNDS_MAX == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                match tap.poll_take(cx, &mut taken, room.min(GROUP)) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(error)),
                    Poll::Ready(Ok(false)) => return Poll::Ready(None),
                    Poll::Ready(Ok(true)) => {
                        for delivery in &mut taken {
                            delivery.set_input(self.input);
                        }
                        if self.env.mailbox.poll_push(cx, &mut taken).is_pending()
                            || !taken.is_empty()
                        {
                            // It has closed meanwhile: these go back.
                            return Poll::Ready(None);
                        }
                    }
                }
            }
        })
        .await
    }
}

impl ServiceRun {
    /// How much of a queue may be unsettled: what fits into the mailbox, what instances
    /// have in hand, and what waits for its confirms.
    fn unsettled_max(&self) -> usize {
        self.settings.mailbox + self.loops.max * self.batch_max
    }
}
