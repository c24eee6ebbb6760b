//! Sends the acks and nacks of one channel: acks in groups, in order.

use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::time::{Instant, Sleep, sleep};

use super::ack_tracker::{Ack, AckTracker};
use super::close_delay::CommandRate;

/// Maximum wait of an ack for others. An ack costs the broker as much as a message does; a
/// longer wait means more redeliveries after a crash.
const ACK_WAIT: Duration = Duration::from_millis(10);

/// Sends the acks and nacks of one channel.
pub(super) struct AckSender {
    /// Delivery tags are valid on this channel only.
    channel: Channel,
    tracker: AckTracker,
    /// Number of acks that are sent without a further wait.
    batch: usize,
    /// When to send the scheduled acks.
    due: Pin<Box<Sleep>>,
    scheduled: bool,
    command_rate: CommandRate,
}

impl AckSender {
    pub(super) fn new(channel: Channel, batch: usize) -> Self {
        Self {
            channel,
            tracker: AckTracker::new(),
            batch,
            due: Box::pin(sleep(Duration::ZERO)),
            scheduled: false,
            command_rate: CommandRate::default(),
        }
    }

    /// Returns the unsettled deliveries.
    pub(super) fn tracker(&mut self) -> &mut AckTracker {
        &mut self.tracker
    }

    /// Marks a delivery to be acked. [`AckSender::schedule`] must follow.
    pub(super) fn mark(&mut self, tag: u64) {
        self.tracker.mark_to_ack(tag);
    }

    /// Sends the marked acks if there are enough; otherwise they wait for more.
    pub(super) fn schedule(&mut self) {
        if self.tracker.to_ack() >= self.batch {
            self.send();
        } else if !self.scheduled {
            self.scheduled = true;
            self.due.as_mut().reset(Instant::now() + ACK_WAIT);
        }
    }

    /// Waits until scheduled acks are due.
    pub(super) async fn due(&mut self) {
        match self.scheduled {
            true => self.due.as_mut().await,
            false => std::future::pending().await,
        }
    }

    /// Sends the marked acks, unless the channel is lost.
    pub(super) fn send(&mut self) {
        self.scheduled = false;
        if !self.channel.status().connected() {
            return;
        }
        for Ack { tag, multiple } in self.tracker.take_acks() {
            // The first poll hands the ack to the connection: acks leave in order, and a
            // `multiple` ack finds all earlier deliveries settled. If it fails later, the
            // channel is gone, and the broker redelivers.
            let options = BasicAckOptions { multiple };
            let _sent = self.channel.basic_ack(tag, options).now_or_never();
            self.command_rate.sent(Instant::now());
        }
    }

    /// Requeues a delivery.
    pub(super) fn requeue(&mut self, tag: u64) {
        if !self.tracker.mark_settled(tag) || !self.channel.status().connected() {
            return;
        }
        let options = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        // The first poll hands the nack to the connection. If it fails later, the channel is
        // gone, which requeues the delivery, too.
        let _sent = self.channel.basic_nack(tag, options).now_or_never();
        self.command_rate.sent(Instant::now());
    }

    /// Returns how long the channel must stay open for the commands to reach the queue.
    pub(super) fn close_delay(&self) -> Duration {
        self.command_rate.close_delay(Instant::now())
    }
}
