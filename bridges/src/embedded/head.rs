//! The envelope as it is kept: JSON beside the payload, to be looked at with `sqlite3`.
//!
//! What is absent isn't written; what isn't known is ignored when it is read, what is
//! missing is empty: older and newer versions read each other's.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use brickwork::{Envelope, Message, ReplyTo};
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A message as it is written: its head, and the sum over head and payload.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) head: String,
    pub(super) sum: u32,
}

impl Written {
    pub(super) fn of(message: &Message) -> Self {
        let mut head = Vec::with_capacity(320);
        serde_json::to_writer(&mut head, &Head(message)).expect("texts become JSON");
        let head = String::from_utf8(head).expect("JSON is UTF-8");
        let sum = sum(head.as_bytes(), &message.payload);
        Self { head, sum }
    }
}

fn sum(head: &[u8], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(payload);
    sum.finalize()
}

struct Head<'a>(&'a Envelope);

struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

struct Headers<'a>(&'a brickwork::Headers);

impl Serialize for Headers<'_> {
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
        map.serialize_entry("time", &it.time_ms)?;
        if !it.source.is_empty() {
            map.serialize_entry("source", &*it.source)?;
        }
        if let Some(subject) = &it.subject {
            map.serialize_entry("subject", &**subject)?;
        }
        if let Some(content_type) = &it.content_type {
            map.serialize_entry("content", &**content_type)?;
        }
        if !it.headers.is_empty() {
            map.serialize_entry("headers", &Headers(&it.headers))?;
        }
        if let Some(parent) = &it.parent {
            map.serialize_entry("parent", &Text(parent))?;
        }
        if let Some(tenant) = &it.tenant {
            map.serialize_entry("tenant", &**tenant)?;
        }
        if let Some(trace) = &it.trace {
            map.serialize_entry("trace", &Text(trace))?;
            if let Some(state) = &trace.state {
                map.serialize_entry("tracestate", &**state)?;
            }
        }
        if let Some(deadline_ms) = it.deadline_ms {
            map.serialize_entry("deadline", &deadline_ms)?;
        }
        if let Some(reply_to) = &it.reply_to {
            map.serialize_entry("reply", &*reply_to.address)?;
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

#[derive(serde::Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Read {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    topic: String,
    time: u64,
    source: String,
    subject: Option<String>,
    content: Option<String>,
    headers: BTreeMap<String, String>,
    parent: Option<String>,
    tenant: Option<String>,
    trace: Option<String>,
    tracestate: Option<String>,
    deadline: Option<u64>,
    reply: Option<String>,
    correlation: Option<String>,
    anonymous: bool,
}

/// The message that was written so.
///
/// # Errors
/// It isn't what was written, and why.
pub(super) fn read(head: &[u8], payload: Bytes, written: i64) -> Result<Message, String> {
    let found = sum(head, &payload);
    if i64::from(found) != written {
        return Err(format!(
            "its checksum is {found:08x}, and {written:08x} was written"
        ));
    }
    let it: Read = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    let shared = |text: Option<String>| text.map(Arc::<str>::from);
    let id = it
        .id
        .parse()
        .map_err(|error| format!("its id can't be read: {error}"))?;
    let mut message = Envelope::new(it.kind, payload);
    message.id = id;
    message.topic = it.topic.into();
    message.time_ms = it.time;
    message.source = it.source.into();
    message.subject = shared(it.subject);
    message.content_type = shared(it.content);
    let headers = it.headers.into_iter();
    message.headers = headers.map(|(k, v)| (k.into(), v.into())).collect();
    // What can't be read of these was never what the message depends on.
    message.parent = it.parent.and_then(|id| id.parse().ok());
    message.tenant = shared(it.tenant);
    message.trace = it
        .trace
        .and_then(|trace| trace.parse::<brickwork::TraceContext>().ok());
    if let Some(trace) = &mut message.trace {
        trace.state = shared(it.tracestate);
    }
    message.deadline_ms = it.deadline;
    message.reply_to = it.reply.map(|address| ReplyTo {
        address: address.into(),
        correlation: shared(it.correlation),
    });
    message.anonymous = it.anonymous;
    Ok(message.into())
}

#[cfg(test)]
mod tests {
    use brickwork::TraceContext;

    use super::*;

    fn again(message: &Message) -> Result<Message, String> {
        let written = Written::of(message);
        let sum = i64::from(written.sum);
        read(written.head.as_bytes(), message.payload.clone(), sum)
    }

    fn full() -> Envelope {
        let mut it = Envelope::new("com.example.тип", b"\xff\x00payload".to_vec());
        it.id = "büro/€ \"17\"".parse().expect("an id");
        it.source = "/shop/stock".into();
        it.subject = Some("a/b".into());
        it.topic = "orders.new".into();
        it.content_type = Some("text/csv".into());
        it.headers = [("empty", ""), ("a\nb", "\u{1}\"x\\")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
        it.parent = Some(brickwork::MessageId::new());
        it.tenant = Some("näme".into());
        it.trace = Some(TraceContext {
            trace_id: 7,
            span_id: 9,
            flags: 0,
            state: Some("a=b".into()),
        });
        it.deadline_ms = Some(u64::MAX);
        it.reply_to = Some(ReplyTo {
            address: "here".into(),
            correlation: Some("17".into()),
        });
        it.anonymous = true;
        it
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        for message in [full().into(), Message::from(Envelope::new("", ""))] {
            let read = again(&message).expect("it is read");
            assert_eq!(format!("{read:?}"), format!("{message:?}"));
        }
    }

    #[test]
    fn what_is_absent_is_not_written() {
        let head = Written::of(&Envelope::new("order", "{}").into()).head;
        let keys: BTreeMap<String, serde_json::Value> = serde_json::from_str(&head).expect("JSON");
        let keys: Vec<&str> = keys.keys().map(String::as_str).collect();
        assert_eq!(keys, ["id", "time", "topic", "type"]);
    }

    #[test]
    fn other_versions_read_each_others() {
        let head = br#"{"id":"1","type":"order","colour":{"of":["another"]}}"#;
        let payload = Bytes::from_static(b"{}");
        let written = i64::from(sum(head, &payload));
        let message = read(head, payload, written).expect("it is read");
        assert_eq!((&*message.kind, message.time_ms), ("order", 0));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let message = Message::from(full());
        let Written { head, sum } = Written::of(&message);
        let sum = i64::from(sum);
        let whole = [head.as_bytes(), &message.payload].concat();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let payload = Bytes::copy_from_slice(&damaged[head.len()..]);
            read(&damaged[..head.len()], payload, sum).expect_err("it is damaged");
        }
    }
}
