//! Laws on stop, flush, close and reconnect.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;

use brickwork::Settlement;
use brickwork::transport::AskError;
use futures_util::FutureExt;

use super::*;

/// Stopping a consumer requeues its prefetched messages. Deliveries that it handed out can still
/// be settled.
pub async fn a_stopped_consumer_requeues_its_prefetched_messages(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..10).await;
    let mut first = app.consume("stock.requests", 10).await;
    let mut taken = first.exactly(3).await;
    first.0.stop();
    assert!(matches!(first.ends().await, TransportError::Closed));

    let mut second = app.consume("stock.requests", 10).await;
    let mut rest = second.exactly(7).await;
    assert_eq!(sorted(numbers(&rest)), (3..10).collect::<Vec<_>>());
    taken.remove(0).ack();
    taken.remove(0).nack_requeue();
    rest.extend(second.exactly(1).await);
    assert_eq!(number(rest[7].message()), 1);
    drop(taken);
    rest.extend(second.exactly(1).await);
    assert_eq!(number(rest[8].message()), 2);
    rest.into_iter().for_each(Delivery::ack);
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// Dropping a consumer stops it.
pub async fn a_dropped_consumer_requeues_its_prefetched_messages(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut first = app.consume("stock.requests", 10).await;
    app.send(ORDERS, 0..10).await;
    first.one().await.ack();
    drop(first);
    let mut second = app.consume("stock.requests", 10).await;
    let rest = second.exactly(9).await;
    assert_eq!(sorted(numbers(&rest)), (1..10).collect::<Vec<_>>());
    app.close().await;
    Verdict::Kept
}

/// Dropping a pending take loses no message.
pub async fn a_dropped_take_loses_nothing(subject: &Subject) -> Verdict {
    const MESSAGES: u32 = 200;
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 8).await;
    let (transport, pace) = (app.transport.clone(), Duration::from_micros(200));
    let publisher = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            let (done, _unused) = Completion::channel();
            transport.publish(vec![message(ORDERS, number).into()], done);
            std::thread::sleep(pace);
        }
    });
    let mut seen = Vec::new();
    while seen.len() < MESSAGES as usize {
        let mut taken = VecDeque::new();
        // The take is polled at least once and then dropped: sometimes it is pending, sometimes
        // done.
        let _given_up = take(&mut *taker.0, &mut taken, 3).now_or_never();
        if taken.is_empty() {
            taken = taker.some(3).await.into();
        }
        seen.extend(numbers(taken.make_contiguous()));
        taken.into_iter().for_each(Delivery::ack);
    }
    publisher.join().expect("it publishes");
    assert_eq!(sorted(seen), (0..MESSAGES).collect::<Vec<_>>());
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// Flush waits for all earlier publications and settlements.
pub async fn flushing_waits_for_publications_and_settlements(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let done = Arc::new(AtomicU32::new(0));
    for number in 0..500 {
        let counted = done.clone();
        let completion = Completion::new(move |outcome| {
            outcome.expect("it is published");
            counted.fetch_add(1, Relaxed);
        });
        let batch = vec![message(ORDERS, number).into()];
        app.transport.publish(batch, completion);
    }
    app.flush().await;
    assert_eq!(done.load(Relaxed), 500);
    let mut taker = app.consume("stock.requests", 500).await;
    for (index, delivery) in taker.exactly(500).await.into_iter().enumerate() {
        let after = Duration::from_secs(3600);
        match index % 2 {
            0 => delivery.ack(),
            _ => delivery.settle(Settlement::Retry { after, attempt: 2 }),
        }
    }
    app.flush().await;
    let depth = app.depth("stock.requests").await;
    assert_eq!((depth.ready, depth.in_flight, depth.delayed), (0, 0, 250));
    app.close().await;
    Verdict::Kept
}

/// After close, consumers end and every call fails: nothing hangs.
pub async fn after_closing_everything_ends(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..3).await;
    let mut taker = app.consume("stock.requests", 2).await;
    let in_flight = taker.exactly(2).await;
    let mut waiting = app.consume("stock.dlq", 1).await;
    let (ended, transport) = (
        tokio::spawn(async move { waiting.ends().await }),
        app.transport,
    );
    let asking = tokio::spawn(transport.ask(message(ORDERS, 9), LAW_MAX));
    tokio::task::yield_now().await;
    let closed = timeout(SOON, transport.close()).await;
    closed.expect("closing ends");

    assert!(matches!(
        ended.await.expect("it takes"),
        TransportError::Closed
    ));
    assert!(matches!(taker.ends().await, TransportError::Closed));
    let asked = timeout(SOON, asking).await.expect("the asker is told");
    let asked = asked.expect("it asks");
    assert!(
        matches!(asked, Err(AskError::Transport(TransportError::Closed))),
        "{asked:?}"
    );
    let (done, outcome) = Completion::channel();
    transport.publish(vec![message(ORDERS, 3).into()], done);
    let outcome = timeout(SOON, outcome).await.expect("a completion comes");
    assert!(
        matches!(outcome, Err(TransportError::Closed)),
        "{outcome:?}"
    );
    let consumed = transport.consume(&queue("stock.requests"), 1).await;
    assert!(matches!(consumed, Err(TransportError::Closed)));
    let depth = transport.depth(&queue("stock.requests")).await;
    assert!(matches!(depth, Err(TransportError::Closed)), "{depth:?}");
    let declared = transport.declare(&app.topology).await;
    assert!(matches!(declared, Err(TransportError::Closed)));
    let asked = timeout(SOON, transport.ask(message(ORDERS, 4), LAW_MAX)).await;
    asked.expect("an outcome comes").expect_err("it is closed");
    // Settling after close has no effect and does not panic.
    for delivery in in_flight {
        delivery.ack();
    }
    let flushed = timeout(SOON, transport.flush()).await;
    let _either = flushed.expect("flushing ends");
    let closed = timeout(SOON, transport.close()).await;
    closed.expect("closing again ends");
    Verdict::Kept
}

/// Confirmed, unacked messages survive closing and reconnecting.
pub async fn a_confirmed_message_outlives_the_transport(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return Verdict::DoesNotApply("it isn't durable");
    }
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..20).await;
    let mut taker = app.consume("stock.requests", 8).await;
    let mut taken = taker.exactly(5).await;
    let acked: Vec<u32> = taken.drain(..2).map(ack_and_number).collect();
    let topology = app.topology.clone();
    app.close().await;

    let app = App::again(subject, &topology).await;
    let mut taker = app.consume("stock.requests", 20).await;
    let mut seen = numbers(&taker.exactly(18).await);
    seen.extend(acked);
    assert_eq!(sorted(seen), (0..20).collect::<Vec<_>>());
    app.close().await;
    Verdict::Kept
}

/// Deliveries that were unacked when a transport was dropped without close are delivered again.
pub async fn a_message_in_flight_at_a_crash_is_delivered_again(subject: &Subject) -> Verdict {
    let guarantees = subject.guarantees();
    if !guarantees.durable || !guarantees.redelivers {
        return Verdict::DoesNotApply("it isn't durable");
    }
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..5).await;
    let mut taker = app.consume("stock.requests", 5).await;
    let taken = taker.exactly(3).await;
    let topology = app.topology.clone();
    drop(app);

    let app = App::again(subject, &topology).await;
    let mut next = app.consume("stock.requests", 5).await;
    let again = next.exactly(5).await;
    assert_eq!(sorted(numbers(&again)), [0, 1, 2, 3, 4]);
    // Settling a delivery of the dropped transport has no effect.
    for delivery in taken {
        delivery.ack();
    }
    app.close().await;
    Verdict::Kept
}

fn ack_and_number(delivery: Delivery) -> u32 {
    let number = number(delivery.message());
    delivery.ack();
    number
}
