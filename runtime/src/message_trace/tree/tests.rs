//! Ways of messages through a small app: `intake` sends orders, `price` prices them or finds
//! them odd, `keep` and `bill` read prices, `odd` reads what is odd.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::app::WiredPort;
use crate::attempts::{AttemptRecord, Emitted};
use crate::dead_letter::{DeadLetter, Reason};
use crate::message::{Envelope, Message};
use crate::message_trace::findings::Entry;
use crate::message_trace::port_graph::Wired;
use crate::metrics::Outcome;
use crate::supervision::RetryDecision;
use crate::transport::FoundMessage;

const LOOKED_MS: u64 = 1_795_390_323_000;

fn port(name: &str, topics: &[&str]) -> WiredPort {
    WiredPort {
        name: name.into(),
        topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
    }
}

fn service(label: &str, inputs: Vec<WiredPort>, outputs: Vec<WiredPort>) -> Wired {
    Wired {
        label: label.into(),
        inputs,
        outputs,
        has_store: false,
        runs_here: true,
        apart: false,
    }
}

fn wiring() -> Wiring {
    let prices = port("out", &["priced"]);
    Wiring {
        app: "shop".into(),
        services: vec![
            service("intake", vec![], vec![port("out", &["orders"])]),
            service(
                "price",
                vec![port("in", &["orders"])],
                vec![prices, port("odd", &["odd", "nobody.reads"])],
            ),
            service("keep", vec![port("in", &["priced"])], vec![]),
            service(
                "bill",
                vec![port("in", &["priced"])],
                vec![port("out", &["bills"])],
            ),
            service("odd", vec![port("in", &["odd"])], vec![]),
        ],
    }
}

fn order(id: &str) -> Envelope {
    let mut envelope = Envelope::new("order", "{}");
    envelope.id = id.parse().unwrap();
    envelope.topic = "orders".into();
    envelope.source = "/shop/intake".into();
    envelope
}

fn child(of: &Envelope, maker: &str, output: &str, index: u32, topic: &str) -> Envelope {
    let mut envelope = Envelope::new(topic, "{}");
    envelope.id = of.id.child(maker, output, index);
    envelope.topic = topic.into();
    envelope.source = format!("/shop/{maker}").into();
    envelope.parent = Some(of.id.clone());
    envelope.trace = Some(of.trace().child(&envelope.id));
    envelope
}

/// Adds an attempt, so long before the queues were looked at.
fn tried(evidence: &mut Findings, at: &str, step: AttemptRecord, before_ms: u64) {
    let at_ms = LOOKED_MS - before_ms;
    let wiring = wiring();
    let service = wiring.service(at).unwrap();
    let inputs: Vec<Arc<str>> = service.inputs.iter().map(|it| it.name.clone()).collect();
    let output = |number: usize| service.outputs[number].name.clone();
    evidence.tried(&step, at_ms, at, &inputs, output);
}

fn emitted(outputs: &[usize]) -> Emitted {
    Emitted::from_outputs(outputs.iter().copied())
}

fn attempt(message: &Envelope, outcome: Outcome) -> AttemptRecord {
    AttemptRecord::new(message, 0, 1, outcome, tokio::time::Instant::now())
}

fn ok(message: &Envelope) -> AttemptRecord {
    attempt(message, Outcome::Ok).took(Duration::from_micros(1_500))
}

fn found(message: &Envelope, queue: &str, place: QueueSection, attempt: u32) -> FoundMessage {
    let (service, input) = queue.split_once('.').unwrap();
    FoundMessage {
        queue: QueueId::new(service, input),
        place,
        attempt,
        message: Message::from(message.clone()),
    }
}

fn evidence() -> Findings {
    let mut evidence = Findings::default();
    evidence.looked_ms = LOOKED_MS;
    evidence
}

fn way(evidence: &Findings, id: &str) -> Trace {
    let question = id.parse().unwrap();
    build(&question, evidence, &wiring(), TreeBounds::default())
}

/// The hops of a message, as `service: state`.
fn hops(message: &TracedMessage) -> Vec<String> {
    let hops = message.hops.iter().map(|hop| {
        let now = serde_json::to_value(&hop.now).unwrap();
        format!("{}: {}", hop.service, now["state"].as_str().unwrap())
    });
    hops.collect()
}

#[test]
fn a_way_branches_and_ends_where_each_message_is() {
    let mut evidence = evidence();
    let root = order("order-17");
    tried(
        &mut evidence,
        "price",
        ok(&root).emitting(emitted(&[0, 1, 0])),
        5_000,
    );
    let prices = [0, 1].map(|n| child(&root, "price", "out", n, "priced"));
    tried(&mut evidence, "keep", ok(&prices[0]), 4_000);
    tried(&mut evidence, "keep", ok(&prices[1]), 3_000);
    let again = RetryDecision::Retry {
        after: Duration::from_secs(60),
        attempt: 2,
    };
    let failed = attempt(&prices[0], Outcome::Retry).decided(&again);
    tried(&mut evidence, "bill", failed, 4_000);
    let waits = QueueSection::Delayed {
        due_ms: LOOKED_MS + 56_000,
        retry: true,
    };
    evidence.found(found(&prices[0], "bill.in", waits, 2));
    let ready = QueueSection::Ready { ahead: Some(3) };
    evidence.found(found(&prices[1], "bill.in", ready, 1));
    let odd = child(&root, "price", "odd", 0, "odd");
    let why = DeadLetter {
        reason: Reason::Reject,
        error: "too \u{202e} odd".into(),
        service: "odd".into(),
        input: "in".into(),
        attempts: 1,
        failed_at_ms: LOOKED_MS - 1_000,
    };
    let letter = why.letter(&odd.into());
    evidence.found(found(
        &letter,
        "odd.dlq",
        QueueSection::Ready { ahead: None },
        1,
    ));

    let trace = way(&evidence, "order-17");
    assert!(trace.found && trace.cut.is_none(), "{trace:#?}");
    let [message] = &trace.messages[..] else {
        panic!("{trace:#?}");
    };
    assert_eq!(hops(message), ["price: done"]);
    assert_eq!(message.hops[0].attempts[0].took_us, 1_500);
    let led_to: Vec<_> = message.led_to.iter().map(hops).collect();
    assert_eq!(
        led_to,
        [
            vec!["odd: dead-lettered"],
            vec!["bill: delayed", "keep: done"],
            vec!["bill: waiting", "keep: done"],
        ]
    );
    let by = message.led_to[2].by.as_ref().unwrap();
    assert_eq!((by.output.as_deref(), by.index), (Some("out"), Some(1)));
    assert_eq!(message.led_to[0].topics, ["odd", "nobody.reads"]);
    let text = trace.text();
    for part in [
        "price.in: done; ok on attempt 1",
        "took 1.5ms",
        "price.out 1 -> ",
        "waiting, 3 before it",
        "for attempt 2",
        "dead-lettered: reject: too \\u{202e} odd",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let again: Trace = serde_json::from_str(&serde_json::to_string(&trace).unwrap()).unwrap();
    assert_eq!(again, trace);

    // From the middle of it: where it came from is said.
    let middle = way(&evidence, &prices[1].id.to_string());
    assert_eq!(middle.came_of, ["order-17"]);
    assert_eq!(hops(&middle.messages[0]), ["bill: waiting", "keep: done"]);
    assert_eq!(middle.trace_id, trace.trace_id);
    // By the trace: all of it.
    let all = way(&evidence, trace.trace_id.as_ref().unwrap());
    assert_eq!(all.messages, trace.messages);
}

#[test]
fn without_a_trail_what_a_message_led_to_is_found_by_the_ids_that_it_must_have() {
    let mut evidence = evidence();
    let root = order("order-17");
    // Entered in an inbox, which knows an id alone: two of those that were emitted, with a
    // gap between them.
    for index in [0, 5] {
        let id = root.id.child("price", "out", index);
        let at = QueueId::new("keep", "in");
        evidence.entered(
            &id,
            Entry {
                at,
                at_ms: LOOKED_MS,
            },
        );
    }
    let trace = way(&evidence, "order-17");
    let indexes = trace.messages[0].led_to.iter();
    let indexes: Vec<_> = indexes.map(|it| it.by.as_ref().unwrap().index).collect();
    assert_eq!(indexes, [Some(0), Some(5)]);
    // `bill` reads the topic, too, and nothing is known of it there.
    assert_eq!(
        hops(&trace.messages[0].led_to[0]),
        ["bill: unknown", "keep: done"]
    );
    assert!(trace.messages[0].hops.is_empty());
    // Where it was is known when it is said by what topic it came, and that it was handled
    // by what came of it.
    evidence.found(found(
        &root,
        "odd.dlq",
        QueueSection::Ready { ahead: None },
        1,
    ));
    let trace = way(&evidence, "order-17");
    assert_eq!(
        hops(&trace.messages[0]),
        ["odd: dead-lettered", "price: handled"]
    );
    // Where all queues were searched it would have been seen there.
    evidence.searched = true;
    let trace = way(&evidence, "order-17");
    assert_eq!(
        hops(&trace.messages[0]),
        ["odd: dead-lettered", "price: done"]
    );
}

#[test]
fn a_message_that_names_its_parent_is_found_also_when_nobody_knows_who_emitted_it() {
    let mut evidence = evidence();
    let root = order("order-17");
    let mut stranger = child(&root, "price", "out", 0, "priced");
    stranger.id = "made-elsewhere".parse().unwrap();
    stranger.source = "/legacy/pricer".into();
    evidence.found(found(
        &stranger,
        "keep.in",
        QueueSection::Ready { ahead: None },
        1,
    ));
    let trace = way(&evidence, "order-17");
    let [child] = &trace.messages[0].led_to[..] else {
        panic!("{trace:#?}");
    };
    assert_eq!(child.by.as_ref().unwrap().service, "pricer");
    assert_eq!(way(&evidence, "made-elsewhere").came_of, ["order-17"]);
}

#[test]
fn of_what_nobody_knows_nothing_is_shown() {
    let mut evidence = evidence();
    tried(&mut evidence, "price", ok(&order("other")), 10);
    evidence.missed("the queues of the moon");
    let trace = way(&evidence, "order-17");
    assert!(!trace.found && trace.messages.is_empty() && trace.trace_id.is_none());
    let text = trace.text();
    assert!(text.contains("no trace of order-17"), "{text}");
    assert!(
        text.contains("not looked at: the queues of the moon"),
        "{text}"
    );
}

#[test]
fn a_cycle_of_messages_is_shown_once() {
    let mut evidence = evidence();
    let (mut first, mut second) = (order("a"), order("b"));
    first.parent = Some(second.id.clone());
    second.parent = Some(first.id.clone());
    for message in [&first, &second] {
        evidence.found(found(
            message,
            "price.in",
            QueueSection::Ready { ahead: None },
            1,
        ));
    }
    let trace = way(&evidence, "a");
    let below = &trace.messages[0].led_to[0];
    assert_eq!((&*below.id, &*below.led_to[0].id), ("b", "a"));
    assert!(below.led_to[0].shown_before && below.led_to[0].led_to.is_empty());
}

#[test]
fn a_way_that_is_too_long_or_too_wide_is_cut_and_says_so() {
    let mut evidence = evidence();
    let mut at = order("order-0");
    for number in 1..200 {
        let mut next = order(&format!("order-{number}"));
        next.parent = Some(at.id.clone());
        evidence.found(found(
            &next,
            "price.in",
            QueueSection::Ready { ahead: None },
            1,
        ));
        at = next;
    }
    let trace = way(&evidence, "order-0");
    // As deep as that, it goes over the control socket.
    let line = serde_json::to_vec(&serde_json::json!({ "done": &trace })).unwrap();
    let read: std::collections::BTreeMap<String, Trace> = serde_json::from_slice(&line).unwrap();
    assert_eq!(read["done"], trace);
    assert!(trace.cut.unwrap().contains("50 messages deep"));

    let mut evidence = Findings::default();
    let root = order("order-0");
    let wide = Emitted::from_outputs(std::iter::repeat_n(0, 5_000));
    tried(&mut evidence, "price", ok(&root).emitting(wide), 10);
    let trace = way(&evidence, "order-0");
    assert!(trace.cut.as_ref().unwrap().contains("1000 messages"));
    // Of which nothing is known, in few lines.
    assert!(
        trace.text().contains("996 more like this"),
        "{}",
        trace.text()
    );
    assert!(trace.text().lines().count() < 30);
}

#[test]
fn where_the_queues_cannot_be_searched_the_last_attempt_says_where_a_message_is() {
    let root = order("order-17");
    let again = |after| RetryDecision::Retry {
        after: Duration::from_secs(after),
        attempt: 2,
    };
    let retry = || attempt(&root, Outcome::Retry);
    let expected = [
        (retry().decided(&again(60)), "price: delayed"),
        // It must have come since: nobody knows what became of it.
        (retry().decided(&again(1)), "price: unknown"),
        (
            retry().decided(&RetryDecision::DeadLetter(Reason::Error)),
            "price: given-up",
        ),
        (attempt(&root, Outcome::Expired), "price: expired"),
    ];
    for (step, state) in expected {
        let mut evidence = evidence();
        tried(&mut evidence, "price", step, 10_000);
        assert_eq!(hops(&way(&evidence, "order-17").messages[0]), [state]);
    }
}

#[test]
fn what_moved_on_while_it_was_looked_for_is_where_it_came_to() {
    let root = order("order-17");
    let ready = || found(&root, "price.in", QueueSection::Ready { ahead: None }, 1);
    // It was handled after the queue was looked at,
    let mut since = evidence();
    since.found(ready());
    let (step, at_ms) = (ok(&root), LOOKED_MS + 5);
    since.tried(&step, at_ms, "price", &["in".into()], |_| "out".into());
    assert_eq!(hops(&way(&since, "order-17").messages[0]), ["price: done"]);
    // or just before, and its ack wasn't on the disk,
    let mut settling = evidence();
    settling.found(ready());
    tried(&mut settling, "price", ok(&root), 100);
    assert_eq!(
        hops(&way(&settling, "order-17").messages[0]),
        ["price: done"]
    );
    // or long before: then this is another copy.
    let mut copy = evidence();
    copy.found(ready());
    tried(&mut copy, "price", ok(&root), 60_000);
    assert_eq!(
        hops(&way(&copy, "order-17").messages[0]),
        ["price: waiting"]
    );
}

#[test]
fn what_is_in_an_outbox_has_come_to_nobody() {
    let mut evidence = evidence();
    let root = order("order-17");
    tried(
        &mut evidence,
        "price",
        ok(&root).emitting(Emitted::UNKNOWN),
        10,
    );
    let price = child(&root, "price", "out", 0, "priced");
    let head = crate::envelope_json::write_head(&price.into());
    let price = crate::envelope_json::read_head(&head, Bytes::new()).unwrap();
    let outboxed = crate::message_trace::findings::Outboxed {
        service: "price".into(),
        topic: "priced".into(),
        due_ms: None,
        refused: None,
    };
    evidence.outboxed(&price, outboxed);
    let trace = way(&evidence, "order-17");
    let price = &trace.messages[0].led_to[0];
    assert!(price.hops.is_empty(), "{price:#?}");
    assert_eq!(price.outboxes[0].service, "price");
    assert!(trace.text().contains("in the outbox of price, for priced"));
}
