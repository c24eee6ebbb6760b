//! Round trips of messages, and messages of other programs.

use brickwork::{DeadLetter, Reason};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use lapin::types::{AMQPValue, DecimalValue, FieldTable};

use super::*;

const ROUTE: Route<'static> = Route {
    suspect: None,
    target: None,
    clock_skew_ms: 0,
    attempt: 1,
    past_topics: true,
    properties_bytes_max: 100_000,
};

fn decode(
    topic_source: TopicSource<'_>,
    properties: &BasicProperties,
    payload: Vec<u8>,
) -> (Message, u32) {
    let decoded = super::decode(topic_source, properties, payload);
    (decoded.message, decoded.attempt)
}

fn round_trip(message: &Message, route: Route<'_>) -> (Message, u32) {
    let properties = encode(message, route).unwrap();
    let topic_source = if route.past_topics {
        TopicSource::Queue("app.service.input")
    } else {
        TopicSource::Topic(&message.topic)
    };
    decode(topic_source, &properties, message.payload.to_vec())
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
        time_ms in 0u64..=rfc3339::MS_MAX,
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
        let mut envelope = envelope;
        let sent = Message::from(envelope.clone());
        // The trace of a message that starts one is encoded, too.
        envelope.trace = Some(sent.trace());
        let expected = Message::from(envelope);
        let (got, number) = round_trip(&sent, Route { attempt, past_topics, ..ROUTE });
        prop_assert_eq!(number, if past_topics { attempt } else { 1 });
        prop_assert_eq!(format!("{:?}", *got), format!("{:?}", *expected));
    }

    #[test]
    fn any_message_of_another_program_is_accepted_and_can_be_published_again(
        properties in properties(), payload in vec(any::<u8>(), 0..40)
    ) {
        let (message, attempt) = decode(TopicSource::Topic("a.topic"), &properties, payload.clone());
        prop_assert_eq!((&*message.topic, attempt), ("a.topic", 1));
        prop_assert_eq!(&message.payload[..], &payload[..]);
        prop_assert!(message.time_ms <= rfc3339::MS_MAX);
        let (_, attempt) = decode(TopicSource::Queue("app.service.input"), &properties, Vec::new());
        prop_assert!(attempt >= 1);

        // It can be retried or dead-lettered, and stays the same.
        let letter = DeadLetter {
            reason: Reason::Error,
            error: "no ".repeat(500),
            service: "service".into(),
            input: "input".into(),
            attempts: 2,
            failed_at_ms: 17,
        };
        for sent in [message.clone(), letter.letter(&message)] {
            let route = Route { attempt: 2, properties_bytes_max: 100_000, ..ROUTE };
            let again = encode(&sent, route).unwrap();
            prop_assert!(bytes_of(&again) <= 100_000, "{}", bytes_of(&again));
            let from = match sent.headers.contains_key(REASON) {
                true => TopicSource::DeadLetters("app.service.dlq"),
                false => TopicSource::Queue("app.service.input"),
            };
            let (got, attempt) = decode(from, &again, payload.clone());
            prop_assert_eq!(attempt, 2);
            let (mut got, mut sent) = (got.edit(), sent.edit());
            // The id is now in the message; left-out headers are gone.
            sent.anonymous = false;
            sent.trace = Some(sent.trace());
            if got.headers.remove(LEFT_OUT).is_some() {
                let kept = |name: &Arc<str>| got.headers.contains_key(name);
                sent.headers.retain(|name, _| kept(name));
            }
            // A dead letter repeats these in its headers; so does a message that only looks
            // like one.
            for name in [LEFT_OUT, ATTEMPT, TOPIC] {
                got.headers.remove(name);
                sent.headers.remove(name);
            }
            prop_assert_eq!(format!("{got:?}"), format!("{sent:?}"));
        }
    }
}

/// Size of headers and short strings on the wire, counted independently.
fn bytes_of(properties: &BasicProperties) -> usize {
    let headers = properties.headers().as_ref().into_iter().flatten();
    let headers = headers.map(|(name, value)| {
        2 + name.as_str().len()
            + match value {
                AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
                AMQPValue::LongLongInt(_) => 8,
                other => panic!("{other:?} is never sent"),
            }
    });
    let texts = [
        properties.content_type(),
        properties.message_id(),
        properties.kind(),
        properties.app_id(),
        properties.reply_to(),
        properties.correlation_id(),
    ];
    let texts = texts
        .into_iter()
        .flatten()
        .map(|text| 1 + text.as_str().len());
    4 + 14 + headers.sum::<usize>() + texts.sum::<usize>()
}

/// Values of every type, some of them large.
fn values() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        (0u64..300_000_000_000).prop_map(AMQPValue::Timestamp),
        Just(AMQPValue::Void),
        ".{0,60}".prop_map(|text| AMQPValue::LongString(text.into())),
        almost_valid_texts().prop_map(|text| AMQPValue::LongString(text.into())),
        vec(any::<u8>(), 0..60).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        vec(any::<u8>(), 0..60).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        // Invalid UTF-8 becomes three times as long as text.
        (0usize..60_000).prop_map(|size| AMQPValue::LongString(vec![0xff; size].into())),
        (0usize..60_000).prop_map(|size| AMQPValue::FieldArray(vec![AMQPValue::Void; size].into())),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| AMQPValue::FieldArray(values.into())),
            (header_name(), inner).prop_map(|(name, value)| {
                let mut table = FieldTable::default();
                table.insert(ShortString::try_new(&*name).unwrap(), value);
                AMQPValue::FieldTable(table)
            }),
        ]
    })
}

/// Texts that are almost valid ids, traces, numbers or times.
fn almost_valid_texts() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "4294967296",
        "18446744073709551615",
        "-1",
        "1e9",
        "9999-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59-23:59",
        "0000-00-00T00:00:00Z",
        "2026-11-23T00:30:30.Z",
        "\u{0}",
    ])
    .prop_map(str::to_owned)
}

prop_compose! {
    fn properties()(
        headers in vec((strange_name(), values()), 0..12),
        texts in vec(option::of(".{0,80}"), 6),
        timestamp in option::of(prop_oneof![any::<u64>(), 0u64..300_000_000_000]),
    ) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert(ShortString::try_new(&*name).unwrap(), value);
        }
        let mut properties = BasicProperties::default().with_headers(table);
        let short = |text: &String| ShortString::try_new(&**text).ok();
        let mut texts = texts.iter().map(|text| text.as_ref().and_then(short));
        type Set = fn(BasicProperties, ShortString) -> BasicProperties;
        let set: [Set; 6] = [
            BasicProperties::with_message_id,
            BasicProperties::with_type,
            BasicProperties::with_content_type,
            BasicProperties::with_reply_to,
            BasicProperties::with_correlation_id,
            BasicProperties::with_app_id,
        ];
        for set in set {
            if let Some(Some(text)) = texts.next() {
                properties = set(properties, text);
            }
        }
        match timestamp {
            Some(timestamp) => properties.with_timestamp(timestamp),
            None => properties,
        }
    }
}

/// Mostly reserved names.
fn strange_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "cloudEvents_id",
            "cloudEvents_type",
            "cloudEvents_source",
            "cloudEvents_time",
            "cloudEvents:subject",
            "cloudEvents_specversion",
            "traceparent",
            "tracestate",
            ATTEMPT,
            PARENT,
            DEADLINE,
            TENANT,
            TOPIC,
            REASON,
            ERROR,
            LEFT_OUT,
        ])
        .prop_map(str::to_owned),
        header_name(),
        "[ -~]{200,255}",
    ]
}

#[test]
fn a_message_without_any_header_is_accepted() {
    let before = Clock::SYSTEM.unix_ms();
    let (message, attempt) = decode(
        TopicSource::Topic("orders"),
        &BasicProperties::default(),
        b"{}".to_vec(),
    );
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
        .with_content_encoding("gzip".into())
        .with_timestamp(1_700_000_000);
    let (message, _) = decode(TopicSource::Topic("orders"), &properties, Vec::new());
    assert!(!message.anonymous);
    assert_eq!(message.id.to_string(), "order-17");
    assert_eq!(&*message.kind, "order");
    assert_eq!(message.content_type.as_deref(), Some("text/plain"));
    assert_eq!(message.time_ms, 1_700_000_000_000);
    assert_eq!(&*message.headers["content-encoding"], "gzip");
    let again = encode(&message, ROUTE).unwrap();
    let encoding = again.content_encoding().as_ref();
    assert_eq!(encoding.map(ShortString::as_str), Some("gzip"));
    assert!(round_trip(&message, ROUTE).0.headers == message.headers);
}

#[test]
fn a_message_that_became_too_large_loses_its_largest_headers() {
    let mut envelope = Envelope::new("order", "{}");
    for (name, size) in [("small", 10), ("large", 60_000), ("larger", 70_000)] {
        envelope
            .headers
            .insert(name.into(), "x".repeat(size).into());
    }
    let (got, _) = round_trip(&envelope.into(), ROUTE);
    let names: Vec<&str> = got.headers.keys().map(|name| &**name).collect();
    assert_eq!(names, [LEFT_OUT, "large", "small"]);
    assert_eq!(&*got.headers[LEFT_OUT], "1");
}

#[test]
fn times_of_other_programs_are_understood() {
    let now = Clock::SYSTEM.unix_ms();
    let of = |time: Option<AMQPValue>, timestamp: Option<u64>| {
        let mut table = FieldTable::default();
        if let Some(time) = time {
            table.insert("cloudEvents_time".into(), time);
        }
        let properties = BasicProperties::default().with_headers(table);
        let properties = match timestamp {
            Some(timestamp) => properties.with_timestamp(timestamp),
            None => properties,
        };
        decode(TopicSource::Topic("t"), &properties, Vec::new())
            .0
            .time_ms
    };
    let text = |text: &str| Some(AMQPValue::LongString(text.into()));
    assert_eq!(of(text("1970-01-01T00:00:01Z"), Some(7)), 1000);
    assert_eq!(of(Some(AMQPValue::Timestamp(5)), Some(7)), 5000);
    assert_eq!(of(text("tomorrow"), Some(7)), 7000);
    // A timestamp in milliseconds, by mistake; and a value out of range.
    assert!(of(None, Some(1_795_393_830_041)) >= now);
    assert!(of(Some(AMQPValue::Timestamp(u64::MAX)), Some(u64::MAX)) >= now);
}

#[test]
fn headers_of_the_broker_are_dropped_and_values_become_text() {
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
    let (message, _) = decode(TopicSource::Topic("t"), &properties, Vec::new());
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
    let route = Route {
        attempt: 5,
        ..ROUTE
    };
    let properties = encode(&sent, route).unwrap();
    let source = TopicSource::DeadLetters("app.service.dlq");
    let (got, _) = decode(source, &properties, sent.payload.to_vec());
    assert_eq!(got.headers, sent.headers);
    assert_eq!(&*got.headers[ATTEMPT], "5");
    assert_eq!(&*got.topic, "orders");
}

#[test]
fn a_message_that_amqp_cannot_carry_is_refused_before_publishing() {
    let mut envelope = Envelope::new("order", "{}");
    envelope.headers.insert("x".repeat(256).into(), "".into());
    let to_topic = Route {
        past_topics: false,
        ..ROUTE
    };
    let error = encode(&envelope.into(), to_topic).unwrap_err();
    assert!(error.to_string().contains("header name"), "{error}");

    let mut envelope = Envelope::new("order", "{}");
    envelope
        .headers
        .insert("note".into(), "x".repeat(200_000).into());
    let to_topic = Route {
        past_topics: false,
        ..ROUTE
    };
    let error = encode(&envelope.into(), to_topic).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}

#[test]
fn a_suspect_keeps_its_crashes_and_a_publisher_to_a_topic_can_not_set_them() {
    let message = Message::from(Envelope::new("order", "{}"));
    let record = CrashRecord {
        deaths: 4,
        crashes: 1,
        attempt: 3,
    };
    let route = Route {
        attempt: record.attempt,
        suspect: Some(("requests", record)),
        ..ROUTE
    };
    let properties = encode(&message, route).unwrap();
    let decoded = super::decode(TopicSource::Queue("q"), &properties, Vec::new());
    assert_eq!(decoded.suspect.as_deref(), Some("requests"));
    assert_eq!(decoded.crash_record, record);
    assert_eq!(decoded.message.headers, message.headers);
    let decoded = super::decode(TopicSource::Topic("orders"), &properties, Vec::new());
    assert_eq!(decoded.crash_record, CrashRecord::suspect(1));
}
