//! One delivery in an instance: let in or not, handled under its deadline, and settled.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, debug, info_span, warn};

use super::guard::{HandlerGuard, HandlerOutcome};
use super::instance::{End, InstanceLoop};
use super::settlement::AttemptFailure;
use crate::delivery::{Delivery, Settlement};
use crate::failure::Failure;
use crate::message_trace::{AttemptRecord, Emitted};
use crate::metrics::{Cause, Outcome};
use crate::service::{Instance, Reply, Work};
use crate::store::Stored;
use crate::supervision::quarantine::is_given_up;

/// How much clocks of machines may differ before deadlines suffer.
pub const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

impl InstanceLoop {
    /// Handles one delivery. `now` is when the last piece of work ended, and is moved on.
    pub(super) async fn handle(
        &mut self,
        value: &mut dyn Instance,
        delivery: Delivery,
        now: &mut Instant,
    ) -> Result<(), End> {
        match self.admit(delivery) {
            Some(delivery) => self.handle_admitted(value, delivery, now).await,
            None => Ok(()),
        }
    }

    /// The same, once it is let in.
    pub(super) async fn handle_admitted(
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
        let message = delivery.message().clone();
        let mut deadline = *now + self.env.settings.handler_timeout;
        if let Some(deadline_ms) = message.deadline_ms {
            let left = deadline_ms.saturating_sub(self.env.clock.unix_ms());
            let left = Duration::from_millis(left).saturating_add(CLOCK_TOLERANCE);
            deadline = now
                .checked_add(left)
                .map_or(deadline, |asked| asked.min(deadline));
        }
        self.cx
            .begin(Work::Message(message.clone(), delivery.attempt()));
        self.cx.input = input;
        self.cx.deadline = Some(deadline);
        self.hand.put(delivery);
        let handled = {
            let future = value.handle(input, &message, &mut self.cx);
            let guard = HandlerGuard::new(future, &mut self.timer, deadline);
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
        if self.env.is_fenced() {
            return Err(fenced());
        }
        let meter = &self.env.meters.inputs[input];
        let took = end.duration_since(*now);
        meter.handle.record(took);
        *now = end;
        let stored = self.cx.stored(0).cloned();
        let (failed, crash) = match handled {
            handled if matches!(stored, Some(Stored::Done(_) | Stored::Before(_))) => {
                return self.done_by_store(handled, stored, input, took);
            }
            HandlerOutcome::Done(Ok(_)) if stored.is_some() => {
                (AttemptFailure::from(abandoned()), None)
            }
            HandlerOutcome::Done(Ok(reply)) => {
                let emitted = Emitted::on(self.cx.held.iter().map(|it| it.output));
                let step = AttemptRecord::new(&message, input, self.cx.attempt(), Outcome::Ok, end);
                let step = step.took(took).emitting(emitted);
                if self.cx.held.is_empty() {
                    let Some(delivery) = self.hand.take_one() else {
                        return Err(fenced());
                    };
                    self.env.history.add(step);
                    delivery.settle(Settlement::Ack(reply.map(Ok)));
                } else {
                    let held = std::mem::take(&mut self.cx.held);
                    let hand = &self.hand;
                    let waits = self.env.window.available_permits() == 0;
                    if !self
                        .env
                        .succeed(held, reply, step, || hand.take_one())
                        .await
                    {
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
            HandlerOutcome::Done(Err(failure)) => (AttemptFailure::from(failure), None),
            HandlerOutcome::Panicked(text) => (AttemptFailure::panic(text), Some(Cause::Panic)),
            HandlerOutcome::TimedOut => (AttemptFailure::timeout(&self.env), Some(Cause::Timeout)),
        };
        let Some(delivery) = self.hand.take_one() else {
            return Err(fenced());
        };
        self.tried_before = delivery.attempt() > 1;
        self.env.meters.handled(input, failed.outcome());
        let failed = failed.taking(took);
        self.env.fail(delivery, &failed);
        match crash {
            Some(cause) => Err(End::Crashed(cause, failed.text)),
            None => Ok(()),
        }
    }

    /// The message's transaction is committed: whatever the handler did then, the message is
    /// done.
    pub(super) fn done_by_store(
        &mut self,
        handled: HandlerOutcome<Result<Option<Reply>, Failure>>,
        stored: Option<Stored>,
        input: usize,
        took: Duration,
    ) -> Result<(), End> {
        let Some(delivery) = self.hand.take_one() else {
            return Err(fenced());
        };
        let (message, now) = (delivery.message(), Instant::now());
        let step = AttemptRecord::new(message, input, delivery.attempt(), Outcome::Ok, now);
        let emitted = Emitted::UNKNOWN;
        self.env.history.add(step.took(took).emitting(emitted));
        let id = delivery.message().id.clone();
        let asked = delivery.message().reply_to.is_some();
        let (crash, given) = match handled {
            HandlerOutcome::Done(result) => (None, result),
            HandlerOutcome::Panicked(text) => (
                Some((Cause::Panic, text.clone())),
                Err(Failure::retry(format!("panicked: {text}"))),
            ),
            HandlerOutcome::TimedOut => {
                let text = AttemptFailure::timeout(&self.env).text;
                (
                    Some((Cause::Timeout, text.clone())),
                    Err(Failure::retry(text)),
                )
            }
        };
        let reply = match (stored, given) {
            (Some(Stored::Done(kept)), Ok(given)) => given.or(kept),
            (Some(Stored::Done(kept)), Err(failure)) => {
                let error = self.env.redactor.clean(failure.text());
                let service = &*self.env.label;
                warn!(service, %id, %error, "failed after its transaction: the message is done");
                kept
            }
            (Some(Stored::Before(kept)), _) => {
                debug!(service = %self.env.label, %id, "was done before");
                kept
            }
            (Some(Stored::Begun) | None, _) => unreachable!("only what is committed comes here"),
        };
        let reply = asked.then(|| reply.ok_or_else(|| NOT_KEPT.to_owned()));
        delivery.settle(Settlement::Ack(reply));
        self.env.meters.handled(input, Outcome::Ok);
        match crash {
            Some((cause, text)) => Err(End::Crashed(cause, text)),
            None => {
                self.history.success();
                Ok(())
            }
        }
    }

    /// Lets a delivery in, unless nobody waits for its answer any more, it is too large,
    /// or the process has died of it too often.
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
            let (input, attempt) = (delivery.input(), delivery.attempt());
            let now = Instant::now();
            let step = AttemptRecord::new(message, input, attempt, Outcome::Expired, now);
            self.env.history.add(step);
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
        if is_given_up(
            delivery.crashes(),
            delivery.attempt(),
            self.env.settings.retry.attempts,
        ) {
            self.env.condemn(delivery);
            return None;
        }
        Some(delivery)
    }
}

/// What an asker gets whose message was done without keeping a reply.
const NOT_KEPT: &str = "the message was done before, and its reply was not kept";

/// The handler is done, and nobody knows whether its transaction is.
pub(super) fn abandoned() -> Failure {
    Failure::retry("the handler didn't wait for its transaction")
}

/// Somebody took the delivery out of this instance's hand: it must not go on.
pub(super) fn fenced() -> End {
    End::Crashed(Cause::Timeout, "its delivery was taken away".into())
}
