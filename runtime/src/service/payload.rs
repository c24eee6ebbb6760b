//! Payloads: encoding of typed values as bytes, and back.
//!
//! Every serde type is JSON; [`Raw`] passes bytes through unchanged.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};

use crate::message::{Envelope, Headers, Message};

/// A value that a message can carry.
///
/// Implemented, as JSON, for every type that is `Serialize`, `DeserializeOwned` and
/// `JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no message",
    label = "mark the type with `#[message]`, or derive Serialize, Deserialize and JsonSchema"
)]
pub trait Payload: Sized + 'static {
    /// Decodes the payload of a message.
    ///
    /// # Errors
    /// The payload is not a value of this type.
    fn decode(message: &Message) -> Result<Self, CodecError>;

    /// Encodes the value.
    ///
    /// # Errors
    /// The value can't be encoded.
    fn into_bytes(self) -> Result<Bytes, CodecError>;

    /// Encodes the value into an envelope. A type with metadata of its own, such as [`Raw`],
    /// also sets the message type, content type, headers and subject.
    ///
    /// # Errors
    /// The value can't be encoded.
    fn encode(self, envelope: &mut Envelope) -> Result<(), CodecError> {
        envelope.payload = self.into_bytes()?;
        Ok(())
    }

    /// Returns the default message type; `None` keeps the type of the handled message.
    fn kind() -> Option<Arc<str>>;

    /// Returns the JSON Schema of the type.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

/// An error in encoding or decoding a payload.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The message has no payload.
    #[error("the payload is empty, {expected} was expected")]
    Empty {
        /// Name of the type.
        expected: Cow<'static, str>,
    },
    /// The payload is not a value of the expected type.
    #[error("the payload is not a valid {expected}: {source}")]
    Decode {
        /// Name of the type.
        expected: Cow<'static, str>,
        /// The problem and its place.
        source: serde_json::Error,
    },
    /// JSON can't represent the value, for example a map with keys that aren't text.
    #[error("{type_name} can't be written as JSON: {source}")]
    Encode {
        /// Name of the type.
        type_name: Cow<'static, str>,
        /// The problem and its place.
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
            type_name: T::schema_name(),
            source,
        })
    }

    fn kind() -> Option<Arc<str>> {
        match T::schema_name().as_ref() {
            // Any JSON value: keeps the type of the handled message.
            "AnyValue" => None,
            name => Some(name.into()),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Encodes into a reused buffer, then copies: one allocation of the right size.
fn to_json<T: Serialize>(value: &T) -> Result<Bytes, serde_json::Error> {
    /// Capacity that the buffer keeps: one large message must not hold its memory for ever.
    const BUFFER_BYTES_MAX: usize = 64 * 1024;
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    // Taken out of the thread-local, because a `Serialize` may call this function.
    let mut buffer = BUFFER.take();
    buffer.clear();
    let written = serde_json::to_writer(&mut buffer, value);
    let bytes = written.map(|()| Bytes::copy_from_slice(&buffer));
    if buffer.capacity() <= BUFFER_BYTES_MAX {
        BUFFER.set(buffer);
    }
    bytes
}

/// An undecoded payload with message type, content type, headers and subject: for services
/// that forward messages unchanged.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The message type.
    pub kind: Arc<str>,
    /// Content type of the payload; `None` means JSON.
    pub content_type: Option<Arc<str>>,
    /// Headers.
    pub headers: Headers,
    /// Subject, if the sender set one.
    pub subject: Option<Arc<str>>,
    /// Bytes of the payload.
    pub payload: Bytes,
}

impl Raw {
    /// Creates a payload from a JSON value.
    ///
    /// # Errors
    /// As [`Payload::encode`].
    pub fn json<T: Serialize>(kind: impl Into<Arc<str>>, value: &T) -> Result<Self, CodecError> {
        let payload = to_json(value).map_err(|source| CodecError::Encode {
            type_name: "the value".into(),
            source,
        })?;
        Ok(Self::bytes(kind, payload))
    }

    /// Creates a payload from bytes.
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
    fn the_error_of_an_invalid_payload_names_type_and_place() {
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
    fn a_deeply_nested_payload_is_an_error_and_not_a_stack_overflow() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let message = Envelope::new("t", deep).into();
        let error = serde_json::Value::decode(&message).unwrap_err().to_string();
        assert!(error.contains("recursion limit exceeded"), "{error}");
    }

    #[test]
    fn a_raw_message_is_forwarded_unchanged() {
        let mut envelope = Envelope::new("push", &b"\xff\x00"[..]);
        envelope.headers.insert("a".into(), "1".into());
        let raw = Raw::decode(&envelope.into()).unwrap();
        let mut out = Envelope::new("other", "");
        raw.encode(&mut out).unwrap();
        assert_eq!((&*out.kind, &out.payload[..]), ("push", &b"\xff\x00"[..]));
        assert_eq!(&*out.headers["a"], "1");
    }
}
