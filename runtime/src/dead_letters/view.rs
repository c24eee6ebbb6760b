//! A letter for people and programs to look at, and to keep: without secrets, and with a
//! payload that is there byte for byte, unless it was to be cut.

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

/// A letter for people and programs to look at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LetterView {
    /// The message's id.
    pub id: String,
    /// The service whose dead letter it is.
    pub service: String,
    /// The input that gave it up; of a letter that doesn't say which, the only one that
    /// there is.
    pub input: Option<String>,
    /// Why.
    pub reason: Option<Reason>,
    /// The last failure's text.
    pub error: Option<String>,
    /// How many attempts were made.
    pub attempts: Option<u32>,
    /// When it was given up (RFC 3339).
    pub failed_at: Option<String>,
    /// How often it was replayed before.
    pub replays: u32,
    /// The same for letters that failed alike.
    pub fingerprint: String,
    /// The topic that it was published to.
    pub topic: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who made it.
    pub source: String,
    /// What it is about, if its maker said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it was made (RFC 3339).
    pub time: String,
    /// The form of the payload, if its maker said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The customer on whose behalf it travels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The message whose handling led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// Its own headers, without those of a letter.
    pub headers: BTreeMap<String, String>,
    /// How many bytes it carries.
    pub payload_bytes: usize,
    /// How [`payload`](Self::payload) is to be read.
    pub encoding: Encoding,
    /// What it carries: JSON as it came, or a text.
    pub payload: Box<RawValue>,
    /// Whether the payload is only the beginning, as text.
    pub truncated: bool,
}

/// How a payload is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As the JSON that it is.
    Json,
    /// As a text in UTF-8, which it is.
    Text,
    /// As a text in base64 (RFC 4648, section 4).
    Base64,
}

impl Letter {
    /// For people and programs to look at, without secrets, and with a payload of at most
    /// so many bytes.
    pub fn view(&self, service: &str, payload_bytes_max: usize, redactor: &Redactor) -> LetterView {
        let time = |unix_ms| Rfc3339 { unix_ms }.to_string();
        let clean = |text: &str| redactor.clean(text).into_owned();
        let message = &self.message;
        let why = self.why.as_ref();
        let headers = message.headers.iter();
        let headers = headers
            .filter(|(name, _)| self.is_own(name))
            .map(|(name, value)| (clean(name), clean(value)))
            .collect();
        let bytes = clean_bytes(&message.payload, redactor);
        let truncated = bytes.len() > payload_bytes_max;
        let (encoding, payload) = match truncated {
            true => text(&String::from_utf8_lossy(&bytes[..payload_bytes_max])),
            false => written(&bytes),
        };
        LetterView {
            id: clean(&message.id.to_string()),
            service: service.to_owned(),
            input: why.map(|why| why.input.to_string()),
            reason: why.map(|why| why.reason),
            error: why.map(|why| clean(&why.error)),
            attempts: why.map(|why| why.attempts),
            failed_at: why.map(|why| time(why.failed_at_ms)),
            replays: self.replays(),
            fingerprint: self.fingerprint(service),
            topic: clean(&message.topic),
            kind: clean(&message.kind),
            source: clean(&message.source),
            subject: message.subject.as_deref().map(clean),
            time: time(message.time_ms),
            content_type: message.content_type.as_deref().map(clean),
            tenant: message.tenant.as_deref().map(clean),
            parent: message
                .parent
                .as_ref()
                .map(|parent| clean(&parent.to_string())),
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
    /// The payload as a text: JSON as it came, or the text itself.
    pub fn payload_text(&self) -> Cow<'_, str> {
        let raw = self.payload.get();
        match self.encoding {
            Encoding::Json => raw.into(),
            Encoding::Text | Encoding::Base64 => match serde_json::from_str::<String>(raw) {
                Ok(text) => text.into(),
                // Somebody else wrote it.
                Err(_) => raw.into(),
            },
        }
    }
}

/// Cuts secrets out of bytes that may be anything: secrets are text.
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

/// The form that keeps every byte, but for white space that JSON doesn't need.
fn written(bytes: &[u8]) -> (Encoding, Box<RawValue>) {
    let Ok(whole) = std::str::from_utf8(bytes) else {
        return (Encoding::Base64, raw(&BASE64_STANDARD.encode(bytes)));
    };
    // As a value first: one that is nested too deep for readers is a text.
    if serde_json::from_str::<Value>(whole).is_ok()
        && let Ok(json) = RawValue::from_string(on_one_line(whole))
    {
        return (Encoding::Json, json);
    }
    text(whole)
}

fn text(text: &str) -> (Encoding, Box<RawValue>) {
    (Encoding::Text, raw(text))
}

fn raw(text: &str) -> Box<RawValue> {
    to_raw_value(text).expect("a text is JSON")
}

/// JSON without the white space between its parts; numbers and strings stay as they are.
fn on_one_line(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let stays = |c: &char| -> bool {
        let stays = in_string || !matches!(c, ' ' | '\t' | '\n' | '\r');
        if *c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && *c == '\\' && !escaped;
        stays
    };
    json.chars().filter(stays).collect()
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
    fn a_payload_is_written_down_so_that_every_byte_can_be_had_again() {
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        for (payload, encoding, written) in [
            (
                &b"{ \"b\" : 0.10,\n\t\"a\": [1, \" \\\" \\\\\"] , \"n\":12345678901234567890123 }"
                    [..],
                Encoding::Json,
                r#"{"b":0.10,"a":[1," \" \\"],"n":12345678901234567890123}"#,
            ),
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
    fn no_secret_is_in_it_also_not_the_beginning_of_one() {
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
        // A number may be a secret, too: what is left isn't JSON any more.
        let number = view(b"{\"pin\":12345678}", usize::MAX, &["12345678"]);
        assert_eq!(number.encoding, Encoding::Text);
        assert_eq!(number.payload_text(), "{\"pin\":[redacted]}");
    }
}
