//! One delivery in an instance: admitted or not, handled before its deadline, and settled.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, debug, info_span, warn};

use super::breaker::Permit;
use super::guard::{HandlerGuard, HandlerOutcome};
use super::instance::{End, InstanceLoop};
use super::settlement::AttemptFailure;
use crate::delivery::{Delivery, Settlement};
use crate::failure::Failure;
use crate::message::Message;
use crate::message_trace::AttemptRecord;
use crate::metrics::Outcome;
use crate::service::{Instance, Reply, TxState, Work};
use crate::supervision::Verdict;
use crate::supervision::quarantine::is_given_up;

/// Maximum clock difference between machines that does not affect deadlines.
pub const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

/// The error text for a caller whose message was done earlier without a stored reply.
const NO_STORED_REPLY: &str = "the message was done before, and its reply was not kept";

/// The outcome of a guarded handler.
pub(super) type Handled = HandlerOutcome<Result<Option<Reply>, Failure>>;

impl InstanceLoop {
    /// Handles one admitted delivery. `now` is the end of the previous work, and becomes the end
    /// of this one.
    ///
    /// Every message passes here: the delivery is moved, and its message is cloned, as seldom as
    /// possible.
    pub(super) async fn handle_admitted(
        &mut self,
        value: &mut dyn Instance,
        delivery: Delivery,
        now: &mut Instant,
    ) -> Result<(), End> {
        let Some(permit) = self.env.begin_attempt(*now) else {
            // The breaker holds the mailbox.
            self.env.put_back(delivery);
            return Ok(());
        };
        let (input, attempt) = (delivery.input(), delivery.attempt());
        let wait = now.saturating_duration_since(delivery.taken());
        self.env.meters.inputs[input].wait.record(wait);
        let message = delivery.message();
        let deadline = self.deadline(message, *now);
        let span = info_span!(
            "handle",
            service = %self.env.label,
            input = %self.env.inputs[input],
            id = %message.id,
            trace = %message.trace(),
        );
        let work = Work::Message(message.clone(), attempt);
        self.cx.start_work(work, input, deadline);
        self.cx.set_key(delivery.key().cloned());
        self.in_flight.put(delivery);
        let future = value.handle(input, &mut self.cx);
        let guard = HandlerGuard::new(future, &mut self.timer, deadline);
        let handled = if span.is_disabled() {
            guard.await
        } else {
            guard.instrument(span).await
        };
        let end = Instant::now();
        if self.env.is_revoked() {
            return Err(End::revoked());
        }
        let took = end.duration_since(*now);
        self.env.meters.inputs[input].handle.record(took);
        *now = end;
        match (handled, self.cx.transaction(0)) {
            (handled, Some(TxState::Committed(_) | TxState::AlreadyDone(_))) => {
                self.finish_transaction(handled, 0, input, permit, took)
            }
            (HandlerOutcome::Done(Ok(reply)), None) if self.cx.emits.get_mut().is_empty() => {
                self.env.end_attempt(permit, Verdict::Success, end);
                self.ack(end, took, reply)
            }
            (HandlerOutcome::Done(Ok(reply)), None) => {
                self.env.end_attempt(permit, Verdict::Success, end);
                let message = self.cx.handled_message();
                let record = AttemptRecord::new(message, input, attempt, Outcome::Ok, end);
                let record = record.took(took).emitting(self.cx.emits.get_mut().len());
                self.publish_and_ack(record, reply, now).await
            }
            (HandlerOutcome::Done(Ok(_)), Some(TxState::Submitted)) => {
                let failed = AttemptFailure::from(transaction_not_awaited());
                self.settle_failure(failed, permit, took)
            }
            (HandlerOutcome::Done(Err(failure)), _) => {
                self.settle_failure(AttemptFailure::from(failure), permit, took)
            }
            (HandlerOutcome::Panicked(text), _) => {
                self.settle_failure(AttemptFailure::panic(text), permit, took)
            }
            (HandlerOutcome::TimedOut, _) => {
                self.settle_failure(AttemptFailure::timeout(&self.env), permit, took)
            }
        }
    }

    /// Returns the end of the handler's time: its own limit, or the deadline of the message if
    /// that is earlier.
    fn deadline(&self, message: &Message, now: Instant) -> Instant {
        let limit = now + self.env.settings.handler_timeout;
        let Some(deadline_ms) = message.deadline_ms else {
            return limit;
        };
        let now_ms = self.env.clock.unix_ms();
        // In one process there is one clock. A late message that was admitted needs some time.
        let exact = !self.env.transport.guarantees().crosses_processes && deadline_ms > now_ms;
        let left_ms = match exact {
            true => deadline_ms - now_ms,
            false => with_tolerance(deadline_ms).saturating_sub(now_ms),
        };
        now.checked_add(Duration::from_millis(left_ms))
            .map_or(limit, |deadline| deadline.min(limit))
    }

    /// Acks a message whose handler returned `Ok` and emitted nothing.
    fn ack(&mut self, ended: Instant, took: Duration, reply: Option<Reply>) -> Result<(), End> {
        let Some(delivery) = self.in_flight.take_one() else {
            return Err(End::revoked());
        };
        let (message, input, attempt) = (delivery.message(), delivery.input(), delivery.attempt());
        self.env.meters.handled(input, Outcome::Ok);
        self.env
            .history
            .add_done(message, input, attempt, ended, took);
        delivery.settle(Settlement::Ack(reply.map(Ok)));
        self.history.success();
        Ok(())
    }

    /// Publishes the emitted messages; the confirm acks the handled one.
    async fn publish_and_ack(
        &mut self,
        record: AttemptRecord,
        reply: Option<Reply>,
        now: &mut Instant,
    ) -> Result<(), End> {
        let input = usize::from(record.input);
        let in_flight = &self.in_flight;
        let waits = self.env.window.available_permits() == 0;
        let emits = self.cx.emits.get_mut().drain(..);
        let publishing = self
            .env
            .publish_and_ack(emits, reply, record, || in_flight.take_one());
        if !publishing.await {
            return Err(End::revoked());
        }
        if waits {
            // The wait for a permit must not count as time of the next message.
            *now = Instant::now();
        }
        self.env.meters.handled(input, Outcome::Ok);
        self.history.success();
        Ok(())
    }

    /// Settles a message whose attempt failed. After a panic, a timeout and on request the
    /// instance ends.
    fn settle_failure(
        &mut self,
        failed: AttemptFailure,
        permit: Permit,
        took: Duration,
    ) -> Result<(), End> {
        let Some(delivery) = self.in_flight.take_one() else {
            return Err(End::revoked());
        };
        self.env
            .end_failed_attempt(permit, delivery.message(), &failed);
        self.env.meters.handled(delivery.input(), failed.outcome());
        let failed = failed.taking(took).of_attempt(permit);
        self.env.fail(delivery, &failed);
        match failed.rebuilds() {
            Some(cause) => Err(End::Broken(cause, failed.text)),
            None => Ok(()),
        }
    }

    /// Settles a message whose transaction is committed: the message is done, whatever the
    /// handler returned after the commit.
    pub(super) fn finish_transaction(
        &mut self,
        handled: Handled,
        index: usize,
        input: usize,
        permit: Permit,
        took: Duration,
    ) -> Result<(), End> {
        let Some(delivery) = self.in_flight.take_one() else {
            return Err(End::revoked());
        };
        let (message, now) = (delivery.message(), Instant::now());
        let record = AttemptRecord::new(message, input, delivery.attempt(), Outcome::Ok, now);
        self.env.history.add(record.took(took));
        let result = match handled {
            HandlerOutcome::Done(Ok(reply)) => Ok(reply),
            HandlerOutcome::Done(Err(failure)) => Err(AttemptFailure::from(failure)),
            HandlerOutcome::Panicked(text) => Err(AttemptFailure::panic(text)),
            HandlerOutcome::TimedOut => Err(AttemptFailure::timeout(&self.env)),
        };
        let broken = result.as_ref().err().filter(|it| it.rebuilds().is_some());
        match (broken, self.cx.transaction(index)) {
            (Some(failed), _) => self.env.end_failed_attempt(permit, message, failed),
            // A message that was done before proves nothing.
            (None, Some(TxState::AlreadyDone(_))) => {
                self.env.end_attempt(permit, Verdict::Nothing, now);
            }
            (None, _) => self.env.end_attempt(permit, Verdict::Success, now),
        }
        let broken = broken.and_then(|failed| Some((failed.rebuilds()?, failed.text.clone())));
        let (service, id) = (&*self.env.label, &message.id);
        let reply = match (self.cx.transaction(index), result) {
            (Some(TxState::Committed(stored)), Ok(reply)) => reply.or_else(|| stored.clone()),
            (Some(TxState::Committed(stored)), Err(failed)) => {
                let error = self.env.redactor.clean(&failed.text);
                warn!(service, %id, %error, "handler failed after its transaction: the message is done");
                stored.clone()
            }
            (Some(TxState::AlreadyDone(stored)), _) => {
                debug!(service, %id, "message was done before");
                stored.clone()
            }
            (Some(TxState::Submitted) | None, _) => {
                unreachable!("only a committed transaction finishes a message")
            }
        };
        let asked = message.reply_to.is_some();
        let reply = asked.then(|| reply.ok_or_else(|| NO_STORED_REPLY.to_owned()));
        delivery.settle(Settlement::Ack(reply));
        self.env.meters.handled(input, Outcome::Ok);
        match broken {
            Some((cause, text)) => Err(End::Broken(cause, text)),
            None => {
                self.history.success();
                Ok(())
            }
        }
    }

    /// Admits a delivery. One whose deadline has passed is acked; one that is too large, or
    /// that crashed the process too often, is dead-lettered.
    pub(super) fn admit(&self, delivery: Delivery) -> Option<Delivery> {
        let message = delivery.message();
        if message.anonymous {
            self.env.meters.anonymous.add(1);
        }
        if let Some(deadline_ms) = message.deadline_ms
            && self.env.clock.unix_ms() >= with_tolerance(deadline_ms)
        {
            self.env.meters.handled(delivery.input(), Outcome::Expired);
            let asker = &*message.source;
            if let Some(suppressed) = self.env.meters.expired.count(asker) {
                let (service, id) = (&*self.env.label, &message.id);
                let since_ms = |ms: u64| Duration::from_millis(ms.saturating_sub(message.time_ms));
                let age = since_ms(self.env.clock.unix_ms());
                let allowed = since_ms(deadline_ms);
                warn!(service, %id, asker, ?age, ?allowed, suppressed, "request expired before it was handled, acked; compare the clocks of both machines if it did not wait that long");
            }
            let (input, attempt) = (delivery.input(), delivery.attempt());
            let now = Instant::now();
            let record = AttemptRecord::new(message, input, attempt, Outcome::Expired, now);
            self.env.history.add(record);
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
            self.env.dead_letter_crashed(delivery);
            return None;
        }
        Some(delivery)
    }
}

/// The handler returned before its transaction had a result.
pub(super) fn transaction_not_awaited() -> Failure {
    Failure::retry("the handler didn't wait for its transaction")
}

/// Returns the time at which a deadline has passed on every machine.
fn with_tolerance(deadline_ms: u64) -> u64 {
    deadline_ms.saturating_add(CLOCK_TOLERANCE.as_millis() as u64)
}
