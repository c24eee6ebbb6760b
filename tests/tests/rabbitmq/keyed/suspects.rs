//! Suspects of a keyed input.

use futures_util::StreamExt;

use super::*;

/// Takes `count` messages of the only partition and dies with them, as far as the broker knows.
async fn die_with(broker: &Broker, app: &str, count: usize) {
    let (connection, channel) = stranger(broker).await;
    let queue = format!("{app}.stock.requests.p00");
    let prefetch = channel.basic_qos(count as u16, Default::default());
    prefetch.await.unwrap();
    let (options, arguments) = (Default::default(), FieldTable::default());
    let consuming = channel.basic_consume(queue.as_str().into(), "".into(), options, arguments);
    let mut deliveries = consuming.await.unwrap();
    for _ in 0..count {
        let delivery = timeout(SOON, deliveries.next()).await.expect("a message");
        delivery.expect("a message").unwrap();
    }
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn suspects_are_done_before_later_messages_of_their_partition() {
    let (broker, app) = (Broker::shared(), "keyed-suspects");
    let transport = process(broker, app, 1).await;
    for number in 0..8 {
        publish(&*transport, order(7, number)).await.unwrap();
    }
    for _ in 0..2 {
        die_with(broker, app, 3).await;
    }
    let mut consumer = transport.consume(&requests(), 8).await.unwrap();
    let first = one(&mut *consumer).await.unwrap();
    assert_eq!(read(first.message()), (7, 0));
    // While it is tried, nothing else of its partition is handed out.
    let quiet = timeout(Duration::from_millis(1_500), one(&mut *consumer)).await;
    quiet.expect_err("the others wait");
    // Another process takes over in the middle of the trials.
    drop(first);
    transport.close().await;
    let transport = process(broker, app, 1).await;
    let mut consumer = transport.consume(&requests(), 8).await.unwrap();
    drain(&mut *consumer, 1, 8).await;
    transport.close().await;
}
