//! The wire format: a message as AMQP 0-9-1 properties and headers.
//!
//! Uses CloudEvents 1.0 in binary mode (`cloudEvents_*`), W3C trace context, and the runtime's
//! own headers (`brickwork-*`). Accepts messages that have none of them. Drops the headers that
//! the broker adds (`x-death` and the like): sent again, they would make the broker take the
//! message for one in a loop and drop it.

use std::borrow::Cow;
use std::sync::Arc;

use brickwork::supervision::quarantine::CrashRecord;
use brickwork::transport::TransportError;
use brickwork::{Clock, Envelope, Headers, JSON, Message, MessageId, ReplyTo};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};

use super::rfc3339;
use super::source_queue::TopicSource;

mod table;
#[cfg(test)]
mod tests;

use table::{Table, short, text};

/// The error text of a failed reply or of a dead letter.
pub(super) const ERROR: &str = "brickwork-error";

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
/// The reason of a dead letter. Only dead letters have it.
const REASON: &str = "brickwork-reason";
/// Prefix for user headers whose name is reserved.
const ESCAPE: &str = "brickwork-header-";
const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";

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
    let user_headers = message
        .headers
        .iter()
        // A dead letter has these two among the reserved headers, with the same value.
        .filter(|(name, _)| !(is_letter && matches!(&***name, ATTEMPT | TOPIC)))
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
    headers.text("cloudEvents_specversion", "1.0")?;
    headers.text("cloudEvents_id", id)?;
    headers.text("cloudEvents_type", &message.kind)?;
    headers.text("cloudEvents_time", &rfc3339::format(message.time_ms))?;
    if !message.source.is_empty() {
        headers.text("cloudEvents_source", &message.source)?;
    }
    if let Some(subject) = &message.subject {
        headers.text("cloudEvents_subject", subject)?;
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
        headers.number(DEADLINE, deadline)?;
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
    Ok(())
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
/// publisher could have set them.
pub(super) fn decode(
    topic_source: TopicSource<'_>,
    properties: &BasicProperties,
    payload: Vec<u8>,
) -> Decoded {
    let text_of = |property: &Option<ShortString>| property.as_ref().map(|s| Arc::from(s.as_str()));
    let mut known = KnownHeaders::default();
    let mut headers = Headers::new();
    let table = properties.headers().as_ref();
    for (name, value) in table.into_iter().flatten() {
        let name = name.as_str();
        if let Some(field) = known.field(name) {
            *field = Some(text(value)).filter(|text| text.len() <= ATTRIBUTE_BYTES_MAX);
        } else if let Some(name) = name.strip_prefix(ESCAPE) {
            headers.insert(name.into(), text(value).into());
        } else if !is_broker_header(name) {
            headers.insert(name.into(), text(value).into());
        }
    }
    if headers.contains_key(REASON) {
        for (name, value) in [(ATTEMPT, &known.attempt), (TOPIC, &known.topic)] {
            if let Some(value) = value {
                headers.insert(name.into(), value.as_str().into());
            }
        }
    }
    let id = known
        .id
        .or_else(|| properties.message_id().as_ref().map(ToString::to_string))
        .and_then(|id| id.parse::<MessageId>().ok());
    let arc = |text: Option<String>| text.map(Arc::<str>::from);
    let mut envelope = Envelope::new(
        arc(known.kind)
            .or_else(|| text_of(properties.kind()))
            .unwrap_or_else(|| Arc::from("")),
        Bytes::from(payload),
    );
    envelope.anonymous = id.is_none();
    if let Some(id) = id {
        envelope.id = id;
    }
    envelope.source = arc(known.source).unwrap_or_else(|| Arc::from(""));
    envelope.subject = arc(known.subject);
    envelope.time_ms = known
        .time
        .and_then(|time| rfc3339::parse(&time))
        .or_else(|| properties.timestamp().and_then(rfc3339::from_seconds))
        .unwrap_or_else(|| Clock::SYSTEM.unix_ms());
    let (topic, attempt) = match topic_source {
        TopicSource::Topic(topic) => (Arc::from(topic), None),
        TopicSource::Queue(name) => (
            arc(known.topic).unwrap_or_else(|| Arc::from(name)),
            known.attempt.and_then(|attempt| attempt.parse().ok()),
        ),
    };
    envelope.topic = topic;
    envelope.content_type = text_of(properties.content_type()).filter(|form| &**form != JSON);
    envelope.headers = headers;
    envelope.parent = known.parent.and_then(|parent| parent.parse().ok());
    envelope.tenant = arc(known.tenant);
    // AMQP headers hold signed numbers only.
    let deadline = known.deadline.and_then(|text| text.parse::<i64>().ok());
    envelope.deadline_ms = deadline.and_then(|deadline| u64::try_from(deadline).ok());
    envelope.trace = known
        .trace_parent
        .and_then(|parent| parent.parse::<brickwork::TraceContext>().ok())
        .map(|mut trace| {
            trace.state = arc(known.trace_state);
            trace
        });
    envelope.reply_to = text_of(properties.reply_to()).map(|address| ReplyTo {
        address,
        correlation: text_of(properties.correlation_id()),
    });
    let attempt = attempt.unwrap_or(1).max(1);
    // A message that was published to a topic is no suspect, whatever its headers say.
    let number = |text: Option<String>| match topic_source {
        TopicSource::Queue(_) => text.and_then(|text| text.parse::<u32>().ok()),
        TopicSource::Topic(_) => None,
    };
    let new = CrashRecord::suspect(attempt);
    Decoded {
        message: envelope.into(),
        attempt,
        suspect: known.suspect,
        crash_record: CrashRecord {
            deaths: number(known.deaths).unwrap_or(0).max(new.deaths),
            crashes: number(known.crashes).unwrap_or(0),
            attempt,
        },
    }
}

/// Returns the id of a message, if it has a valid one.
pub(super) fn id_of(properties: &BasicProperties) -> Option<MessageId> {
    let headers = properties.headers().as_ref();
    let named = ["cloudEvents_id", "cloudEvents:id"];
    let mut ids = named
        .iter()
        .filter_map(|name| headers?.inner().get(*name).map(text));
    let id = ids.next();
    id.or_else(|| properties.message_id().as_ref().map(ToString::to_string))?
        .parse()
        .ok()
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

/// The values of the reserved headers, as text.
#[derive(Default)]
struct KnownHeaders {
    id: Option<String>,
    kind: Option<String>,
    source: Option<String>,
    time: Option<String>,
    subject: Option<String>,
    version: Option<String>,
    trace_parent: Option<String>,
    trace_state: Option<String>,
    attempt: Option<String>,
    parent: Option<String>,
    deadline: Option<String>,
    tenant: Option<String>,
    topic: Option<String>,
    suspect: Option<String>,
    deaths: Option<String>,
    crashes: Option<String>,
}

impl KnownHeaders {
    fn field(&mut self, name: &str) -> Option<&mut Option<String>> {
        // CloudEvents allows both prefixes.
        let attribute = name
            .strip_prefix("cloudEvents_")
            .or_else(|| name.strip_prefix("cloudEvents:"));
        Some(match (attribute, name) {
            (Some("specversion"), _) => &mut self.version,
            (Some("id"), _) => &mut self.id,
            (Some("type"), _) => &mut self.kind,
            (Some("source"), _) => &mut self.source,
            (Some("time"), _) => &mut self.time,
            (Some("subject"), _) => &mut self.subject,
            (_, TRACE_PARENT) => &mut self.trace_parent,
            (_, TRACE_STATE) => &mut self.trace_state,
            (_, ATTEMPT) => &mut self.attempt,
            (_, PARENT) => &mut self.parent,
            (_, DEADLINE) => &mut self.deadline,
            (_, TENANT) => &mut self.tenant,
            (_, TOPIC) => &mut self.topic,
            (_, SUSPECT) => &mut self.suspect,
            (_, SUSPECT_DEATHS) => &mut self.deaths,
            (_, SUSPECT_CRASHES) => &mut self.crashes,
            _ => return None,
        })
    }
}

/// Returns whether a user header of this name must be escaped.
fn is_reserved(name: &str) -> bool {
    // The headers `CC` and `BCC` make the broker route copies; if their value isn't a list, the
    // broker closes the channel.
    KnownHeaders::default().field(name).is_some()
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
