//! An instance: a loop that owns a value of the service type and pulls deliveries.
//!
//! This is the middle of a message's way. It holds outputs until the handler returns
//! `Ok`, catches every panic, keeps the deadline, settles, and gives its thread up
//! after a bounded turn. It never touches another instance.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, error, info_span, warn};

use super::guard::{HandlerGuard, HandlerOutcome, Timer, panic_text, quietly};
use super::handle::fenced;
use super::in_flight::InFlight;
use super::mailbox::Pulled;
use super::service_run::ServiceRun;
use super::settlement::{AttemptFailure, NOT_PUBLISHED_WAIT_MIN};
use super::tick::Ticks;
use crate::delivery::Delivery;
use crate::metrics::{Cause, Who};
use crate::service::{
    ConfiguredType, Context, Instance, InstanceFactory, Kind, PendingEmit, Tick, Work,
};
use crate::supervision::{History, Restart};
use crate::transport::Completion;

/// A turn ends after this many messages,
const TURN_MESSAGES: u32 = 64;
/// or after this time, whichever comes first.
const TURN_TIME: Duration = Duration::from_micros(500);

/// The loop of one instance.
pub(crate) struct InstanceLoop {
    pub(super) env: Arc<ServiceRun>,
    blueprint: Arc<dyn ConfiguredType>,
    pub(super) number: u32,
    pub(super) hand: Arc<InFlight>,
    pub(super) cx: Context,
    pub(super) timer: Timer,
    pub(super) history: History,
    /// The message that was in hand at a crash had been tried before.
    pub(super) tried_before: bool,
}

/// What there is to do.
enum Next {
    Delivery(Delivery),
    Tick(Tick),
    End(End),
}

/// Why an instance can't go on.
pub(super) enum End {
    /// The service stops.
    Closed,
    /// The service is to have fewer instances.
    Retired,
    /// It must be built anew.
    Crashed(Cause, String),
}

/// One stretch of work, without giving the thread up.
struct Turn {
    started: Instant,
    messages: u32,
}

impl Turn {
    fn new(now: Instant) -> Self {
        Self {
            started: now,
            messages: 0,
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        self.messages += 1;
        self.messages >= TURN_MESSAGES || now.duration_since(self.started) >= TURN_TIME
    }
}

impl InstanceLoop {
    pub(crate) fn new(
        env: Arc<ServiceRun>,
        blueprint: Arc<dyn ConfiguredType>,
        number: u32,
    ) -> Self {
        let who = Who {
            service: env.number,
            instance: number,
        };
        Self {
            cx: Context::new(env.clone(), number),
            hand: env.hand(number),
            timer: Timer::new(env.worker.clone(), who),
            env,
            blueprint,
            number,
            history: History::default(),
            tried_before: false,
        }
    }

    /// Runs until the service closes or needs this instance no more.
    pub(crate) async fn run(mut self) {
        let (env, blueprint) = (self.env.clone(), self.blueprint.clone());
        let Kind::Service(factory) = blueprint.role() else {
            unreachable!("only services have instances")
        };
        let working = env.pulse.work();
        let mut first = true;
        let left = loop {
            let started = Box::pin(self.start(factory)).await;
            if std::mem::take(&mut first) {
                env.pulse.first_start_ended();
            }
            let (end, value) = match started {
                Ok(mut value) => {
                    env.pulse.ready.fetch_add(1, Relaxed);
                    // Handlers are guarded one by one; this is for mistakes of our own.
                    let serving = AssertUnwindSafe(self.serve(&mut *value)).catch_unwind();
                    let end = serving
                        .await
                        .unwrap_or_else(|payload| End::Crashed(Cause::Panic, panic_text(payload)));
                    env.pulse.ready.fetch_sub(1, Relaxed);
                    (end, Some(value))
                }
                Err(end) => (end, None),
            };
            match end {
                End::Closed => break value,
                End::Retired => {
                    env.mailbox.pass_on(self.number as usize, true);
                    if let Some(value) = value {
                        Box::pin(self.leave(value)).await;
                    }
                    return;
                }
                End::Crashed(cause, text) => {
                    // The hook has logged it if its drop panics.
                    let _logged = quietly(move || drop(value));
                    if env.is_fenced() {
                        break None;
                    }
                    Box::pin(self.wait_for_restart(cause, text)).await;
                }
            }
        };
        env.mailbox.pass_on(self.number as usize, true);
        for delivery in self.hand.take_all() {
            delivery.nack_requeue();
        }
        drop(working);
        if let Some(value) = left {
            env.may_leave().await;
            Box::pin(self.leave(value)).await;
        }
    }

    /// The value's last moments. One whose thread was given up gets none: another has
    /// taken its place already.
    async fn leave(&mut self, mut value: Box<dyn Instance>) {
        if !self.env.is_fenced() {
            self.stop(&mut *value).await;
        }
        // The hook has logged it if its drop panics.
        let _logged = quietly(move || drop(value));
    }

    /// Builds the value.
    async fn start(&mut self, factory: &dyn InstanceFactory) -> Result<Box<dyn Instance>, End> {
        if self.env.is_closing() {
            return Err(End::Closed);
        }
        self.cx.begin(Work::None);
        if self.env.stores.is_some() {
            let opened = self.env.open_store(factory.migrations()).await;
            if let Err(failure) = opened {
                return Err(End::Crashed(Cause::Start, failure.text().to_owned()));
            }
        }
        let deadline = Instant::now() + self.env.settings.handler_timeout;
        self.cx.deadline = Some(deadline);
        let text =
            match HandlerGuard::new(factory.start(&mut self.cx), &mut self.timer, deadline).await {
                HandlerOutcome::Done(Ok(value)) => return Ok(value),
                HandlerOutcome::Done(Err(failure)) => failure.text().to_owned(),
                HandlerOutcome::Panicked(text) => AttemptFailure::panic(text).text,
                HandlerOutcome::TimedOut => AttemptFailure::timeout(&self.env).text,
            };
        Err(End::Crashed(Cause::Start, text))
    }

    /// Counts the failure and waits as the restart policy says, or until closing.
    async fn wait_for_restart(&mut self, cause: Cause, text: String) {
        let env = self.env.clone();
        let text = env.redactor.clean(&text).into_owned();
        env.meters.restarted(cause);
        env.mailbox.pass_on(self.number as usize, false);
        // With a message in hand it is that message's failure, and its retries are its own
        // too: they wait by themselves, and hold nobody up. Only when one message after the
        // other fails, with no success in between, is it the instance's.
        let with_message = matches!(cause, Cause::Panic | Cause::Timeout);
        let (mut charged, mut wait) = (!with_message, Duration::ZERO);
        if !with_message || !self.tried_before {
            let now = env.origin.elapsed();
            let (restart, history) =
                self.history
                    .failure(&env.settings.restart.policy, now, fastrand::f64());
            self.history = history;
            charged |= history.in_a_row > 1;
            if let Restart::After(time) = restart {
                wait = time;
            }
        }
        let goes_on = !charged || env.charge(cause, &text);
        if goes_on {
            warn!(
                service = %env.label,
                instance = self.number,
                cause = cause.as_str(),
                error = %text,
                ?wait,
                "instance is built anew"
            );
        }
        if !with_message {
            // Others are kept with their message.
            env.note(cause, &text);
        }
        if !goes_on {
            env.closed().await;
        } else if !wait.is_zero() {
            // Until the time is over or the service closes: both go on.
            let _either = timeout(wait, env.closed()).await;
        }
    }

    /// Pulls and handles, turn by turn.
    async fn serve(&mut self, value: &mut dyn Instance) -> End {
        let blueprint = self.blueprint.clone();
        let table = blueprint.ports();
        let mut ticks = Ticks::new(&table.ticks);
        let mut now = Instant::now();
        let mut turn = Turn::new(now);
        let mut ticked = false;
        // What a crashed batch left: one at a time, so that only the culprit is blamed.
        while let Some(delivery) = self.hand.take_one() {
            if let Err(end) = self.handle(value, delivery, &mut now).await {
                return end;
            }
        }
        loop {
            let mut waited = false;
            let next = poll_fn(|cx| {
                // After a tick a message is next, or ticks slower than their period would
                // leave messages no turn.
                if !ticked && let Poll::Ready(tick) = ticks.poll_due(cx) {
                    return Poll::Ready(Next::Tick(tick));
                }
                match self.env.mailbox.poll_pull(cx, self.number as usize) {
                    Poll::Ready(Pulled::Item(delivery)) => Poll::Ready(Next::Delivery(delivery)),
                    Poll::Ready(Pulled::Closed) => Poll::Ready(Next::End(End::Closed)),
                    Poll::Ready(Pulled::Retired) => Poll::Ready(Next::End(End::Retired)),
                    Poll::Pending => {
                        if ticked && let Poll::Ready(tick) = ticks.poll_due(cx) {
                            return Poll::Ready(Next::Tick(tick));
                        }
                        waited = true;
                        Poll::Pending
                    }
                }
            })
            .await;
            ticked = matches!(next, Next::Tick(_));
            if waited {
                now = Instant::now();
                turn = Turn::new(now);
            }
            let crashed = match next {
                Next::End(end) => return end,
                Next::Tick(tick) => {
                    let crashed = Box::pin(self.tick(value, tick)).await;
                    now = Instant::now();
                    crashed
                }
                Next::Delivery(delivery) => match table.inputs[delivery.input()].batch {
                    None => self.handle(value, delivery, &mut now).await,
                    Some(batch) => {
                        let crashed = Box::pin(self.handle_batch(value, delivery, batch)).await;
                        now = Instant::now();
                        crashed
                    }
                },
            };
            if let Err(end) = crashed {
                return end;
            }
            if turn.is_over(now) {
                tokio::task::yield_now().await;
                now = Instant::now();
                turn = Turn::new(now);
            }
        }
    }

    async fn tick(&mut self, value: &mut dyn Instance, tick: Tick) -> Result<(), End> {
        // A message that this instance was woken for need not wait for the tick.
        self.env.mailbox.pass_on(self.number as usize, false);
        let deadline = Instant::now() + self.env.settings.handler_timeout;
        self.cx.begin(Work::Tick);
        self.cx.deadline = Some(deadline);
        let span = info_span!("tick", service = %self.env.label, tick = tick.name());
        let future = value.tick(tick, &mut self.cx);
        let text = match HandlerGuard::new(future, &mut self.timer, deadline)
            .instrument(span)
            .await
        {
            _ if self.env.is_fenced() => return Err(fenced()),
            HandlerOutcome::Done(Ok(())) => {
                self.history.success();
                let held = std::mem::take(&mut self.cx.held);
                return self.publish_tick(held).await;
            }
            HandlerOutcome::Done(Err(failure)) => failure.text().to_owned(),
            HandlerOutcome::Panicked(text) => AttemptFailure::panic(text).text,
            HandlerOutcome::TimedOut => AttemptFailure::timeout(&self.env).text,
        };
        Err(End::Crashed(Cause::Tick, text))
    }

    /// Publishes what a tick emitted. If the transport can't, that is not the tick's
    /// fault: tried again, under the same ids, until it can or the service stops.
    async fn publish_tick(&mut self, held: Vec<PendingEmit>) -> Result<(), End> {
        let mut batch = Vec::new();
        let mut counts = Vec::new();
        for held in held {
            let copies = self.env.outgoing(held.output, held.envelope, held.delay);
            counts.push((held.output, copies.len() as u64));
            batch.extend(copies);
        }
        if batch.is_empty() {
            return Ok(());
        }
        for nth in 0.. {
            let (done, confirmed) = Completion::channel();
            self.env.publish(batch.clone(), done);
            let Err(error) = confirmed.await else { break };
            if self.env.is_closing() || error.is_permanent() {
                return Err(End::Crashed(Cause::Tick, error.to_string()));
            }
            if self.env.transport_is_down() {
                // Whatever the back-off: messages wait behind this as soon as it works.
                tokio::select! {
                    () = self.env.transport_works() => {}
                    () = self.env.closed() => {}
                }
                continue;
            }
            warn!(service = %self.env.label, %error, "a tick's outputs were not published, trying again");
            let wait = self.env.settings.retry.backoff.delay(nth, fastrand::f64());
            let wait = wait.max(NOT_PUBLISHED_WAIT_MIN);
            // Until the time is over or the service closes: both go on.
            let _either = timeout(wait, self.env.closed()).await;
        }
        for (output, copies) in counts {
            self.env.meters.emitted(output, copies);
        }
        Ok(())
    }

    async fn stop(&mut self, value: &mut dyn Instance) {
        self.cx.begin(Work::None);
        let deadline = Instant::now() + self.env.settings.handler_timeout;
        self.cx.deadline = Some(deadline);
        let text =
            match HandlerGuard::new(value.stop(&mut self.cx), &mut self.timer, deadline).await {
                HandlerOutcome::Done(Ok(())) => return,
                HandlerOutcome::Done(Err(failure)) => failure.text().to_owned(),
                HandlerOutcome::Panicked(text) => AttemptFailure::panic(text).text,
                HandlerOutcome::TimedOut => AttemptFailure::timeout(&self.env).text,
            };
        let text = self.env.redactor.clean(&text);
        error!(service = %self.env.label, instance = self.number, error = %text, "stop failed");
    }
}
