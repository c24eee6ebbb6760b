//! Payloads: how typed values become bytes and back.
//!
//! JSON for every serde type; [`Raw`] passes bytes through untouched. Knows nothing
//! of queues.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};

use crate::message::{Envelope, Headers, Message};

/// A value that a message can carry.
///
/// Every type that is `Serialize`, `DeserializeOwned` and `JsonSchema` is one, as JSON.
pub trait Payload: Sized + 'static {
    /// Reads it from a message.
    ///
    /// # Errors
    /// Why the payload can't be such a value.
    fn decode(message: &Message) -> Result<Self, CodecError>;

    /// Writes its bytes.
    ///
    /// # Errors
    /// Why it can't be written.
    fn into_bytes(self) -> Result<Bytes, CodecError>;

    /// Writes its bytes into an envelope, with what else it knows of itself.
    ///
    /// # Errors
    /// Why it can't be written.
    fn encode(self, envelope: &mut Envelope) -> Result<(), CodecError> {
        envelope.payload = self.into_bytes()?;
        Ok(())
    }

    /// The message type that it gets if nobody names another; `None` keeps the type
    /// of the message in hand.
    fn kind() -> Option<Arc<str>>;

    /// Its JSON Schema.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

/// Why a payload can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The message has no payload.
    #[error("the payload is empty, {expected} was expected")]
    Empty {
        /// The type's name.
        expected: Cow<'static, str>,
    },
    /// The payload isn't such a value.
    #[error("the payload is not a valid {expected}: {source}")]
    Decode {
        /// The type's name.
        expected: Cow<'static, str>,
        /// What and where.
        source: serde_json::Error,
    },
    /// The value can't be JSON, such as a map with keys that aren't text.
    #[error("{what} can't be written as JSON: {source}")]
    Encode {
        /// The type's name.
        what: Cow<'static, str>,
        /// What and where.
        source: serde_json::Error,
    },
}

impl<T: Serialize + DeserializeOwned + JsonSchema + 'static> Payload for T {
    fn decode(message: &Message) -> Result<Self, CodecError> {
        serde_json::from_slice(&message.payload).map_err(|source| {
            let expected = T::schema_name();
            if message.payload.is_empty() {
                CodecError::Empty { expected }
            } else {
                CodecError::Decode { expected, source }
            }
        })
    }

    fn into_bytes(self) -> Result<Bytes, CodecError> {
        to_json(&self).map_err(|source| CodecError::Encode {
            what: T::schema_name(),
            source,
        })
    }

    fn kind() -> Option<Arc<str>> {
        match T::schema_name().as_ref() {
            // Any JSON: what it is, the message in hand said.
            "AnyValue" => None,
            name => Some(name.into()),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Encodes into a buffer that is kept, then copies: one allocation of the right size.
fn to_json<T: Serialize>(value: &T) -> Result<Bytes, serde_json::Error> {
    /// A rare large message must not keep its memory for good.
    const KEPT_BYTES_MAX: usize = 64 * 1024;
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    // Taken out, so that a `Serialize` that encodes something itself finds another.
    let mut buffer = BUFFER.take();
    buffer.clear();
    let written = serde_json::to_writer(&mut buffer, value);
    let bytes = written.map(|()| Bytes::copy_from_slice(&buffer));
    if buffer.capacity() <= KEPT_BYTES_MAX {
        BUFFER.set(buffer);
    }
    bytes
}

/// A message's payload as it came, with type, content type and headers: for services
/// that pass messages on without knowing what is in them.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The message type.
    pub kind: Arc<str>,
    /// The form of the payload; `None` means JSON.
    pub content_type: Option<Arc<str>>,
    /// What else was said of it.
    pub headers: Headers,
    /// What it is about.
    pub subject: Option<Arc<str>>,
    /// The bytes.
    pub payload: Bytes,
}

impl Raw {
    /// A JSON value with a type.
    ///
    /// # Errors
    /// As [`Payload::encode`].
    pub fn json<T: Serialize>(kind: impl Into<Arc<str>>, value: &T) -> Result<Self, CodecError> {
        let payload = to_json(value).map_err(|source| CodecError::Encode {
            what: "the value".into(),
            source,
        })?;
        Ok(Self::bytes(kind, payload))
    }

    /// Bytes with a type.
    pub fn bytes(kind: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self {
            kind: kind.into(),
            content_type: None,
            headers: Headers::new(),
            subject: None,
            payload: payload.into(),
        }
    }
}

impl Payload for Raw {
    fn decode(message: &Message) -> Result<Self, CodecError> {
        Ok(Self {
            kind: message.kind.clone(),
            content_type: message.content_type.clone(),
            headers: message.headers.clone(),
            subject: message.subject.clone(),
            payload: message.payload.clone(),
        })
    }

    fn into_bytes(self) -> Result<Bytes, CodecError> {
        Ok(self.payload)
    }

    fn encode(self, envelope: &mut Envelope) -> Result<(), CodecError> {
        envelope.kind = self.kind;
        envelope.content_type = self.content_type;
        envelope.headers = self.headers;
        envelope.subject = self.subject;
        envelope.payload = self.payload;
        Ok(())
    }

    fn kind() -> Option<Arc<str>> {
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    struct Reserve {
        sku: String,
        quantity: u32,
    }

    fn message(payload: &'static str) -> Message {
        Envelope::new("t", payload).into()
    }

    #[test]
    fn a_wrong_payload_is_refused_in_words_that_say_where() {
        let text = |payload| Reserve::decode(&message(payload)).unwrap_err().to_string();
        assert_eq!(text(""), "the payload is empty, Reserve was expected");
        assert_eq!(
            text(r#"{"sku":"a","quantity":"many"}"#),
            "the payload is not a valid Reserve: invalid type: string \"many\", \
             expected u32 at line 1 column 28"
        );
        assert!(text("nonsense").contains("expected ident at line 1 column 2"));
    }

    #[test]
    fn a_payload_too_deep_is_refused_and_the_stack_survives() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let message = Envelope::new("t", deep).into();
        let error = serde_json::Value::decode(&message).unwrap_err().to_string();
        assert!(error.contains("recursion limit exceeded"), "{error}");
    }

    #[test]
    fn a_raw_message_passes_as_it_came() {
        let mut envelope = Envelope::new("push", &b"\xff\x00"[..]);
        envelope.headers.insert("a".into(), "1".into());
        let raw = Raw::decode(&envelope.into()).unwrap();
        let mut out = Envelope::new("other", "");
        raw.encode(&mut out).unwrap();
        assert_eq!((&*out.kind, &out.payload[..]), ("push", &b"\xff\x00"[..]));
        assert_eq!(&*out.headers["a"], "1");
    }
}
