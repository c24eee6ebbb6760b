use std::future::pending;
use std::time::Duration;

use super::*;
use crate::dead_letter::{DeadLetter, Reason};
use crate::message::{Envelope, Message, ReplyTo};
use crate::trace::TraceContext;
use crate::transport::memory::Memory;
use crate::transport::{Completion, Outgoing, Overflow, Pressure, QueueSpec, take};

fn input() -> QueueId {
    QueueId::new("stock", "requests")
}

/// A service's queues in memory, with so many letters, numbered.
async fn bench(count: u32) -> (Arc<dyn Transport>, DeadLetters) {
    let topology = Topology {
        app: "shop".into(),
        queues: vec![QueueSpec {
            id: input(),
            topics: vec!["orders".into()],
            high_water: 1000,
            limit: None,
            overflow: Overflow::DeadLetter,
            feeds: Vec::new(),
            single_active: false,
        }],
        ..Topology::default()
    };
    let transport: Arc<dyn Transport> = Arc::new(Memory::new(Arc::<Pressure>::default()));
    let letters = DeadLetters::open(transport.clone(), topology).await;
    let letters = letters.expect("it opens");
    let batch = (0..count).map(|number| Outgoing {
        queue: Some(QueueId::dead_letters("stock")),
        ..letter(number).into()
    });
    let (done, outcome) = Completion::channel();
    transport.publish(batch.collect(), done);
    outcome.await.expect("they are there");
    (transport, letters)
}

fn letter(number: u32) -> Message {
    let mut envelope = Envelope::new("order", "{}");
    envelope.id = format!("order-{number}").parse().expect("an id");
    envelope.topic = "orders".into();
    let reason = match number % 2 {
        0 => Reason::Error,
        _ => Reason::Reject,
    };
    why(reason).letter(&envelope.into())
}

fn why(reason: Reason) -> DeadLetter {
    DeadLetter {
        reason,
        error: "no stock".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 1_795_390_323_123,
    }
}

fn removal(selection: Selection) -> Removal {
    Removal {
        selection,
        limit: u64::MAX,
        dry_run: false,
        pace: Pace::default(),
        bounds: Bounds::default(),
    }
}

/// The ids in a queue, in order.
async fn ids(transport: &dyn Transport, queue: &QueueId) -> Vec<String> {
    let depth = transport.depth(queue).await.expect("it is there").ready;
    let mut consumer = transport.consume(queue, usize::MAX).await.expect("one");
    let mut taken = std::collections::VecDeque::new();
    while (taken.len() as u64) < depth {
        let took = take(&mut *consumer, &mut taken, usize::MAX).await;
        took.expect("it goes on");
    }
    let ids = taken.iter().map(|it| it.message().id.to_string()).collect();
    consumer.stop();
    ids
}

#[test]
fn a_replayed_message_is_the_one_that_was_given_up() {
    let mut envelope = Envelope::new("order", r#"{"sku":"a"}"#);
    envelope.topic = "orders".into();
    envelope.source = "/shop/front".into();
    envelope.headers.insert("urgent".into(), "yes".into());
    envelope.trace = Some(TraceContext::root(&envelope.id));
    envelope.deadline_ms = Some(1);
    envelope.reply_to = Some(ReplyTo {
        address: "somewhere".into(),
        correlation: None,
    });
    let message = Message::from(envelope.clone());
    let letter = Letter::new(why(Reason::Timeout).letter(&message));
    assert_eq!(letter.replays(), 0);
    let replayed = letter.replayed();
    let mut headers = replayed.headers.clone();
    assert_eq!(headers.remove(REPLAYS).as_deref(), Some("1"));
    assert_eq!(headers, envelope.headers);
    assert_eq!(replayed.id, envelope.id);
    assert_eq!(
        (&replayed.kind, &replayed.source, &replayed.topic),
        (&envelope.kind, &envelope.source, &envelope.topic)
    );
    assert_eq!(
        (&replayed.payload, &replayed.trace, replayed.time_ms),
        (&envelope.payload, &envelope.trace, envelope.time_ms)
    );
    // Who asked was told, and a message past its deadline would be dropped.
    assert_eq!((&replayed.reply_to, replayed.deadline_ms), (&None, None));
    let again = Letter::new(why(Reason::Error).letter(&replayed));
    assert_eq!(again.replays(), 1);
    assert_eq!(&*again.replayed().headers[REPLAYS], "2");
}

#[tokio::test(start_paused = true)]
async fn looking_gives_everything_back_in_order_however_many_pages_it_takes() {
    let (transport, letters) = bench(1000).await;
    let queue = QueueId::dead_letters("stock");
    let before = ids(&*transport, &queue).await;
    let census = letters.census("stock", Bounds::default()).await.unwrap();
    assert_eq!(
        (census.letters, census.read, census.complete),
        (1000, 1000, true)
    );
    let counts: Vec<_> = census
        .reasons
        .iter()
        .map(|it| (it.reason, it.letters))
        .collect();
    assert_eq!(counts, [("error", 500), ("reject", 500)]);
    assert_eq!(
        census.first_failed_at.as_deref(),
        Some("2026-11-22T23:32:03.123Z")
    );
    let one = Selection::Ids(vec!["order-999".parse().unwrap()]);
    let found = letters
        .find("stock", &one, 1, Bounds::default())
        .await
        .unwrap();
    assert_eq!((found.letters.len(), found.more), (1, false));
    assert_eq!(ids(&*transport, &queue).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_walk_holds_no_more_than_its_bounds_say() {
    let (transport, letters) = bench(500).await;
    let few = Bounds {
        letters: 130,
        ..Bounds::default()
    };
    let census = letters.census("stock", few).await.unwrap();
    assert_eq!(
        (census.letters, census.read, census.complete),
        (500, 130, false)
    );
    let bytes = letter(0).size() * 10;
    let small = Bounds {
        bytes,
        ..Bounds::default()
    };
    let census = letters.census("stock", small).await.unwrap();
    assert!((10..=11).contains(&census.read), "{}", census.read);
    assert!(!census.complete);
    // What goes isn't held: there the bounds are no limit.
    let mut all = removal(Selection::All);
    all.bounds = few;
    let outcome = letters.replay("stock", &all, pending()).await.unwrap();
    assert_eq!((outcome.removed, outcome.more), (500, false));
    assert_eq!(ids(&*transport, &input()).await.len(), 500);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_selected_goes_and_a_dry_run_changes_nothing() {
    let (transport, letters) = bench(10).await;
    let queue = QueueId::dead_letters("stock");
    let mut rejected = removal(Selection::Reason(Reason::Reject));
    rejected.dry_run = true;
    let outcome = letters.replay("stock", &rejected, pending()).await.unwrap();
    assert_eq!(
        (outcome.selected, outcome.removed, outcome.ids.len()),
        (5, 5, 5)
    );
    assert_eq!(ids(&*transport, &queue).await.len(), 10);
    rejected.dry_run = false;
    rejected.limit = 2;
    let outcome = letters.replay("stock", &rejected, pending()).await.unwrap();
    assert_eq!((outcome.selected, outcome.removed), (2, 2));
    assert_eq!(ids(&*transport, &input()).await, ["order-1", "order-3"]);
    let outcome = letters
        .discard(
            "stock",
            &removal(Selection::Reason(Reason::Error)),
            pending(),
        )
        .await
        .unwrap();
    assert_eq!(outcome.removed, 5);
    let left = ids(&*transport, &queue).await;
    assert_eq!(left, ["order-5", "order-7", "order-9"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_its_pace_and_stops_when_it_is_told_to() {
    let (transport, letters) = bench(100).await;
    let mut slow = removal(Selection::All);
    slow.pace = Pace::per_second(10.0).unwrap();
    let stop = tokio::time::sleep(Duration::from_millis(2050));
    let outcome = letters.replay("stock", &slow, stop).await.unwrap();
    assert!(outcome.stopped);
    assert_eq!(outcome.removed, 21);
    assert_eq!(ids(&*transport, &input()).await.len(), 21);
    let left = ids(&*transport, &QueueId::dead_letters("stock")).await;
    assert_eq!(left.len(), 79);
    assert_eq!(Pace::per_second(0.0), None);
    assert_eq!(Pace::per_second(f64::NAN), None);
    assert_eq!(Pace::per_second(-1.0), None);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_given_up_again_meanwhile_is_not_replayed_twice() {
    let (transport, letters) = bench(20).await;
    let failing = transport.clone();
    // A service that gives everything up at once.
    let service = tokio::spawn(async move {
        let mut consumer = failing.consume(&input(), 4).await.unwrap();
        let mut taken = std::collections::VecDeque::new();
        while take(&mut *consumer, &mut taken, 4).await.is_ok() {
            for delivery in taken.drain(..) {
                let letter = Box::new(why(Reason::Error));
                delivery.settle(crate::Settlement::DeadLetter(letter));
            }
        }
    });
    let mut all = removal(Selection::All);
    all.pace = Pace::per_second(100.0).unwrap();
    let outcome = letters.replay("stock", &all, pending()).await.unwrap();
    assert_eq!((outcome.letters, outcome.removed), (20, 20));
    while transport.depth(&input()).await.unwrap().total() > 0 {
        tokio::task::yield_now().await;
    }
    let found = letters.find("stock", &Selection::All, 100, Bounds::default());
    let found = found.await.unwrap();
    assert_eq!(found.letters.len(), 20);
    assert!(found.letters.iter().all(|letter| letter.replays() == 1));
    service.abort();
}
