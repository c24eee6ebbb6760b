//! Laws on ack, requeue, retry and dead letter.

use brickwork::{DeadLetter, Reason, Settlement};

use super::*;

/// An acked message is gone for later consumers, too.
pub async fn an_acked_message_is_gone(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..5).await;
    let mut taker = app.consume("stock.requests", 5).await;
    for delivery in taker.exactly(5).await {
        delivery.ack();
    }
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    drop(taker);
    let mut next = app.consume("stock.requests", 5).await;
    app.send(ORDERS, 5..6).await;
    assert_eq!(numbers(&next.exactly(1).await), [5]);
    app.close().await;
    Verdict::Kept
}

/// Dropping a delivery requeues it.
pub async fn a_dropped_delivery_is_delivered_again(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..3).await;
    let mut taker = app.consume("stock.requests", 3).await;
    let mut taken = taker.exactly(3).await;
    let dropped = taken.remove(1);
    let id = dropped.message().id.clone();
    drop(dropped);
    let again = taker.one().await;
    assert_eq!((number(again.message()), again.attempt()), (1, 1));
    assert_eq!(again.message().id, id);
    app.close().await;
    Verdict::Kept
}

/// A requeued message keeps its attempt number.
pub async fn a_requeued_message_keeps_its_attempt(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..1).await;
    let mut taker = app.consume("stock.requests", 1).await;
    taker.one().await.settle(Settlement::Retry {
        after: Duration::ZERO,
        attempt: 3,
    });
    let third = taker.one().await;
    assert_eq!(third.attempt(), 3);
    third.nack_requeue();
    let again = taker.one().await;
    assert_eq!((number(again.message()), again.attempt()), (0, 3));
    app.close().await;
    Verdict::Kept
}

/// A retry without a delay changes only the attempt number.
pub async fn a_retry_keeps_the_message_as_it_was(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut envelope = message(ORDERS, 1).edit();
    envelope.headers.insert("colour".into(), "blue".into());
    envelope.source = "/shop/web".into();
    let sent = Message::from(envelope);
    app.publish(vec![sent.clone().into()])
        .await
        .expect("it publishes");
    let mut taker = app.consume("stock.requests", 1).await;
    for attempt in 1..5 {
        let delivery = taker.one().await;
        assert_eq!(delivery.attempt(), attempt);
        assert_same(delivery.message(), &sent);
        delivery.settle(Settlement::Retry {
            after: Duration::ZERO,
            attempt: attempt + 1,
        });
    }
    app.close().await;
    Verdict::Kept
}

/// Deliveries may be settled on any thread.
pub async fn a_delivery_can_be_settled_on_another_thread(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..3).await;
    let mut taker = app.consume("stock.requests", 3).await;
    let taken = taker.exactly(3).await;
    let elsewhere = std::thread::spawn(move || {
        for delivery in taken {
            match number(delivery.message()) {
                0 => delivery.ack(),
                1 => delivery.nack_requeue(),
                _ => drop(delivery),
            }
        }
    });
    elsewhere.join().expect("it settles");
    assert_eq!(sorted(numbers(&taker.exactly(2).await)), [1, 2]);
    app.close().await;
    Verdict::Kept
}

/// A dead letter is in the dead-letter queue of its service with its reason and its error, and
/// nowhere else.
pub async fn a_dead_letter_is_kept_with_its_reason(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut envelope = message(ORDERS, 1).edit();
    envelope.headers.insert("colour".into(), "blue".into());
    let sent = Message::from(envelope);
    app.publish(vec![sent.clone().into()])
        .await
        .expect("it publishes");
    let mut taker = app.consume("stock.requests", 1).await;
    let letter = DeadLetter {
        reason: Reason::Panic,
        error: "panicked: näh, order 17".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 1_795_393_830_041,
    };
    let fingerprint = letter.fingerprint();
    let delivery = taker.one().await;
    delivery.settle(Settlement::DeadLetter(Box::new(letter)));
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    assert_eq!(app.depth("stock.dlq").await.ready, 1);

    let mut letters = app.consume("stock.dlq", 1).await;
    let kept = letters.one().await;
    let message = kept.message();
    assert_eq!((&message.id, &message.payload), (&sent.id, &sent.payload));
    assert_eq!(&*message.topic, ORDERS);
    for (name, value) in [
        ("colour", "blue"),
        ("brickwork-reason", "panic"),
        ("brickwork-error", "panicked: näh, order 17"),
        ("brickwork-service", "stock"),
        ("brickwork-input", "requests"),
        ("brickwork-attempt", "5"),
        ("brickwork-failed-at", "1795393830041"),
        ("brickwork-fingerprint", &fingerprint),
        ("brickwork-topic", ORDERS),
    ] {
        assert_eq!(
            message.headers.get(name).map(|v| &**v),
            Some(value),
            "{name}"
        );
    }
    kept.ack();
    app.flush().await;
    assert_eq!(app.depth("stock.dlq").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// A replayed dead letter starts at attempt 1, as a new message does.
pub async fn a_replayed_dead_letter_starts_at_attempt_one(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 1..2).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let letter = DeadLetter {
        reason: Reason::Error,
        error: "no stock".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 0,
    };
    let delivery = taker.one().await;
    delivery.settle(Settlement::DeadLetter(Box::new(letter)));
    let mut letters = app.consume("stock.dlq", 1).await;
    let kept = letters.one().await;
    let replayed = Outgoing {
        queue: Some(queue("stock.requests")),
        ..kept.message().clone().into()
    };
    app.publish(vec![replayed]).await.expect("it publishes");
    kept.ack();
    for attempt in 1..4 {
        let delivery = taker.one().await;
        assert_eq!(
            (number(delivery.message()), delivery.attempt()),
            (1, attempt)
        );
        delivery.settle(Settlement::Retry {
            after: Duration::ZERO,
            attempt: attempt + 1,
        });
    }
    app.close().await;
    Verdict::Kept
}
