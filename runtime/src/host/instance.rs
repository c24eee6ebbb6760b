//! An instance: a loop that owns a value of the service type and pulls deliveries.
//!
//! The loop catches every panic, enforces deadlines, settles messages, and yields its thread
//! after a bounded turn. It never touches another instance.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, debug, error, info_span, warn};

use super::guard::{HandlerGuard, HandlerOutcome, Timer};
use super::in_flight::InFlight;
use super::mailbox::Pulled;
use super::service_run::ServiceRun;
use super::settlement::{AttemptFailure, PUBLISH_RETRY_MIN};
use super::tick::Ticks;
use crate::delivery::Delivery;
use crate::events::follows_from_event;
use crate::failure::Failure;
use crate::metrics::{Cause, InstanceRef};
use crate::panic::{catch_panic, panic_text};
use crate::service::{
    ConfiguredType, Context, Instance, InstanceFactory, Kind, PendingEmit, Tick, Work,
};
use crate::supervision::{History, OnPanic};
use crate::transport::Completion;

/// Maximum messages per turn.
const TURN_MESSAGES: u32 = 64;
/// Maximum duration of a turn.
const TURN_TIME: Duration = Duration::from_micros(500);

/// The loop of one instance.
pub(crate) struct InstanceLoop {
    pub(super) env: Arc<ServiceRun>,
    blueprint: Arc<dyn ConfiguredType>,
    pub(super) number: u32,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) cx: Context,
    pub(super) timer: Timer,
    pub(super) history: History,
}

/// The next work of an instance.
enum Next {
    Delivery(Delivery),
    Tick(Tick),
    End(End),
}

/// The reason for the end of an instance.
pub(super) enum End {
    /// The service stops.
    Closed,
    /// The service scales down.
    Retired,
    /// The instance failed by itself: its value must be created again.
    Crashed(Cause, String),
    /// A message failed in a way that breaks the value: it must be created again.
    Broken(Cause, String),
}

impl End {
    /// Another thread took the delivery of this instance: its results no longer count.
    pub(super) fn revoked() -> Self {
        Self::Broken(Cause::Timeout, "its delivery was taken away".into())
    }
}

/// A stretch of work without a yield.
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
        let owner = InstanceRef {
            service: env.number,
            instance: number,
        };
        Self {
            cx: Context::new(env.publisher.clone(), env.control.clone(), number),
            in_flight: env.in_flight_of(number),
            timer: Timer::new(env.worker.clone(), owner),
            env,
            blueprint,
            number,
            history: History::default(),
        }
    }

    /// Runs until the service stops or scales down.
    pub(crate) async fn run(mut self) {
        let (env, blueprint) = (self.env.clone(), self.blueprint.clone());
        let Kind::Service(factory) = blueprint.role() else {
            unreachable!("only services have instances")
        };
        let busy = env.liveness.work();
        let mut first = true;
        let last_value = loop {
            let started = Box::pin(self.start(factory)).await;
            if std::mem::take(&mut first) {
                env.liveness.first_start_ended();
            }
            let (end, value) = match started {
                Ok(mut value) => {
                    env.liveness.ready.fetch_add(1, Relaxed);
                    env.is_up();
                    // Handlers have guards of their own; this one is for bugs of the host.
                    let serving = AssertUnwindSafe(self.serve(&mut *value)).catch_unwind();
                    let end = serving
                        .await
                        .unwrap_or_else(|payload| End::Crashed(Cause::Panic, panic_text(payload)));
                    env.liveness.ready.fetch_sub(1, Relaxed);
                    (end, Some(value))
                }
                Err(end) => (end, None),
            };
            match end {
                End::Closed => break value,
                End::Retired => {
                    env.mailbox.pass_on(self.number as usize, true);
                    if let Some(value) = value {
                        Box::pin(self.stop_and_drop(value)).await;
                    }
                    return;
                }
                End::Crashed(cause, text) => {
                    // The panic hook has logged a panic of the drop.
                    let _logged = catch_panic(move || drop(value));
                    if env.is_revoked() {
                        break None;
                    }
                    let text = env.redactor.clean(&text).into_owned();
                    env.note(cause, &text);
                    Box::pin(self.wait_for_restart(cause, &text)).await;
                }
                End::Broken(cause, text) => {
                    // The panic hook has logged a panic of the drop.
                    let _logged = catch_panic(move || drop(value));
                    if env.is_revoked() {
                        break None;
                    }
                    Box::pin(self.rebuild(cause, text)).await;
                }
            }
        };
        env.mailbox.pass_on(self.number as usize, true);
        for delivery in self.in_flight.take_all() {
            delivery.nack_requeue();
        }
        drop(busy);
        if let Some(value) = last_value {
            env.released().await;
            Box::pin(self.stop_and_drop(value)).await;
        }
    }

    /// Runs the stop hook and drops the value. An abandoned thread skips the hook: the service
    /// runs elsewhere already.
    async fn stop_and_drop(&mut self, mut value: Box<dyn Instance>) {
        if !self.env.is_revoked() {
            self.stop(&mut *value).await;
        }
        // The panic hook has logged a panic of the drop.
        let _logged = catch_panic(move || drop(value));
    }

    /// Opens the store, if there is one, and creates the value.
    async fn start(&mut self, factory: &dyn InstanceFactory) -> Result<Box<dyn Instance>, End> {
        if self.env.is_closing() {
            return Err(End::Closed);
        }
        if self.env.stores.is_some() {
            match self.env.open_store(factory.migrations()).await {
                Ok(store) => self.cx.set_store(store),
                Err(failure) => {
                    return Err(End::Crashed(Cause::Start, failure.text().to_owned()));
                }
            }
        }
        let deadline = self.start_hook(Work::None);
        let started = factory.start(&mut self.cx);
        let started = HandlerGuard::new(started, &mut self.timer, deadline).await;
        self.flatten(started)
            .map_err(|text| End::Crashed(Cause::Start, text))
    }

    /// Prepares the context for a hook without a message, and returns the hook's deadline.
    fn start_hook(&mut self, work: Work) -> Instant {
        let deadline = Instant::now() + self.env.settings.handler_timeout;
        self.cx.start_work(work, 0, deadline);
        deadline
    }

    /// Returns the result of a hook, or the text of its failure.
    fn flatten<T>(&self, outcome: HandlerOutcome<Result<T, Failure>>) -> Result<T, String> {
        match outcome {
            HandlerOutcome::Done(Ok(value)) => Ok(value),
            HandlerOutcome::Done(Err(failure)) => Err(failure.text().to_owned()),
            HandlerOutcome::Panicked(text) => Err(AttemptFailure::panic(text).text),
            HandlerOutcome::TimedOut => Err(AttemptFailure::timeout(&self.env).text),
        }
    }

    /// Prepares a new instance after a failed message. The failure is the message's, and its
    /// retries wait without holding up others, so the next instance starts at once, unless the
    /// service has chosen that a panic is its own failure.
    async fn rebuild(&mut self, cause: Cause, text: String) {
        if self.env.settings.restart.on_panic == OnPanic::Service {
            let text = self.env.redactor.clean(&text).into_owned();
            return self.wait_for_restart(cause, &text).await;
        }
        self.env.meters.restarted(cause);
        self.tell_restart(&text);
        self.env.mailbox.pass_on(self.number as usize, false);
        debug!(
            service = %self.env.label,
            instance = self.number,
            cause = cause.as_str(),
            "rebuilding instance"
        );
    }

    /// Tells the restart, unless the failed work followed from an event.
    fn tell_restart(&self, text: &str) {
        if !self.cx.any_message(follows_from_event) {
            let text = self.env.redactor.clean(text);
            self.env.instance_restarts(self.number, &text);
        }
    }

    /// Records a failure of the instance and waits as the restart policy says, or until the
    /// service stops.
    async fn wait_for_restart(&mut self, cause: Cause, text: &str) {
        let env = self.env.clone();
        env.meters.restarted(cause);
        self.tell_restart(text);
        env.mailbox.pass_on(self.number as usize, false);
        let now = env.origin.elapsed();
        let (restart, history) =
            self.history
                .failure(&env.settings.restart.policy, now, fastrand::f64());
        self.history = history;
        let wait = restart.wait();
        let goes_on = env.record_failure(cause, text);
        if goes_on {
            warn!(
                service = %env.label,
                instance = self.number,
                cause = cause.as_str(),
                error = %text,
                ?wait,
                "restarting instance"
            );
        }
        if !goes_on {
            env.closed().await;
        } else if !wait.is_zero() {
            // Both ends of the wait mean the same: go on.
            let _either = timeout(wait, env.closed()).await;
        }
    }

    /// Pulls and handles deliveries and ticks, turn by turn.
    async fn serve(&mut self, value: &mut dyn Instance) -> End {
        let blueprint = self.blueprint.clone();
        let table = blueprint.ports();
        let mut ticks = Ticks::new(&table.ticks);
        let mut now = Instant::now();
        let mut turn = Turn::new(now);
        let mut ticked = false;
        // Messages of a crashed batch and suspects: each alone, so that only one is blamed.
        while let Some(delivery) = self.in_flight.take_one() {
            if let Some(delivery) = self.admit(delivery)
                && let Err(end) = self.handle_admitted(value, delivery, &mut now).await
            {
                return end;
            }
        }
        loop {
            let mut waited = false;
            let next = poll_fn(|cx| {
                // After a tick a message is next: ticks that take longer than their interval
                // must not starve messages.
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
                    None => match self.admit(delivery) {
                        Some(delivery) => self.handle_admitted(value, delivery, &mut now).await,
                        None => Ok(()),
                    },
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
        // Another instance may take the message that woke this one.
        self.env.mailbox.pass_on(self.number as usize, false);
        let deadline = self.start_hook(Work::Tick);
        let span = info_span!("tick", service = %self.env.label, tick = tick.name());
        let future = value.tick(tick, &mut self.cx);
        let outcome = HandlerGuard::new(future, &mut self.timer, deadline)
            .instrument(span)
            .await;
        if self.env.is_revoked() {
            return Err(End::revoked());
        }
        match self.flatten(outcome) {
            Ok(()) => {
                self.history.success();
                let emits = self.cx.emits.take();
                self.publish_tick(emits).await
            }
            Err(text) => Err(End::Crashed(Cause::Tick, text)),
        }
    }

    /// Publishes the messages that a tick emitted. If the transport refuses them, which is not
    /// the fault of the tick, tries again with the same ids until the service stops.
    async fn publish_tick(&mut self, emits: Vec<PendingEmit>) -> Result<(), End> {
        let mut batch = Vec::new();
        let mut counts = Vec::new();
        for emit in emits {
            let before = batch.len();
            self.env
                .add_outgoing(&mut batch, emit.output, emit.envelope, emit.delay);
            counts.push((emit.output, (batch.len() - before) as u64));
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
                // No back-off: messages wait behind this tick once the transport works.
                tokio::select! {
                    () = self.env.transport_works() => {}
                    () = self.env.closed() => {}
                }
                continue;
            }
            warn!(service = %self.env.label, %error, "outputs of tick not published, trying again");
            let wait = self.env.settings.retry.backoff.delay(nth, fastrand::f64());
            let wait = wait.max(PUBLISH_RETRY_MIN);
            // Both ends of the wait mean the same: try again.
            let _either = timeout(wait, self.env.closed()).await;
        }
        for (output, copies) in counts {
            self.env.meters.emitted(output, copies);
        }
        Ok(())
    }

    async fn stop(&mut self, value: &mut dyn Instance) {
        let deadline = self.start_hook(Work::None);
        let future = value.stop(&mut self.cx);
        let outcome = HandlerGuard::new(future, &mut self.timer, deadline).await;
        if let Err(text) = self.flatten(outcome) {
            let error = self.env.redactor.clean(&text);
            error!(service = %self.env.label, instance = self.number, %error, "stop hook failed");
        }
    }
}
