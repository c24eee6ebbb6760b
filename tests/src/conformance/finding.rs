//! Laws on searches for messages in queues.

use brickwork::transport::{FoundMessage, QueueSection, SearchBounds, SearchQuery, SearchResult};
use brickwork::{DeadLetter, MessageId, Reason, Settlement};

use super::*;

const NOT_SEARCHED: Verdict = Verdict::DoesNotApply("its queues can't be searched");
/// Longer than the test runs.
const LATER: Duration = Duration::from_secs(3_600);

/// Creates a message that another message caused.
fn child(of: &Message, number: u32) -> Message {
    let mut envelope = message(ORDERS, number).edit();
    envelope.parent = Some(of.id.clone());
    envelope.trace = Some(of.trace().child(&envelope.id));
    envelope.into()
}

async fn find(app: &App, wanted: &SearchQuery) -> SearchResult {
    let found = app.transport.find(wanted, SearchBounds::default());
    let found = timeout(SOON, found).await.expect("a search ends");
    found.expect("it says that it can search")
}

fn places(searched: &SearchResult, id: &MessageId) -> Vec<(String, QueueSection, u32)> {
    let of_id = |found: &&FoundMessage| found.message.id == *id;
    let found = searched.messages.iter().filter(of_id);
    found
        .map(|it| (it.queue.to_string(), it.place, it.attempt))
        .collect()
}

/// A search by id or by trace finds a message wherever it lies: ready, delayed, dead-lettered. An
/// acked message is not found. The search changes nothing.
pub async fn a_message_is_found_wherever_it_lies_and_nothing_is_changed(
    subject: &Subject,
) -> Verdict {
    if !subject.guarantees().searches {
        return NOT_SEARCHED;
    }
    let queues: Queues<'_> = &[("stock.requests", &[ORDERS]), ("audit.all", &["audit"])];
    let app = App::new(subject, queues).await;
    let root = message(ORDERS, 0);
    let batch: Vec<Message> = (1..5).map(|number| child(&root, number)).collect();
    let mut odd = message("audit", 9).edit();
    odd.id = "an \"odd\\ id".parse().expect("it is one");
    let odd = Message::from(odd);
    let outgoing = std::iter::once(&root).chain(&batch).chain([&odd]);
    app.publish(outgoing.cloned().map(Outgoing::from).collect())
        .await
        .expect("it publishes");
    let mut taker = app.consume("stock.requests", 4).await;
    let mut taken = taker.exactly(4).await;
    taker.0.stop();
    let letter = DeadLetter {
        reason: Reason::Reject,
        error: "no stock".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 1,
        failed_at_ms: 1_795_393_830_041,
    };
    let waiting = taken.pop().expect("the fourth");
    waiting.settle(Settlement::Retry {
        after: LATER,
        attempt: 2,
    });
    let given_up = taken.pop().expect("the third");
    given_up.settle(Settlement::DeadLetter(Box::new(letter)));
    taken.pop().expect("the second").ack();
    taken.pop().expect("the first").nack_requeue();
    let later = child(&root, 7);
    let scheduled = Outgoing {
        delay: LATER,
        ..later.clone().into()
    };
    app.publish(vec![scheduled]).await.expect("it publishes");
    app.flush().await;

    let before = app.depth("stock.requests").await;
    let by_trace = find(&app, &SearchQuery::id(root.id.clone())).await;
    assert_eq!(by_trace.missed, Vec::<String>::new());
    let lies = |id| places(&by_trace, id);
    let ready = |ahead| QueueSection::Ready { ahead: Some(ahead) };
    // The first message was requeued, the other one never taken.
    let first = lies(&root.id);
    assert_eq!(first, [("stock.requests".into(), ready(0), 1)]);
    let last = lies(&batch[3].id);
    assert_eq!(last, [("stock.requests".into(), ready(1), 1)]);
    assert_eq!(lies(&batch[0].id), [], "it was acked");
    let dead = lies(&batch[1].id);
    assert!(
        matches!(&dead[..], [(queue, QueueSection::Ready { .. }, _)] if queue == "stock.dlq"),
        "{dead:?}"
    );
    let now_ms = brickwork::Clock::SYSTEM.unix_ms();
    let soonest = now_ms + LATER.as_millis() as u64 - SOON.as_millis() as u64;
    for (id, attempt, again) in [(&batch[2].id, 2, true), (&later.id, 1, false)] {
        let waits = lies(id);
        let [(queue, QueueSection::Delayed { due_ms, retry }, tried)] = &waits[..] else {
            panic!("{waits:?}");
        };
        assert_eq!(
            (&**queue, *tried, *retry),
            ("stock.requests", attempt, again)
        );
        assert!(*due_ms > soonest && *due_ms <= now_ms + LATER.as_millis() as u64 + 1_000);
    }
    assert_eq!(lies(&odd.id), [], "it is of another trace");
    let alone = find(&app, &SearchQuery::id(odd.id.clone())).await;
    let found = places(&alone, &odd.id);
    assert_eq!(found, [("audit.all".into(), ready(0), 1)]);
    assert_eq!(alone.messages.len(), 1);
    let none = find(&app, &SearchQuery::id(MessageId::new())).await;
    assert!(none.messages.is_empty() && none.missed.is_empty());
    assert_eq!(app.depth("stock.requests").await, before);
    app.close().await;
    Verdict::Kept
}

/// A search that reaches its limits reports the queues that it did not read.
pub async fn an_incomplete_search_says_so(subject: &Subject) -> Verdict {
    if !subject.guarantees().searches {
        return NOT_SEARCHED;
    }
    let app = App::new(subject, STOCK).await;
    let root = message(ORDERS, 0);
    let batch = (1..20).map(|number| child(&root, number).into());
    app.publish(batch.collect()).await.expect("it publishes");
    app.flush().await;
    let wanted = SearchQuery::id(root.id.clone());
    let none = SearchBounds {
        within: Duration::ZERO,
        ..SearchBounds::default()
    };
    let few = SearchBounds {
        messages: 5,
        ..SearchBounds::default()
    };
    for (bounds, most) in [(none, 0), (few, 5)] {
        let searched = app.transport.find(&wanted, bounds).await;
        let searched = searched.expect("it says that it can search");
        assert!(searched.messages.len() <= most, "{searched:?}");
        assert!(!searched.missed.is_empty(), "{searched:?}");
    }
    app.close().await;
    Verdict::Kept
}

/// A search without a running transport finds its messages, after a graceful close and after a
/// crash.
pub async fn a_message_of_a_stopped_transport_is_found(subject: &Subject) -> Verdict {
    let guarantees = subject.guarantees();
    if !guarantees.searches || !guarantees.durable {
        return Verdict::DoesNotApply("it leaves nothing that can be searched");
    }
    let connector = subject.transports.for_url(&subject.url);
    let connector = connector.expect("the transport of the subject");
    let app = App::new(subject, STOCK).await;
    let root = message(ORDERS, 0);
    app.publish(vec![root.clone().into(), child(&root, 1).into()])
        .await
        .expect("it publishes");
    let mut taker = app.consume("stock.requests", 1).await;
    let taken = taker.one().await;
    let topology = app.topology.clone();
    // Simulates the death of the process.
    drop((app, taker));
    drop(taken);
    let wanted = SearchQuery::id(root.id.clone());
    let bounds = SearchBounds::default();
    let left = connector
        .search_offline(&subject.url, &wanted, bounds)
        .await;
    let left = left.expect("there is something to look at");
    assert_eq!(left.messages.len(), 2, "{left:?}");
    let first = places(&left, &root.id);
    assert_eq!(first, [("stock.requests".into(), QueueSection::InHand, 1)]);

    let app = App::again(subject, &topology).await;
    app.close().await;
    let left = connector
        .search_offline(&subject.url, &wanted, bounds)
        .await;
    let left = left.expect("there is something to look at");
    assert_eq!(left.messages.len(), 2, "{left:?}");
    assert_eq!(left.missed, Vec::<String>::new());
    Verdict::Kept
}
