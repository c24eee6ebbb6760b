//! Messages: the envelope and its fields.
//!
//! Payloads are encoded in `service::payload`, and each transport has its own wire format.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Clock;
use crate::id::MessageId;
use crate::trace_context::TraceContext;

/// Headers by name. Names are case-sensitive, values are text.
pub type Headers = BTreeMap<Arc<str>, Arc<str>>;

/// Default content type of a payload.
pub const JSON: &str = "application/json";

/// A message. It is immutable, and clones share it.
///
/// ```
/// use brickwork::{Envelope, Message};
///
/// let message = Message::from(Envelope::new("greeting", r#"{"name":"Ada"}"#));
/// let copy = message.clone();
/// assert_eq!(copy.id, message.id);
/// ```
#[derive(Debug, Clone)]
pub struct Message(Arc<Envelope>);

/// The fields of a message: a [`Message`] is an envelope that can't change any more.
///
/// The names are those of CloudEvents 1.0 where it has one.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Unique id.
    pub id: MessageId,
    /// Type of the message: by default the name of the payload's type. CloudEvents `type`.
    pub kind: Arc<str>,
    /// Sender: `/APP/SERVICE` for a service of this runtime.
    pub source: Arc<str>,
    /// Subject, if the sender set one. CloudEvents `subject`.
    pub subject: Option<Arc<str>>,
    /// Creation time, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Topic that it was published to.
    pub topic: Arc<str>,
    /// Content type of the payload; `None` means JSON.
    pub content_type: Option<Arc<str>>,
    /// Further headers.
    pub headers: Headers,
    /// Payload.
    pub payload: Bytes,
    /// Message whose handler emitted this one.
    pub parent: Option<MessageId>,
    /// Tenant that it belongs to. Messages that a handler emits inherit it.
    pub tenant: Option<Arc<str>>,
    /// Trace that it belongs to; `None` means that it starts one.
    pub trace: Option<TraceContext>,
    /// Time after which no asker waits for the reply, in milliseconds since 1970-01-01 UTC.
    pub deadline_ms: Option<u64>,
    /// Reply address, if a reply is wanted.
    pub reply_to: Option<ReplyTo>,
    /// The sender set no id. The transport made one up, and makes up another one when it
    /// redelivers, so copies can't be recognised.
    pub anonymous: bool,
}

/// Reply address of an asker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// Address in the form of the transport.
    pub address: Arc<str>,
    /// Request of the asker; `None` means the message's id.
    pub correlation: Option<Arc<str>>,
}

impl Envelope {
    /// Creates an envelope with a new id, the current time and no topic.
    pub fn new(kind: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self {
            id: MessageId::new(),
            kind: kind.into(),
            source: empty(),
            subject: None,
            time_ms: Clock::SYSTEM.unix_ms(),
            topic: empty(),
            content_type: None,
            headers: Headers::new(),
            payload: payload.into(),
            parent: None,
            tenant: None,
            trace: None,
            deadline_ms: None,
            reply_to: None,
            anonymous: false,
        }
    }

    /// Returns the trace context: its own, or the one that it starts.
    pub fn trace(&self) -> TraceContext {
        self.trace
            .clone()
            .unwrap_or_else(|| TraceContext::root(&self.id))
    }

    /// Returns the approximate size in bytes: payload, headers and names.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.payload.len() + headers + self.kind.len() + self.source.len() + self.topic.len()
    }
}

impl Message {
    /// Returns a copy of the envelope, for a changed message.
    pub fn edit(&self) -> Envelope {
        Envelope::clone(&self.0)
    }
}

impl From<Envelope> for Message {
    fn from(envelope: Envelope) -> Self {
        Self(Arc::new(envelope))
    }
}

impl Deref for Message {
    type Target = Envelope;

    fn deref(&self) -> &Envelope {
        &self.0
    }
}

fn empty() -> Arc<str> {
    thread_local!(static EMPTY: Arc<str> = Arc::from(""));
    EMPTY.with(Arc::clone)
}
