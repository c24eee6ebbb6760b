//! Laws on prefetch bounds, depth and backpressure.

use std::pin::pin;

use brickwork::Settlement;
use futures_util::FutureExt;

use super::*;

/// A consumer has at most `bound` deliveries unsettled.
pub async fn at_most_bound_deliveries_are_unsettled(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..10).await;
    let mut taker = app.consume("stock.requests", 3).await;
    let mut taken = taker.exactly(3).await;
    for left in (4..7).rev() {
        // A further delivery would have arrived before the depth did.
        let depth = app.depth("stock.requests").await;
        assert_eq!((depth.in_flight, depth.ready), (3, left + 1));
        assert!(taker.is_empty());
        taken.remove(0).ack();
        taken.push(taker.one().await);
    }
    app.close().await;
    Verdict::Kept
}

/// Depth counts ready, unacked and delayed messages.
pub async fn depth_counts_ready_unacked_and_delayed_messages(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.send(ORDERS, 0..7).await;
    let depth = app.depth("stock.requests").await;
    assert_eq!((depth.ready, depth.in_flight, depth.delayed), (7, 0, 0));
    let mut taker = app.consume("stock.requests", 4).await;
    let mut taken = taker.exactly(2).await;
    // Prefetched messages that were not handed out count as ready.
    let depth = app.depth("stock.requests").await;
    assert_eq!((depth.ready, depth.in_flight, depth.delayed), (5, 2, 0));
    let again = Settlement::Retry {
        after: Duration::from_secs(3600),
        attempt: 2,
    };
    taken.remove(0).settle(again);
    app.flush().await;
    let depth = app.depth("stock.requests").await;
    assert_eq!((depth.ready, depth.in_flight, depth.delayed), (5, 1, 1));
    if subject.guarantees().delays {
        let later = Outgoing {
            delay: Duration::from_secs(3600),
            ..message(ORDERS, 7).into()
        };
        app.publish(vec![later]).await.expect("it publishes");
        assert_eq!(app.depth("stock.requests").await.delayed, 2);
    }
    taken.remove(0).ack();
    app.flush().await;
    let depth = app.depth("stock.requests").await;
    assert_eq!((depth.ready, depth.in_flight), (5, 0));
    assert_eq!(depth.total(), 5 + depth.delayed);
    app.close().await;
    Verdict::Kept
}

/// Publishing does not wait for consumers.
pub async fn publishing_never_waits_for_consumers(subject: &Subject) -> Verdict {
    const MESSAGES: u32 = 20_000;
    let app = App::with_high_water(subject, STOCK, 100).await;
    let outcomes: Vec<_> = (0..MESSAGES / 100)
        .map(|batch| {
            let (done, outcome) = Completion::channel();
            let numbers = batch * 100..(batch + 1) * 100;
            let batch = numbers.map(|number| message(ORDERS, number).into());
            app.transport.publish(batch.collect(), done);
            outcome
        })
        .collect();
    for outcome in outcomes {
        let outcome = timeout(SOON, outcome).await.expect("a completion comes");
        outcome.expect("it is published");
    }
    let depth = app.depth("stock.requests").await;
    assert_eq!(depth.ready, u64::from(MESSAGES));
    app.close().await;
    Verdict::Kept
}

/// Backpressure rises when a queue passes its high-water mark and clears at half of the mark.
pub async fn pressure_rises_above_the_mark_and_clears_at_half(subject: &Subject) -> Verdict {
    const MARK: u64 = 10;
    let app = App::with_high_water(subject, STOCK, MARK).await;
    assert!(!app.pressure.is_high());
    app.send(ORDERS, 0..30).await;
    // A transport that polls the depth sees the change a little later.
    let until = async |high: bool| {
        while app.pressure.is_high() != high {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, until(true)).await.expect("pressure rises");
    let mut taker = app.consume("stock.requests", 1).await;
    let mut cleared = pin!(until(false));
    for left in (0..30).rev() {
        assert!(
            left <= MARK / 2 || cleared.as_mut().now_or_never().is_none(),
            "pressure has cleared with {} messages left",
            left + 1
        );
        taker.one().await.ack();
    }
    timeout(SOON, cleared).await.expect("pressure clears");
    app.close().await;
    Verdict::Kept
}
