//! The ways in which a consumer ends: the reader stops it, a delivery waits for too long, the
//! broker ends it, or its channel is lost.
//!
//! A consumer is usually cancelled before its deliveries are requeued, because the broker would
//! send them right back. With a single active consumer that breaks the order: a cancel activates
//! the next consumer, which gets later messages before the requeued ones. There the channel stays
//! open without a cancel until nothing is in flight. Closing it requeues the other deliveries and
//! activates the next consumer in one step. The client library sends a cancel when the stream of
//! deliveries is dropped before the channel is closed (lapin 4.12).

use std::collections::HashMap;

use brickwork::Settlement;
use brickwork::config::HumanDuration;
use brickwork::transport::TransportError;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicCancelOptions, BasicQosOptions};
use tokio::time::{Instant, sleep};

use super::{ConsumerTask, Event};

impl ConsumerTask {
    /// Returns whether no more deliveries are handed out and none is unsettled.
    pub(super) fn is_done(&self) -> bool {
        (self.deliveries.is_none() || self.leaving)
            && self.work.is_empty()
            && self.buffer.in_flight() == 0
    }

    /// Returns whether the queue has a single active consumer.
    fn keeps_order(&self) -> bool {
        let source = &self.settler.source;
        source.queue.single_active && !source.is_external()
    }

    /// Ends the consumer and requeues the deliveries that the service has not got.
    pub(super) fn stop(&mut self, why: TransportError) {
        self.stopped = true;
        let Some(deliveries) = &self.deliveries else {
            return;
        };
        let (channel, tag) = (self.channel.clone(), deliveries.tag());
        self.leaving = self.keeps_order();
        self.requeue_fetched(why);
        if self.leaving {
            return;
        }
        self.work.push(Box::pin(async move {
            // If this fails, the channel is gone, and the broker requeues everything.
            let _gone = channel
                .basic_cancel(tag, BasicCancelOptions::default())
                .await;
            Event::Cancelled
        }));
    }

    /// Ends the consumer if a delivery is unsettled for too long: the broker is about to close
    /// the channel. Returns the time of the next check.
    ///
    /// Deliveries that wait for the service are requeued. A handler that runs keeps the old
    /// channel, so that only its own delivery is lost.
    pub(super) fn check_overdue(&mut self) -> Instant {
        let now = Instant::now();
        let since = self.acks.tracker().oldest().unwrap_or(now);
        let due = since + self.settle_within;
        if due <= now {
            let within = HumanDuration(self.settle_within);
            self.stop(TransportError::ConsumerEnded(format!(
                "a message was in flight for {within}: those that wait in the mailbox are requeued \
                 before the broker's consumer_timeout"
            )));
        }
        due
    }

    /// Handles the end of a consumer that wasn't stopped.
    pub(super) fn consumer_ended(&mut self, why: &str) {
        let error = match self.settler.session_state.check() {
            Err(ended) => ended,
            Ok(()) => TransportError::Lost(format!("queue {}: {why}", self.settler.source.name)),
        };
        self.deliveries = None;
        match self.channel.status().connected() {
            true => self.requeue_fetched(error),
            false => self.lose(error),
        }
    }

    /// Ends the consumer because its channel or connection is lost. The broker redelivers every
    /// unacked message, though no process has crashed.
    pub(super) fn lose(&mut self, why: TransportError) {
        let fetched = self.buffer.end(why);
        self.buffer.release(fetched.len());
        for delivery in fetched.into_iter().chain(std::mem::take(&mut self.held)) {
            self.record_non_crash(&delivery);
            self.acks.tracker().mark_settled(delivery.delivery_tag);
        }
        // Recorded when the service requeued them.
        for tag in std::mem::take(&mut self.to_requeue) {
            self.acks.tracker().mark_settled(tag);
        }
        if !std::mem::replace(&mut self.lost, true) {
            let non_crash = self.non_crash().clone();
            for (_, key) in self.acks.tracker().open() {
                non_crash.lost(key);
            }
            for (_, key) in self.acks.tracker().unsent() {
                non_crash.add(key);
                non_crash.ended(key, true);
            }
        }
        self.report_flushes();
    }

    pub(super) fn requeue_fetched(&mut self, why: TransportError) {
        for tag in std::mem::take(&mut self.to_requeue) {
            self.requeue(tag);
        }
        let mut requeued = self.buffer.end(why);
        self.buffer.release(requeued.len());
        requeued.extend(std::mem::take(&mut self.held));
        for delivery in &requeued {
            self.record_non_crash(delivery);
            self.requeue(delivery.delivery_tag);
        }
        self.report_flushes();
    }

    /// Requeues a delivery. If the consumer is about to end, this waits until no more
    /// deliveries arrive: the broker would send the delivery right back.
    pub(super) fn requeue(&mut self, tag: u64) {
        if self.keeps_order() {
            self.acks.tracker().keep(tag);
            if !self.stopped {
                // Later messages must not overtake this one.
                let why = "a message was requeued, and later ones must not overtake it";
                self.stop(TransportError::ConsumerEnded(why.into()));
            }
        } else if self.deliveries.is_some() && self.buffer.is_ended() {
            self.to_requeue.push(tag);
        } else {
            self.acks.requeue(tag);
        }
    }

    /// Closes the channel. The broker then requeues the unsettled deliveries, in order.
    pub(super) async fn close_channel(mut self) {
        self.acks.send();
        if !self.lost && self.settler.session_state.check().is_ok() {
            // The reply shows that the broker has read the acks.
            let _gone = self
                .channel
                .basic_qos(self.bound, BasicQosOptions::default())
                .await;
            sleep(self.acks.close_delay()).await;
        }
        self.record_arrived();
        let _closed = self.channel.close(200, "done".into()).await;
        self.record_arrived();
        // Only now: before, the client library would send a cancel.
        drop(self.deliveries.take());
    }

    /// Records the deliveries that have arrived at a consumer that closes its channel.
    fn record_arrived(&mut self) {
        while let Some(deliveries) = &mut self.deliveries
            && let Some(Some(Ok(delivery))) = deliveries.next().now_or_never()
        {
            self.record_non_crash(&delivery);
        }
    }
}

impl Drop for ConsumerTask {
    /// On every exit path the reader learns of the end, and no lost run stays open.
    fn drop(&mut self) {
        self.lose(self.settler.session_state.error());
        let non_crash = self.non_crash().clone();
        let tracker = self.acks.tracker();
        let mut open: HashMap<_, _> = tracker.open().collect();
        // Their work ends with this task.
        for (tag, key) in tracker.settling() {
            open.remove(&tag);
            non_crash.ended(key, false);
        }
        let buffer = self.buffer.clone();
        for (parts, settlement) in buffer.close_settlements(open.clone()) {
            if let Some(key) = open.remove(&parts.tag) {
                non_crash.ended(key, matches!(settlement, Settlement::Ack(None)));
            }
        }
    }
}
