//! Laws on the routing and the content of messages.

use brickwork::transport::{Outgoing, TransportError};
use brickwork::{Headers, MessageId, TraceContext};

use super::*;

/// Declaring the same topology again changes nothing.
pub async fn declaring_twice_changes_nothing(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send(ORDERS, 0..1).await;
    app.transport
        .declare(&app.topology)
        .await
        .expect("it declares again");
    app.send(ORDERS, 1..2).await;
    assert_eq!(app.depth("stock.requests").await.ready, 2);
    let mut taker = app.consume("stock.requests", 10).await;
    assert_eq!(numbers(&taker.exactly(2).await), [0, 1]);
    app.close().await;
    Verdict::Kept
}

/// Id, type, source, time, headers, payload bytes and trace arrive as they were sent.
pub async fn a_message_arrives_as_it_was_sent(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 10).await;
    for envelope in unusual_envelopes() {
        let sent = Message::from(envelope);
        app.publish(vec![sent.clone().into()])
            .await
            .expect("it publishes");
        let delivery = taker.one().await;
        assert_same(delivery.message(), &sent);
        assert_eq!(delivery.attempt(), 1);
        delivery.ack();
    }
    app.close().await;
    Verdict::Kept
}

fn unusual_envelopes() -> Vec<Envelope> {
    let plain = || {
        let mut envelope = Envelope::new("order", r#"{"sku":"a"}"#);
        envelope.topic = ORDERS.into();
        envelope
    };
    let mut all = vec![plain()];
    for id in [
        "order 17",
        "0190A1B2-C3D4-7E5F-8A6B-7C8D9E0F1A2B",
        "büro/€/漢字",
        &"x".repeat(brickwork::ID_BYTES_MAX),
    ] {
        let id: MessageId = id.parse().expect("an id");
        all.push(Envelope { id, ..plain() });
    }
    for payload in [
        Vec::new(),
        (0..=255).collect(),
        b"\xff\xfe not text".to_vec(),
        vec![0; 300_000],
    ] {
        all.push(Envelope {
            payload: payload.into(),
            ..plain()
        });
    }
    let headers: Headers = [
        ("x-github-event", "push"),
        ("ключ", "значение"),
        ("empty", ""),
        ("traceparent", "not one"),
        ("long", &"y".repeat(5_000)),
        ("CC", "somebody"),
        ("x-death", "mine"),
        ("brickwork-attempt", "99"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    all.push(Envelope { headers, ..plain() });
    all.push(Envelope {
        kind: "com.example.тип/ü".into(),
        source: "/shop/stock".into(),
        subject: Some("a/b?c=d".into()),
        time_ms: 1_795_393_830_041,
        parent: Some("parent 1".parse().expect("an id")),
        tenant: Some("näme".into()),
        deadline_ms: Some(1_795_393_999_999),
        trace: Some(TraceContext {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
            flags: 0,
            state: Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7".into()),
        }),
        content_type: Some("text/csv; charset=utf-8".into()),
        ..plain()
    });
    all
}

/// Every queue that reads a topic gets a copy of each message.
pub async fn every_queue_that_reads_a_topic_gets_a_copy(subject: &Subject) -> Verdict {
    let queues: Queues<'_> = &[
        ("stock.requests", &[ORDERS]),
        ("audit.everything", &[ORDERS, "refunds.made"]),
        ("audit.refunds", &["refunds.made"]),
    ];
    let app = App::new(subject, queues).await;
    app.send(ORDERS, 0..3).await;
    app.send("refunds.made", 3..5).await;
    for (name, expected) in [
        ("stock.requests", &[0, 1, 2][..]),
        ("audit.everything", &[0, 1, 2, 3, 4]),
        ("audit.refunds", &[3, 4]),
    ] {
        assert_eq!(app.depth(name).await.ready, expected.len() as u64, "{name}");
        let mut taker = app.consume(name, 10).await;
        let taken = taker.exactly(expected.len()).await;
        assert_eq!(sorted(numbers(&taken)), expected, "{name}");
    }
    app.close().await;
    Verdict::Kept
}

/// Consumers of one queue compete: each message goes to one of them.
pub async fn consumers_of_a_queue_compete(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    // Together they have room for exactly all messages, so each consumer gets half of them.
    let mut first = app.consume("stock.requests", 10).await;
    let mut second = app.consume("stock.requests", 10).await;
    app.send(ORDERS, 0..20).await;
    let (mut taken, others) = tokio::join!(first.exactly(10), second.exactly(10));
    taken.extend(others);
    assert_eq!(sorted(numbers(&taken)), (0..20).collect::<Vec<_>>());
    app.close().await;
    Verdict::Kept
}

/// Messages of one publisher to one queue arrive in order.
pub async fn one_publishers_order_is_kept(subject: &Subject) -> Verdict {
    if !subject.guarantees().ordered {
        return Verdict::DoesNotApply("it isn't ordered");
    }
    let app = App::new(subject, STOCK).await;
    let mut taker = app.consume("stock.requests", 64).await;
    let mut outcomes = Vec::new();
    let mut next = 0;
    // Batches of all sizes are in flight at once; the last ones are larger than most prefetch
    // windows.
    for size in (1..40).chain([1500, 1, 700]) {
        let (done, outcome) = Completion::channel();
        let batch = (next..next + size).map(|number| message(ORDERS, number).into());
        app.transport.publish(batch.collect(), done);
        outcomes.push(outcome);
        next += size;
    }
    for expected in 0..next {
        let delivery = taker.one().await;
        assert_eq!(number(delivery.message()), expected);
        delivery.ack();
    }
    for outcome in outcomes {
        outcome.await.expect("it is published");
    }
    app.close().await;
    Verdict::Kept
}

/// A message that names a queue goes to that queue alone, whatever its topic.
pub async fn a_message_to_one_queue_reaches_only_that_one(subject: &Subject) -> Verdict {
    let queues: Queues<'_> = &[("stock.requests", &[ORDERS]), ("audit.all", &[ORDERS])];
    let app = App::new(subject, queues).await;
    let replayed = Outgoing {
        queue: Some(queue("stock.requests")),
        ..message(ORDERS, 7).into()
    };
    app.publish(vec![replayed]).await.expect("it publishes");
    let mut taker = app.consume("stock.requests", 1).await;
    let delivery = taker.one().await;
    assert_eq!(number(delivery.message()), 7);
    assert_eq!(&*delivery.message().topic, ORDERS);
    assert_eq!(app.depth("audit.all").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// Using an undeclared queue is an error.
pub async fn a_queue_that_was_not_declared_is_an_error(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    let unknown = QueueId::new("stock", "returns");
    let consumed = app.transport.consume(&unknown, 1).await;
    assert!(matches!(consumed, Err(TransportError::NoQueue(id)) if id == unknown));
    let depth = app.transport.depth(&unknown).await;
    assert!(matches!(depth, Err(TransportError::NoQueue(_))));
    let outgoing = Outgoing {
        queue: Some(unknown.clone()),
        ..message(ORDERS, 1).into()
    };
    let published = app.publish(vec![outgoing]).await;
    assert!(matches!(published, Err(TransportError::NoQueue(_))));
    // The error has no effect on declared queues.
    app.send(ORDERS, 1..2).await;
    assert_eq!(app.depth("stock.requests").await.ready, 1);
    app.close().await;
    Verdict::Kept
}

/// Publishing to a topic without readers is confirmed.
pub async fn a_topic_that_nobody_reads_takes_everything(subject: &Subject) -> Verdict {
    let app = App::new(subject, STOCK).await;
    app.send("nobody.reads.this", 0..10).await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// Concurrent publishers do not disturb each other: each completion comes once, and each
/// confirmed message is delivered once.
pub async fn every_completion_comes_once_with_many_publishers(subject: &Subject) -> Verdict {
    const PUBLISHERS: u32 = 8;
    const EACH: u32 = 300;
    let app = App::new(subject, STOCK).await;
    let (report, mut reported) = tokio::sync::mpsc::channel(8192);
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let (transport, report) = (app.transport.clone(), report.clone());
        std::thread::spawn(move || {
            for index in 0..EACH {
                let number = publisher * EACH + index;
                let report = report.clone();
                let done = Completion::new(move |outcome| {
                    report.try_send((number, outcome)).expect("there is room");
                });
                transport.publish(vec![message(ORDERS, number).into()], done);
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.join().expect("it publishes");
    }
    drop(report);
    let mut done = Vec::new();
    while let Some((number, outcome)) = timeout(SOON, reported.recv()).await.expect("reports") {
        outcome.expect("it is published");
        done.push(number);
    }
    let all: Vec<u32> = (0..PUBLISHERS * EACH).collect();
    assert_eq!(sorted(done), all);
    let mut taker = app.consume("stock.requests", 5000).await;
    let taken = taker.exactly(all.len()).await;
    assert_eq!(sorted(numbers(&taken)), all);
    app.close().await;
    Verdict::Kept
}
