//! Delayed messages and retries: a queue that is gone, full or slow holds up no other one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    Backpressure, Outgoing, Overflow, QueueSpec, Status, Topology, Transport,
};
use brickwork::{Delivery, Envelope, Message, QueueId, Settlement};
use brickwork_bridges::all;
use brickwork_tests::broker::Broker;
use brickwork_tests::process::until;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, sleep, timeout};

use super::amqp::{one, order, publish, requests, shop, stranger};

const PATIENCE: Duration = Duration::from_secs(60);
/// More messages than the broker moves out of a delay queue at a time.
const MANY: usize = 40;

/// Connects an app whose only service is `audit`, which reads `audits`.
async fn audit(url: &str, app: &str) -> Arc<dyn Transport> {
    let transports = all();
    let connector = transports.for_url(url).expect("amqp: is there");
    let connecting = connector.connect(url, Arc::<Backpressure>::default());
    let transport = connecting.await.expect("it connects");
    let declared = transport.declare(&topology(app)).await;
    declared.expect("it declares");
    transport
}

fn topology(app: &str) -> Topology {
    Topology {
        app: app.into(),
        queues: vec![QueueSpec {
            id: QueueId::new("audit", "in"),
            topics: vec!["audits".into()],
            high_water: 1000,
            limit: None,
            overflow: Overflow::DeadLetter,
            feeds: Vec::new(),
            single_active: false,
            keyed: None,
        }],
        ..Topology::default()
    }
}

fn delayed(message: Message, seconds: u64) -> Outgoing {
    Outgoing {
        delay: Duration::from_secs(seconds),
        ..message.into()
    }
}

fn audited() -> Message {
    let mut envelope = Envelope::new("audit", "{}");
    envelope.topic = "audits".into();
    envelope.into()
}

async fn take(transport: &dyn Transport, queue: &QueueId, count: usize) {
    let mut consumer = transport.consume(queue, 100).await.unwrap();
    for _ in 0..count {
        one(&mut *consumer).await.unwrap().ack();
    }
}

/// Waits for a state of the transport.
async fn status(transport: &dyn Transport, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut status = transport.status();
    let seen = timeout(PATIENCE, status.wait_for(wanted)).await;
    let seen = seen.map(|seen| seen.expect("the transport is there").clone());
    seen.unwrap_or_else(|_| panic!("{:?}", transport.status().borrow()))
}

fn wait_for_queue(broker: &Broker, row: &str) {
    until(row, PATIENCE, || {
        let queues = broker.ctl(&["list_queues", "name", "messages_ready"]);
        match queues.lines().any(|line| line == row) {
            true => Ok(()),
            false => Err(queues),
        }
    });
}

#[tokio::test]
async fn a_delayed_message_arrives_although_its_queue_was_missing_when_its_delay_ended() {
    let broker = Broker::shared();
    let transport = shop(broker, "late").await;
    publish(&*transport, delayed(order("1"), 3)).await.unwrap();
    // An open transport declares a missing queue again.
    transport.close().await;
    let (_connection, channel) = stranger(broker).await;
    let deleted = channel.queue_delete("late.stock.requests".into(), QueueDeleteOptions::default());
    deleted.await.expect("it deletes");
    wait_for_queue(broker, "late.due\t1");
    let transport = shop(broker, "late").await;
    let mut consumer = transport.consume(&requests(), 1).await.unwrap();
    let arrived = one(&mut *consumer).await.unwrap();
    assert_eq!(arrived.message().payload, "1");
    assert_eq!(arrived.attempt(), 1);
    arrived.ack();
    transport.close().await;
}

#[tokio::test]
async fn messages_for_a_queue_that_is_gone_hold_up_no_others_and_arrive_when_it_is_back() {
    let broker = Broker::shared();
    let transport = shop(broker, "gone").await;
    for number in 0..MANY {
        let outgoing = delayed(order(&number.to_string()), 3);
        publish(&*transport, outgoing).await.unwrap();
    }
    transport.close().await;
    let (_connection, channel) = stranger(broker).await;
    let deleted = channel.queue_delete("gone.stock.requests".into(), QueueDeleteOptions::default());
    deleted.await.expect("it deletes");

    // The next version of the app has another service.
    let next = audit(&broker.url(), "gone").await;
    sleep(Duration::from_secs(3)).await;
    publish(&*next, delayed(audited(), 3)).await.unwrap();
    let since = Instant::now();
    take(&*next, &QueueId::new("audit", "in"), 1).await;
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
    wait_for_queue(broker, &format!("gone.unroutable\t{MANY}"));
    let stranded = next.stranded(&topology("gone")).await.unwrap();
    let held = stranded.iter().find(|it| it.queue == "gone.unroutable");
    assert_eq!(held.expect("it is told").messages, MANY as u64);
    next.close().await;

    let back = shop(broker, "gone").await;
    take(&*back, &requests(), MANY).await;
    wait_for_queue(broker, "gone.unroutable\t0");
    back.close().await;
}

#[tokio::test]
async fn messages_for_a_full_queue_hold_up_no_others_and_arrive_when_there_is_room() {
    let broker = Broker::shared();
    let transport = shop(broker, "narrow").await;
    let policy = ["--apply-to", "queues", "narrow"];
    let full = [r"^narrow\.stock\.requests$", r#"{"max-length": 1}"#];
    broker.ctl(&[&["set_policy"][..], &policy[..], &full[..]].concat());
    let next = audit(&broker.url(), "narrow").await;
    for number in 0..MANY {
        let outgoing = delayed(order(&number.to_string()), 3);
        publish(&*transport, outgoing).await.unwrap();
    }
    sleep(Duration::from_secs(4)).await;
    publish(&*next, delayed(audited(), 3)).await.unwrap();
    let since = Instant::now();
    take(&*next, &QueueId::new("audit", "in"), 1).await;
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
    broker.ctl(&["clear_policy", "narrow"]);
    take(&*transport, &requests(), MANY).await;
    transport.close().await;
    next.close().await;
}

#[tokio::test]
async fn messages_for_a_queue_that_confirms_nothing_hold_up_no_others() {
    /// More messages than the relays of two processes have in progress.
    const MORE: usize = 400;
    let broker = Broker::shared();
    let transport = shop(broker, "frozen").await;
    let next = audit(&broker.url(), "frozen").await;
    // The first publication of a channel to a queue waits for the queue's answer.
    for publisher in [&transport, &next] {
        publish(&**publisher, order("first")).await.unwrap();
    }
    for number in 0..MORE {
        let outgoing = delayed(order(&number.to_string()), 3);
        publish(&*transport, outgoing).await.unwrap();
    }
    let queue = "whereis('%2F_frozen.stock.requests')";
    broker.ctl(&["eval", &format!("ok = sys:suspend({queue}).")]);
    sleep(Duration::from_secs(4)).await;
    publish(&*next, delayed(audited(), 1)).await.unwrap();
    let since = Instant::now();
    take(&*next, &QueueId::new("audit", "in"), 1).await;
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
    broker.ctl(&["eval", &format!("ok = sys:resume({queue}).")]);
    take(&*transport, &requests(), MORE + 2).await;
    transport.close().await;
    next.close().await;
}

#[tokio::test]
async fn a_retry_that_cannot_be_stored_is_tried_again_and_told_and_its_handler_rests() {
    let broker = Broker::shared();
    broker.ctl(&["add_vhost", "small"]);
    broker.ctl(&["set_permissions", "-p", "small", "guest", ".*", ".*", ".*"]);
    let transport = audit(&format!("{}/small", broker.url()), "small").await;
    let queue = QueueId::new("audit", "in");
    publish(&*transport, audited()).await.unwrap();
    let queues = broker.ctl(&["list_queues", "-p", "small", "--no-table-headers", "name"]);
    let limit = |queues: usize| {
        let limit = format!(r#"{{"max-queues": {queues}}}"#);
        broker.ctl(&["set_vhost_limits", "-p", "small", &limit]);
    };
    limit(queues.lines().count());
    let mut consumer = transport.consume(&queue, 10).await.unwrap();
    let retry = |delivery: Delivery| {
        let after = Duration::from_secs(1);
        let attempt = delivery.attempt() + 1;
        delivery.settle(Settlement::Retry { after, attempt });
    };
    retry(one(&mut *consumer).await.unwrap());
    let degraded = status(&*transport, |status| status.failed_settlements >= 3).await;
    let told = format!("{:?}", degraded.degraded);
    assert!(
        told.contains("queue limit") && !told.contains("other settings"),
        "{told}"
    );
    assert!(told.contains("can't be settled"), "{told}");
    let mut again = VecDeque::new();
    let taken = brickwork::transport::take(&mut *consumer, &mut again, 1);
    assert!(
        timeout(Duration::from_millis(100), taken).await.is_err(),
        "it is still in flight"
    );

    limit(100);
    let second = one(&mut *consumer).await.unwrap();
    assert_eq!(second.attempt(), 2);
    second.ack();
    status(&*transport, |status| status.degraded.is_empty()).await;
    // A transport that closes does not wait for the next try.
    limit(1);
    publish(&*transport, audited()).await.unwrap();
    let delivery = one(&mut *consumer).await.unwrap();
    let after = Duration::from_secs(1000);
    delivery.settle(Settlement::Retry { after, attempt: 2 });
    let failures = |status: &Status| status.failed_settlements;
    let before = failures(&transport.status().borrow());
    status(&*transport, |status| failures(status) > before + 2).await;
    let since = Instant::now();
    transport.close().await;
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
    broker.ctl(&["delete_vhost", "small"]);
}

#[tokio::test]
async fn delayed_messages_that_do_not_arrive_are_told_until_they_do() {
    let broker = Broker::shared();
    let transport = shop(broker, "stuck").await;
    // Another process takes all due messages, and is frozen then.
    let (connection, channel) = stranger(broker).await;
    let limited = channel.basic_qos(1000, BasicQosOptions::default()).await;
    limited.expect("it can be limited");
    let mut first = FieldTable::default();
    first.insert("x-priority".into(), AMQPValue::LongInt(10));
    let options = BasicConsumeOptions::default();
    let frozen = channel.basic_consume("stuck.due".into(), "".into(), options, first);
    let frozen = frozen.await.expect("it consumes");
    publish(&*transport, delayed(order("1"), 1)).await.unwrap();
    let overdue = status(&*transport, |status| status.overdue_delays == 1).await;
    let told = format!("{:?}", overdue.degraded);
    assert!(told.contains("delayed for [1.6s] are overdue"), "{told}");
    drop((frozen, channel));
    connection
        .close(200, "done".into())
        .await
        .expect("it closes");
    take(&*transport, &requests(), 1).await;
    let works = status(&*transport, |status| status.overdue_delays == 0).await;
    assert!(works.degraded.is_empty(), "{works:?}");
    transport.close().await;
}
