//! An instance: a loop that owns a value of the service type and pulls deliveries.
//!
//! This is the middle of a message's way. It holds outputs until the handler returns
//! `Ok`, catches every panic, keeps the deadline, settles, and gives its thread up
//! after a bounded turn. It never touches another instance.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{Instrument, error, info_span, warn};

use super::environment::Environment;
use super::guard::{Guard, Guarded, Timer, quietly};
use super::hand::Hand;
use super::mailbox::Pulled;
use super::settle::Failed;
use super::state::LastFailure;
use super::tick::Ticks;
use crate::delivery::{Delivery, Settlement};
use crate::failure::Failure;
use crate::metrics::{Cause, Outcome};
use crate::service::{Batch, Blueprint, Context, Factory, Held, Instance, Role, Tick, Work};
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
    env: Arc<Environment>,
    blueprint: Arc<dyn Blueprint>,
    number: u32,
    hand: Arc<Hand>,
    cx: Context,
    timer: Timer,
    history: History,
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
enum End {
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
                    let end = self.serve(&mut *value).await;
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
        // What a crashed batch left: one at a time, so that only the culprit is blamed.
        while let Some(delivery) = self.hand.take_one() {
            if let Err(end) = self.handle(value, delivery, &mut now).await {
                return end;
            }
        }
        loop {
            let mut waited = false;
            let next = poll_fn(|cx| {
                if let Poll::Ready(tick) = ticks.poll_due(cx) {
                    return Poll::Ready(Next::Tick(tick));
                }
                match self.env.mailbox.poll_pull(cx, self.number as usize) {
                    Poll::Ready(Pulled::Item(delivery)) => Poll::Ready(Next::Delivery(delivery)),
                    Poll::Ready(Pulled::Closed) => Poll::Ready(Next::Close),
                    Poll::Pending => {
                        waited = true;
                        Poll::Pending
                    }
                }
            })
            .await;
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
    async fn handle(
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
            deadline = deadline.min(*now + Duration::from_millis(left) + CLOCK_TOLERANCE);
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
                    if !self.env.succeed(held, reply, || hand.take_one()).await {
                        return Err(fenced());
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
    fn admit(&self, delivery: Delivery) -> Option<Delivery> {
        let message = delivery.message();
        if message.anonymous {
            self.env.meters.anonymous.add(1);
        }
        if let Some(deadline_ms) = message.deadline_ms
            && self.env.clock.unix_ms() > deadline_ms + CLOCK_TOLERANCE.as_millis() as u64
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

    /// Handles one message and those of the same input that come soon after it.
    async fn handle_batch(
        &mut self,
        value: &mut dyn Instance,
        first: Delivery,
        batch: Batch,
    ) -> Result<(), End> {
        let input = first.input();
        let mut deliveries: Vec<Delivery> = self.admit(first).into_iter().collect();
        let until = Instant::now() + batch.within;
        while deliveries.len() < batch.max {
            match self.env.mailbox.pull_if(|next| next.input() == input) {
                Some(delivery) => deliveries.extend(self.admit(delivery)),
                None if Instant::now() >= until || self.env.is_closing() => break,
                None if self.env.mailbox.len() > 0 && self.env.paused_for().is_none() => break,
                None => {
                    // The mailbox wakes this slot when something comes.
                    let number = self.number as usize;
                    let come = poll_fn(|cx| match self.env.mailbox.poll_pull(cx, number) {
                        Poll::Ready(pulled) => Poll::Ready(pulled),
                        Poll::Pending => Poll::Pending,
                    });
                    match tokio::time::timeout_at(until, come).await {
                        Ok(Pulled::Item(delivery)) if delivery.input() == input => {
                            deliveries.extend(self.admit(delivery));
                        }
                        Ok(Pulled::Item(other)) => {
                            // Of another input: it closes the batch and is next.
                            self.batch_of(value, input, deliveries).await?;
                            let mut now = Instant::now();
                            return self.handle(value, other, &mut now).await;
                        }
                        Ok(Pulled::Closed) | Err(_) => break,
                    }
                }
            }
        }
        self.env.mailbox.pass_on(self.number as usize, false);
        self.batch_of(value, input, deliveries).await
    }

    async fn batch_of(
        &mut self,
        value: &mut dyn Instance,
        input: usize,
        mut deliveries: Vec<Delivery>,
    ) -> Result<(), End> {
        if deliveries.len() <= 1 {
            let Some(only) = deliveries.pop() else {
                return Ok(());
            };
            let mut now = Instant::now();
            return self.handle(value, only, &mut now).await;
        }
        let started = Instant::now();
        let deadline = started + self.env.handler_timeout;
        let messages: Vec<_> = deliveries.iter().map(|d| d.message().clone()).collect();
        let meter = &self.env.meters.inputs[input];
        for delivery in &deliveries {
            meter
                .wait
                .record(started.saturating_duration_since(delivery.taken()));
        }
        let work = deliveries
            .iter()
            .map(|d| (d.message().clone(), d.attempt()))
            .collect();
        self.cx.begin(Work::Batch(work));
        self.cx.deadline = Some(deadline);
        self.hand.put_all(deliveries);
        let span = info_span!(
            "handle_batch",
            service = %self.env.label,
            input = %self.env.inputs[input],
            messages = messages.len(),
        );
        let future = value.handle_batch(input, &messages, &mut self.cx);
        let handled = Guard::new(future, &mut self.timer, deadline)
            .instrument(span)
            .await;
        let share = started.elapsed() / messages.len() as u32;
        let held = std::mem::take(&mut self.cx.held);
        let deliveries = self.hand.take_all();
        if deliveries.len() != messages.len() {
            return Err(fenced());
        }
        let crash = match handled {
            Guarded::Done(results) => {
                self.settle_batch(input, deliveries, results, held, share)
                    .await;
                return Ok(());
            }
            Guarded::Panicked(text) => (Cause::Panic, Failed::panic(text)),
            Guarded::TimedOut => (Cause::Timeout, Failed::timeout(&self.env)),
        };
        // Only one of them is to blame, and nobody knows which: each gets a trial of its
        // own, by a fresh instance, before anything counts.
        self.hand.put_all(deliveries.into_iter().rev().collect());
        let (cause, failed) = crash;
        Err(End::Crashed(cause, failed.text))
    }

    async fn settle_batch(
        &mut self,
        input: usize,
        deliveries: Vec<Delivery>,
        results: Vec<Result<(), Failure>>,
        held: Vec<Held>,
        share: Duration,
    ) {
        let mut outputs: Vec<Vec<_>> = Vec::new();
        outputs.resize_with(deliveries.len(), Vec::new);
        for held in held {
            outputs[held.place].push(held);
        }
        for ((delivery, result), held) in deliveries.into_iter().zip(results).zip(outputs) {
            self.env.meters.inputs[input].handle.record(share);
            match result {
                Ok(()) => {
                    self.env.meters.handled(input, Outcome::Ok);
                    self.history.success();
                    if held.is_empty() {
                        delivery.ack();
                    } else {
                        self.env.succeed(held, None, || Some(delivery)).await;
                    }
                }
                Err(failure) => {
                    let failed = Failed::from(failure);
                    self.env.meters.handled(input, failed.outcome());
                    self.env.fail(delivery, &failed);
                }
            }
        }
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

    async fn publish_tick(&mut self, held: Vec<Held>) -> Result<(), End> {
        for held in held {
            let output = held.output;
            let batch = self.env.outgoing(output, held.envelope, held.delay);
            let copies = batch.len() as u64;
            let (done, confirmed) = Completion::channel();
            self.env.publish(batch, done);
            match confirmed.await {
                Ok(()) => self.env.meters.emitted(output, copies),
                Err(error) => return Err(End::Crashed(Cause::Tick, error.to_string())),
            }
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
fn fenced() -> End {
    End::Crashed(Cause::Timeout, "its delivery was taken away".into())
}
