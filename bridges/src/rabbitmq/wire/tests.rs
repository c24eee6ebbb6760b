//! What goes out comes in again; what others send is understood.

use brickwork::{DeadLetter, Reason, TraceContext};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

const WAY: Way<'static> = Way {
    suspect: None,
    attempt: 1,
    past_topics: true,
    properties_bytes_max: 100_000,
};

fn taken(decoded: Decoded) -> (Message, u32) {
    (decoded.message, decoded.attempt)
}

fn there_and_back(message: &Message, way: Way<'_>) -> (Message, u32) {
    let properties = encode(message, way).unwrap();
    let key = if way.past_topics {
        "app.service.input"
    } else {
        &message.topic
    };
    taken(decode(key, &properties, message.payload.to_vec()))
}

fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9_.-]{1,20}",
        2 => ".{1,60}",
        1 => prop::sample::select(vec![
            "traceparent", "tracestate", "cloudEvents_id", "cloudEvents:type", "CC", "BCC",
            "x-death", "x-first-death-queue", "x-github-event", ATTEMPT, TOPIC, DEADLINE,
            "brickwork-header-", "brickwork-header-brickwork-header-CC",
        ]).prop_map(str::to_owned),
    ]
}

fn ids() -> impl Strategy<Value = MessageId> {
    prop_oneof![
        Just(()).prop_map(|()| MessageId::new()),
        "[^\\p{Cc}]{1,60}".prop_map(|text| text.parse().unwrap()),
    ]
}

fn traces() -> impl Strategy<Value = TraceContext> {
    (1u128.., 1u64.., any::<u8>(), option::of("[a-z=,]{1,40}")).prop_map(
        |(trace_id, span_id, flags, state)| TraceContext {
            trace_id,
            span_id,
            flags,
            state: state.map(Arc::from),
        },
    )
}

prop_compose! {
    fn envelopes()(
        id in ids(),
        kind in ".{0,300}",
        names in (".{0,300}", "[a-z]{1,10}(\\.[a-z]{1,10}){0,3}", option::of(".{0,40}"), option::of(".{0,40}")),
        time_ms in 0u64..253_402_300_799_999,
        headers in btree_map(header_name(), ".{0,80}", 0..8),
        payload in vec(any::<u8>(), 0..200),
        parent in option::of(ids()),
        trace in option::of(traces()),
        deadline_ms in option::of(0..u64::MAX / 2),
        reply in option::of((".{1,60}", option::of(".{0,60}"))),
    ) -> Envelope {
        let (source, topic, subject, tenant) = names;
        let mut envelope = Envelope::new(kind, payload);
        envelope.id = id;
        envelope.source = source.into();
        envelope.topic = topic.into();
        envelope.subject = subject.map(Arc::from);
        envelope.tenant = tenant.map(Arc::from);
        envelope.time_ms = time_ms;
        envelope.headers = headers.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        envelope.parent = parent;
        envelope.trace = trace;
        envelope.deadline_ms = deadline_ms;
        envelope.reply_to = reply.map(|(address, correlation)| ReplyTo {
            address: address.into(),
            correlation: correlation.map(Arc::from),
        });
        envelope
    }
}

proptest! {
    #[test]
    fn a_message_arrives_as_it_was_sent(
        envelope in envelopes(), attempt in 1u32.., past_topics: bool
    ) {
        let sent = Message::from(envelope);
        let (got, number) = there_and_back(&sent, Way { attempt, past_topics, ..WAY });
        prop_assert_eq!(number, attempt);
        prop_assert_eq!(format!("{:?}", *got), format!("{:?}", *sent));
    }

    #[test]
    fn nothing_that_others_send_is_too_strange(
        name in header_name(), number: i64, real: f64, bytes in vec(any::<u8>(), 0..40)
    ) {
        let nested = AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::Double(real)].into());
        for value in [
            nested, AMQPValue::LongLongInt(number), AMQPValue::LongString(bytes.clone().into()),
        ] {
            let mut table = FieldTable::default();
            table.insert(ShortString::try_new(&*name).unwrap(), value);
            let properties = BasicProperties::default().with_headers(table);
            let (message, attempt) = taken(decode("a.topic", &properties, bytes.clone()));
            prop_assert!(attempt >= 1);
            prop_assert_eq!(&message.payload[..], &bytes[..]);
        }
    }
}

#[test]
fn a_message_without_any_header_is_accepted() {
    let before = Clock::SYSTEM.unix_ms();
    let (message, attempt) = taken(decode(
        "orders",
        &BasicProperties::default(),
        b"{}".to_vec(),
    ));
    assert!(message.anonymous);
    assert_eq!(
        (&*message.topic, &*message.kind, attempt),
        ("orders", "", 1)
    );
    assert!(message.time_ms >= before);
    assert_eq!(message.reply_to, None);
}

#[test]
fn plain_properties_are_understood_without_headers() {
    let properties = BasicProperties::default()
        .with_message_id("order-17".into())
        .with_type("order".into())
        .with_content_type("text/plain".into())
        .with_timestamp(1_700_000_000);
    let message = decode("orders", &properties, Vec::new()).message;
    assert!(!message.anonymous);
    assert_eq!(message.id.to_string(), "order-17");
    assert_eq!(&*message.kind, "order");
    assert_eq!(message.content_type.as_deref(), Some("text/plain"));
    assert_eq!(message.time_ms, 1_700_000_000_000);
}

#[test]
fn what_the_broker_added_is_left_out_and_what_is_no_text_becomes_one() {
    let mut table = FieldTable::default();
    let deaths = AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into());
    table.insert("x-death".into(), deaths);
    table.insert(
        "x-first-death-queue".into(),
        AMQPValue::LongString("q".into()),
    );
    table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
    table.insert(
        "x-github-event".into(),
        AMQPValue::LongString("push".into()),
    );
    table.insert("urgent".into(), AMQPValue::Boolean(true));
    table.insert("weight".into(), AMQPValue::Double(1.5));
    let properties = BasicProperties::default().with_headers(table);
    let message = decode("t", &properties, Vec::new()).message;
    let headers: Vec<(&str, &str)> = message.headers.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        headers,
        [
            ("urgent", "true"),
            ("weight", "1.5"),
            ("x-github-event", "push")
        ]
    );
}

#[test]
fn a_dead_letter_keeps_its_headers() {
    let mut envelope = Envelope::new("order", "{}");
    envelope.topic = "orders".into();
    let letter = DeadLetter {
        reason: Reason::Error,
        error: "no stock".into(),
        service: "stock".into(),
        input: "requests".into(),
        attempts: 5,
        failed_at_ms: 17,
    };
    let sent = letter.letter(&envelope.into());
    let (got, _) = there_and_back(&sent, Way { attempt: 5, ..WAY });
    assert_eq!(got.headers, sent.headers);
    assert_eq!(&*got.headers[ATTEMPT], "5");
    assert_eq!(&*got.topic, "orders");
}

#[test]
fn what_amqp_cannot_carry_is_refused_here() {
    let mut envelope = Envelope::new("order", "{}");
    envelope.headers.insert("x".repeat(256).into(), "".into());
    let error = encode(&envelope.into(), WAY).unwrap_err();
    assert!(error.to_string().contains("header name"), "{error}");

    let mut envelope = Envelope::new("order", "{}");
    envelope
        .headers
        .insert("note".into(), "x".repeat(200_000).into());
    let error = encode(&envelope.into(), WAY).unwrap_err();
    assert!(error.to_string().contains("weigh"), "{error}");
}
