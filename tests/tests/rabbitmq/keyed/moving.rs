//! Messages that enter a keyed input by its plain queue.

use super::*;

#[tokio::test]
async fn messages_of_other_programs_are_moved_to_their_partitions_in_order() {
    let (broker, app) = (Broker::shared(), "keyed-foreign");
    let transport = process(broker, app, 4).await;
    let (_connection, channel) = stranger(broker).await;
    for number in 0..50 {
        for customer in 0..6 {
            let payload = json!({"customer": customer, "number": number}).to_string();
            publish_from_outside(&channel, app, payload).await;
        }
    }
    let mut consumer = transport.consume(&requests(), 16).await.unwrap();
    drain(&mut *consumer, 6, 50).await;
    wait_for_depth(&*transport, |depth| depth == Depth::default()).await;
    transport.close().await;
}

#[tokio::test]
async fn a_message_without_a_key_arrives_as_it_was_sent() {
    let (broker, app) = (Broker::shared(), "keyed-without");
    let transport = process(broker, app, 4).await;
    let (_connection, channel) = stranger(broker).await;
    let mut headers = FieldTable::default();
    headers.insert("urgent".into(), lapin::types::AMQPValue::Boolean(true));
    // Only the app itself may set these.
    headers.insert(
        "brickwork-attempt".into(),
        lapin::types::AMQPValue::LongLongInt(9),
    );
    headers.insert(
        "brickwork-topic".into(),
        lapin::types::AMQPValue::LongString("x".into()),
    );
    let properties = BasicProperties::default()
        .with_message_id("order-17".into())
        .with_headers(headers);
    let options = BasicPublishOptions::default();
    let published =
        channel.basic_publish(app.into(), "orders".into(), options, b"no key", properties);
    published.await.unwrap();
    let mut consumer = transport.consume(&requests(), 16).await.unwrap();
    let delivery = one(&mut *consumer).await.unwrap();
    assert_eq!(delivery.message().id.to_string(), "order-17");
    assert_eq!(&*delivery.message().topic, "orders");
    assert_eq!(&*delivery.message().headers["urgent"], "true");
    assert_eq!(delivery.attempt(), 1);
    delivery.ack();
    transport.close().await;
}

#[tokio::test]
async fn replays_and_delayed_messages_arrive() {
    let transport = process(Broker::shared(), "keyed-again", 4).await;
    let mut consumer = transport.consume(&requests(), 16).await.unwrap();
    let replayed = Outgoing {
        queue: Some(requests()),
        ..Outgoing::from(order(1, 0))
    };
    publish(&*transport, replayed).await.unwrap();
    let delayed = Outgoing {
        delay: Duration::from_millis(100),
        ..Outgoing::from(order(2, 0))
    };
    publish(&*transport, delayed).await.unwrap();
    let mut done = BTreeSet::new();
    while done.len() < 2 {
        let delivery = one(&mut *consumer).await.unwrap();
        if delivery.attempt() == 2 {
            done.insert(read(delivery.message()));
            delivery.ack();
            continue;
        }
        let after = Duration::from_millis(50);
        delivery.settle(Settlement::Retry { after, attempt: 2 });
    }
    transport.close().await;
}
