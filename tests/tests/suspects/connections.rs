//! Suspects on RabbitMQ when a connection is lost, and in queues with a single active consumer.

use std::collections::VecDeque;

use brickwork::transport::take;
use brickwork_tests::broker::Broker;
use futures_util::FutureExt;
use tokio::time::timeout;

use super::{App, Input, Place, SOON, attempt};

const STOCK: &[&str] = &["stock"];

#[tokio::test]
async fn a_suspect_whose_connection_is_lost_is_not_blamed() {
    let broker = Broker::start();
    let place = Place {
        url: broker.url(),
        app: "lost",
    };
    for crash in 0..2 {
        let app = App::start(&place, STOCK, false).await;
        if crash == 0 {
            for number in ["1", "2", "3"] {
                app.publish("stock", number).await;
            }
        }
        let in_flight = app.consume("stock").await.several(3).await;
        app.crash(in_flight);
    }
    let app = App::start(&place, STOCK, false).await;
    let mut stock = app.consume("stock").await;
    for _ in 0..3 {
        let suspect = stock.one().await;
        assert_eq!(attempt(&suspect), (1, 0));
        broker.ctl(&["close_all_connections", "a test closes them"]);
        let mut into = VecDeque::new();
        let ended = timeout(SOON, take(&mut *stock.consumer, &mut into, 1)).await;
        ended.expect("it ends").expect_err("the connection is lost");
        drop(suspect);
        stock = app.consume("stock").await;
    }
    for _ in 0..3 {
        let suspect = stock.one().await;
        assert_eq!(attempt(&suspect), (1, 0));
        suspect.ack();
    }
    assert_eq!(app.total("stock").await, 0);
    app.transport.close().await;
}

#[tokio::test]
async fn one_process_gets_all_suspects_of_a_single_active_queue_and_another_takes_over() {
    let place = Place::rabbitmq("single");
    let first = App::start(&place, STOCK, true).await;
    let second = App::start(&place, STOCK, true).await;
    let mut first_stock = first.consume("stock").await;
    let mut second_stock = second.consume("stock").await;
    for number in ["1", "2", "3"] {
        first.publish("stock", number).await;
    }
    let mut in_flight = first_stock.several(3).await;
    assert!(second_stock.is_quiet().await, "both get messages");
    in_flight.remove(0).ack();
    first.transport.flush().await.expect("it flushes");
    first.crash(in_flight);

    let in_flight = second_stock.several(2).await;
    assert!(in_flight.iter().all(|it| it.crashes() == 0));
    let third = App::start(&place, STOCK, true).await;
    let mut third_stock = third.consume("stock").await;
    second.crash(in_flight);

    // Both messages are suspects now. The active process gets them, even if the other process
    // finds them first.
    let fourth = App::start(&place, STOCK, true).await;
    let mut fourth_stock = fourth.consume("stock").await;
    let (active, app) = {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            if has_taken(&mut third_stock) {
                break (&mut third_stock, &third);
            }
            if has_taken(&mut fourth_stock) {
                break (&mut fourth_stock, &fourth);
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no process gets them"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    active.one().await.ack();
    active.one().await.ack();
    assert_eq!(app.total("stock").await, 0);
    third.transport.close().await;
    fourth.transport.close().await;
}

/// Takes a delivery if there is one.
fn has_taken(input: &mut Input) -> bool {
    let taking = take(&mut *input.consumer, &mut input.taken, 1);
    taking.now_or_never().is_some()
}
