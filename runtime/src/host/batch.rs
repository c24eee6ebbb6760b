//! Batches: an instance's way with an input whose messages are handled many at a time.
//!
//! Owns collecting them, an outcome for each, and the rule that a crash blames nobody
//! until each has had a trial of its own.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, info_span};

use super::guard::{HandlerGuard, HandlerOutcome};
use super::handle::{abandoned, fenced};
use super::instance::{End, InstanceLoop};
use super::mailbox::Pulled;
use super::settlement::AttemptFailure;
use crate::clock::later;
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::message::Message;
use crate::message_trace::{AttemptRecord, Emitted};
use crate::metrics::{Cause, Outcome};
use crate::service::{Batch, Instance, PendingEmit, Work};
use crate::store::Stored;

impl InstanceLoop {
    /// Handles one message and those of the same input that come soon after it.
    pub(super) async fn handle_batch(
        &mut self,
        value: &mut dyn Instance,
        first: Delivery,
        batch: Batch,
    ) -> Result<(), End> {
        let input = first.input();
        // What is collected is in hand: it can be taken away while more is waited for.
        self.collect(first);
        let until = later(batch.within);
        while self.hand.len() < batch.max {
            match self.env.mailbox.pull_if(|next| next.input() == input) {
                Some(delivery) => self.collect(delivery),
                None if Instant::now() >= until || self.env.is_closing() => break,
                None if self.env.mailbox.len() > 0 && self.env.paused_for().is_none() => break,
                None => {
                    // The mailbox wakes this slot when something comes.
                    let number = self.number as usize;
                    let come = poll_fn(|cx| self.env.mailbox.poll_pull(cx, number));
                    match tokio::time::timeout_at(until, come).await {
                        Ok(Pulled::Item(delivery)) if delivery.input() == input => {
                            self.collect(delivery);
                        }
                        Ok(Pulled::Item(other)) => {
                            // Of another input: it closes the batch and is next.
                            self.env.mailbox.put_back(other);
                            break;
                        }
                        Ok(Pulled::Closed | Pulled::Retired) | Err(_) => break,
                    }
                }
            }
        }
        self.env.mailbox.pass_on(self.number as usize, false);
        if self.env.is_fenced() {
            return Err(fenced());
        }
        self.batch_of(value, input).await
    }

    fn collect(&self, delivery: Delivery) {
        if let Some(delivery) = self.admit(delivery) {
            self.hand.put(delivery);
        }
    }

    async fn batch_of(&mut self, value: &mut dyn Instance, input: usize) -> Result<(), End> {
        let mut deliveries = self.hand.take_all();
        if deliveries.len() <= 1 {
            let Some(only) = deliveries.pop() else {
                return Ok(());
            };
            let mut now = Instant::now();
            return self.handle_admitted(value, only, &mut now).await;
        }
        let started = Instant::now();
        let deadline = started + self.env.settings.handler_timeout;
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
        let attempts: Vec<u32> = deliveries.iter().map(Delivery::attempt).collect();
        self.cx.begin(Work::Batch(work));
        self.cx.input = input;
        self.cx.deadline = Some(deadline);
        self.hand.put_all(deliveries);
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
        if self.env.is_fenced() {
            return Err(fenced());
        }
        let share = started.elapsed() / messages.len() as u32;
        let held = std::mem::take(&mut self.cx.held);
        let deliveries = self.hand.take_all();
        if deliveries.len() != messages.len() {
            return Err(fenced());
        }
        let crash = match handled {
            HandlerOutcome::Done(results) => {
                self.hand.put_all(deliveries.into_iter().rev().collect());
                let tried = messages.iter().zip(attempts);
                return self.settle_batch(input, tried, results, held, share).await;
            }
            HandlerOutcome::Panicked(text) => (Cause::Panic, AttemptFailure::panic(text)),
            HandlerOutcome::TimedOut => (Cause::Timeout, AttemptFailure::timeout(&self.env)),
        };
        self.tried_before = deliveries.iter().all(|delivery| delivery.attempt() > 1);
        // Only one of them is to blame, and nobody knows which: each gets a trial of its
        // own, by a fresh instance, before anything counts.
        self.hand.put_all(deliveries.into_iter().rev().collect());
        let (cause, failed) = crash;
        Err(End::Crashed(cause, failed.text))
    }

    async fn settle_batch(
        &mut self,
        input: usize,
        tried: impl Iterator<Item = (&Message, u32)>,
        results: Vec<Result<(), Failure>>,
        held: Vec<PendingEmit>,
        share: Duration,
    ) -> Result<(), End> {
        let ended = Instant::now();
        let mut outputs: Vec<Vec<_>> = Vec::new();
        outputs.resize_with(results.len(), Vec::new);
        for held in held {
            outputs[held.place].push(held);
        }
        // Those that wait for their turn stay in hand, where they can be taken away.
        let settled = results.into_iter().zip(outputs).zip(tried).enumerate();
        for (place, ((result, held), (message, attempt))) in settled {
            self.env.meters.inputs[input].handle.record(share);
            let result = match self.cx.stored(place) {
                Some(Stored::Begun) => result.and(Err(abandoned())),
                Some(stored) => {
                    let stored = stored.clone();
                    let handled = HandlerOutcome::Done(result.map(|()| None));
                    self.done_by_store(handled, Some(stored), input, share)?;
                    continue;
                }
                None => result,
            };
            let step = AttemptRecord::new(message, input, attempt, Outcome::Ok, ended);
            let step = step
                .took(share)
                .emitting(Emitted::on(held.iter().map(|it| it.output)));
            if result.is_ok() && !held.is_empty() {
                let hand = &self.hand;
                if !self.env.succeed(held, None, step, || hand.take_one()).await {
                    return Err(fenced());
                }
                self.env.meters.handled(input, Outcome::Ok);
                self.history.success();
                continue;
            }
            let Some(delivery) = self.hand.take_one() else {
                return Err(fenced());
            };
            match result {
                Ok(()) => {
                    self.env.history.add(step);
                    self.env.meters.handled(input, Outcome::Ok);
                    self.history.success();
                    delivery.ack();
                }
                Err(failure) => {
                    let failed = AttemptFailure::from(failure).taking(share);
                    self.env.meters.handled(input, failed.outcome());
                    self.env.fail(delivery, &failed);
                }
            }
        }
        Ok(())
    }
}
