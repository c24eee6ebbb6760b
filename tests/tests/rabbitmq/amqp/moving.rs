//! Messages on their way to quarantine.

use std::collections::BTreeSet;

use brickwork_tests::proxy::{Cut, Proxy, Way, Whose};

use super::*;

/// The service never gets a message that is on its way to quarantine: if its channel is lost, its
/// redelivery must not wait for the end of a run.
#[tokio::test]
async fn suspects_that_were_being_moved_when_the_connection_was_lost_are_handed_out() {
    let broker = Broker::start();
    let transport = shop(&broker, "moving").await;
    for payload in ["1", "2", "3"] {
        publish(&*transport, order(payload)).await.unwrap();
    }
    transport.close().await;
    // Two programs die with the messages.
    let queue = "moving.stock.requests";
    for _ in 0..2 {
        let (connection, channel) = stranger(&broker).await;
        for _ in 0..3 {
            let got = channel.basic_get(queue.into(), Default::default());
            got.await.unwrap().expect("a message");
        }
        connection.close(200, "done".into()).await.unwrap();
    }
    let address = broker.address();
    let proxy = tokio::task::spawn_blocking(move || Proxy::start(address));
    let proxy = proxy.await.expect("it starts");
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let transport = connect(&url).await.expect("it connects");
    let mut status = transport.status();
    transport.declare(&topology("moving")).await.unwrap();
    // No confirm arrives, so that the moves don't end before the connection.
    proxy.swallow(Whose::Saying("publishing"), Way::Down);
    let mut consumer = transport.consume(&requests(), 3).await.unwrap();
    let quiet = timeout(Duration::from_millis(300), one(&mut *consumer)).await;
    quiet.expect_err("suspects are moved");
    proxy.heal();
    proxy.cut(Whose::All, Cut::Reset);
    one(&mut *consumer).await.unwrap_err();
    let again = status.wait_for(|status| status.reconnects > 0);
    timeout(SOON, again).await.expect("it reconnects").unwrap();
    let mut consumer = timeout(SOON, transport.consume(&requests(), 3))
        .await
        .expect("it comes back")
        .unwrap();
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        let delivery = one(&mut *consumer).await.unwrap();
        seen.insert(delivery.message().payload.clone());
        delivery.ack();
    }
    transport.close().await;
}
