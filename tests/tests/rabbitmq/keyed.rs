//! Order by key: partitions of keyed inputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brickwork::transport::{
    Consumer, Depth, Keyed, Outgoing, Overflow, QueueSpec, Topology, Transport, take,
};
use brickwork::{Delivery, Envelope, KeyRule, Message, QueueId, Settlement};
use brickwork_tests::broker::Broker;
use lapin::options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::amqp::{connect, one, publish, requests, stranger};

mod moving;
mod processes;
mod spread;
mod suspects;

/// Time limit for an event that must happen.
const SOON: Duration = Duration::from_secs(60);

/// An app with one keyed input, and a service without a key that reads the same topic.
fn topology(app: &str, partitions: u16) -> Topology {
    let spec = |id, keyed| QueueSpec {
        id,
        topics: vec!["orders".into()],
        high_water: 100_000,
        limit: None,
        overflow: Overflow::DeadLetter,
        feeds: Vec::new(),
        single_active: false,
        keyed,
    };
    let keyed = Keyed {
        rule: KeyRule::field("customer"),
        partitions,
    };
    Topology {
        app: app.into(),
        queues: vec![
            spec(requests(), Some(keyed)),
            spec(QueueId::new("audit", "in"), None),
        ],
        ..Topology::default()
    }
}

/// Connects a process of the app.
async fn process(broker: &Broker, app: &str, partitions: u16) -> Arc<dyn Transport> {
    let transport = connect(&broker.url()).await.expect("it connects");
    let declared = transport.declare(&topology(app, partitions)).await;
    declared.expect("it declares");
    transport
}

/// The `number`-th message of a customer.
fn order(customer: u32, number: u32) -> Message {
    let payload = json!({"customer": customer, "number": number}).to_string();
    let mut envelope = Envelope::new("order", payload);
    envelope.topic = "orders".into();
    envelope.into()
}

/// The customer and the number of a message.
fn read(message: &Message) -> (u32, u32) {
    let value: Value = serde_json::from_slice(&message.payload).expect("JSON");
    let of = |name: &str| value[name].as_u64().expect("a number") as u32;
    (of("customer"), of("number"))
}

/// The number of ready messages of a queue, if there is one.
async fn ready(transport_of: &Broker, queue: &str) -> Option<u32> {
    let (connection, channel) = stranger(transport_of).await;
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let asked = channel.queue_declare(queue.into(), options, FieldTable::default());
    let count = asked.await.ok().map(|queue| queue.message_count());
    let _closed = connection.close(200, "done".into()).await;
    count
}

/// Publishes as another program does.
async fn publish_from_outside(channel: &Channel, app: &str, payload: String) {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let published = channel.basic_publish(
        app.into(),
        "orders".into(),
        options,
        payload.as_bytes(),
        properties,
    );
    published.await.expect("it publishes");
}

/// Waits for the depth of the keyed input.
async fn wait_for_depth(transport: &dyn Transport, is: impl Fn(Depth) -> bool) {
    let began = Instant::now();
    loop {
        let depth = transport.depth(&requests()).await.expect("a depth");
        if is(depth) {
            return;
        }
        assert!(began.elapsed() < SOON, "the depth stays at {depth:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Takes and acks messages until every customer has had `count`; asserts their order.
async fn drain(consumer: &mut dyn Consumer, customers: u32, count: u32) {
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    let mut taken = VecDeque::new();
    while seen.len() < customers as usize || seen.values().any(|last| *last + 1 < count) {
        let took = timeout(SOON, take(consumer, &mut taken, 16)).await;
        took.unwrap_or_else(|_| panic!("more comes than {seen:?}"))
            .expect("it goes on");
        for delivery in taken.drain(..) {
            let (customer, number) = read(delivery.message());
            let expected = seen.get(&customer).map_or(0, |last| last + 1);
            assert_eq!(number, expected, "customer {customer}");
            seen.insert(customer, number);
            delivery.ack();
        }
    }
}

#[tokio::test]
async fn publishers_choose_the_partition_and_every_reader_gets_one_copy() {
    let (broker, app) = (Broker::shared(), "keyed-parts");
    let transport = process(broker, app, 4).await;
    let (_connection, channel) = stranger(broker).await;
    let (options, arguments) = (QueueDeclareOptions::default(), FieldTable::default());
    let theirs = channel.queue_declare("keyed-theirs".into(), options, arguments);
    theirs.await.unwrap();
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(
        "keyed-theirs".into(),
        app.into(),
        "#".into(),
        options,
        arguments,
    );
    bound.await.unwrap();
    for customer in 0..20 {
        publish(&*transport, order(customer, 0)).await.unwrap();
    }
    let mut in_parts = Vec::new();
    for part in 0..4 {
        let queue = format!("{app}.stock.requests.p{part:02}");
        in_parts.push(ready(broker, &queue).await.expect("there is a part"));
    }
    assert_eq!(in_parts.iter().sum::<u32>(), 20);
    assert!(in_parts.iter().all(|count| *count > 0), "{in_parts:?}");
    assert_eq!(ready(broker, "keyed-parts.stock.requests").await, Some(0));
    assert_eq!(ready(broker, "keyed-parts.audit.in").await, Some(20));
    assert_eq!(ready(broker, "keyed-theirs").await, Some(20));
    let got = channel
        .basic_get("keyed-theirs".into(), Default::default())
        .await;
    let headers = got
        .unwrap()
        .expect("a message")
        .properties
        .headers()
        .clone();
    assert!(!headers.unwrap_or_default().contains_key("BCC"));
    let depth = transport.depth(&requests()).await.unwrap();
    assert_eq!(depth.ready, 20);
    let mut consumer = transport.consume(&requests(), 8).await.unwrap();
    drain(&mut *consumer, 20, 1).await;
    transport.close().await;
}

#[tokio::test]
async fn a_requeued_message_stays_before_the_later_ones_of_its_key() {
    let transport = process(Broker::shared(), "keyed-requeue", 2).await;
    for number in 0..6 {
        publish(&*transport, order(7, number)).await.unwrap();
    }
    let mut consumer = transport.consume(&requests(), 8).await.unwrap();
    for round in 0..2 {
        let first = one(&mut *consumer).await.unwrap();
        assert_eq!(read(first.message()), (7, 0), "round {round}");
        first.settle(Settlement::Requeue);
    }
    drain(&mut *consumer, 1, 6).await;
    transport.close().await;
}

#[tokio::test]
async fn another_number_of_partitions_waits_until_the_old_ones_are_empty() {
    let (broker, app) = (Broker::shared(), "keyed-change");
    let transport = process(broker, app, 4).await;
    for customer in 0..20 {
        publish(&*transport, order(customer, 0)).await.unwrap();
    }
    transport.close().await;
    let other = connect(&broker.url()).await.unwrap();
    let refused = other
        .declare(&topology(app, 2))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("it has 4 partitions, and the manifest says 2"),
        "{refused}"
    );
    assert!(
        refused.contains("keyed-change.stock.requests.p00 ("),
        "{refused}"
    );
    assert!(refused.contains("run with partitions = 4"), "{refused}");
    let transport = process(broker, app, 4).await;
    let mut consumer = transport.consume(&requests(), 8).await.unwrap();
    drain(&mut *consumer, 20, 1).await;
    wait_for_depth(&*transport, |depth| depth.ready + depth.in_flight == 0).await;
    let refused = other
        .declare(&topology(app, 2))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("processes with 4 partitions run"),
        "{refused}"
    );
    transport.close().await;
    // The broker forgets the consumers in a moment.
    let began = Instant::now();
    while let Err(error) = other.declare(&topology(app, 2)).await {
        assert!(began.elapsed() < SOON, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ready(broker, "keyed-change.stock.requests.p03").await, None);
    for customer in 0..20 {
        publish(&*other, order(customer, 0)).await.unwrap();
    }
    let mut consumer = other.consume(&requests(), 8).await.unwrap();
    drain(&mut *consumer, 20, 1).await;
    other.close().await;
}
