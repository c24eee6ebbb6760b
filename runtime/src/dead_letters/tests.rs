//! Dead letters of one service, on queues in memory.

use std::future::pending;
use std::time::Duration;

use super::*;
use crate::dead_letter::{DeadLetter, Reason};
use crate::message::{Envelope, Message, ReplyTo};
use crate::trace_context::TraceContext;
use crate::transport::memory::Memory;
use crate::transport::{Backpressure, Completion, Outgoing, Overflow, QueueSpec, take};

mod unconfirmed;

fn input() -> QueueId {
    QueueId::new("stock", "requests")
}

/// Queues in memory with this many letters, numbered from 0.
async fn stock(count: u32) -> (Arc<dyn Transport>, DeadLetters) {
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
            keyed: None,
        }],
        ..Topology::default()
    };
    let transport: Arc<dyn Transport> = Arc::new(Memory::new(Arc::<Backpressure>::default()));
    let letters = DeadLetters::open(transport.clone(), topology).await;
    let letters = letters.expect("opened");
    let batch = (0..count).map(|number| Outgoing {
        queue: Some(QueueId::dead_letters("stock")),
        ..letter(number).into()
    });
    let (done, outcome) = Completion::channel();
    transport.publish(batch.collect(), done);
    outcome.await.expect("published");
    (transport, letters)
}

fn letter(number: u32) -> Message {
    let mut envelope = Envelope::new("order", "{}");
    envelope.id = format!("order-{number}").parse().expect("a valid id");
    envelope.topic = "orders".into();
    let reason = match number % 2 {
        0 => Reason::Error,
        _ => Reason::Reject,
    };
    record(reason).letter(&envelope.into())
}

fn record(reason: Reason) -> DeadLetter {
    DeadLetter {
        reason,
        error: "no stock".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 1_795_390_323_123,
    }
}

fn options(selection: Selection) -> RemoveOptions {
    RemoveOptions {
        selection,
        limit: u64::MAX,
        dry_run: false,
        rate: RateLimit::default(),
        bounds: Bounds::default(),
    }
}

/// The ids in a queue, in order.
async fn ids(transport: &dyn Transport, queue: &QueueId) -> Vec<String> {
    let depth = transport
        .depth(queue)
        .await
        .expect("the queue exists")
        .ready;
    let mut consumer = transport
        .consume(queue, usize::MAX)
        .await
        .expect("a consumer");
    let mut taken = std::collections::VecDeque::new();
    while (taken.len() as u64) < depth {
        let took = take(&mut *consumer, &mut taken, usize::MAX).await;
        took.expect("a letter");
    }
    let ids = taken.iter().map(|it| it.message().id.to_string()).collect();
    consumer.stop();
    ids
}

#[test]
fn a_replayed_message_is_the_one_that_was_given_up_without_reply_address_and_deadline() {
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
    let letter = Letter::new(record(Reason::Timeout).letter(&message));
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
    // Its caller has an answer already, and a message past its deadline would be dropped.
    assert_eq!((&replayed.reply_to, replayed.deadline_ms), (&None, None));
    let again = Letter::new(record(Reason::Error).letter(&replayed));
    assert_eq!(again.replays(), 1);
    assert_eq!(&*again.replayed().headers[REPLAYS], "2");
}

#[tokio::test(start_paused = true)]
async fn reading_requeues_every_letter_in_order_over_many_pages() {
    let (transport, letters) = stock(1000).await;
    let queue = QueueId::dead_letters("stock");
    let before = ids(&*transport, &queue).await;
    let stats = letters.stats("stock", Bounds::default()).await.unwrap();
    assert_eq!(
        (stats.letters, stats.read, stats.complete),
        (1000, 1000, true)
    );
    let counts: Vec<_> = stats
        .reasons
        .iter()
        .map(|it| (&*it.reason, it.letters))
        .collect();
    assert_eq!(counts, [("error", 500), ("reject", 500)]);
    assert_eq!(
        stats.first_failed_at.as_deref(),
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
async fn a_scan_holds_no_more_letters_and_bytes_than_its_bounds_allow() {
    let (transport, letters) = stock(500).await;
    let few = Bounds {
        letters: 130,
        ..Bounds::default()
    };
    let stats = letters.stats("stock", few).await.unwrap();
    assert_eq!(
        (stats.letters, stats.read, stats.complete),
        (500, 130, false)
    );
    let bytes = letter(0).size() * 10;
    let small = Bounds {
        bytes,
        ..Bounds::default()
    };
    let stats = letters.stats("stock", small).await.unwrap();
    assert!((10..=11).contains(&stats.read), "{}", stats.read);
    assert!(!stats.complete);
    // Removed letters are not held, so the bounds don't limit them.
    let mut all = options(Selection::All);
    all.bounds = few;
    let outcome = letters
        .replay("stock", &Destination::Original, &all, pending())
        .await
        .unwrap();
    assert_eq!((outcome.removed, outcome.more), (500, false));
    assert_eq!(ids(&*transport, &input()).await.len(), 500);
}

#[tokio::test(start_paused = true)]
async fn only_selected_letters_are_removed_and_a_dry_run_changes_nothing() {
    let (transport, letters) = stock(10).await;
    let queue = QueueId::dead_letters("stock");
    let mut rejected = options(Selection::Reason(Reason::Reject));
    rejected.dry_run = true;
    let outcome = letters
        .replay("stock", &Destination::Original, &rejected, pending())
        .await
        .unwrap();
    assert_eq!(
        (outcome.selected, outcome.removed, outcome.ids.len()),
        (5, 5, 5)
    );
    assert_eq!(ids(&*transport, &queue).await.len(), 10);
    rejected.dry_run = false;
    rejected.limit = 2;
    let outcome = letters
        .replay("stock", &Destination::Original, &rejected, pending())
        .await
        .unwrap();
    assert_eq!((outcome.selected, outcome.removed), (2, 2));
    assert_eq!(ids(&*transport, &input()).await, ["order-1", "order-3"]);
    let outcome = letters
        .discard(
            "stock",
            &options(Selection::Reason(Reason::Error)),
            pending(),
        )
        .await
        .unwrap();
    assert_eq!(outcome.removed, 5);
    let left = ids(&*transport, &queue).await;
    assert_eq!(left, ["order-5", "order-7", "order-9"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_its_rate_and_stops_when_asked() {
    let (transport, letters) = stock(100).await;
    let mut slow = options(Selection::All);
    slow.rate = RateLimit::per_second(10.0).unwrap();
    let stop = tokio::time::sleep(Duration::from_millis(2050));
    let outcome = letters
        .replay("stock", &Destination::Original, &slow, stop)
        .await
        .unwrap();
    assert!(outcome.stopped);
    assert_eq!(outcome.removed, 21);
    assert_eq!(ids(&*transport, &input()).await.len(), 21);
    let left = ids(&*transport, &QueueId::dead_letters("stock")).await;
    assert_eq!(left.len(), 79);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_given_up_again_during_a_replay_is_not_replayed_twice() {
    let (transport, letters) = stock(20).await;
    let failing = transport.clone();
    // A service that dead-letters every message at once.
    let service = tokio::spawn(async move {
        let mut consumer = failing.consume(&input(), 4).await.unwrap();
        let mut taken = std::collections::VecDeque::new();
        while take(&mut *consumer, &mut taken, 4).await.is_ok() {
            for delivery in taken.drain(..) {
                let letter = Box::new(record(Reason::Error));
                delivery.settle(crate::Settlement::DeadLetter(letter));
            }
        }
    });
    let mut all = options(Selection::All);
    all.rate = RateLimit::per_second(100.0).unwrap();
    let outcome = letters
        .replay("stock", &Destination::Original, &all, pending())
        .await
        .unwrap();
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

/// A letter with this error, given up at this second.
fn failed(number: u32, error: String, second: u64) -> Outgoing {
    let record = DeadLetter {
        error,
        failed_at_ms: second * 1000,
        ..record(Reason::Error)
    };
    let mut envelope = letter(number).edit();
    envelope.headers.clear();
    Outgoing {
        queue: Some(QueueId::dead_letters("stock")),
        ..record.letter(&envelope.into()).into()
    }
}

async fn publish(transport: &dyn Transport, batch: Vec<Outgoing>) {
    let (done, outcome) = Completion::channel();
    transport.publish(batch, done);
    outcome.await.expect("published");
}

#[tokio::test(start_paused = true)]
async fn letters_with_the_same_failure_form_a_group_with_its_first_and_last_time() {
    let (transport, letters) = stock(0).await;
    let mut batch: Vec<Outgoing> = (0..50)
        .map(|n| failed(n, format!("order {n}: no stock"), 100 - u64::from(n)))
        .collect();
    batch.extend((50..60).map(|n| failed(n, format!("can't reach 10.0.0.{n}"), 7)));
    // A message that another program put in the queue.
    let mut foreign = Envelope::new("order", "{}");
    foreign.id = "foreign".parse().unwrap();
    batch.push(Outgoing {
        queue: Some(QueueId::dead_letters("stock")),
        ..Message::from(foreign).into()
    });
    publish(&*transport, batch).await;
    let secrets = Arc::new(Redactor::new(["no stock".to_owned()]));
    let letters = letters.redacting(secrets);
    let groups = letters.groups("stock", Bounds::default()).await.unwrap();
    assert_eq!((groups.letters, groups.read, groups.others), (61, 61, 0));
    assert!(groups.complete);
    let shown: Vec<_> = groups
        .groups
        .iter()
        .map(|group| {
            let error = group.error.as_deref().unwrap_or("-");
            (group.letters, &*group.reason, error, &*group.example)
        })
        .collect();
    assert_eq!(
        shown,
        [
            (50, "error", "order 0: [redacted]", "order-0"),
            (10, "error", "can't reach 10.0.0.50", "order-50"),
            (1, "unknown", "-", "foreign"),
        ]
    );
    let largest = &groups.groups[0];
    assert_eq!(
        (&largest.first_failed_at, &largest.last_failed_at),
        (
            &Some("1970-01-01T00:00:51.000Z".into()),
            &Some("1970-01-01T00:01:40.000Z".into())
        )
    );
    assert_eq!(groups.groups[2].first_failed_at, None);
    // A fingerprint selects the letters of its group.
    for group in &groups.groups {
        let one = Selection::Group(group.fingerprint.clone());
        let found = letters.find("stock", &one, 100, Bounds::default());
        assert_eq!(found.await.unwrap().letters.len() as u64, group.letters);
    }
    let smallest = options(Selection::Group(groups.groups[1].fingerprint.clone()));
    let discarded = letters.discard("stock", &smallest, pending());
    assert_eq!(discarded.await.unwrap().removed, 10);
    assert_eq!(
        ids(&*transport, &QueueId::dead_letters("stock"))
            .await
            .len(),
        51
    );
}

#[tokio::test(start_paused = true)]
async fn groups_are_limited_and_the_letters_of_further_groups_are_counted() {
    let (transport, letters) = stock(0).await;
    let word = |mut n: u32| -> String {
        let mut word = String::new();
        while n > 0 {
            word.push(char::from(b'g' + (n % 16) as u8));
            n /= 16;
        }
        word
    };
    let count = GROUPS_MAX as u32 + 300;
    let batch = (0..count).map(|n| failed(n, format!("no {}", word(n)), 1));
    publish(&*transport, batch.collect()).await;
    let groups = letters.groups("stock", Bounds::default()).await.unwrap();
    assert_eq!((groups.groups.len(), groups.others), (GROUPS_MAX, 300));
    assert_eq!(groups.read, u64::from(count));
}

#[tokio::test(start_paused = true)]
async fn a_replay_may_go_to_another_input_of_the_app_but_to_no_other_queue() {
    let (transport, letters) = stock(3).await;
    let other = QueueId::new("audit", "in");
    let mut topology = letters.topology.clone();
    topology.queues.push(QueueSpec {
        id: other.clone(),
        ..topology.queues[0].clone()
    });
    let letters = DeadLetters::open(transport.clone(), topology)
        .await
        .unwrap();
    let nowhere = Destination::Input(QueueId::new("audit", "on"));
    let all = options(Selection::All);
    let refused = letters.replay("stock", &nowhere, &all, pending()).await;
    assert!(matches!(refused, Err(TransportError::NoQueue(_))));
    let to = Destination::Input(other.clone());
    let outcome = letters.replay("stock", &to, &all, pending()).await.unwrap();
    assert_eq!((outcome.removed, outcome.without_input), (3, 0));
    assert_eq!(ids(&*transport, &input()).await.len(), 0);
    assert_eq!(
        ids(&*transport, &other).await,
        ["order-0", "order-1", "order-2"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_dropped_requeues_the_remaining_letters() {
    let (transport, letters) = stock(1000).await;
    let queue = QueueId::dead_letters("stock");
    let before = ids(&*transport, &queue).await;
    let mut slow = options(Selection::Reason(Reason::Error));
    slow.rate = RateLimit::per_second(100.0).unwrap();
    let replay = letters.replay("stock", &Destination::Original, &slow, pending());
    let cut = tokio::time::timeout(Duration::from_secs(2), replay).await;
    assert!(cut.is_err(), "the replay was not over");
    let replayed = ids(&*transport, &input()).await;
    assert!((190..=210).contains(&replayed.len()), "{}", replayed.len());
    // The letters of the last page are there, too: their removal had not begun.
    let left = ids(&*transport, &queue).await;
    let twice = left.len() + replayed.len() - 1000;
    assert!(twice <= 25, "{twice}");
    let gone = &replayed[..replayed.len() - twice];
    let kept = before.into_iter().filter(|id| !gone.contains(id));
    assert_eq!(left, kept.collect::<Vec<_>>());
}

/// The futures are `Send`.
#[test]
fn work_on_letters_can_be_spawned_on_any_thread() {
    fn spawned(letters: &'static DeadLetters, options: &'static RemoveOptions) {
        fn can(_: impl Future + Send + 'static) {}
        let to = &Destination::Original;
        can(letters.replay("stock", to, options, pending()));
        can(letters.discard("stock", options, pending()));
        can(letters.groups("stock", Bounds::default()));
    }
    let _it_compiles: fn(_, _) = spawned;
}
