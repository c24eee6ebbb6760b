//! Settlement: from the outcome of an attempt to the ack, retry or dead letter.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::breaker::Permit;
use super::service_run::ServiceRun;
use super::status::LastFailure;
use crate::dead_letter::{DeadLetter, Reason};
use crate::delivery::{Delivery, Settlement};
use crate::failure::{Failure, FailureKind};
use crate::message_trace::AttemptRecord;
use crate::metrics::{Cause, Outcome};
use crate::service::{PendingEmit, Reply};
use crate::supervision::{Attempt, RetryDecision, Verdict};
use crate::transport::{Completion, TransportError};

/// Minimum delay after the transport refused emitted messages.
pub(super) const PUBLISH_RETRY_MIN: Duration = Duration::from_millis(10);

/// Minimum delay after a failed probe.
const PROBE_RETRY_MIN: Duration = Duration::from_millis(10);

/// A failed attempt, with the text of its failure.
pub(crate) struct AttemptFailure {
    pub(crate) attempt: Attempt,
    pub(crate) text: String,
    /// Run time of the handler; zero if no handler ran.
    pub(crate) took: Duration,
    /// The attempt was the probe of a half-open circuit breaker, so it must not be the last.
    pub(crate) spares_message: bool,
}

impl From<Failure> for AttemptFailure {
    fn from(failure: Failure) -> Self {
        Self {
            attempt: Attempt::Failed(failure.kind()),
            text: failure.text().to_owned(),
            took: Duration::ZERO,
            spares_message: false,
        }
    }
}

impl AttemptFailure {
    pub(crate) fn taking(self, took: Duration) -> Self {
        Self { took, ..self }
    }

    /// Notes whether the failure must not use up the last attempt.
    pub(super) fn of_attempt(self, permit: Permit) -> Self {
        Self {
            spares_message: permit.spares_message(),
            ..self
        }
    }

    /// Returns the cause for which the instance is rebuilt after the attempt, if it is.
    pub(super) fn rebuilds(&self) -> Option<Cause> {
        match self.attempt {
            Attempt::Panicked => Some(Cause::Panic),
            Attempt::TimedOut => Some(Cause::Timeout),
            Attempt::Failed(FailureKind::Restart) => Some(Cause::Requested),
            Attempt::Ok | Attempt::Failed(_) => None,
        }
    }

    /// Returns the result of the attempt for the circuit breaker.
    pub(super) fn verdict(&self) -> Verdict {
        match self.attempt {
            Attempt::Ok => Verdict::Success,
            Attempt::Failed(FailureKind::Reject | FailureKind::Defer(_)) => Verdict::Nothing,
            Attempt::Failed(FailureKind::Retry | FailureKind::After(_) | FailureKind::Restart)
            | Attempt::Panicked
            | Attempt::TimedOut => Verdict::Failure,
        }
    }

    pub(crate) fn panic(text: String) -> Self {
        Self {
            attempt: Attempt::Panicked,
            // Through a `Failure`, which bounds the length of the text.
            text: Failure::retry(format!("panicked: {text}"))
                .text()
                .to_owned(),
            took: Duration::ZERO,
            spares_message: false,
        }
    }

    pub(crate) fn timeout(run: &ServiceRun) -> Self {
        Self {
            attempt: Attempt::TimedOut,
            text: format!("not done within {:?}", run.settings.handler_timeout),
            took: Duration::ZERO,
            spares_message: false,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self.attempt {
            Attempt::Ok => Outcome::Ok,
            Attempt::Failed(FailureKind::Retry | FailureKind::After(_) | FailureKind::Restart) => {
                Outcome::Retry
            }
            Attempt::Failed(FailureKind::Defer(_)) => Outcome::Defer,
            Attempt::Failed(FailureKind::Reject) => Outcome::Reject,
            Attempt::Panicked => Outcome::Panic,
            Attempt::TimedOut => Outcome::Timeout,
        }
    }
}

impl ServiceRun {
    /// Publishes the messages that a successful handler emitted, and acks the delivery when
    /// the transport has confirmed them. Returns `false` if another thread took the delivery.
    ///
    /// Waits only while too many publications are unconfirmed. Meanwhile the delivery stays
    /// where other threads can take it; `take` fetches it afterwards.
    pub(crate) async fn publish_and_ack(
        self: &Arc<Self>,
        emits: impl ExactSizeIterator<Item = PendingEmit>,
        reply: Option<Reply>,
        record: AttemptRecord,
        take: impl FnOnce() -> Option<Delivery>,
    ) -> bool {
        let permit = match self.window.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self
                .window
                .clone()
                .acquire_owned()
                .await
                .expect("the window stays open"),
        };
        let Some(delivery) = take() else { return false };
        let mut copies = Copies::default();
        let mut batch = Vec::with_capacity(emits.len());
        for emit in emits {
            let before = batch.len();
            self.add_outgoing(&mut batch, emit.output, emit.envelope, emit.delay);
            copies.add(emit.output, (batch.len() - before) as u64);
        }
        let run = self.clone();
        let done = Completion::new(move |outcome| {
            match outcome {
                Ok(()) => {
                    copies.each(|output, count| run.meters.emitted(output, count));
                    run.history.add(record);
                    delivery.settle(Settlement::Ack(reply.map(Ok)));
                }
                Err(error) => run.not_published(delivery, record, &error),
            }
            drop(permit);
        });
        self.publish(batch, done);
        true
    }

    /// Settles a message whose outputs the transport refused: not the fault of the message,
    /// unless the refusal is permanent.
    fn not_published(&self, delivery: Delivery, record: AttemptRecord, error: &TransportError) {
        if error.is_permanent() {
            let failed = AttemptFailure::from(Failure::reject(error.to_string()));
            return self.fail(delivery, &failed.taking(record.duration()));
        }
        let (service, id) = (&*self.label, &delivery.message().id);
        // The transport itself logs that it is down.
        let suppressed = match self.transport_is_down() {
            true => None,
            false => self.control.publish_log.event(),
        };
        match suppressed {
            None => debug!(service, %id, %error, "outputs not published"),
            Some(suppressed) => {
                warn!(service, %id, %error, suppressed, "outputs not published, message will be retried");
            }
        }
        let attempt = delivery.attempt();
        // The minimum keeps a refusing transport from being called in a tight loop.
        let after = self.settings.retry.backoff.delay(0, fastrand::f64());
        let after = after.max(PUBLISH_RETRY_MIN);
        let decision = RetryDecision::Retry { after, attempt };
        self.history.add(record.unconfirmed(&decision));
        self.retry_later(delivery, after, attempt);
    }

    /// Settles a message after a failed attempt, as the retry policy decides.
    pub(crate) fn fail(&self, delivery: Delivery, failed: &AttemptFailure) {
        let attempt = delivery.attempt();
        let text = self.redactor.clean(&failed.text);
        let (service, input) = (&*self.label, &*self.inputs[delivery.input()]);
        let id = &delivery.message().id;
        let (retry, random) = (&self.settings.retry, fastrand::f64());
        let decision = match failed.spares_message {
            false => retry.decide(failed.attempt, attempt, random),
            true => retry.decide_sparing(failed.attempt, attempt, random),
        };
        match decision {
            RetryDecision::Ack => unreachable!("a failed attempt is not acked"),
            RetryDecision::Retry { after, .. } => {
                info!(service, input, %id, attempt, error = %text, ?after, "retrying message");
            }
            RetryDecision::DeadLetter(reason) => {
                warn!(service, input, %id, attempt, error = %text, %reason, "dead-lettered");
            }
        }
        let record = AttemptRecord::new(
            delivery.message(),
            delivery.input(),
            attempt,
            failed.outcome(),
            Instant::now(),
        );
        self.history.add(record.took(failed.took).then(&decision));
        self.state.failed(LastFailure {
            time_ms: self.clock.unix_ms(),
            what: Outcome::NAMES[failed.outcome() as usize].into(),
            text: text.to_string(),
            message: Some(id.to_string()),
            attempt: Some(attempt),
        });
        match decision {
            RetryDecision::Ack => {}
            RetryDecision::Retry { after, attempt } => {
                // A message that waits goes behind the others, so that each is tried in turn.
                let after = match failed.spares_message {
                    true => after.max(PROBE_RETRY_MIN),
                    false => after,
                };
                self.retry_later(delivery, after, attempt);
            }
            RetryDecision::DeadLetter(reason) => {
                self.dead_letter(delivery, reason, text.into_owned(), attempt);
            }
        }
    }

    /// Dead-letters a message that crashed the process on every attempt, without another try.
    pub(crate) fn dead_letter_crashed(&self, delivery: Delivery) {
        let attempts = delivery.attempt() - 1;
        let crashes = delivery.crashes();
        let text = format!("the process died while it was handled alone, {crashes} times");
        let (service, input) = (&*self.label, &*self.inputs[delivery.input()]);
        warn!(service, input, id = %delivery.message().id, error = text, reason = "crash", "dead-lettered");
        self.dead_letter(delivery, Reason::Crash, text, attempts);
    }

    fn dead_letter(&self, delivery: Delivery, reason: Reason, error: String, attempts: u32) {
        self.meters.dead_lettered(reason);
        let letter = DeadLetter {
            reason,
            error,
            service: self.label.clone(),
            input: self.inputs[delivery.input()].clone(),
            attempts,
            failed_at_ms: self.clock.unix_ms(),
        };
        self.gives_up(&delivery, &letter);
        delivery.settle(Settlement::DeadLetter(Box::new(letter)));
    }
}

/// Published copies by output. Allocates only for a handler that changes between outputs.
#[derive(Default)]
struct Copies {
    last: (usize, u64),
    earlier: Vec<(usize, u64)>,
}

impl Copies {
    fn add(&mut self, output: usize, count: u64) {
        if self.last.0 != output && self.last.1 > 0 {
            self.earlier.push(self.last);
            self.last = (output, 0);
        }
        self.last = (output, self.last.1 + count);
    }

    fn each(&self, mut visit: impl FnMut(usize, u64)) {
        for (output, count) in self.earlier.iter().chain([&self.last]) {
            visit(*output, *count);
        }
    }
}
