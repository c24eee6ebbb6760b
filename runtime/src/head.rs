//! The head of a message as text: all of its envelope but the payload, in JSON.
//!
//! For files that outlive the program: what is missing takes its default, and what isn't
//! known is ignored, so that older and newer versions read each other's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::message::{Envelope, Message, ReplyTo};
use crate::trace::TraceContext;

/// Text that isn't the head of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not the head of a message: {0}")]
pub struct InvalidHead(String);

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    time_ms: u64,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_state: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anonymous: bool,
}

fn borrowed(text: &Option<Arc<str>>) -> Option<Cow<'_, str>> {
    text.as_deref().map(Cow::Borrowed)
}

fn shared(text: Option<Cow<'_, str>>) -> Option<Arc<str>> {
    text.map(Arc::from)
}

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
    let trace = message.trace.as_ref();
    let reply_to = message.reply_to.as_ref();
    let head = Head {
        id: message.id.to_string().into(),
        kind: Cow::Borrowed(&message.kind),
        source: Cow::Borrowed(&message.source),
        time_ms: message.time_ms,
        topic: Cow::Borrowed(&message.topic),
        subject: borrowed(&message.subject),
        content_type: borrowed(&message.content_type),
        headers: message
            .headers
            .iter()
            .map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value)))
            .collect(),
        parent: message.parent.as_ref().map(|id| id.to_string().into()),
        tenant: borrowed(&message.tenant),
        trace: trace.map(|trace| trace.to_string().into()),
        trace_state: trace.and_then(|trace| borrowed(&trace.state)),
        deadline_ms: message.deadline_ms,
        reply_to: reply_to.map(|to| Cow::Borrowed(&*to.address)),
        correlation: reply_to.and_then(|to| borrowed(&to.correlation)),
        anonymous: message.anonymous,
    };
    serde_json::to_string(&head).expect("text and numbers can be written")
}

/// Puts a message together again.
///
/// # Errors
/// The text isn't such a head.
pub fn read_head(text: &str, payload: Bytes) -> Result<Message, InvalidHead> {
    let head: Head<'_> =
        serde_json::from_str(text).map_err(|error| InvalidHead(error.to_string()))?;
    let invalid = |what: &str| InvalidHead(format!("its {what} is wrong"));
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
    if let Some(trace) = head.trace {
        let mut trace: TraceContext = trace.parse().map_err(|_| invalid("trace"))?;
        trace.state = shared(head.trace_state);
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
    fn a_message_is_what_it_was() {
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
    fn what_is_not_known_is_ignored_and_what_is_wrong_is_said() {
        let head = r#"{"id":"x","later":[1,2]}"#;
        assert_eq!(read_head(head, Bytes::new()).unwrap().id.to_string(), "x");
        for wrong in ["", "{}", "[]", r#"{"id":"x","trace":"y"}"#] {
            assert!(read_head(wrong, Bytes::new()).is_err(), "{wrong}");
        }
    }
}
