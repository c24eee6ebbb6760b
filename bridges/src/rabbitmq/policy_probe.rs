//! Finds out whether a policy limits deliveries on the app's queues.
//!
//! AMQP shows no policies. So this declares a queue whose name is like those of the app, requeues
//! one message again and again, and deletes the queue. A policy for other names stays unknown.

use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeleteOptions,
};
use lapin::protocol::basic::AMQPProperties;
use lapin::types::ShortString;
use lapin::{Channel, Connection};
use tokio::time::timeout;

use super::declarer::declare;
use super::topology::probe_declaration;

/// Limits from this number on stay unknown: they disturb no app.
const REQUEUES_MAX: u32 = 30;

/// Time limit of the measurement.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Advice for policies that can't be found.
pub(super) const POLICIES_UNKNOWN: &str = "AMQP doesn't show policies: on the app's queues, \
    `message-ttl` and `max-length` would move messages to the dead letters and drop dead letters; \
    see rabbitmqctl list_policies and list_operator_policies";

/// Returns a note on the delivery limit that a policy sets on queues like those of the app.
/// `None` if there is none, or if the user may not create a queue.
///
/// # Errors
/// The connection is lost.
pub(super) async fn find(
    connection: &Connection,
    app: &str,
) -> Result<Option<String>, lapin::Error> {
    let Ok((name, declaration)) = probe_declaration(app) else {
        return Ok(None);
    };
    let channel = connection.create_channel().await?;
    let measured = async {
        declare(&channel, declaration).await?;
        limit_of(&channel, &name).await
    };
    let limit = match timeout(PROBE_TIMEOUT, measured).await {
        Ok(Ok(limit)) => limit,
        // While the broker is short of memory or disk, it accepts no messages.
        Err(_) => None,
        // The channel is gone: a permission is missing.
        Ok(Err(_)) if connection.status().connected() => None,
        Ok(Err(error)) => return Err(error),
    };
    let channel = connection.create_channel().await?;
    let options = QueueDeleteOptions::default();
    if channel.queue_delete(name, options).await.is_ok() {
        channel.close(200, "done".into()).await?;
    }
    Ok(limit.map(note))
}

/// Returns how often a message can be requeued, if it can't be requeued for ever.
async fn limit_of(channel: &Channel, queue: &ShortString) -> lapin::Result<Option<u32>> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let options = BasicPublishOptions::default();
    let properties = AMQPProperties::default().with_delivery_mode(2);
    let sent = channel.basic_publish("".into(), queue.clone(), options, b"probe", properties);
    sent.await?.await?;
    for requeues in 0..REQUEUES_MAX {
        let got = channel.basic_get(queue.clone(), BasicGetOptions::default());
        let Some(got) = got.await? else {
            // Without a first delivery the cause is another one, such as a short time to live.
            return Ok(requeues.checked_sub(1));
        };
        let options = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        let tag = got.delivery.delivery_tag;
        channel.basic_nack(tag, options).await?;
    }
    Ok(None)
}

fn note(limit: u32) -> String {
    format!(
        "a policy sets a delivery limit of {limit} on queues named like those of the app: a \
         message that returns to its queue more often, by a crash, a lost connection or a stop of \
         its process, becomes a dead letter with the reason delivery_limit, although it is not to \
         blame; exempt the app's queues from the policy"
    )
}
