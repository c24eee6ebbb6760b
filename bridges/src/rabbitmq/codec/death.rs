//! Dead letters on the wire: those that the broker made, and copies of letters.
//!
//! A broker that gives a message up (it expired, another program rejected it, a policy's limit)
//! says why in the header `x-death`. Such a letter gets a record like the runtime's own, and an id
//! made of its content if it has none.

use std::borrow::Cow;

use brickwork::{DeadLetter, Message, MessageId, Reason};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::table::text;
use super::{
    ATTEMPT, ESCAPE, PERSISTENT, REASON, TIME, TopicSource, attribute, decode_as_is, known, rfc3339,
};

/// The last entry of a message's `x-death`.
#[derive(Debug)]
pub(crate) struct Death<'a> {
    reason: Cow<'a, str>,
    /// The queue that the message was in.
    pub(crate) queue: Cow<'a, str>,
    /// The exchange that the message was published to.
    pub(crate) exchange: Cow<'a, str>,
    pub(crate) key: Cow<'a, str>,
    pub(crate) unix_s: u64,
}

/// Returns the last death of a message. The broker puts the newest entry first.
pub(crate) fn last(properties: &BasicProperties) -> Option<Death<'_>> {
    let headers = properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else {
        return None;
    };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else {
        return None;
    };
    let field = |name: &str| death.inner().get(name).map(text).unwrap_or_default();
    let key = match death.inner().get("routing-keys") {
        Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().map(text),
        _ => None,
    };
    Some(Death {
        reason: field("reason"),
        queue: field("queue"),
        exchange: field("exchange"),
        key: key.unwrap_or_default(),
        unix_s: match death.inner().get("time") {
            Some(AMQPValue::Timestamp(unix_s)) => *unix_s,
            _ => 0,
        },
    })
}

/// Decodes a message of the dead-letter queue `name` of a service. `died` is its last death and the
/// source of its topic, if it died in a queue of the app.
pub(crate) fn decode_letter(
    name: &str,
    service: &str,
    properties: &BasicProperties,
    payload: Vec<u8>,
    died: (Option<&Death<'_>>, Option<TopicSource<'_>>),
) -> Message {
    let headers = properties.headers().as_ref();
    let is_ours = headers.is_some_and(|headers| headers.inner().contains_key(REASON));
    let (death, topic_source) = if is_ours { (None, None) } else { died };
    let in_queue = TopicSource::DeadLetters(name);
    let mut message = decode_as_is(topic_source.unwrap_or(in_queue), properties, payload).message;
    if message.anonymous {
        let mut envelope = message.edit();
        envelope.id = content_id(name, death, &message.payload);
        message = envelope.into();
    }
    let Some(death) = death else { return message };
    if properties.timestamp().is_none() && attribute(properties, TIME).is_none() {
        // The message was there at that time; the time of reading would say nothing.
        let mut envelope = message.edit();
        envelope.time_ms = death.unix_s.saturating_mul(1000).min(rfc3339::MS_MAX);
        message = envelope.into();
    }
    let Some(reason) = Reason::ALL
        .into_iter()
        .find(|it| it.is_of_broker() && it.as_str() == death.reason)
    else {
        return message;
    };
    // `APP.SERVICE.INPUT`; a queue of another name has no input.
    let prefix = name.rsplit_once('.').map_or("", |(prefix, _)| prefix);
    let input = death.queue.strip_prefix(prefix);
    let input = input.and_then(|rest| rest.strip_prefix('.'));
    let attempts = known(properties, ATTEMPT).and_then(|attempt| attempt.parse::<u32>().ok());
    let record = DeadLetter {
        reason,
        error: format!("the broker gave it up in queue {}: {reason}", death.queue),
        service: service.into(),
        input: input.unwrap_or_default().into(),
        attempts: attempts.unwrap_or(1),
        failed_at_ms: death.unix_s.saturating_mul(1000),
    };
    record.letter(&message)
}

/// Returns the id of a letter without one: the same whenever the letter is read.
fn content_id(queue: &str, death: Option<&Death<'_>>, payload: &Bytes) -> MessageId {
    let base: MessageId = "dead-letter".parse().expect("a valid id");
    let death = death.map_or_else(String::new, |death| format!("{death:?}"));
    let content = payload.escape_ascii().to_string();
    base.child(&format!("{queue} {death}"), &content, 0)
}

/// Returns the properties of a copy of a letter, which keeps everything that a reader sees.
pub(crate) fn copy_of_letter(properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().iter().flatten() {
        let name = match name.as_str() {
            // The counts of the old copy.
            "x-delivery-count" | "x-acquired-count" => continue,
            // The broker would route copies.
            "CC" | "BCC" => ShortString::from(format!("{ESCAPE}{name}")),
            _ => name.clone(),
        };
        headers.insert(name, value.clone());
    }
    let mut copy = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(PERSISTENT);
    macro_rules! keep {
        ($($field:ident => $with:ident),*) => {
            $(if let Some(value) = properties.$field() {
                copy = copy.$with(value.clone());
            })*
        };
    }
    // Without `user_id`, which must be that of the connection, and without `expiration`.
    keep!(
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        priority => with_priority,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to,
        message_id => with_message_id,
        timestamp => with_timestamp,
        kind => with_type,
        app_id => with_app_id
    );
    copy
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;

    use super::super::{Route, decode, encode};
    use super::*;

    const DLQ: &str = "shop.stock.dlq";
    const INPUT: &str = "shop.stock.requests";

    fn string(value: &str) -> AMQPValue {
        AMQPValue::LongString(value.into())
    }

    /// The properties of a message that died in the queue of the input.
    fn dead(reason: &str, exchange: &str, key: &str) -> BasicProperties {
        let mut death = FieldTable::default();
        for (name, value) in [("reason", reason), ("queue", INPUT), ("exchange", exchange)] {
            death.insert(name.into(), string(value));
        }
        let keys = AMQPValue::FieldArray(vec![string(key)].into());
        death.insert("routing-keys".into(), keys);
        death.insert("time".into(), AMQPValue::Timestamp(1_795_390_323));
        let mut headers = FieldTable::default();
        let deaths = vec![AMQPValue::FieldTable(death)].into();
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(4));
        headers.insert("CC".into(), string("other"));
        BasicProperties::default()
            .with_headers(headers)
            .with_user_id("guest".into())
            .with_type("order".into())
    }

    fn letter(properties: &BasicProperties, payload: &str) -> Message {
        let death = last(properties);
        let topic = death.as_ref().map(|_| TopicSource::Topic("orders"));
        let died = (death.as_ref(), topic);
        decode_letter(DLQ, "stock", properties, payload.into(), died)
    }

    #[test]
    fn a_letter_of_the_broker_has_its_reason_and_an_id_of_its_content() {
        for reason in ["expired", "rejected", "maxlen", "delivery_limit"] {
            let properties = dead(reason, "shop", "orders");
            let message = letter(&properties, "{}");
            let record = DeadLetter::from_letter(&message).expect("a record");
            assert_eq!(record.reason.as_str(), reason);
            assert_eq!((&*record.service, &*record.input), ("stock", "requests"));
            assert_eq!(
                (record.attempts, record.failed_at_ms),
                (4, 1_795_390_323_000)
            );
            assert_eq!(&*message.topic, "orders");
            // At each look, also at a copy.
            let copy = copy_of_letter(&properties);
            assert_eq!(letter(&copy, "{}").id, message.id);
            assert_ne!(letter(&properties, "{ }").id, message.id);
        }
        let other = letter(&dead("expired", "shop", "parcels"), "{}");
        assert_ne!(
            other.id,
            letter(&dead("expired", "shop", "orders"), "{}").id
        );
        let unknown = letter(&BasicProperties::default(), "{}");
        assert_eq!(unknown.id, letter(&BasicProperties::default(), "{}").id);
        assert!(DeadLetter::from_letter(&unknown).is_none());
    }

    #[test]
    fn a_copy_has_all_that_a_reader_sees_and_nothing_that_the_broker_acts_on() {
        let copy = copy_of_letter(&dead("expired", "shop", "orders"));
        let headers = copy.headers().as_ref().expect("headers").inner();
        assert!(headers.contains_key("x-death"));
        assert!(!headers.contains_key("x-delivery-count") && !headers.contains_key("CC"));
        assert_eq!(headers.get("brickwork-header-CC"), Some(&string("other")));
        assert_eq!((copy.user_id(), copy.delivery_mode()), (&None, &Some(2)));
        assert_eq!(copy.kind().as_ref().map(ShortString::as_str), Some("order"));
    }

    #[test]
    fn a_letter_that_was_moved_to_an_input_is_a_fresh_message() {
        let mut envelope = Envelope::new("order", "{}");
        envelope.topic = "orders".into();
        envelope.headers.insert("urgent".into(), "yes".into());
        envelope.deadline_ms = Some(1);
        let record = DeadLetter {
            reason: Reason::Error,
            error: "no stock".into(),
            service: "stock".into(),
            input: "requests".into(),
            attempts: 5,
            failed_at_ms: 17,
        };
        let route = Route {
            attempt: 5,
            past_topics: true,
            suspect: None,
            target: None,
            clock_skew_ms: 0,
            properties_bytes_max: 100_000,
        };
        let properties = encode(&record.letter(&envelope.into()), route).expect("encoded");
        for to in [TopicSource::Queue(INPUT), TopicSource::Topic("orders")] {
            let moved = decode(to, &properties, b"{}".to_vec());
            assert_eq!((moved.attempt, &*moved.message.topic), (1, "orders"));
            assert_eq!(moved.message.deadline_ms, None);
            let headers: Vec<_> = moved.message.headers.keys().map(|name| &**name).collect();
            assert_eq!(headers, ["brickwork-replays", "urgent"]);
        }
        let kept = decode(TopicSource::DeadLetters(DLQ), &properties, b"{}".to_vec());
        assert_eq!(DeadLetter::from_letter(&kept.message), Some(record));
        // A letter of the broker, too; but not a retry, which died in a delay queue.
        let properties = dead("delivery_limit", "", INPUT);
        let moved = decode(TopicSource::Queue(INPUT), &properties, Vec::new());
        assert_eq!(moved.attempt, 1);
        let retried = decode(TopicSource::Queue("shop.stock.on"), &properties, Vec::new());
        assert_eq!(retried.attempt, 4);
    }
}
