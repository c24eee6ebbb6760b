//! A letter to show or to export: without secrets, with a payload that keeps every byte unless
//! it is cut.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::Letter;
use crate::clock::Rfc3339;
use crate::dead_letter::Reason;
use crate::redact::Redactor;

/// A letter to show or to export.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LetterView {
    /// The message's id.
    pub id: String,
    /// The label of the service that gave the message up.
    pub service: String,
    /// The input that gave it up. For a letter without a record, the service's only input, if
    /// it has one.
    pub input: Option<String>,
    /// The reason.
    pub reason: Option<Reason>,
    /// The text of the last failure.
    pub error: Option<String>,
    /// The number of attempts.
    pub attempts: Option<u32>,
    /// When the message was given up (RFC 3339).
    pub failed_at: Option<String>,
    /// The number of replays before.
    pub replays: u32,
    /// The fingerprint of the letter's group.
    pub fingerprint: String,
    /// The topic that the message was published to.
    pub topic: String,
    /// The message's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The message's source.
    pub source: String,
    /// The message's subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the message was created (RFC 3339).
    pub time: String,
    /// The payload's media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The customer that the message belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The id of the message that led to this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The message's trace.
    pub trace_id: String,
    /// The message's headers, without those of the record.
    pub headers: BTreeMap<String, String>,
    /// The size of the payload, in bytes.
    pub payload_bytes: usize,
    /// The encoding of [`payload`](Self::payload).
    pub encoding: Encoding,
    /// The payload: its JSON, or a JSON string.
    pub payload: Box<RawValue>,
    /// Whether the payload is cut; then it is a text.
    pub truncated: bool,
}

/// The encoding of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The payload is JSON.
    Json,
    /// The payload is UTF-8 text.
    Text,
    /// The payload is in base64 (RFC 4648, section 4).
    Base64,
}

impl Letter {
    /// The letter to show or to export, without secrets. The payload is cut to this many bytes.
    pub fn view(&self, service: &str, payload_bytes_max: usize, redactor: &Redactor) -> LetterView {
        let time = |unix_ms| Rfc3339 { unix_ms }.to_string();
        let clean = |text: &str| redactor.clean(text).into_owned();
        let message = &self.message;
        let record = self.dead_letter.as_ref();
        let headers = message.headers.iter();
        let headers = headers
            .filter(|(name, _)| self.is_own(name))
            .map(|(name, value)| (clean(name), clean(value)))
            .collect();
        let bytes = clean_bytes(&message.payload, redactor);
        let truncated = bytes.len() > payload_bytes_max;
        let (encoding, payload) = match truncated {
            true => text(&String::from_utf8_lossy(&bytes[..payload_bytes_max])),
            false => encode(&bytes),
        };
        LetterView {
            id: clean(&message.id.to_string()),
            service: service.to_owned(),
            input: record.map(|record| record.input.to_string()),
            reason: record.map(|record| record.reason),
            error: record.map(|record| clean(&record.error)),
            attempts: record.map(|record| record.attempts),
            failed_at: record.map(|record| time(record.failed_at_ms)),
            replays: self.replays(),
            fingerprint: self.fingerprint(service),
            topic: clean(&message.topic),
            kind: clean(&message.kind),
            source: clean(&message.source),
            subject: message.subject.as_deref().map(clean),
            time: time(message.time_ms),
            content_type: message.content_type.as_deref().map(clean),
            tenant: message.tenant.as_deref().map(clean),
            parent: message.parent.as_ref().map(|id| clean(&id.to_string())),
            trace_id: format!("{:032x}", message.trace().trace_id),
            headers,
            payload_bytes: message.payload.len(),
            encoding,
            payload,
            truncated,
        }
    }
}

impl LetterView {
    /// The payload as text, in its [encoding](Self::encoding).
    pub fn payload_text(&self) -> Cow<'_, str> {
        let raw = self.payload.get();
        match self.encoding {
            Encoding::Json => raw.into(),
            Encoding::Text | Encoding::Base64 => match serde_json::from_str::<String>(raw) {
                Ok(text) => text.into(),
                // Another program wrote the view.
                Err(_) => raw.into(),
            },
        }
    }
}

/// Removes secrets from bytes that need not be text.
fn clean_bytes<'a>(bytes: &'a [u8], redactor: &Redactor) -> Cow<'a, [u8]> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return match redactor.clean(text) {
            Cow::Borrowed(_) => bytes.into(),
            Cow::Owned(clean) => clean.into_bytes().into(),
        };
    }
    let mut clean = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        clean.extend_from_slice(redactor.clean(chunk.valid()).as_bytes());
        clean.extend_from_slice(chunk.invalid());
    }
    clean.into()
}

/// The payload in the first encoding that keeps every byte on one line. JSON that is written on
/// several lines, or nested too deep for readers, counts as text.
fn encode(bytes: &[u8]) -> (Encoding, Box<RawValue>) {
    let Ok(whole) = std::str::from_utf8(bytes) else {
        return (Encoding::Base64, raw(&BASE64_STANDARD.encode(bytes)));
    };
    let is_line = !whole.contains(['\n', '\r']) && whole.trim() == whole;
    if is_line
        && serde_json::from_str::<Value>(whole).is_ok()
        && let Ok(json) = RawValue::from_string(whole.to_owned())
    {
        return (Encoding::Json, json);
    }
    text(whole)
}

fn text(text: &str) -> (Encoding, Box<RawValue>) {
    (Encoding::Text, raw(text))
}

fn raw(text: &str) -> Box<RawValue> {
    to_raw_value(text).expect("a string is valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Envelope, Message};

    fn view(payload: &[u8], most: usize, secrets: &[&str]) -> LetterView {
        let message = Message::from(Envelope::new("order", payload.to_vec()));
        let redactor = Redactor::new(secrets.iter().map(|secret| (*secret).to_owned()));
        Letter::new(message).view("stock", most, &redactor)
    }

    #[test]
    fn an_encoded_payload_keeps_every_byte() {
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        for (payload, encoding, written) in [
            (
                &br#"{ "b" : 0.10, "a": [1, " \" \\"] , "b":12345678901234567890123 }"#[..],
                Encoding::Json,
                r#"{ "b" : 0.10, "a": [1, " \" \\"] , "b":12345678901234567890123 }"#,
            ),
            (b"{\n  \"a\": 1\n}\n", Encoding::Text, "{\n  \"a\": 1\n}\n"),
            (b" 1", Encoding::Text, " 1"),
            (b"\"text\"", Encoding::Json, "\"text\""),
            (b"", Encoding::Text, ""),
            (b"hello\nyou", Encoding::Text, "hello\nyou"),
            (deep.as_bytes(), Encoding::Text, &*deep),
            (b"a\xff\x00", Encoding::Base64, "Yf8A"),
        ] {
            let view = view(payload, usize::MAX, &[]);
            assert_eq!((view.encoding, &*view.payload_text()), (encoding, written));
            assert_eq!((view.payload_bytes, view.truncated), (payload.len(), false));
            let line = serde_json::to_string(&view).unwrap();
            assert!(!line.contains('\n'));
            let read: LetterView = serde_json::from_str(&line).unwrap();
            assert_eq!(read.payload_text(), written);
        }
        let cut = view("{\"a\":\"ä\"}".as_bytes(), 7, &[]);
        assert_eq!((cut.encoding, cut.truncated), (Encoding::Text, true));
        assert_eq!(cut.payload_text(), "{\"a\":\"\u{fffd}");
    }

    #[test]
    fn a_view_has_no_secret_and_no_part_of_one() {
        const SECRET: &str = "hunter2-is-secret";
        for payload in [
            &b"{\"key\":\"hunter2-is-secret\"}"[..],
            b"hunter2-is-secret",
            b"\xff\xfehunter2-is-secret\xff",
            b"{\"key\":1,\"hunter2-is-secret\":2}",
        ] {
            for most in [12, 20, usize::MAX] {
                let view = view(payload, most, &[SECRET]);
                let line = serde_json::to_string(&view).unwrap();
                assert!(!line.contains("hunter2"), "{line}");
                if view.encoding == Encoding::Base64 {
                    let bytes = BASE64_STANDARD.decode(&*view.payload_text()).unwrap();
                    assert_eq!(bytes, b"\xff\xfe[redacted]\xff");
                }
            }
        }
        // A number can be a secret, too: the rest is no JSON any more.
        let number = view(b"{\"pin\":12345678}", usize::MAX, &["12345678"]);
        assert_eq!(number.encoding, Encoding::Text);
        assert_eq!(number.payload_text(), "{\"pin\":[redacted]}");
    }
}
