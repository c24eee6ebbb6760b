//! Settling: from how an attempt ended to what the transport is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::service_run::ServiceRun;
use super::status::LastFailure;
use crate::dead_letter::{DeadLetter, Reason};
use crate::delivery::{Delivery, Settlement};
use crate::failure::{Failure, FailureKind};
use crate::message_trace::AttemptRecord;
use crate::metrics::Outcome;
use crate::service::{PendingEmit, Reply};
use crate::supervision::{Attempt, RetryDecision};
use crate::transport::{Completion, TransportError};

/// The least wait after a transport didn't take outputs over.
pub(super) const NOT_PUBLISHED_WAIT_MIN: Duration = Duration::from_millis(10);

/// How an attempt failed, with its text.
pub(crate) struct AttemptFailure {
    pub(crate) attempt: Attempt,
    pub(crate) text: String,
    /// How long the handler took, if it was one.
    pub(crate) took: Duration,
}

impl From<Failure> for AttemptFailure {
    fn from(failure: Failure) -> Self {
        Self {
            attempt: Attempt::Failed(failure.kind()),
            text: failure.text().to_owned(),
            took: Duration::ZERO,
        }
    }
}

impl AttemptFailure {
    pub(crate) fn taking(self, took: Duration) -> Self {
        Self { took, ..self }
    }

    pub(crate) fn panic(text: String) -> Self {
        Self {
            attempt: Attempt::Panicked,
            text: Failure::retry(format!("panicked: {text}"))
                .text()
                .to_owned(),
            took: Duration::ZERO,
        }
    }

    pub(crate) fn timeout(environment: &ServiceRun) -> Self {
        let text = format!("not done within {:?}", environment.settings.handler_timeout);
        Self {
            attempt: Attempt::TimedOut,
            text,
            took: Duration::ZERO,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self.attempt {
            Attempt::Ok => Outcome::Ok,
            Attempt::Failed(FailureKind::Retry | FailureKind::After(_)) => Outcome::Retry,
            Attempt::Failed(FailureKind::Defer(_)) => Outcome::Defer,
            Attempt::Failed(FailureKind::Reject) => Outcome::Reject,
            Attempt::Panicked => Outcome::Panic,
            Attempt::TimedOut => Outcome::Timeout,
        }
    }
}

impl ServiceRun {
    /// After success: publishes what was held and acks when the transport has taken it
    /// over. Without outputs it acks at once.
    ///
    /// Waits only while too many publications are unconfirmed; meanwhile the delivery
    /// must stay where others can reach it, so `take` hands it over afterwards.
    pub(crate) async fn succeed(
        self: &Arc<Self>,
        held: Vec<PendingEmit>,
        reply: Option<Reply>,
        step: AttemptRecord,
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
        let mut counts: Vec<(usize, u64)> = Vec::with_capacity(1);
        let mut batch = Vec::with_capacity(held.len());
        for held in held {
            let copies = self.outgoing(held.output, held.envelope, held.delay);
            match counts.last_mut() {
                Some((output, count)) if *output == held.output => *count += copies.len() as u64,
                _ => counts.push((held.output, copies.len() as u64)),
            }
            batch.extend(copies);
        }
        let environment = self.clone();
        let done = Completion::new(move |outcome| {
            match outcome {
                Ok(()) => {
                    for (output, count) in counts {
                        environment.meters.emitted(output, count);
                    }
                    environment.history.add(step);
                    delivery.settle(Settlement::Ack(reply.map(Ok)));
                }
                Err(error) => environment.not_published(delivery, step, &error),
            }
            drop(permit);
        });
        self.publish(batch, done);
        true
    }

    /// The transport didn't take the outputs over: not the message's fault.
    fn not_published(&self, delivery: Delivery, step: AttemptRecord, error: &TransportError) {
        if error.is_permanent() {
            let failed = AttemptFailure::from(Failure::reject(error.to_string()));
            return self.fail(delivery, &failed.taking(step.duration()));
        }
        let (service, id) = (&*self.label, &delivery.message().id);
        // A transport that is down was said to be: that need not be said of every message.
        let before = match self.transport_is_down() {
            true => None,
            false => self.refusals.happened(),
        };
        match before {
            None => debug!(service, %id, %error, "outputs were not published"),
            Some(0) => {
                warn!(service, %id, %error, "outputs were not published, the message will be handled again");
            }
            Some(more) => {
                warn!(service, %id, %error, more, "outputs were not published, the message will be handled again");
            }
        }
        let attempt = delivery.attempt();
        // At least a moment, whatever the back-off: a transport that refuses must not be
        // asked in a tight loop.
        let after = self.settings.retry.backoff.delay(0, fastrand::f64());
        let after = after.max(NOT_PUBLISHED_WAIT_MIN);
        self.history
            .add(step.unconfirmed(&RetryDecision::Retry { after, attempt }));
        delivery.settle(Settlement::Retry { after, attempt });
    }

    /// After a failed attempt: decides and settles.
    pub(crate) fn fail(&self, delivery: Delivery, failed: &AttemptFailure) {
        let attempt = delivery.attempt();
        let text = self.redactor.clean(&failed.text);
        let (service, input) = (&*self.label, &*self.inputs[delivery.input()]);
        let id = &delivery.message().id;
        let fate = self
            .settings
            .retry
            .decide(failed.attempt, attempt, fastrand::f64());
        match fate {
            RetryDecision::Ack => unreachable!("a failed attempt is not acked"),
            RetryDecision::Retry { after, .. } => {
                info!(service, input, %id, attempt, error = %text, ?after, "will be tried again");
            }
            RetryDecision::DeadLetter(reason) => {
                warn!(service, input, %id, attempt, error = %text, %reason, "dead-lettered");
            }
        }
        let step = AttemptRecord::new(
            delivery.message(),
            delivery.input(),
            attempt,
            failed.outcome(),
            Instant::now(),
        );
        self.history.add(step.took(failed.took).then(&fate));
        self.state.failed(LastFailure {
            time_ms: self.clock.unix_ms(),
            what: Outcome::NAMES[failed.outcome() as usize].into(),
            text: text.to_string(),
            message: Some(id.to_string()),
            attempt: Some(attempt),
        });
        match fate {
            RetryDecision::Ack => {}
            RetryDecision::Retry { after, attempt } => {
                delivery.settle(Settlement::Retry { after, attempt });
            }
            RetryDecision::DeadLetter(reason) => {
                self.dead_letter(delivery, reason, text.into_owned(), attempt)
            }
        }
    }

    /// The process has died of it as often as it may be tried: without another try.
    pub(crate) fn condemn(&self, delivery: Delivery) {
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
        delivery.settle(Settlement::DeadLetter(Box::new(letter)));
    }
}
