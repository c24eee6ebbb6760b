//! The message: what services exchange, apart from how it travels.
//!
//! Owns the envelope and its limits. Encoding of payloads is in `service::payload`,
//! the form on a wire is each transport's.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Clock;
use crate::id::MessageId;
use crate::trace_context::TraceContext;

/// Headers by name; names are case-sensitive, values are text.
pub type Headers = BTreeMap<Arc<str>, Arc<str>>;

/// The content type of a payload that nobody named.
pub const JSON: &str = "application/json";

/// A message. It can't be changed, and a clone shares it.
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

/// What a message is made of; a [`Message`] once it is done.
///
/// The names are those of CloudEvents 1.0 where it has one.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Names this message for good.
    pub id: MessageId,
    /// What it is: by default the name of the payload's type. CloudEvents `type`.
    pub kind: Arc<str>,
    /// Who made it: `/APP/SERVICE` for a service of ours.
    pub source: Arc<str>,
    /// What it is about, if its maker said. CloudEvents `subject`.
    pub subject: Option<Arc<str>>,
    /// When it was made, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The topic that it was published to.
    pub topic: Arc<str>,
    /// The form of the payload; `None` means JSON.
    pub content_type: Option<Arc<str>>,
    /// Everything else that was said of it.
    pub headers: Headers,
    /// The bytes that it carries.
    pub payload: Bytes,
    /// The message whose handling led to this one.
    pub parent: Option<MessageId>,
    /// The customer on whose behalf it travels; what it leads to inherits it.
    pub tenant: Option<Arc<str>>,
    /// The trace that it belongs to; `None` means one of its own.
    pub trace: Option<TraceContext>,
    /// After this time nobody waits for the reply (milliseconds since 1970-01-01 UTC).
    pub deadline_ms: Option<u64>,
    /// Where a reply goes, if one is wanted.
    pub reply_to: Option<ReplyTo>,
    /// Its sender gave it no id: this one was made up on arrival and is another
    /// next time, so copies can't be recognised.
    pub anonymous: bool,
}

/// Where an asker waits for its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// The asker's address, in the transport's own form.
    pub address: Arc<str>,
    /// Which of the asker's questions this is; `None` means the message's id.
    pub correlation: Option<Arc<str>>,
}

impl Envelope {
    /// An envelope with a new id, made now, with no topic yet.
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

    /// The trace context: its own, or one that starts with it.
    pub fn trace(&self) -> TraceContext {
        self.trace
            .clone()
            .unwrap_or_else(|| TraceContext::root(&self.id))
    }

    /// Its bytes on the way, roughly: payload, headers and names.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.payload.len() + headers + self.kind.len() + self.source.len() + self.topic.len()
    }
}

impl Message {
    /// A copy of the envelope, to make another message of.
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
