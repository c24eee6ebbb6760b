//! Traces through a small app: `intake` sends orders, `price` prices them or reports odd ones,
//! `keep` and `bill` read prices, `odd` reads odd orders.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::dead_letter::{DeadLetter, Reason};
use crate::message::{Envelope, Message};
use crate::message_trace::history::AttemptRecord;
use crate::message_trace::port_graph::{GraphPort, GraphService};
use crate::message_trace::report::Outboxed;
use crate::metrics::Outcome;
use crate::supervision::RetryDecision;
use crate::transport::{FoundMessage, QueueSection};

const READ_MS: u64 = 1_795_390_323_000;

fn port(name: &str, topics: &[&str]) -> GraphPort {
    GraphPort {
        name: name.into(),
        topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
    }
}

fn service(label: &str, inputs: Vec<GraphPort>, outputs: Vec<GraphPort>) -> GraphService {
    GraphService {
        label: label.into(),
        inputs,
        outputs,
        has_store: false,
        runs_here: true,
    }
}

fn graph() -> PortGraph {
    let prices = port("out", &["priced"]);
    PortGraph {
        app: "shop".into(),
        services: vec![
            service("intake", vec![], vec![port("out", &["orders"])]),
            service(
                "price",
                vec![port("in", &["orders"])],
                vec![prices, port("odd", &["odd", "no.reader"])],
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

/// Adds an attempt that ended this long before the queues were read.
fn add_attempt(findings: &mut Findings, service: &str, record: AttemptRecord, before_ms: u64) {
    let graph = graph();
    let mut services = graph.services.iter();
    let wired = services.find(|it| *it.label == *service).unwrap();
    let at = QueueId::new(service, &wired.inputs[0].name);
    findings.add_attempt(record, READ_MS - before_ms, at);
}

fn attempt(message: &Envelope, outcome: Outcome) -> AttemptRecord {
    AttemptRecord::new(message, 0, 1, outcome, tokio::time::Instant::now())
}

fn ok(message: &Envelope) -> AttemptRecord {
    attempt(message, Outcome::Ok).took(Duration::from_micros(1_500))
}

fn queued(message: &Envelope, queue: &str, place: QueueSection, attempt: u32) -> FoundMessage {
    let (service, input) = queue.split_once('.').unwrap();
    FoundMessage {
        queue: QueueId::new(service, input),
        place,
        attempt,
        message: Message::from(message.clone()),
    }
}

fn ready(message: &Envelope, queue: &str) -> FoundMessage {
    queued(message, queue, QueueSection::Ready { ahead: None }, 1)
}

fn findings() -> Findings {
    let mut findings = Findings::default();
    findings.queues_read_ms = READ_MS;
    findings
}

fn trace_of(findings: &Findings, id: &str) -> Trace {
    let graph = graph();
    let mut stores = Findings::default();
    let stores = Stores::open(&graph, Path::new("none"), &mut stores);
    build(&id.parse().unwrap(), findings.clone(), &stores, &graph)
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
fn a_trace_branches_and_shows_the_state_of_each_message() {
    let mut findings = findings();
    let root = order("order-17");
    let priced = ok(&root).emitting(3);
    add_attempt(&mut findings, "price", priced, 5_000);
    let prices = [0, 1].map(|n| child(&root, "price", "out", n, "priced"));
    add_attempt(&mut findings, "keep", ok(&prices[0]), 4_000);
    add_attempt(&mut findings, "keep", ok(&prices[1]), 3_000);
    let retry = RetryDecision::Retry {
        after: Duration::from_secs(60),
        attempt: 2,
    };
    let failed = attempt(&prices[0], Outcome::Retry).then(&retry);
    add_attempt(&mut findings, "bill", failed, 4_000);
    let delayed = QueueSection::Delayed {
        due_ms: READ_MS + 56_000,
        retry: true,
    };
    findings.add_queued(queued(&prices[0], "bill.in", delayed, 2));
    let third = QueueSection::Ready { ahead: Some(3) };
    findings.add_queued(queued(&prices[1], "bill.in", third, 1));
    let odd = child(&root, "price", "odd", 0, "odd");
    let record = DeadLetter {
        reason: Reason::Reject,
        error: "too \u{202e} odd".into(),
        service: "odd".into(),
        input: "in".into(),
        attempts: 1,
        failed_at_ms: READ_MS - 1_000,
    };
    findings.add_queued(ready(&record.letter(&odd.into()), "odd.dlq"));

    let trace = trace_of(&findings, "order-17");
    assert!(trace.found && trace.cut.is_none(), "{trace:#?}");
    let message = &trace.messages[0];
    assert_eq!(hops(message), ["price: done"]);
    let done = &message.hops[0].attempts[0];
    assert_eq!((done.took_us, done.emitted), (1_500, 3));
    assert_eq!(hops(&message.led_to[0]), ["odd: dead-lettered"]);
    assert_eq!(hops(&message.led_to[1]), ["bill: delayed", "keep: done"]);
    assert_eq!(hops(&message.led_to[2]), ["bill: waiting", "keep: done"]);
    let by = message.led_to[2].by.as_ref().unwrap();
    assert_eq!((by.output.as_deref(), by.index), (Some("out"), Some(1)));
    assert_eq!(message.led_to[0].topics, ["odd", "no.reader"]);
    let text = trace.text();
    for part in [
        "price.in: done; ok on attempt 1",
        "took 1.5ms, emitted 3",
        "price.out 1 -> ",
        "waiting, 3 before it",
        "for attempt 2",
        "dead-lettered: reject: too \\u{202e} odd",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let read: Trace = serde_json::from_str(&serde_json::to_string(&trace).unwrap()).unwrap();
    assert_eq!(read, trace);

    // The trace of a message in the middle names the ancestors.
    let middle = trace_of(&findings, &prices[1].id.to_string());
    assert_eq!(middle.came_of, ["order-17"]);
    assert_eq!(hops(&middle.messages[0]), ["bill: waiting", "keep: done"]);
    assert_eq!(middle.trace_id, trace.trace_id);
    // The trace id gives all messages of the trace.
    let all = trace_of(&findings, trace.trace_id.as_ref().unwrap());
    assert_eq!(all.messages, trace.messages);
}

#[test]
fn without_a_history_children_are_found_by_their_derived_ids() {
    let mut findings = findings();
    let root = order("order-17");
    // An inbox records ids alone. There is a gap between the numbers.
    for index in [0, 5] {
        let id = root.id.child("price", "out", index);
        findings.add_inbox_entry(&id, QueueId::new("keep", "in"), READ_MS);
    }
    let trace = trace_of(&findings, "order-17");
    let indexes = trace.messages[0].led_to.iter();
    let indexes: Vec<_> = indexes.map(|it| it.by.as_ref().unwrap().index).collect();
    assert_eq!(indexes, [Some(0), Some(5)]);
    // `bill` reads the topic, too, and has no record.
    assert_eq!(
        hops(&trace.messages[0].led_to[0]),
        ["bill: unknown", "keep: done"]
    );
    assert!(trace.messages[0].hops.is_empty());
    // A copy of the message shows its topic, and so its readers. A child shows that `price`
    // handled it.
    findings.add_queued(ready(&root, "odd.dlq"));
    let trace = trace_of(&findings, "order-17");
    assert_eq!(
        hops(&trace.messages[0]),
        ["odd: dead-lettered", "price: done"]
    );
}

#[test]
fn children_are_found_however_many_there_are() {
    let mut findings = findings();
    let root = order("order-17");
    for index in 0..40 {
        let id = root.id.child("price", "out", index);
        findings.add_inbox_entry(&id, QueueId::new("keep", "in"), READ_MS);
    }
    let trace = trace_of(&findings, "order-17");
    assert_eq!(trace.messages[0].led_to.len(), 40);
}

#[test]
fn a_message_that_names_its_parent_is_its_child_even_if_its_id_is_not_derived() {
    let mut findings = findings();
    let root = order("order-17");
    let mut message = child(&root, "price", "out", 0, "priced");
    message.id = "made-elsewhere".parse().unwrap();
    message.source = "/legacy/pricer".into();
    findings.add_queued(ready(&message, "keep.in"));
    let trace = trace_of(&findings, "order-17");
    let [child] = &trace.messages[0].led_to[..] else {
        panic!("{trace:#?}");
    };
    assert_eq!(child.by.as_ref().unwrap().service, "pricer");
    let trace = trace_of(&findings, "made-elsewhere");
    assert_eq!(trace.came_of, ["order-17"]);
}

#[test]
fn a_message_without_any_record_is_not_found() {
    let mut findings = findings();
    add_attempt(&mut findings, "price", ok(&order("other")), 10);
    findings.miss("queues: the broker is down");
    let trace = trace_of(&findings, "order-17");
    assert!(!trace.found && trace.messages.is_empty() && trace.trace_id.is_none());
    let text = trace.text();
    assert!(text.contains("no trace of order-17"), "{text}");
    assert!(
        text.contains("not looked at: queues: the broker is down"),
        "{text}"
    );
}

#[test]
fn a_cycle_of_messages_is_shown_once() {
    let mut findings = findings();
    let (mut first, mut second) = (order("a"), order("b"));
    first.parent = Some(second.id.clone());
    second.parent = Some(first.id.clone());
    for message in [&first, &second] {
        findings.add_queued(ready(message, "price.in"));
    }
    let trace = trace_of(&findings, "a");
    let below = &trace.messages[0].led_to[0];
    assert_eq!((&*below.id, below.led_to.len()), ("b", 0));
}

#[test]
fn a_trace_that_is_too_deep_or_too_wide_is_cut_and_says_so() {
    let mut findings = findings();
    let mut last = order("order-0");
    for number in 1..200 {
        let mut next = order(&format!("order-{number}"));
        next.parent = Some(last.id.clone());
        findings.add_queued(ready(&next, "price.in"));
        last = next;
    }
    let trace = trace_of(&findings, "order-0");
    // The control socket can carry an answer of this depth.
    let line = serde_json::to_vec(&serde_json::json!({ "done": &trace })).unwrap();
    let read: BTreeMap<String, Trace> = serde_json::from_slice(&line).unwrap();
    assert_eq!(read["done"], trace);
    assert!(trace.cut.unwrap().contains("50 messages deep"));

    let mut findings = Findings::default();
    let root = order("order-0");
    for index in 0..1_500 {
        findings.add_queued(ready(
            &child(&root, "price", "out", index, "priced"),
            "keep.in",
        ));
    }
    let trace = trace_of(&findings, "order-0");
    assert!(trace.cut.as_ref().unwrap().contains("1000 messages"));
    assert_eq!(trace.messages[0].led_to.len(), 999);
    assert!(trace.text().contains("there is more: stopped after 1000"));
}

#[test]
fn where_the_queues_cannot_be_read_the_last_attempt_gives_the_state() {
    let root = order("order-17");
    let after = |seconds| RetryDecision::Retry {
        after: Duration::from_secs(seconds),
        attempt: 2,
    };
    let retry = || attempt(&root, Outcome::Retry);
    let dead_letter = RetryDecision::DeadLetter(Reason::Error);
    let expected = [
        (retry().then(&after(60)), "price: delayed"),
        // The retry was due already, and has no record.
        (retry().then(&after(1)), "price: unknown"),
        (retry().then(&dead_letter), "price: dead-lettered"),
        (attempt(&root, Outcome::Expired), "price: expired"),
    ];
    for (record, state) in expected {
        let mut findings = findings();
        add_attempt(&mut findings, "price", record, 10_000);
        let trace = trace_of(&findings, "order-17");
        assert_eq!(hops(&trace.messages[0]), [state]);
    }
}

#[test]
fn an_attempt_that_ended_after_the_queues_were_read_is_newer_than_the_copy_in_a_queue() {
    let root = order("order-17");
    let state = |ended_before_ms: i64| {
        let mut findings = findings();
        findings.add_queued(ready(&root, "price.in"));
        let ended_ms = READ_MS.saturating_add_signed(-ended_before_ms);
        let at = QueueId::new("price", "in");
        findings.add_attempt(ok(&root), ended_ms, at);
        hops(&trace_of(&findings, "order-17").messages[0])
    };
    assert_eq!(state(-5), ["price: done"]);
    // The ack was not written yet.
    assert_eq!(state(100), ["price: done"]);
    // The copy was published again.
    assert_eq!(state(60_000), ["price: waiting"]);
}

#[test]
fn a_message_in_an_outbox_has_not_reached_its_readers() {
    let mut findings = findings();
    let root = order("order-17");
    add_attempt(&mut findings, "price", ok(&root), 10);
    let price = child(&root, "price", "out", 0, "priced");
    let head = crate::envelope_json::write_head(&price.into());
    let price = crate::envelope_json::read_head(&head, Bytes::new()).unwrap();
    let outboxed = Outboxed {
        service: "price".into(),
        topic: "priced".into(),
        until: None,
        refused: None,
    };
    findings.add_outboxed(&price, outboxed);
    let trace = trace_of(&findings, "order-17");
    let price = &trace.messages[0].led_to[0];
    assert!(price.hops.is_empty(), "{price:#?}");
    assert_eq!(price.outboxes[0].service, "price");
    assert!(trace.text().contains("in the outbox of price, for priced"));
}
