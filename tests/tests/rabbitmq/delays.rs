//! Delayed messages that the broker can't move to their queue when their delay ends.

use std::time::Duration;

use brickwork::transport::Outgoing;
use brickwork_tests::broker::Broker;
use brickwork_tests::process::until;
use lapin::options::QueueDeleteOptions;

use super::amqp::{one, order, publish, requests, shop, stranger};

const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that starts is in the same state for a moment: it works on its delay queues before it
/// knows all other queues and exchanges. The broker tries again after the time that the guide
/// names, and shows the message to no client meanwhile.
#[tokio::test]
async fn a_delayed_message_arrives_although_its_queue_was_missing_when_its_delay_ended() {
    let broker = Broker::shared();
    let transport = shop(broker, "late").await;
    let delayed = Outgoing {
        delay: Duration::from_secs(3),
        ..order("1").into()
    };
    publish(&*transport, delayed).await.unwrap();
    // An open transport declares a missing queue again.
    transport.close().await;
    let (_connection, channel) = stranger(broker).await;
    let deleted = channel.queue_delete("late.stock.requests".into(), QueueDeleteOptions::default());
    deleted.await.expect("it deletes");
    until("the delay is over", PATIENCE, || {
        let queues = broker.ctl(&["list_queues", "name", "messages", "messages_ready"]);
        match queues.contains("late.delay.3200\t1\t0") {
            true => Ok(()),
            false => Err(queues),
        }
    });
    let transport = shop(broker, "late").await;
    let mut consumer = transport.consume(&requests(), 1).await.unwrap();
    let arrived = one(&mut *consumer).await.unwrap();
    assert_eq!(arrived.message().payload, "1");
    arrived.ack();
    transport.close().await;
}
