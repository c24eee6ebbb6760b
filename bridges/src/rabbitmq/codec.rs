//! The wire format: a message as AMQP 0-9-1 properties and headers.
//!
//! Uses CloudEvents 1.0 in binary mode (`cloudEvents_*`), W3C trace context, and the runtime's
//! own headers (`brickwork-*`). Accepts messages that have none of them. Drops the headers that
//! the broker adds (`x-death` and the like): sent again, they would make the broker take the
//! message for one in a loop and drop it.

use std::borrow::Cow;
use std::sync::Arc;

use brickwork::dead_letters::Letter;
use brickwork::supervision::quarantine::CrashRecord;
use brickwork::transport::TransportError;
use brickwork::{Clock, Envelope, Headers, JSON, Message, MessageId, ReplyTo, TraceContext};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};

use super::rfc3339;

mod death;
mod forward;
mod table;
#[cfg(test)]
mod tests;

pub(super) use death::{copy_of_letter, decode_letter, last as last_death};
pub(super) use forward::{also_to, header_bytes, moved_on, with_target, without_delay};
use table::{Table, short, text};

/// The error text of a failed reply or of a dead letter.
pub(super) const ERROR: &str = "brickwork-error";

/// Attributes of CloudEvents, with both prefixes that it allows.
const VERSION: [&str; 2] = ["cloudEvents_specversion", "cloudEvents:specversion"];
const ID: [&str; 2] = ["cloudEvents_id", "cloudEvents:id"];
const TYPE: [&str; 2] = ["cloudEvents_type", "cloudEvents:type"];
const SOURCE: [&str; 2] = ["cloudEvents_source", "cloudEvents:source"];
const TIME: [&str; 2] = ["cloudEvents_time", "cloudEvents:time"];
const SUBJECT: [&str; 2] = ["cloudEvents_subject", "cloudEvents:subject"];

const ATTEMPT: &str = "brickwork-attempt";
const PARENT: &str = "brickwork-parent";
const DEADLINE: &str = "brickwork-deadline";
const TENANT: &str = "brickwork-tenant";
const TOPIC: &str = "brickwork-topic";
/// The input that a suspect belongs to. Only suspects have it.
const SUSPECT: &str = "brickwork-suspect";
/// Crashes of the process with a suspect in flight, when it was published. Only suspects have it.
const SUSPECT_DEATHS: &str = "brickwork-suspect-deaths";
/// Crashes that a suspect is blamed for, when it was published. Only suspects have it.
const SUSPECT_CRASHES: &str = "brickwork-suspect-crashes";
/// The queue that a delayed message goes to. Only delayed messages have it.
const TARGET: &str = "brickwork-target";
/// The reason of a dead letter. Only dead letters have it.
const REASON: &str = "brickwork-reason";
/// Prefix for user headers whose name is reserved.
const ESCAPE: &str = "brickwork-header-";
const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";
/// The header of a message that is AMQP's property of this name.
const CONTENT_ENCODING: &str = "content-encoding";

/// Number of headers that were left out because all together were too large.
const LEFT_OUT: &str = "brickwork-headers-left-out";

/// Earlier deliveries of a message, as counted by a quorum queue.
const DELIVERY_COUNT: &str = "x-delivery-count";

const PERSISTENT: u8 = 2;
/// Maximum bytes of an incoming attribute. With this limit an accepted message always fits into
/// a later publication, such as a dead letter.
const ATTRIBUTE_BYTES_MAX: usize = 4096;

/// The routing facts that are encoded beside the message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route<'a> {
    /// The value for [`brickwork::Delivery::attempt`].
    pub(super) attempt: u32,
    /// The routing key isn't the topic: encode the topic as a header.
    pub(super) past_topics: bool,
    /// The input of a suspect, and its crashes.
    pub(super) suspect: Option<(&'a str, CrashRecord)>,
    /// The queue of a message that is published to a delay step.
    pub(super) target: Option<&'a str>,
    /// Milliseconds by which the broker's clock is ahead.
    pub(super) clock_skew_ms: i64,
    /// Maximum bytes of the properties: they must fit into a frame.
    pub(super) properties_bytes_max: usize,
}

/// Encodes a message as AMQP properties.
///
/// A message to one queue (a retry, a dead letter) came from a broker and must be publishable
/// again. If its headers have become too large, the largest are left out.
///
/// # Errors
/// AMQP can't carry a part of the message. Publishing it would end the connection.
pub(super) fn encode(
    message: &Message,
    route: Route<'_>,
) -> Result<BasicProperties, TransportError> {
    let id = message.id.to_string();
    let mut headers = Table::default();
    our_headers(&mut headers, message, &id, route)?;
    let is_letter = message.headers.contains_key(REASON);
    let encoding = message.headers.get(CONTENT_ENCODING);
    let encoding = encoding.and_then(|it| ShortString::try_new(&**it).ok());
    let user_headers = message
        .headers
        .iter()
        // A dead letter has these two among the reserved headers, with the same value.
        .filter(|(name, _)| !(is_letter && matches!(&***name, ATTEMPT | TOPIC)))
        .filter(|(name, _)| encoding.is_none() || &***name != CONTENT_ENCODING)
        .map(|(name, value)| match is_reserved(name) {
            true => (Cow::Owned(format!("{ESCAPE}{name}")), &**value),
            false => (Cow::Borrowed(&**name), &**value),
        });
    // Upper bound for the bytes of all short strings.
    let bytes_max = route.properties_bytes_max.saturating_sub(8 * 256);
    let left_out = headers.put_all(user_headers, bytes_max)?;
    if left_out > 0 && !route.past_topics {
        return Err(refused(format!(
            "the headers of message {id} are too large: the broker accepts {} bytes",
            route.properties_bytes_max
        )));
    }
    if left_out > 0 {
        headers.number(LEFT_OUT, left_out)?;
    }
    let content_type = message.content_type.as_deref().unwrap_or(JSON);
    let mut properties = BasicProperties::default()
        .with_headers(headers.table)
        .with_delivery_mode(PERSISTENT)
        .with_content_type(short("content type", content_type)?)
        .with_message_id(short("message id", &id)?)
        .with_timestamp(message.time_ms / 1000);
    if let Some(encoding) = encoding {
        properties = properties.with_content_encoding(encoding);
    }
    // For other programs only: the headers carry both, too.
    if let Ok(kind) = ShortString::try_new(&*message.kind) {
        properties = properties.with_type(kind);
    }
    let app = message.source.split('/').nth(1).unwrap_or_default();
    if let (false, Ok(app)) = (app.is_empty(), ShortString::try_new(app)) {
        properties = properties.with_app_id(app);
    }
    if let Some(reply_to) = &message.reply_to {
        properties = properties.with_reply_to(short("reply address", &reply_to.address)?);
        if let Some(correlation) = &reply_to.correlation {
            properties = properties.with_correlation_id(short("correlation id", correlation)?);
        }
    }
    Ok(properties)
}

/// Adds the reserved headers of a message.
fn our_headers(
    headers: &mut Table,
    message: &Message,
    id: &str,
    route: Route<'_>,
) -> Result<(), TransportError> {
    headers.text(VERSION[0], "1.0")?;
    headers.text(ID[0], id)?;
    headers.text(TYPE[0], &message.kind)?;
    headers.text(TIME[0], &rfc3339::format(message.time_ms))?;
    if !message.source.is_empty() {
        headers.text(SOURCE[0], &message.source)?;
    }
    if let Some(subject) = &message.subject {
        headers.text(SUBJECT[0], subject)?;
    }
    // Also for a message that starts a trace: other programs can't derive the trace from the
    // id.
    let trace = message.trace();
    headers.text(TRACE_PARENT, &trace.to_string())?;
    if let Some(state) = &trace.state {
        headers.text(TRACE_STATE, state)?;
    }
    headers.number(ATTEMPT, u64::from(route.attempt))?;
    if let Some(parent) = &message.parent {
        headers.text(PARENT, &parent.to_string())?;
    }
    if let Some(deadline) = message.deadline_ms {
        headers.number(
            DEADLINE,
            deadline.saturating_add_signed(route.clock_skew_ms),
        )?;
    }
    if let Some(tenant) = &message.tenant {
        headers.text(TENANT, tenant)?;
    }
    if route.past_topics {
        headers.text(TOPIC, &message.topic)?;
    }
    if let Some((input, record)) = route.suspect {
        headers.text(SUSPECT, input)?;
        headers.number(SUSPECT_DEATHS, record.deaths.into())?;
        headers.number(SUSPECT_CRASHES, record.crashes.into())?;
    }
    if let Some(target) = route.target {
        headers.text(TARGET, target)?;
    }
    Ok(())
}

/// The source of a message's topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicSource<'a> {
    /// The message was published to this topic.
    Topic(&'a str),
    /// The message was published to the queue of this name. Its headers hold its topic and the
    /// attempt.
    Queue(&'a str),
    /// The message is in the dead-letter queue of this name. Its headers hold its topic, the
    /// attempt, and the record of why it was given up.
    DeadLetters(&'a str),
}

/// A decoded delivery.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) message: Message,
    /// The number of this attempt, from 1.
    pub(super) attempt: u32,
    /// The input of a suspect.
    pub(super) suspect: Option<String>,
    /// The crashes of a suspect; for any other message those of a new suspect.
    pub(super) crash_record: CrashRecord,
}

/// Decodes a delivery.
///
/// For a message that was published to a topic, the topic and attempt headers are ignored: any
/// publisher could have set them. A dead letter that another program moved to a queue of an input
/// is a fresh message, as after a replay.
pub(super) fn decode(
    topic_source: TopicSource<'_>,
    properties: &BasicProperties,
    payload: Vec<u8>,
) -> Decoded {
    let mut decoded = decode_as_is(topic_source, properties, payload);
    let is_letter = decoded.message.headers.contains_key(REASON);
    let is_moved = match topic_source {
        TopicSource::DeadLetters(_) => false,
        TopicSource::Topic(_) => is_letter,
        // The broker moved it to the dead-letter queue before.
        TopicSource::Queue(name) => {
            is_letter || death::last(properties).is_some_and(|death| death.queue == name)
        }
    };
    if is_moved {
        decoded.message = Letter::new(decoded.message).replayed();
        decoded.attempt = 1;
        decoded.crash_record = CrashRecord::suspect(1);
    }
    decoded
}

/// Decodes a delivery, and takes a dead letter for one.
fn decode_as_is(
    topic_source: TopicSource<'_>,
    properties: &BasicProperties,
    payload: Vec<u8>,
) -> Decoded {
    let text_of = |property: &Option<ShortString>| property.as_ref().map(|s| Arc::from(s.as_str()));
    let arc = |text: Option<Cow<'_, str>>| text.map(Arc::<str>::from);
    let known = |name: &str| known(properties, name);
    let attribute = |names| attribute(properties, names);
    let id = attribute(ID).or_else(|| message_id(properties));
    let id = id.and_then(|id| id.parse::<MessageId>().ok());
    let kind = arc(attribute(TYPE)).or_else(|| text_of(properties.kind()));
    let time_ms = attribute(TIME)
        .and_then(|time| rfc3339::parse(&time))
        .or_else(|| properties.timestamp().and_then(rfc3339::from_seconds));
    let (topic, attempt) = match topic_source {
        TopicSource::Topic(topic) => (Arc::from(topic), None),
        TopicSource::Queue(name) | TopicSource::DeadLetters(name) => (
            arc(known(TOPIC)).unwrap_or_else(|| Arc::from(name)),
            known(ATTEMPT).and_then(|attempt| attempt.parse().ok()),
        ),
    };
    // AMQP headers hold signed numbers only.
    let deadline = known(DEADLINE).and_then(|text| text.parse::<i64>().ok());
    let trace = known(TRACE_PARENT).and_then(|parent| parent.parse::<TraceContext>().ok());
    let envelope = Envelope {
        anonymous: id.is_none(),
        id: id.unwrap_or_default(),
        kind: kind.unwrap_or_else(|| Arc::from("")),
        source: arc(attribute(SOURCE)).unwrap_or_else(|| Arc::from("")),
        subject: arc(attribute(SUBJECT)),
        time_ms: time_ms.unwrap_or_else(|| Clock::SYSTEM.unix_ms()),
        topic,
        content_type: text_of(properties.content_type()).filter(|form| &**form != JSON),
        headers: read_headers(properties),
        payload: Bytes::from(payload),
        parent: known(PARENT).and_then(|parent| parent.parse().ok()),
        tenant: arc(known(TENANT)),
        trace: trace.map(|trace| TraceContext {
            state: arc(known(TRACE_STATE)),
            ..trace
        }),
        deadline_ms: deadline.and_then(|deadline| u64::try_from(deadline).ok()),
        reply_to: text_of(properties.reply_to()).map(|address| ReplyTo {
            address,
            correlation: text_of(properties.correlation_id()),
        }),
    };
    let attempt = attempt.unwrap_or(1).max(1);
    // A message that was published to a topic is no suspect, whatever its headers say.
    let number = |text: Option<Cow<'_, str>>| match topic_source {
        TopicSource::Queue(_) => text.and_then(|text| text.parse::<u32>().ok()),
        TopicSource::Topic(_) | TopicSource::DeadLetters(_) => None,
    };
    let new = CrashRecord::suspect(attempt);
    Decoded {
        message: envelope.into(),
        attempt,
        suspect: known(SUSPECT).map(Cow::into_owned),
        crash_record: CrashRecord {
            deaths: number(known(SUSPECT_DEATHS)).unwrap_or(0).max(new.deaths),
            crashes: number(known(SUSPECT_CRASHES)).unwrap_or(0),
            attempt,
        },
    }
}

/// Returns the headers of the message itself.
fn read_headers(properties: &BasicProperties) -> Headers {
    let mut headers = Headers::new();
    let table = properties.headers().as_ref();
    for (name, value) in table.into_iter().flatten() {
        let name = name.as_str();
        if let Some(name) = name.strip_prefix(ESCAPE) {
            headers.insert(name.into(), text(value).into());
        } else if !is_known(name) && !is_broker_header(name) {
            headers.insert(name.into(), text(value).into());
        }
    }
    if let Some(encoding) = properties.content_encoding() {
        headers.insert(CONTENT_ENCODING.into(), encoding.as_str().into());
    }
    if headers.contains_key(REASON) {
        for name in [ATTEMPT, TOPIC] {
            if let Some(value) = known(properties, name) {
                headers.insert(name.into(), value.into());
            }
        }
    }
    headers
}

/// Returns the id of a message, if it has a valid one.
pub(super) fn id_of(properties: &BasicProperties) -> Option<MessageId> {
    let id = attribute(properties, ID).or_else(|| message_id(properties));
    id?.parse().ok()
}

/// Describes the properties that are the same at every delivery of a message.
pub(super) fn lasting_properties(properties: &BasicProperties) -> String {
    let mut properties = properties.clone();
    if let Some(headers) = properties.headers() {
        let lasting = headers.inner().iter();
        let lasting = lasting.filter(|(name, _)| !name.as_str().starts_with("x-"));
        let lasting = lasting.map(|(name, value)| (name.clone(), value.clone()));
        let lasting =
            lapin::types::FieldTable::from(lasting.collect::<std::collections::BTreeMap<_, _>>());
        properties = properties.with_headers(lasting);
    }
    format!("{properties:?}")
}

/// The `message-id` property.
fn message_id(properties: &BasicProperties) -> Option<Cow<'_, str>> {
    let id = properties.message_id().as_ref();
    id.map(|id| Cow::Borrowed(id.as_str()))
}

/// Returns how often the broker has delivered the message before from its current queue.
pub(super) fn deliveries_before(properties: &BasicProperties) -> Option<u64> {
    let headers = properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(DELIVERY_COUNT))? {
        AMQPValue::LongLongInt(count) => u64::try_from(*count).ok(),
        count => text(count).parse().ok(),
    }
}

/// Returns whether the message was in the quarantine queue before.
pub(super) fn was_suspected(properties: &BasicProperties) -> bool {
    let headers = properties.headers().as_ref();
    headers.is_some_and(|headers| headers.inner().contains_key(SUSPECT))
}

/// Returns the queue that a delayed message goes to.
pub(super) fn target(properties: &BasicProperties) -> Option<ShortString> {
    ShortString::try_new(&*known(properties, TARGET)?).ok()
}

/// Returns the queue that dead-lettered the message first.
pub(super) fn first_death_queue(properties: &BasicProperties) -> Option<Cow<'_, str>> {
    known(properties, "x-first-death-queue")
}

/// Returns the text of a header, unless it is too long.
fn known<'a>(properties: &'a BasicProperties, name: &str) -> Option<Cow<'a, str>> {
    let headers = properties.headers().as_ref()?;
    let value = headers.inner().get(name).map(text);
    value.filter(|text| text.len() <= ATTRIBUTE_BYTES_MAX)
}

/// Returns an attribute of CloudEvents.
fn attribute<'a>(properties: &'a BasicProperties, names: [&str; 2]) -> Option<Cow<'a, str>> {
    known(properties, names[0]).or_else(|| known(properties, names[1]))
}

/// Whether a header is a field of the message.
fn is_known(name: &str) -> bool {
    const OWN: [&str; 11] = [
        TRACE_PARENT,
        TRACE_STATE,
        ATTEMPT,
        PARENT,
        DEADLINE,
        TENANT,
        TOPIC,
        TARGET,
        SUSPECT,
        SUSPECT_DEATHS,
        SUSPECT_CRASHES,
    ];
    OWN.contains(&name)
        || [VERSION, ID, TYPE, SOURCE, TIME, SUBJECT]
            .iter()
            .any(|it| it.contains(&name))
}

/// Returns whether a user header of this name must be escaped.
fn is_reserved(name: &str) -> bool {
    // The headers `CC` and `BCC` make the broker route copies; if their value isn't a list, the
    // broker closes the channel.
    is_known(name)
        || is_broker_header(name)
        || matches!(name, "CC" | "BCC")
        || name.starts_with(ESCAPE)
}

/// Returns whether the broker itself sets headers of this name.
fn is_broker_header(name: &str) -> bool {
    let death = ["x-first-death-", "x-last-death-"];
    let exact = ["x-death", DELIVERY_COUNT, "x-acquired-count"];
    exact.contains(&name) || death.iter().any(|prefix| name.starts_with(prefix))
}

fn refused(why: String) -> TransportError {
    TransportError::Unpublishable(why)
}
