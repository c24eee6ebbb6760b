//! The head of a message as text: its envelope without the payload, in JSON.
//!
//! Used in files that outlive the program and that people read. Absent fields are not written,
//! missing fields get their defaults, and unknown fields are ignored. So older and newer versions
//! read the files of each other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::message::{Envelope, Headers, Message, ReplyTo};
use crate::trace_context::TraceContext;

/// The text is not the head of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not the head of a message: {0}")]
pub struct InvalidHead(String);

/// Typical length of a head, in bytes.
const BYTES: usize = 320;

/// Writes the head of a message.
///
/// ```
/// use brickwork::{Envelope, Message, read_head, write_head};
///
/// let message = Message::from(Envelope::new("greeting", "{}"));
/// let head = write_head(&message);
/// let again = read_head(&head, message.payload.clone()).unwrap();
/// assert_eq!(again.id, message.id);
/// ```
pub fn write_head(message: &Message) -> String {
    let mut head = Vec::with_capacity(BYTES);
    serde_json::to_writer(&mut head, &Head(message)).expect("text and numbers become JSON");
    String::from_utf8(head).expect("JSON is UTF-8")
}

/// Serializes without copies: every durable message passes here.
struct Head<'a>(&'a Envelope);

struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

struct Pairs<'a>(&'a Headers);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (&**name, &**value)))
    }
}

impl Serialize for Head<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let it = self.0;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("id", &Text(&it.id))?;
        map.serialize_entry("type", &*it.kind)?;
        map.serialize_entry("topic", &*it.topic)?;
        map.serialize_entry("time_ms", &it.time_ms)?;
        if !it.source.is_empty() {
            map.serialize_entry("source", &*it.source)?;
        }
        if let Some(subject) = &it.subject {
            map.serialize_entry("subject", &**subject)?;
        }
        if let Some(content_type) = &it.content_type {
            map.serialize_entry("content_type", &**content_type)?;
        }
        if !it.headers.is_empty() {
            map.serialize_entry("headers", &Pairs(&it.headers))?;
        }
        if let Some(parent) = &it.parent {
            map.serialize_entry("parent", &Text(parent))?;
        }
        if let Some(tenant) = &it.tenant {
            map.serialize_entry("tenant", &**tenant)?;
        }
        if let Some(trace) = &it.trace {
            map.serialize_entry("traceparent", &Text(trace))?;
            if let Some(state) = &trace.state {
                map.serialize_entry("tracestate", &**state)?;
            }
        }
        if let Some(deadline_ms) = it.deadline_ms {
            map.serialize_entry("deadline_ms", &deadline_ms)?;
        }
        if let Some(reply_to) = &it.reply_to {
            map.serialize_entry("reply_to", &*reply_to.address)?;
            if let Some(correlation) = &reply_to.correlation {
                map.serialize_entry("correlation", &**correlation)?;
            }
        }
        if it.anonymous {
            map.serialize_entry("anonymous", &true)?;
        }
        map.end()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Read<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    time_ms: u64,
    #[serde(borrow)]
    source: Cow<'a, str>,
    subject: Option<Cow<'a, str>>,
    content_type: Option<Cow<'a, str>>,
    headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    parent: Option<Cow<'a, str>>,
    tenant: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
    tracestate: Option<Cow<'a, str>>,
    deadline_ms: Option<u64>,
    reply_to: Option<Cow<'a, str>>,
    correlation: Option<Cow<'a, str>>,
    anonymous: bool,
}

fn shared(text: Option<Cow<'_, str>>) -> Option<Arc<str>> {
    text.map(Arc::from)
}

/// Reads a message from its head and its payload.
///
/// # Errors
/// The text is not the head of a message.
pub fn read_head(text: &str, payload: Bytes) -> Result<Message, InvalidHead> {
    let head: Read<'_> =
        serde_json::from_str(text).map_err(|error| InvalidHead(error.to_string()))?;
    let invalid = |what: &str| InvalidHead(format!("its {what} is invalid"));
    let mut envelope = Envelope::new(&*head.kind, payload);
    envelope.id = head.id.parse().map_err(|_| invalid("id"))?;
    envelope.source = head.source.into();
    envelope.time_ms = head.time_ms;
    envelope.topic = head.topic.into();
    envelope.subject = shared(head.subject);
    envelope.content_type = shared(head.content_type);
    envelope.headers = head
        .headers
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    if let Some(parent) = head.parent {
        envelope.parent = Some(parent.parse().map_err(|_| invalid("parent"))?);
    }
    envelope.tenant = shared(head.tenant);
    if let Some(trace) = head.traceparent {
        let mut trace: TraceContext = trace.parse().map_err(|_| invalid("traceparent"))?;
        trace.state = shared(head.tracestate);
        envelope.trace = Some(trace);
    }
    envelope.deadline_ms = head.deadline_ms;
    let correlation = shared(head.correlation);
    envelope.reply_to = head.reply_to.map(|address| ReplyTo {
        address: address.into(),
        correlation,
    });
    envelope.anonymous = head.anonymous;
    Ok(envelope.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_writing_and_reading() {
        let mut envelope = Envelope::new("order \"placed\"", r#"{"n":1}"#);
        let plain = Message::from(envelope.clone());
        envelope.subject = Some("a/b\\c".into());
        envelope.source = "/shop/orders".into();
        envelope.topic = "orders.placed".into();
        envelope.content_type = Some("text/plain".into());
        envelope.headers.insert("ü\n".into(), "\u{0}\t".into());
        envelope.parent = Some("order-17".parse().unwrap());
        envelope.tenant = Some("acme".into());
        let mut trace = envelope.trace();
        trace.state = Some("a=b".into());
        envelope.trace = Some(trace);
        envelope.deadline_ms = Some(u64::MAX);
        envelope.reply_to = Some(ReplyTo {
            address: "embedded/1".into(),
            correlation: Some("c".into()),
        });
        envelope.anonymous = true;
        for message in [plain, envelope.into()] {
            let head = write_head(&message);
            let again = read_head(&head, message.payload.clone()).unwrap();
            assert_eq!(format!("{again:?}"), format!("{message:?}"), "{head}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_invalid_fields_are_errors() {
        let head = r#"{"id":"x","later":[1,2]}"#;
        assert_eq!(read_head(head, Bytes::new()).unwrap().id.to_string(), "x");
        for wrong in ["", "{}", "[]", r#"{"id":"x","traceparent":"y"}"#] {
            assert!(read_head(wrong, Bytes::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn absent_fields_are_not_written() {
        let head = write_head(&Envelope::new("order", "{}").into());
        let keys: BTreeMap<String, serde_json::Value> = serde_json::from_str(&head).unwrap();
        let keys: Vec<&str> = keys.keys().map(String::as_str).collect();
        assert_eq!(keys, ["id", "time_ms", "topic", "type"]);
    }
}
