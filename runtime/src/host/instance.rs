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

use super::environment::Environment;
use super::guard::{Guard, Guarded, Timer, panic_text, quietly};
use super::hand::Hand;
use super::mailbox::Pulled;
use super::settle::{Failed, NOT_PUBLISHED_WAIT_MIN};
use super::state::LastFailure;
use super::tick::Ticks;
use crate::delivery::{Delivery, Settlement};
use crate::failure::Failure;
use crate::metrics::{Cause, Outcome};
use crate::service::{Blueprint, Context, Factory, Held, Instance, Role, Tick, Work};
use crate::supervision::{History, Restart};
use crate::transport::Completion;

/// A turn ends after this many messages,
const TURN_MESSAGES: u32 = 64;
/// or after this time, whichever comes first.
const TURN_TIME: Duration = Duration::from_micros(500);

/// How much clocks of machines may differ before deadlines suffer.
pub const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

/// The loop of one instance.
pub(crate) struct InstanceLoop {
    pub(super) env: Arc<Environment>,
    blueprint: Arc<dyn Blueprint>,
    pub(super) number: u32,
    pub(super) hand: Arc<Hand>,
    pub(super) cx: Context,
    pub(super) timer: Timer,
    pub(super) history: History,
    /// When the loop began: restart decisions count from here.
    origin: Instant,
}

/// What there is to do.
enum Next {
    Delivery(Delivery),
    Tick(Tick),
    Close,
}

/// Why an instance can't go on.
pub(super) enum End {
    /// The service stops.
    Closed,
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
    pub(crate) fn new(env: Arc<Environment>, blueprint: Arc<dyn Blueprint>, number: u32) -> Self {
        let hand = Arc::new(Hand::default());
        env.hands.lock().push(hand.clone());
        Self {
            cx: Context::new(env.clone(), number),
            env,
            blueprint,
            number,
            hand,
            timer: Timer::default(),
            history: History::default(),
            origin: Instant::now(),
        }
    }

    /// Runs until the service closes.
    pub(crate) async fn run(mut self) {
        let blueprint = self.blueprint.clone();
        let Role::Service(factory) = blueprint.role() else {
            unreachable!("only services have instances")
        };
        let mut first = true;
        loop {
            let started = Box::pin(self.start(factory)).await;
            if std::mem::take(&mut first) {
                self.env.state.first_start_ended();
            }
            let end = match started {
                Ok(mut value) => {
                    self.env.state.ready.fetch_add(1, Relaxed);
                    // Handlers are guarded one by one; this is for mistakes of our own.
                    let serving = AssertUnwindSafe(self.serve(&mut *value)).catch_unwind();
                    let end = serving
                        .await
                        .unwrap_or_else(|payload| End::Crashed(Cause::Panic, panic_text(payload)));
                    self.env.state.ready.fetch_sub(1, Relaxed);
                    if let End::Closed = end {
                        Box::pin(self.stop(&mut *value)).await;
                    }
                    // The hook has logged it if its drop panics.
                    let _logged = quietly(move || drop(value));
                    end
                }
                Err(end) => end,
            };
            match end {
                End::Closed => break,
                End::Crashed(cause, text) => Box::pin(self.wait_for_restart(cause, text)).await,
            }
        }
        self.env.mailbox.pass_on(self.number as usize, true);
        for delivery in self.hand.take_all() {
            delivery.give_back();
        }
    }

    /// Builds the value.
    async fn start(&mut self, factory: &dyn Factory) -> Result<Box<dyn Instance>, End> {
        if self.env.is_closing() {
            return Err(End::Closed);
        }
        self.cx.begin(Work::None);
        let deadline = Instant::now() + self.env.handler_timeout;
        self.cx.deadline = Some(deadline);
        let text = match Guard::new(factory.start(&mut self.cx), &mut self.timer, deadline).await {
            Guarded::Done(Ok(value)) => return Ok(value),
            Guarded::Done(Err(failure)) => failure.text().to_owned(),
            Guarded::Panicked(text) => Failed::panic(text).text,
            Guarded::TimedOut => Failed::timeout(&self.env).text,
        };
        Err(End::Crashed(Cause::Start, text))
    }

    /// Counts the failure and waits as the restart policy says, or until closing.
    async fn wait_for_restart(&mut self, cause: Cause, text: String) {
        let text = self.env.redactor.clean(&text).into_owned();
        self.env.meters.restarted(cause);
        let now = self.origin.elapsed();
        let (restart, history) = self
            .history
            .failure(&self.env.restart, now, fastrand::f64());
        self.history = history;
        self.env.mailbox.pass_on(self.number as usize, false);
        let wait = match restart {
            Restart::Now => Duration::ZERO,
            Restart::After(wait) => wait,
        };
        warn!(
            service = %self.env.label,
            instance = self.number,
            cause = cause.as_str(),
            error = %text,
            ?wait,
            "instance is built anew"
        );
        if cause == Cause::Start || cause == Cause::Tick {
            // Others failed with a message in hand: they are kept with it.
            self.env.state.failed(LastFailure {
                time_ms: self.env.clock.unix_ms(),
                what: cause.as_str(),
                text,
                message: None,
                attempt: None,
            });
        }
        if !wait.is_zero() {
            // Until the time is over or the service closes: both go on.
            let _either = timeout(wait, self.env.closed()).await;
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
                    Poll::Ready(Pulled::Closed) => Poll::Ready(Next::Close),
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
                Next::Close => return End::Closed,
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

    /// Handles one delivery. `now` is when the last piece of work ended, and is moved on.
    pub(super) async fn handle(
        &mut self,
        value: &mut dyn Instance,
        delivery: Delivery,
        now: &mut Instant,
    ) -> Result<(), End> {
        let input = delivery.input();
        let meter = &self.env.meters.inputs[input];
        meter
            .wait
            .record(now.saturating_duration_since(delivery.taken()));
        let Some(delivery) = self.admit(delivery) else {
            return Ok(());
        };
        let message = delivery.message().clone();
        let mut deadline = *now + self.env.handler_timeout;
        if let Some(deadline_ms) = message.deadline_ms {
            let left = deadline_ms.saturating_sub(self.env.clock.unix_ms());
            let left = Duration::from_millis(left).saturating_add(CLOCK_TOLERANCE);
            deadline = now
                .checked_add(left)
                .map_or(deadline, |asked| asked.min(deadline));
        }
        self.cx
            .begin(Work::Message(message.clone(), delivery.attempt()));
        self.cx.deadline = Some(deadline);
        self.hand.put(delivery);
        let handled = {
            let future = value.handle(input, &message, &mut self.cx);
            let guard = Guard::new(future, &mut self.timer, deadline);
            let span = info_span!(
                "handle",
                service = %self.env.label,
                input = %self.env.inputs[input],
                id = %message.id,
                trace = %message.trace(),
            );
            if span.is_disabled() {
                guard.await
            } else {
                guard.instrument(span).await
            }
        };
        let end = Instant::now();
        let meter = &self.env.meters.inputs[input];
        meter.handle.record(end.duration_since(*now));
        *now = end;
        let (failed, crash) = match handled {
            Guarded::Done(Ok(reply)) => {
                if self.cx.held.is_empty() {
                    let Some(delivery) = self.hand.take_one() else {
                        return Err(fenced());
                    };
                    delivery.settle(Settlement::Ack(reply.map(Ok)));
                } else {
                    let held = std::mem::take(&mut self.cx.held);
                    let hand = &self.hand;
                    let waits = self.env.window.available_permits() == 0;
                    if !self.env.succeed(held, reply, || hand.take_one()).await {
                        return Err(fenced());
                    }
                    if waits {
                        // The time that passed is not the next message's.
                        *now = Instant::now();
                    }
                }
                self.env.meters.handled(input, Outcome::Ok);
                self.history.success();
                return Ok(());
            }
            Guarded::Done(Err(failure)) => (Failed::from(failure), None),
            Guarded::Panicked(text) => (Failed::panic(text), Some(Cause::Panic)),
            Guarded::TimedOut => (Failed::timeout(&self.env), Some(Cause::Timeout)),
        };
        let Some(delivery) = self.hand.take_one() else {
            return Err(fenced());
        };
        self.env.meters.handled(input, failed.outcome());
        self.env.fail(delivery, &failed);
        match crash {
            Some(cause) => Err(End::Crashed(cause, failed.text)),
            None => Ok(()),
        }
    }

    /// Lets a delivery in, unless nobody waits for its answer any more or it is too
    /// large.
    pub(super) fn admit(&self, delivery: Delivery) -> Option<Delivery> {
        let message = delivery.message();
        if message.anonymous {
            self.env.meters.anonymous.add(1);
        }
        if let Some(deadline_ms) = message.deadline_ms
            && self.env.clock.unix_ms()
                > deadline_ms.saturating_add(CLOCK_TOLERANCE.as_millis() as u64)
        {
            self.env.meters.handled(delivery.input(), Outcome::Expired);
            delivery.ack();
            return None;
        }
        let (size, max) = (message.payload.len(), self.env.message_bytes_max);
        if size > max {
            let text = format!("the payload has {size} bytes, app.max_message allows {max}");
            self.env.meters.handled(delivery.input(), Outcome::Reject);
            self.env.fail(delivery, &Failure::reject(text).into());
            return None;
        }
        Some(delivery)
    }

    async fn tick(&mut self, value: &mut dyn Instance, tick: Tick) -> Result<(), End> {
        // A message that this instance was woken for need not wait for the tick.
        self.env.mailbox.pass_on(self.number as usize, false);
        let deadline = Instant::now() + self.env.handler_timeout;
        self.cx.begin(Work::Tick);
        self.cx.deadline = Some(deadline);
        let span = info_span!("tick", service = %self.env.label, tick = tick.name());
        let future = value.tick(tick, &mut self.cx);
        let text = match Guard::new(future, &mut self.timer, deadline)
            .instrument(span)
            .await
        {
            Guarded::Done(Ok(())) => {
                self.history.success();
                let held = std::mem::take(&mut self.cx.held);
                return self.publish_tick(held).await;
            }
            Guarded::Done(Err(failure)) => failure.text().to_owned(),
            Guarded::Panicked(text) => Failed::panic(text).text,
            Guarded::TimedOut => Failed::timeout(&self.env).text,
        };
        Err(End::Crashed(Cause::Tick, text))
    }

    /// Publishes what a tick emitted. If the transport can't, that is not the tick's
    /// fault: tried again, under the same ids, until it can or the service stops.
    async fn publish_tick(&mut self, held: Vec<Held>) -> Result<(), End> {
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
            warn!(service = %self.env.label, %error, "a tick's outputs were not published, trying again");
            if self.env.is_closing() {
                return Err(End::Crashed(Cause::Tick, error.to_string()));
            }
            let wait = self.env.retry.backoff.delay(nth, fastrand::f64());
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
        let deadline = Instant::now() + self.env.handler_timeout;
        self.cx.deadline = Some(deadline);
        let text = match Guard::new(value.stop(&mut self.cx), &mut self.timer, deadline).await {
            Guarded::Done(Ok(())) => return,
            Guarded::Done(Err(failure)) => failure.text().to_owned(),
            Guarded::Panicked(text) => Failed::panic(text).text,
            Guarded::TimedOut => Failed::timeout(&self.env).text,
        };
        let text = self.env.redactor.clean(&text);
        error!(service = %self.env.label, instance = self.number, error = %text, "stop failed");
    }
}

/// Somebody took the delivery out of this instance's hand: it must not go on.
pub(super) fn fenced() -> End {
    End::Crashed(Cause::Timeout, "its delivery was taken away".into())
}
