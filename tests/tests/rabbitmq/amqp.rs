//! The transport `amqp:` itself: programs outside, a broker that refuses, a broker that is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    AskError, Backpressure, Completion, Consumer, Outgoing, Overflow, QueueSpec, Topology,
    Transport, TransportError, take,
};
use brickwork::{Delivery, Envelope, Message, QueueId, Settlement};
use brickwork_bridges::all;
use brickwork_tests::broker::Broker;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::time::timeout;

mod moving;
/// Time limit for an event that must happen; far longer than it takes.
const SOON: Duration = Duration::from_secs(20);

pub(super) async fn connect(url: &str) -> Result<Arc<dyn Transport>, TransportError> {
    let transports = all();
    let connector = transports.for_url(url).expect("amqp: is there");
    let connecting = connector.connect(url, Arc::<Backpressure>::default());
    timeout(SOON, connecting).await.expect("an outcome comes")
}

/// Connects an app with one queue, `stock.requests`, that reads `orders`.
pub(super) async fn shop(broker: &Broker, app: &str) -> Arc<dyn Transport> {
    let transport = connect(&broker.url()).await.expect("it connects");
    let declared = transport.declare(&topology(app)).await;
    declared.expect("it declares");
    transport
}

pub(super) fn topology(app: &str) -> Topology {
    Topology {
        app: app.into(),
        queues: vec![QueueSpec {
            id: requests(),
            topics: vec!["orders".into()],
            high_water: 1000,
            limit: None,
            overflow: Overflow::DeadLetter,
            feeds: Vec::new(),
            single_active: false,
            keyed: None,
        }],
        external: vec!["invoices".into()],
        ..Topology::default()
    }
}

pub(super) fn requests() -> QueueId {
    QueueId::new("stock", "requests")
}

pub(super) fn order(payload: &str) -> Message {
    let mut envelope = Envelope::new("order", payload.to_owned());
    envelope.topic = "orders".into();
    envelope.into()
}

pub(super) async fn publish(
    transport: &dyn Transport,
    outgoing: impl Into<Outgoing>,
) -> Result<(), TransportError> {
    let (done, outcome) = Completion::channel();
    transport.publish(vec![outgoing.into()], done);
    timeout(SOON, outcome).await.expect("a completion comes")
}

pub(super) async fn one(consumer: &mut dyn Consumer) -> Result<Delivery, TransportError> {
    let mut taken = VecDeque::new();
    let took = timeout(SOON, take(consumer, &mut taken, 1)).await;
    took.expect("an outcome")
        .map(|()| taken.remove(0).expect("one"))
}

/// Connects an AMQP client outside the app.
pub(super) async fn stranger(broker: &Broker) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&broker.url(), properties).await;
    let connection = connection.expect("it connects");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

#[tokio::test]
async fn an_outside_program_can_publish_json() {
    let broker = Broker::shared();
    let transport = shop(broker, "strange-in").await;
    let (_connection, channel) = stranger(broker).await;
    let mut headers = FieldTable::default();
    headers.insert("urgent".into(), AMQPValue::Boolean(true));
    let named = BasicProperties::default()
        .with_message_id("order-17".into())
        .with_headers(headers);
    for properties in [BasicProperties::default(), named] {
        let options = BasicPublishOptions::default();
        channel
            .basic_publish(
                "strange-in".into(),
                "orders".into(),
                options,
                b"{}",
                properties,
            )
            .await
            .expect("it publishes");
    }
    let mut consumer = transport.consume(&requests(), 2).await.unwrap();
    let nameless = one(&mut *consumer).await.unwrap();
    assert!(nameless.message().anonymous);
    assert_eq!(&*nameless.message().topic, "orders");
    assert_eq!(nameless.attempt(), 1);
    let named = one(&mut *consumer).await.unwrap();
    assert!(!named.message().anonymous);
    assert_eq!(named.message().id.to_string(), "order-17");
    assert_eq!(&*named.message().headers["urgent"], "true");
    // The transport keeps the id that it generated for this message.
    let made_up = nameless.message().id.clone();
    nameless.settle(Settlement::Retry {
        after: Duration::ZERO,
        attempt: 2,
    });
    assert_eq!(one(&mut *consumer).await.unwrap().message().id, made_up);
    transport.close().await;
}

#[tokio::test]
async fn an_outside_program_can_bind_a_queue() {
    let broker = Broker::shared();
    let transport = shop(broker, "strange-out").await;
    let (_connection, channel) = stranger(broker).await;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    let queue = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await
        .expect("it declares");
    channel
        .queue_bind(
            queue.name().clone(),
            "strange-out".into(),
            "invoices".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("it binds");
    let mut consumer = channel
        .basic_consume(
            queue.name().clone(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("it consumes");
    let mut envelope = Envelope::new("invoice", r#"{"total":3}"#);
    envelope.topic = "invoices".into();
    envelope.source = "/strange-out/billing".into();
    envelope.time_ms = 1_795_393_830_041;
    let sent = Message::from(envelope);
    publish(&*transport, sent.clone()).await.unwrap();

    let got = timeout(SOON, consumer.next()).await.expect("it comes");
    let got = got.expect("it goes on").expect("a delivery");
    assert_eq!(got.data, sent.payload);
    let properties = &got.properties;
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.message_id()), Some(sent.id.to_string()));
    assert_eq!(text(properties.kind()).as_deref(), Some("invoice"));
    assert_eq!(text(properties.app_id()).as_deref(), Some("strange-out"));
    assert_eq!(
        text(properties.content_type()).as_deref(),
        Some("application/json")
    );
    assert_eq!(*properties.timestamp(), Some(1_795_393_830));
    assert_eq!(*properties.delivery_mode(), Some(2));
    let headers = properties.headers().as_ref().expect("headers").inner();
    for (name, value) in [
        ("cloudEvents_specversion", "1.0"),
        ("cloudEvents_id", &*sent.id.to_string()),
        ("cloudEvents_type", "invoice"),
        ("cloudEvents_source", "/strange-out/billing"),
        ("cloudEvents_time", "2026-11-23T00:30:30.041Z"),
    ] {
        let expected = AMQPValue::LongString(value.into());
        assert_eq!(headers.get(name), Some(&expected), "{name}");
    }
    got.acker
        .ack(BasicAckOptions::default())
        .await
        .expect("it acks");
    // The owner of these queues is unknown, so a delay can't be guaranteed.
    let later = Outgoing {
        delay: Duration::from_secs(1),
        ..sent.into()
    };
    let outcome = publish(&*transport, later).await;
    assert!(
        matches!(outcome, Err(TransportError::Unsupported(_))),
        "{outcome:?}"
    );
    transport.close().await;
}

#[tokio::test]
async fn a_queue_with_other_settings_is_named_with_the_difference() {
    let broker = Broker::shared();
    let (_connection, channel) = stranger(broker).await;
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(
            "taken.stock.requests".into(),
            options,
            FieldTable::default(),
        )
        .await
        .expect("it declares");
    let transport = connect(&broker.url()).await.unwrap();
    let error = transport.declare(&topology("taken")).await.unwrap_err();
    let text = error.to_string();
    for part in ["taken.stock.requests", "inequivalent arg", "delete it"] {
        assert!(text.contains(part), "{text}");
    }
    // Only that publication was refused: the transport works.
    assert_eq!(transport.status().borrow().down, None);
    transport.declare(&topology("not-taken")).await.unwrap();
    publish(&*transport, order("1")).await.unwrap();
    transport.close().await;
}

#[tokio::test]
async fn publishing_fails_when_its_queue_is_gone() {
    let broker = Broker::shared();
    let transport = shop(broker, "deleted").await;
    let mut consumer = transport.consume(&requests(), 1).await.unwrap();
    let (_connection, channel) = stranger(broker).await;
    let queue = "deleted.stock.requests".into();
    let deleted = channel.queue_delete(queue, QueueDeleteOptions::default());
    deleted.await.expect("it deletes");

    let ended = one(&mut *consumer).await.unwrap_err();
    assert!(
        matches!(&ended, TransportError::Lost(why) if why.contains("deleted")),
        "{ended}"
    );
    // Only publications to the missing queue fail, until it is declared again.
    let outcomes: Vec<_> = (0..200)
        .map(|number| {
            let (done, outcome) = Completion::channel();
            let queue = match number % 3 {
                0 => Some(requests()),
                // By its topic, which this queue alone reads.
                1 => None,
                _ => Some(QueueId::dead_letters("stock")),
            };
            let outgoing = Outgoing {
                queue,
                ..order("1").into()
            };
            transport.publish(vec![outgoing], done);
            (number, outcome)
        })
        .collect();
    let (mut taken, mut all_refused) = (0, true);
    for (number, outcome) in outcomes {
        let outcome = timeout(SOON, outcome).await.expect("a completion comes");
        let refused = matches!(outcome, Err(TransportError::Refused(_)));
        assert!(outcome.is_ok() || (refused && number % 3 != 2), "{number}");
        taken += usize::from(number % 3 != 2 && !refused);
        all_refused &= refused || number % 3 == 2;
    }
    // The queue may have been declared again meanwhile, but not before the first refusal.
    assert!(all_refused || taken < 134, "nothing was refused");
    assert_eq!(transport.status().borrow().down, None);
    // Consuming declares the queue again, with its bindings.
    let mut consumer = transport.consume(&requests(), 1).await.unwrap();
    publish(&*transport, order("2")).await.unwrap();
    for _ in 0..taken {
        one(&mut *consumer).await.unwrap().ack();
    }
    assert_eq!(one(&mut *consumer).await.unwrap().message().payload, "2");
    transport.close().await;
}

#[tokio::test]
async fn nothing_hangs_when_the_broker_is_gone() {
    let broker = Broker::start();
    let transport = shop(&broker, "gone").await;
    let mut status = transport.status();
    assert_eq!(status.borrow().down, None);
    for number in 0..3 {
        publish(&*transport, order(&number.to_string()))
            .await
            .unwrap();
    }
    let mut consumer = transport.consume(&requests(), 2).await.unwrap();
    let in_flight = one(&mut *consumer).await.unwrap();
    let retried = one(&mut *consumer).await.unwrap();
    let asking = tokio::spawn(transport.ask(order("4"), Duration::from_secs(600)));
    tokio::task::yield_now().await;
    drop(broker);
    // Published without a pause: some of it before the loss is noticed.
    let (done, published) = Completion::channel();
    transport.publish(vec![order("5").into()], done);
    retried.settle(Settlement::Retry {
        after: Duration::from_secs(1),
        attempt: 2,
    });

    let down = timeout(SOON, status.wait_for(|status| status.down.is_some())).await;
    down.expect("it is noticed")
        .expect("the transport is there");
    let published = timeout(SOON, published).await.expect("a completion comes");
    published.expect_err("it is not published");
    let ended = one(&mut *consumer).await.unwrap_err();
    assert!(matches!(ended, TransportError::Lost(_)), "{ended}");
    let asked = timeout(SOON, asking).await.expect("the asker is told");
    let asked = asked.expect("it asks").expect_err("there is no reply");
    assert!(matches!(asked, AskError::Transport(_)), "{asked}");
    in_flight.ack();
    let outcome = publish(&*transport, order("6")).await;
    assert!(
        matches!(outcome, Err(TransportError::Lost(_))),
        "{outcome:?}"
    );
    let depth = timeout(SOON, transport.depth(&requests())).await;
    assert!(depth.expect("an outcome comes").is_err());
    let flushed = timeout(SOON, transport.flush()).await;
    assert!(flushed.expect("an outcome comes").is_err());
    // A new consumer waits for the broker, or for the end.
    let consuming = tokio::spawn({
        let transport = transport.clone();
        async move { transport.consume(&requests(), 1).await.map(drop) }
    });
    timeout(SOON, transport.close()).await.expect("it closes");
    let consumed = timeout(SOON, consuming).await.expect("an outcome comes");
    let consumed = consumed.expect("it consumes");
    assert!(
        matches!(consumed, Err(TransportError::Closed)),
        "{consumed:?}"
    );
}

#[tokio::test]
async fn a_message_of_a_lost_connection_runs_again_only_if_its_run_does_not_succeed() {
    let broker = Broker::start();
    let transport = shop(&broker, "stale").await;
    let status = transport.status();
    for payload in ["1", "2", "3"] {
        publish(&*transport, order(payload)).await.unwrap();
    }
    let mut consumer = transport.consume(&requests(), 3).await.unwrap();
    let mut stale = Vec::new();
    for _ in 0..3 {
        stale.push(one(&mut *consumer).await.unwrap());
    }
    broker.ctl(&["close_all_connections", "a test closes them"]);
    one(&mut *consumer).await.unwrap_err();
    let mut consumer = timeout(SOON, transport.consume(&requests(), 3))
        .await
        .expect("it comes back")
        .unwrap();
    // While the service has a message, its redelivery waits.
    let early = &mut VecDeque::new();
    let waiting = timeout(Duration::from_millis(300), take(&mut *consumer, early, 3));
    waiting.await.expect_err("nothing comes");
    let [acked, retried, dropped] = stale.try_into().expect("three");
    acked.ack();
    retried.settle(Settlement::Retry {
        after: Duration::ZERO,
        attempt: 2,
    });
    drop(dropped);
    let fresh = [one(&mut *consumer).await, one(&mut *consumer).await];
    transport.flush().await.unwrap();
    let depth = transport.depth(&requests()).await.unwrap();
    assert_eq!((depth.ready, depth.in_flight, depth.delayed), (0, 2, 0));
    for (delivery, payload) in fresh.into_iter().map(Result::unwrap).zip(["2", "3"]) {
        assert_eq!(delivery.message().payload, payload);
        assert_eq!(delivery.attempt(), 1);
        delivery.ack();
    }
    transport.flush().await.unwrap();
    assert_eq!(transport.depth(&requests()).await.unwrap().total(), 0);
    assert_eq!(status.borrow().reconnects, 1);
    assert_eq!(status.borrow().down, None);
    transport.close().await;
}

#[tokio::test]
async fn a_refusing_or_missing_broker_is_named_without_the_password() {
    let broker = Broker::shared();
    let port = broker.port();
    for (url, reason) in [
        (format!("amqp://guest:hunter2@127.0.0.1:{port}"), "refused"),
        (
            format!("amqp://guest:guest@127.0.0.1:{port}/hunter2-no"),
            "vhost",
        ),
        ("amqp://guest:hunter2@127.0.0.1:1".into(), "refused"),
        (
            format!("amqps://guest:hunter2@127.0.0.1:{port}"),
            "doesn't speak tls",
        ),
    ] {
        let error = connect(&url).await.err().expect("it doesn't connect");
        let text = error.to_string().to_lowercase();
        assert!(text.starts_with("can't connect to amqp"), "{text}");
        assert!(text.contains(reason), "{text}");
        assert!(!text.contains("hunter2@"), "{text}");
    }
}

#[tokio::test]
async fn closing_joins_the_thread_and_ends_the_connections() {
    let broker = Broker::start();
    let transport = shop(&broker, "joined").await;
    publish(&*transport, order("1")).await.unwrap();
    assert_eq!(broker.ctl(&["list_connections", "pid"]).lines().count(), 3);
    transport.close().await;
    let left = broker.ctl(&["list_connections", "pid"]);
    assert_eq!(left.trim(), "", "{left}");
}

#[tokio::test]
async fn a_broker_short_of_memory_stops_publishing_but_not_acking() {
    let broker = Broker::start();
    let transport = shop(&broker, "short").await;
    let mut status = transport.status();
    for number in 0..2 {
        publish(&*transport, order(&number.to_string()))
            .await
            .unwrap();
    }
    let mut consumer = transport.consume(&requests(), 1).await.unwrap();
    let in_flight = one(&mut *consumer).await.unwrap();

    broker.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let (done, published) = Completion::channel();
    transport.publish(vec![order("2").into()], done);
    let down = timeout(SOON, status.wait_for(|status| status.down.is_some())).await;
    let why = down.expect("it is noticed").expect("it is there").clone();
    assert!(why.down.is_some_and(|why| why.contains("memory")));
    // The next message comes only when there is space for it: so the ack has arrived.
    in_flight.ack();
    one(&mut *consumer).await.unwrap().ack();

    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    let up = timeout(SOON, status.wait_for(|status| status.down.is_none())).await;
    up.expect("it is noticed").expect("the transport is there");
    let published = timeout(SOON, published).await.expect("a completion comes");
    published.expect("it is published after all");
    assert_eq!(one(&mut *consumer).await.unwrap().message().payload, "2");
    transport.close().await;
}

#[tokio::test]
async fn flushing_does_not_hang_on_consumers_that_stop_meanwhile() {
    let broker = Broker::shared();
    let transport = shop(broker, "going").await;
    for number in 0..64 {
        publish(&*transport, order(&number.to_string()))
            .await
            .unwrap();
    }
    for round in 0..100 {
        let mut taken = VecDeque::new();
        for _ in 0..16 {
            let mut consumer = transport.consume(&requests(), 4).await.unwrap();
            let before = taken.len();
            while taken.len() < before + 4 {
                let took = timeout(SOON, take(&mut *consumer, &mut taken, 4)).await;
                took.expect("they come").expect("it goes on");
            }
        }
        drop(taken);
        let flushed = timeout(SOON, transport.flush()).await;
        let flushed = flushed.unwrap_or_else(|_| panic!("round {round} hangs"));
        flushed.expect("it flushes");
    }
    transport.close().await;
}
