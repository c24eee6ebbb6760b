//! Batches: inputs whose messages are handled many at a time.
//!
//! Collects the messages of a batch, and settles each by its own outcome. A crash blames no
//! message: afterwards each is tried alone.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, info_span};

use super::breaker::Permit;
use super::guard::{HandlerGuard, HandlerOutcome};
use super::handle::transaction_not_awaited;
use super::instance::{End, InstanceLoop};
use super::mailbox::Pulled;
use super::settlement::AttemptFailure;
use crate::clock::later;
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::message::Message;
use crate::message_trace::AttemptRecord;
use crate::metrics::{Cause, Outcome};
use crate::service::{Batch, Instance, PendingEmit, TxState, Work};
use crate::supervision::Verdict;

impl InstanceLoop {
    /// Handles a message together with those of the same input that follow soon.
    pub(super) async fn handle_batch(
        &mut self,
        value: &mut dyn Instance,
        first: Delivery,
        batch: Batch,
    ) -> Result<(), End> {
        let input = first.input();
        if !self.env.breaker_is_closed() {
            // One message at a time.
            return match self.admit(first) {
                Some(first) => {
                    self.handle_admitted(value, first, &mut Instant::now())
                        .await
                }
                None => Ok(()),
            };
        }
        // Collected deliveries are in flight at once, so that a revocation can take them
        // while this waits for more.
        self.collect(first);
        let until = later(batch.within);
        while self.in_flight.len() < batch.max {
            match self.env.mailbox.pull_if(|next| next.input() == input) {
                Some(delivery) => self.collect(delivery),
                None if Instant::now() >= until || self.env.is_closing() => break,
                None if self.env.mailbox.len() > 0 && self.env.paused_for().is_none() => break,
                None => {
                    let number = self.number as usize;
                    let pulled = poll_fn(|cx| self.env.mailbox.poll_pull(cx, number));
                    match timeout_at(until, pulled).await {
                        Ok(Pulled::Item(delivery)) if delivery.input() == input => {
                            self.collect(delivery);
                        }
                        Ok(Pulled::Item(other)) => {
                            // A message of another input ends the batch and is the next one.
                            self.env.put_back(other);
                            break;
                        }
                        Ok(Pulled::Closed | Pulled::Retired) | Err(_) => break,
                    }
                }
            }
        }
        self.env.mailbox.pass_on(self.number as usize, false);
        if self.env.is_revoked() {
            return Err(End::revoked());
        }
        self.run_batch(value, input).await
    }

    fn collect(&self, delivery: Delivery) {
        if let Some(delivery) = self.admit(delivery) {
            self.in_flight.put(delivery);
        }
    }

    async fn run_batch(&mut self, value: &mut dyn Instance, input: usize) -> Result<(), End> {
        let mut deliveries = self.in_flight.take_all();
        if deliveries.len() <= 1 {
            let Some(only) = deliveries.pop() else {
                return Ok(());
            };
            let mut now = Instant::now();
            return self.handle_admitted(value, only, &mut now).await;
        }
        let started = Instant::now();
        let Some(permit) = self.env.begin_attempt(started) else {
            // The breaker holds the mailbox.
            let put_back = |delivery| self.env.put_back(delivery);
            deliveries.into_iter().rev().for_each(put_back);
            return Ok(());
        };
        let deadline = started + self.env.settings.handler_timeout;
        let messages: Vec<_> = deliveries.iter().map(|d| d.message().clone()).collect();
        let attempts: Vec<_> = deliveries.iter().map(Delivery::attempt).collect();
        let meter = &self.env.meters.inputs[input];
        for delivery in &deliveries {
            let wait = started.saturating_duration_since(delivery.taken());
            meter.wait.record(wait);
        }
        let work = messages.iter().cloned().zip(attempts.iter().copied());
        self.cx
            .start_work(Work::Batch(work.collect()), input, deadline);
        self.in_flight.put_all(deliveries);
        let span = info_span!(
            "handle_batch",
            service = %self.env.label,
            input = %self.env.inputs[input],
            messages = messages.len(),
        );
        let future = value.handle_batch(input, &messages, &mut self.cx);
        let handled = HandlerGuard::new(future, &mut self.timer, deadline)
            .instrument(span)
            .await;
        if self.env.is_revoked() {
            return Err(End::revoked());
        }
        let share = started.elapsed() / messages.len() as u32;
        let mut deliveries = self.in_flight.take_all();
        if deliveries.len() != messages.len() {
            return Err(End::revoked());
        }
        // `take_one` takes the last delivery: reversed, the first message is the next one.
        deliveries.reverse();
        self.in_flight.put_all(deliveries);
        let (cause, failed) = match handled {
            HandlerOutcome::Done(results) => {
                let tried = messages.iter().zip(attempts);
                return self
                    .settle_batch(input, tried, results, permit, share)
                    .await;
            }
            HandlerOutcome::Panicked(text) => (Cause::Panic, AttemptFailure::panic(text)),
            HandlerOutcome::TimedOut => (Cause::Timeout, AttemptFailure::timeout(&self.env)),
        };
        self.env.end_failed_attempt(permit, &messages[0], &failed);
        // The deliveries stay in flight: a new instance tries each of them alone before any
        // attempt counts, since one unknown message of the batch is to blame.
        Err(End::Broken(cause, failed.text))
    }

    /// Settles each message of a batch. Those that wait for their turn stay in flight, where a
    /// revocation can take them.
    async fn settle_batch(
        &mut self,
        input: usize,
        tried: impl Iterator<Item = (&Message, u32)>,
        results: Vec<Result<(), Failure>>,
        permit: Permit,
        share: Duration,
    ) -> Result<(), End> {
        let mut broken = None;
        let ended = Instant::now();
        let mut emits: Vec<Vec<PendingEmit>> = Vec::new();
        emits.resize_with(results.len(), Vec::new);
        for emit in self.cx.emits.take() {
            emits[emit.message].push(emit);
        }
        let settled = results.into_iter().zip(emits).zip(tried).enumerate();
        for (index, ((result, emits), (message, attempt))) in settled {
            self.env.meters.inputs[input].handle.record(share);
            let result = match self.cx.transaction(index) {
                Some(TxState::Submitted) => result.and(Err(transaction_not_awaited())),
                Some(_) => {
                    let handled = HandlerOutcome::Done(result.map(|()| None));
                    match self.finish_transaction(handled, index, input, permit, share) {
                        // The other messages have their results, too.
                        Err(End::Broken(cause, text)) if !self.env.is_revoked() => {
                            broken = Some((cause, text));
                        }
                        finished => finished?,
                    }
                    continue;
                }
                None => result,
            };
            if result.is_ok() {
                self.env.end_attempt(permit, Verdict::Success, ended);
            }
            let record = AttemptRecord::new(message, input, attempt, Outcome::Ok, ended);
            let record = record.took(share).emitting(emits.len());
            if result.is_ok() && !emits.is_empty() {
                let in_flight = &self.in_flight;
                let publishing = self
                    .env
                    .publish_and_ack(emits.into_iter(), None, record, || in_flight.take_one());
                if !publishing.await {
                    return Err(End::revoked());
                }
                self.env.meters.handled(input, Outcome::Ok);
                self.history.success();
                continue;
            }
            let Some(delivery) = self.in_flight.take_one() else {
                return Err(End::revoked());
            };
            match result {
                Ok(()) => {
                    self.env.history.add(record);
                    self.env.meters.handled(input, Outcome::Ok);
                    self.history.success();
                    delivery.ack();
                }
                Err(failure) => {
                    let failed = AttemptFailure::from(failure).taking(share);
                    let failed = failed.of_attempt(permit);
                    self.env.end_failed_attempt(permit, message, &failed);
                    self.env.meters.handled(input, failed.outcome());
                    self.env.fail(delivery, &failed);
                    broken = failed
                        .rebuilds()
                        .map(|cause| (cause, failed.text))
                        .or(broken);
                }
            }
        }
        match broken {
            Some((cause, text)) => Err(End::Broken(cause, text)),
            None => Ok(()),
        }
    }
}
