//! What outlives a transport that is durable.

use brickwork::{DeadLetter, Reason, Settlement};

use super::*;

const NOT_DURABLE: Verdict = Verdict::DoesNotApply("it isn't durable");

/// A message that is tried again is the same attempt after connecting again.
pub async fn an_attempt_outlives_the_transport(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..1).await;
    let mut taker = app.consume("stock.requests", 1).await;
    taker.one().await.settle(Settlement::Retry {
        after: Duration::ZERO,
        attempt: 3,
    });
    app.flush().await;
    let topology = app.topology.clone();
    app.close().await;

    let app = App::again(subject, &topology).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let again = taker.one().await;
    assert_eq!((number(again.message()), again.attempt()), (0, 3));
    app.close().await;
    Verdict::Kept
}

/// A dead letter is there, with its reason, after connecting again.
pub async fn a_dead_letter_outlives_the_transport(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..1).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let letter = DeadLetter {
        reason: Reason::Timeout,
        error: "not done within 30s".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 1_795_393_830_041,
    };
    let given_up = Settlement::DeadLetter(Box::new(letter.clone()));
    taker.one().await.settle(given_up);
    app.flush().await;
    let topology = app.topology.clone();
    drop((app, taker));

    let app = App::again(subject, &topology).await;
    let mut letters = app.consume("stock.dlq", 1).await;
    let kept = letters.one().await;
    assert_eq!(number(kept.message()), 0);
    assert_eq!(DeadLetter::from_letter(kept.message()), Some(letter));
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// What was acked, and flushed, before a crash doesn't come again; all else does, once.
pub async fn a_crash_undoes_no_settlement_and_forgets_no_message(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..60).await;
    let later = Outgoing {
        delay: Duration::from_millis(100),
        ..message(ORDERS, 60).into()
    };
    app.publish(vec![later]).await.expect("it publishes");
    let mut taker = app.consume("stock.requests", 40).await;
    let mut in_flight = Vec::new();
    for delivery in taker.exactly(30).await {
        let after = Duration::from_millis(100);
        match number(delivery.message()) % 3 {
            0 => delivery.ack(),
            1 => delivery.settle(Settlement::Retry { after, attempt: 2 }),
            _ => in_flight.push(delivery),
        }
    }
    app.flush().await;
    let topology = app.topology.clone();
    drop((app, taker));
    drop(in_flight);

    let app = App::again(subject, &topology).await;
    let mut taker = app.consume("stock.requests", 100).await;
    let taken = taker.exactly(51).await;
    let retried = taken.iter().filter(|it| it.attempt() == 2);
    assert_eq!(retried.count(), 10);
    let expected = (0..61).filter(|number| *number >= 30 || number % 3 != 0);
    assert_eq!(sorted(numbers(&taken)), expected.collect::<Vec<_>>());
    taken.into_iter().for_each(Delivery::ack);
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// A backlog that is larger than any window is there in order after connecting again, and
/// nothing of it is passed over while more comes.
pub async fn a_long_backlog_outlives_the_transport_in_order(subject: &Subject) -> Verdict {
    const BACKLOG: u32 = 5_000;
    const MORE: u32 = 500;
    let guarantees = subject.guarantees();
    if !guarantees.durable || !guarantees.ordered {
        return NOT_DURABLE;
    }
    let app = App::new(subject, STOCK).await;
    for from in (0..BACKLOG).step_by(500) {
        app.send(ORDERS, from..from + 500).await;
    }
    assert_eq!(app.depth("stock.requests").await.ready, u64::from(BACKLOG));
    let topology = app.topology.clone();
    app.close().await;

    let app = App::again(subject, &topology).await;
    assert_eq!(app.depth("stock.requests").await.ready, u64::from(BACKLOG));
    let mut taker = app.consume("stock.requests", 64).await;
    let mut expected = 0;
    while expected < BACKLOG + MORE {
        // More comes while the backlog is being taken.
        if expected < MORE {
            app.send(ORDERS, BACKLOG + expected..BACKLOG + expected + 1)
                .await;
        }
        let taken = match expected {
            0..MORE => vec![taker.one().await],
            _ => taker.some(64).await,
        };
        for delivery in taken {
            assert_eq!(number(delivery.message()), expected);
            expected += 1;
            delivery.ack();
        }
    }
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}
