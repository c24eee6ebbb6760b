//! Takes a page of messages from a queue, and acks it.
//!
//! Each page has a consumer of its own, with a prefetch of as many messages as the page may have.
//! So the broker delivers no other message, and one ack settles the whole page. (A channel passes
//! few acks at a time to a quorum queue, and loses the others when it closes. Of messages that were
//! fetched by `basic.get` each counts.)

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::time::timeout;

use super::declarer::count_ready;

/// Time without a message after which the ready messages are counted.
const QUIET: Duration = Duration::from_millis(250);
/// Maximum times that the queue may be quiet although it has messages.
const QUIET_MAX: usize = 40;

/// Takes `count` messages, or all if there are fewer. The page before must be acked.
///
/// # Errors
/// There is no such queue, or the connection is lost.
pub(super) async fn take_page(
    channel: &Channel,
    queue: &ShortString,
    count: u16,
) -> lapin::Result<Vec<Delivery>> {
    channel.basic_qos(count, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default());
    let mut consumer = consuming.await?;
    let mut page = Vec::new();
    let mut quiet = 0;
    while page.len() < usize::from(count) && quiet < QUIET_MAX {
        match timeout(QUIET, consumer.next()).await {
            Ok(Some(delivery)) => page.push(delivery?),
            Ok(None) => break,
            // Another reader took the rest.
            Err(_) if count_ready(channel, queue.clone()).await? == 0 => break,
            Err(_) => quiet += 1,
        }
    }
    let options = BasicCancelOptions::default();
    channel.basic_cancel(consumer.tag(), options).await?;
    // Those that were on their way have arrived.
    while let Some(Some(delivery)) = consumer.next().now_or_never() {
        page.push(delivery?);
    }
    Ok(page)
}

/// Acks a page: the delivery with this tag and all before it.
///
/// # Errors
/// The broker did not confirm the ack: it has closed the channel, or the connection is lost.
pub(super) async fn ack_page(channel: &Channel, last: u64) -> lapin::Result<()> {
    let options = BasicAckOptions { multiple: true };
    channel.basic_ack(last, options).await?;
    // The broker answers after it has accepted the ack.
    channel.basic_qos(0, BasicQosOptions::default()).await
}
