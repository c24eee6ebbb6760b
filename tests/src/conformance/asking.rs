//! Laws on requests and replies.

use brickwork::transport::AskError;
use brickwork::{DeadLetter, Reason, Settlement};
use bytes::Bytes;

use super::*;

const WITHIN: Duration = Duration::from_secs(20);
const BRIEFLY: Duration = Duration::from_millis(50);

/// Each asker gets the reply to its own request.
pub async fn an_asker_gets_its_reply(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 64).await;
    let asks = (0..20).map(|number| app.transport.ask(message(ORDERS, number), WITHIN));
    let asking: Vec<_> = asks.map(tokio::spawn).collect();
    let mut requests = taker.exactly(20).await;
    // Answers come in reverse order.
    requests.reverse();
    for request in requests {
        let number = number(request.message());
        let reply = Bytes::from(format!("{}", number + 1000));
        assert!(request.message().reply_to.is_some());
        request.settle(Settlement::Ack(Some(Ok(reply))));
    }
    for (asked, asking) in (0..).zip(asking) {
        let reply = asking.await.expect("it asks").expect("a reply comes");
        assert_eq!(number(&reply), asked + 1000);
    }
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    assert_eq!(app.transport.late_replies(), 0);
    app.close().await;
    Verdict::Kept
}

/// An ask ends at its deadline.
pub async fn an_asker_times_out(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let outcome = app.transport.ask(message(ORDERS, 1), BRIEFLY).await;
    assert!(
        matches!(outcome, Err(AskError::Timeout(BRIEFLY))),
        "{outcome:?}"
    );
    app.close().await;
    Verdict::Kept
}

/// A reply after the deadline is dropped and counted, and reaches no other asker.
pub async fn a_late_reply_is_dropped_and_counted(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 10).await;
    let timed_out = app.transport.ask(message(ORDERS, 1), BRIEFLY).await;
    assert!(matches!(timed_out, Err(AskError::Timeout(_))));
    let gone = app.transport.ask(message(ORDERS, 2), WITHIN);
    drop(gone);
    for _ in 0..2 {
        let request = taker.one().await;
        request.settle(Settlement::Ack(Some(Ok("late".into()))));
    }
    let asking = tokio::spawn(app.transport.ask(message(ORDERS, 3), WITHIN));
    let request = taker.one().await;
    request.settle(Settlement::Ack(Some(Ok("3".into()))));
    let reply = asking.await.expect("it asks").expect("a reply comes");
    assert_eq!(number(&reply), 3);
    assert_eq!(app.transport.late_replies(), 2);
    app.close().await;
    Verdict::Kept
}

/// Dead-lettering a request fails its asker.
pub async fn a_dead_lettered_request_fails_its_asker(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let asking = tokio::spawn(app.transport.ask(message(ORDERS, 1), WITHIN));
    let letter = DeadLetter {
        reason: Reason::Reject,
        error: "no such sku".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 1,
        failed_at_ms: 0,
    };
    let request = taker.one().await;
    request.settle(Settlement::DeadLetter(Box::new(letter)));
    let outcome = asking.await.expect("it asks");
    assert!(
        matches!(&outcome, Err(AskError::Failed(text)) if text == "no such sku"),
        "{outcome:?}"
    );
    app.wait_for_depth("stock.dlq", |depth| depth.ready == 1)
        .await;
    app.close().await;
    Verdict::Kept
}

/// A reply can be an error.
pub async fn a_reply_can_be_an_error(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let asking = tokio::spawn(app.transport.ask(message(ORDERS, 1), WITHIN));
    let error = "it went out of stock".to_owned();
    let request = taker.one().await;
    request.settle(Settlement::Ack(Some(Err(error.clone()))));
    let outcome = asking.await.expect("it asks");
    assert!(
        matches!(&outcome, Err(AskError::Failed(text)) if *text == error),
        "{outcome:?}"
    );
    app.close().await;
    Verdict::Kept
}

/// A request can still be answered after a retry.
pub async fn a_request_is_answered_after_a_retry(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let asking = tokio::spawn(app.transport.ask(message(ORDERS, 1), WITHIN));
    taker.one().await.settle(Settlement::Retry {
        after: Duration::from_millis(100),
        attempt: 2,
    });
    let second = taker.one().await;
    assert_eq!(second.attempt(), 2);
    second.settle(Settlement::Ack(Some(Ok("17".into()))));
    let reply = asking.await.expect("it asks").expect("a reply comes");
    assert_eq!(number(&reply), 17);
    app.close().await;
    Verdict::Kept
}

/// An ack without a reply is no reply.
pub async fn an_ack_without_a_reply_leaves_the_asker_waiting(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let asking = tokio::spawn(
        app.transport
            .ask(message(ORDERS, 1), Duration::from_secs(1)),
    );
    taker.one().await.ack();
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    let outcome = asking.await.expect("it asks");
    assert!(matches!(outcome, Err(AskError::Timeout(_))), "{outcome:?}");
    app.close().await;
    Verdict::Kept
}

/// A reply to a message that is no request goes nowhere and does no harm.
pub async fn a_reply_to_no_request_is_an_ack(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..1).await;
    let mut taker = app.consume("stock.requests", 1).await;
    let delivery = taker.one().await;
    delivery.settle(Settlement::Ack(Some(Ok("17".into()))));
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    assert_eq!(app.transport.late_replies(), 0);
    app.close().await;
    Verdict::Kept
}

/// An ask on a topic without readers fails at once.
pub async fn asking_where_nobody_reads_fails_at_once(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let asked = app.transport.ask(message("nobody.reads.this", 1), LAW_MAX);
    let outcome = timeout(SOON, asked).await.expect("an outcome comes");
    assert!(matches!(outcome, Err(AskError::Failed(_))), "{outcome:?}");
    app.close().await;
    Verdict::Kept
}
