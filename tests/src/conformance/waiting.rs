//! Laws on delays and retries, in real time: a broker's clock can't be paused.

use brickwork::Settlement;
use tokio::time::Instant;

use super::*;

const DELAY: Duration = Duration::from_millis(150);

/// A retry is delivered after its delay, with its attempt number.
pub async fn a_retry_is_delivered_after_its_delay(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..1).await;
    let mut taker = app.consume("stock.requests", 10).await;
    let mut delivery = taker.one().await;
    for attempt in 2..4 {
        let began = Instant::now();
        delivery.settle(Settlement::Retry {
            after: DELAY,
            attempt,
        });
        // A delayed retry does not hold up other messages.
        app.send(ORDERS, attempt..attempt + 1).await;
        let other = taker.one().await;
        assert_eq!(number(other.message()), attempt);
        other.ack();
        delivery = taker.one().await;
        assert!(began.elapsed() >= DELAY, "after {:?}", began.elapsed());
        assert_eq!(
            (number(delivery.message()), delivery.attempt()),
            (0, attempt)
        );
        assert_eq!(&*delivery.message().topic, ORDERS);
    }
    app.close().await;
    Verdict::Kept
}

/// Every reader of a topic gets a delayed message, after its delay.
pub async fn a_delayed_message_is_delivered_after_its_delay(subject: &Subject) -> Verdict {
    if !subject.guarantees().delays {
        return Verdict::DoesNotApply("it doesn't delay");
    }
    let queues: Queues<'_> = &[("stock.requests", &[ORDERS]), ("audit.all", &[ORDERS])];
    let app = App::new(subject, queues).await;
    let began = Instant::now();
    let later = Outgoing {
        delay: DELAY,
        ..message(ORDERS, 1).into()
    };
    // One batch: the message without a delay is delivered at once.
    app.publish(vec![later, message(ORDERS, 0).into()])
        .await
        .expect("it publishes");
    for name in ["stock.requests", "audit.all"] {
        let mut taker = app.consume(name, 10).await;
        let first = taker.one().await;
        assert_eq!(number(first.message()), 0);
        let second = taker.one().await;
        assert!(began.elapsed() >= DELAY, "after {:?}", began.elapsed());
        assert_eq!((number(second.message()), second.attempt()), (1, 1));
        assert_eq!(&*second.message().topic, ORDERS);
    }
    app.close().await;
    Verdict::Kept
}

/// A short delay is not held up by a longer one that started before.
pub async fn a_short_delay_overtakes_a_long_one(subject: &Subject) -> Verdict {
    if !subject.guarantees().delays {
        return Verdict::DoesNotApply("it doesn't delay");
    }
    let app = App::new(subject, STOCK).await;
    for (number, delay_ms) in [(1, 3_600_000), (2, 1_500), (3, 100)] {
        let later = Outgoing {
            delay: Duration::from_millis(delay_ms),
            ..message(ORDERS, number).into()
        };
        app.publish(vec![later]).await.expect("it publishes");
    }
    let mut taker = app.consume("stock.requests", 10).await;
    assert_eq!(numbers(&[taker.one().await, taker.one().await]), [3, 2]);
    app.wait_for_depth("stock.requests", |depth| depth.delayed == 1)
        .await;
    app.close().await;
    Verdict::Kept
}

/// A delayed message survives a reconnect.
pub async fn a_delay_outlives_the_transport(subject: &Subject) -> Verdict {
    let guarantees = subject.guarantees();
    if !guarantees.durable || !guarantees.delays {
        return Verdict::DoesNotApply("it isn't durable");
    }
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..1).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let again = Settlement::Retry {
        after: DELAY,
        attempt: 2,
    };
    taker.one().await.settle(again);
    let later = Outgoing {
        delay: DELAY,
        ..message(ORDERS, 1).into()
    };
    app.publish(vec![later]).await.expect("it publishes");
    let topology = app.topology.clone();
    app.close().await;

    let app = App::again(subject, &topology).await;
    let mut taker = app.consume("stock.requests", 2).await;
    let taken = taker.exactly(2).await;
    assert_eq!(sorted(numbers(&taken)), [0, 1]);
    for delivery in taken {
        let expected = 2 - number(delivery.message());
        assert_eq!(delivery.attempt(), expected);
    }
    app.close().await;
    Verdict::Kept
}
