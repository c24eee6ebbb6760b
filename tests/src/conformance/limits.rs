//! Laws on full queues.

use brickwork::Settlement;
use brickwork::transport::AskError;

use super::*;

const AUDIT: &str = "audit";

/// Two queues read [`ORDERS`]; one of them has a limit.
async fn limited(subject: &Subject, limit: u64, overflow: Overflow) -> Result<App, Verdict> {
    if !subject.guarantees().limits {
        return Err(Verdict::DoesNotApply("its queues have no limits"));
    }
    let stock = QueueSpec {
        limit: Some(limit),
        overflow,
        feeds: Vec::new(),
        ..spec("stock.requests", &[ORDERS])
    };
    let specs = vec![stock, spec("audit.log", &[ORDERS, AUDIT])];
    Ok(App::with_specs(subject, specs).await)
}

fn overflowed(app: &App) -> u64 {
    app.transport.overflowed(&queue("stock.requests"))
}

/// A transport without queue limits refuses a topology with one.
pub async fn a_limit_that_the_transport_cannot_keep_is_refused(subject: &Subject) -> Verdict {
    if subject.guarantees().limits {
        return Verdict::DoesNotApply("it keeps limits");
    }
    let limited = QueueSpec {
        limit: Some(3),
        ..spec("stock.requests", &[ORDERS])
    };
    let app = App::with_specs(subject, Vec::new()).await;
    let topology = Topology {
        queues: vec![limited],
        ..app.topology.clone()
    };
    let declared = app.transport.declare(&topology).await;
    let unsupported = matches!(declared, Err(TransportError::Unsupported(_)));
    assert!(unsupported, "{declared:?}");
    app.close().await;
    Verdict::Kept
}

/// Messages beyond the limit go to the service's dead letters and are counted. The publisher gets
/// its confirm, and other readers of the topic get their copies.
pub async fn a_message_beyond_the_limit_is_dead_lettered(subject: &Subject) -> Verdict {
    let app = match limited(subject, 3, Overflow::DeadLetter).await {
        Ok(app) => app,
        Err(verdict) => return verdict,
    };
    app.send(ORDERS, 0..5).await;
    assert_eq!(app.depth("stock.requests").await.ready, 3);
    assert_eq!(app.depth("audit.log").await.ready, 5);
    assert_eq!(overflowed(&app), 2);

    // Unacked and delayed messages count towards the limit.
    let mut taker = app.consume("stock.requests", 10).await;
    let mut taken = taker.exactly(3).await;
    assert_eq!(numbers(&taken), [0, 1, 2]);
    app.send(ORDERS, 5..6).await;
    let again = Settlement::Retry {
        after: Duration::from_secs(3600),
        attempt: 2,
    };
    taken.remove(0).settle(again);
    app.flush().await;
    app.send(ORDERS, 6..7).await;
    assert_eq!(overflowed(&app), 4);
    // Each ack makes room for one message.
    taken.remove(0).ack();
    app.flush().await;
    app.send(ORDERS, 7..9).await;
    assert_eq!(number(taker.one().await.message()), 7);
    assert_eq!(overflowed(&app), 5);

    let mut letters = app.consume("stock.dlq", 10).await;
    let letters = letters.exactly(5).await;
    assert_eq!(numbers(&letters), [3, 4, 5, 6, 8]);
    let letter = letters[0].message();
    let header = |name: &str| letter.headers.get(name).map(|value| &**value);
    assert_eq!(header("brickwork-reason"), Some("overflow"));
    assert_eq!(header("brickwork-service"), Some("stock"));
    assert_eq!(header("brickwork-input"), Some("requests"));
    assert_eq!(header("brickwork-topic"), Some(ORDERS));
    assert_eq!(header("brickwork-attempt"), Some("0"));
    let error = header("brickwork-error").expect("a reason");
    assert!(
        error.contains("stock.requests") && error.contains('3'),
        "{error}"
    );
    app.close().await;
    Verdict::Kept
}

/// A full queue that rejects refuses the whole batch, and no part of it is delivered.
pub async fn a_full_queue_that_rejects_refuses_a_batch_whole(subject: &Subject) -> Verdict {
    let app = match limited(subject, 3, Overflow::Reject).await {
        Ok(app) => app,
        Err(verdict) => return verdict,
    };
    app.send(ORDERS, 0..3).await;
    let batch = || vec![message(AUDIT, 3).into(), message(ORDERS, 4).into()];
    match app.publish(batch()).await {
        Err(TransportError::Refused(why)) => assert!(why.contains("stock.requests"), "{why}"),
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(app.depth("audit.log").await.ready, 3);
    assert_eq!(app.depth("stock.requests").await.ready, 3);
    assert_eq!(app.depth("stock.dlq").await.ready, 0);
    assert_eq!(overflowed(&app), 0);

    let mut taker = app.consume("stock.requests", 1).await;
    taker.one().await.ack();
    app.flush().await;
    app.publish(batch()).await.expect("there is room");
    assert_eq!(app.depth("audit.log").await.ready, 5);
    assert_eq!(app.depth("stock.requests").await.total(), 3);
    app.close().await;
    Verdict::Kept
}

/// A batch larger than the limit is accepted while the queue isn't full; otherwise it would be
/// retried for ever.
pub async fn a_batch_larger_than_the_limit_enters_a_queue_that_is_not_full(
    subject: &Subject,
) -> Verdict {
    let app = match limited(subject, 3, Overflow::Reject).await {
        Ok(app) => app,
        Err(verdict) => return verdict,
    };
    app.send(ORDERS, 0..2).await;
    app.send(ORDERS, 2..7).await;
    assert_eq!(app.depth("stock.requests").await.ready, 7);
    let refused = app.publish(vec![message(ORDERS, 7).into()]).await;
    assert!(
        matches!(refused, Err(TransportError::Refused(_))),
        "{refused:?}"
    );
    app.close().await;
    Verdict::Kept
}

/// The limit never applies to messages that the transport confirmed before (retries, requeued and
/// delayed messages), and not to a message that names its queue.
pub async fn the_limit_never_applies_to_confirmed_messages(subject: &Subject) -> Verdict {
    for overflow in [Overflow::DeadLetter, Overflow::Reject] {
        let subject = subject.another();
        let app = match limited(&subject, 2, overflow).await {
            Ok(app) => app,
            Err(verdict) => return verdict,
        };
        app.send(ORDERS, 0..2).await;
        let scheduled = Outgoing {
            delay: Duration::from_millis(200),
            ..message(ORDERS, 2).into()
        };
        app.publish(vec![scheduled]).await.expect("it publishes");
        let alone = Outgoing {
            queue: Some(queue("stock.requests")),
            ..message(ORDERS, 3).into()
        };
        app.publish(vec![alone]).await.expect("it publishes");
        let mut taker = app.consume("stock.requests", 10).await;
        for delivery in taker.exactly(4).await {
            let again = |after| Settlement::Retry { after, attempt: 2 };
            match number(delivery.message()) {
                0 => delivery.nack_requeue(),
                1 => delivery.settle(again(Duration::from_millis(200))),
                2 => delivery.settle(again(Duration::ZERO)),
                _ => drop(delivery),
            }
        }
        let back = taker.exactly(4).await;
        assert_eq!(sorted(numbers(&back)), [0, 1, 2, 3]);
        assert_eq!(app.depth("stock.dlq").await.ready, 0);
        back.into_iter().for_each(Delivery::ack);
        app.flush().await;
        // No message is counted twice or for ever.
        app.send(ORDERS, 4..6).await;
        assert_eq!(app.depth("stock.requests").await.ready, 2);
        app.close().await;
    }
    Verdict::Kept
}

/// An ask to a full queue fails at once.
pub async fn asking_a_full_queue_fails_at_once(subject: &Subject) -> Verdict {
    for overflow in [Overflow::DeadLetter, Overflow::Reject] {
        let subject = subject.another();
        let app = match limited(&subject, 1, overflow).await {
            Ok(app) => app,
            Err(verdict) => return verdict,
        };
        app.send(ORDERS, 0..1).await;
        let asked = app.transport.ask(message(ORDERS, 1), LAW_MAX);
        let error = timeout(SOON, asked).await.expect("an answer comes at once");
        let error = error.expect_err("no reply has come");
        match overflow {
            Overflow::DeadLetter => assert!(
                matches!(&error, AskError::Failed(why) if why.contains("full")),
                "{error:?}"
            ),
            Overflow::Reject => assert!(
                matches!(error, AskError::Transport(TransportError::Refused(_))),
                "{error:?}"
            ),
        }
        app.close().await;
    }
    Verdict::Kept
}

/// Concurrent publishers do not overfill a queue, and each learns the outcome of its messages.
pub async fn many_publishers_do_not_overfill_a_queue(subject: &Subject) -> Verdict {
    const LIMIT: u64 = 100;
    const PUBLISHERS: u32 = 4;
    const EACH: u32 = 200;
    for overflow in [Overflow::DeadLetter, Overflow::Reject] {
        let subject = subject.another();
        let app = match limited(&subject, LIMIT, overflow).await {
            Ok(app) => app,
            Err(verdict) => return verdict,
        };
        let publish = |publisher: u32| {
            let numbers = publisher * EACH..(publisher + 1) * EACH;
            let outcomes = numbers.map(|number| {
                let (done, outcome) = Completion::channel();
                let message = message(ORDERS, number);
                app.transport.publish(vec![message.into()], done);
                outcome
            });
            outcomes.collect::<Vec<_>>()
        };
        let outcomes = std::thread::scope(|scope| {
            let publishers =
                (0..PUBLISHERS).map(|publisher| scope.spawn(move || publish(publisher)));
            let publishers: Vec<_> = publishers.collect();
            let outcomes = publishers.into_iter().map(|publisher| publisher.join());
            outcomes
                .collect::<Result<Vec<_>, _>>()
                .expect("none panics")
        });
        let mut taken_over = 0;
        for outcome in outcomes.into_iter().flatten() {
            let outcome = timeout(SOON, outcome).await.expect("a completion comes");
            taken_over += u64::from(outcome.is_ok());
        }
        let all = u64::from(PUBLISHERS * EACH);
        assert_eq!(app.depth("stock.requests").await.ready, LIMIT);
        let letters = app.depth("stock.dlq").await.ready;
        match overflow {
            Overflow::DeadLetter => assert_eq!((taken_over, letters), (all, all - LIMIT)),
            Overflow::Reject => assert_eq!((taken_over, letters), (LIMIT, 0)),
        }
        assert_eq!(app.depth("audit.log").await.ready, taken_over);
        app.close().await;
    }
    Verdict::Kept
}
