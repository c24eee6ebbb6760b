//! A letter: a message as it is kept, and the message that it was.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::clock::Rfc3339;
use crate::dead_letter::{DeadLetter, LETTER_HEADERS};
use crate::message::Message;

/// The header that counts how often a message was taken out of a dead-letter queue and
/// handled again.
pub const REPLAYS: &str = "brickwork-replays";

/// A letter of a dead-letter queue.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The message as it is kept.
    pub message: Message,
    /// Why it is there; `None` if the runtime didn't put it there.
    pub why: Option<DeadLetter>,
}

/// A letter for people and programs to look at.
#[derive(Debug, Clone, Serialize)]
pub struct LetterView {
    /// The message's id.
    pub id: String,
    /// The service whose dead letter it is.
    pub service: String,
    /// The input that gave it up.
    pub input: Option<String>,
    /// Why.
    pub reason: Option<&'static str>,
    /// The last failure's text.
    pub error: Option<String>,
    /// How many attempts were made.
    pub attempts: Option<u32>,
    /// When it was given up (RFC 3339).
    pub failed_at: Option<String>,
    /// How often it was replayed before.
    pub replays: u32,
    /// The same for letters that failed alike.
    pub fingerprint: Option<String>,
    /// The topic that it was published to.
    pub topic: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who made it.
    pub source: String,
    /// When it was made (RFC 3339).
    pub time: String,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// Its own headers, without those of a letter.
    pub headers: BTreeMap<String, String>,
    /// How many bytes it carries.
    pub payload_bytes: usize,
    /// What it carries: JSON if it is JSON and not too long, else the beginning as text.
    pub payload: Value,
    /// Whether the payload is only the beginning.
    pub truncated: bool,
}

impl Letter {
    /// The letter that a message of a dead-letter queue is.
    pub fn new(message: Message) -> Self {
        let why = DeadLetter::of(&message);
        Self { message, why }
    }

    /// How often it was replayed before.
    pub fn replays(&self) -> u32 {
        let header = self.message.headers.get(REPLAYS);
        header.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// The message as it was before it was given up, to be handled again: the same id,
    /// type, headers and trace, with one more replay counted.
    ///
    /// Nobody waits for its answer any more: whoever asked was told when it was given up.
    pub fn replayed(&self) -> Message {
        let mut envelope = self.message.edit();
        if self.why.is_some() {
            for name in LETTER_HEADERS {
                envelope.headers.remove(name);
            }
        }
        let replays = self.replays().saturating_add(1).to_string();
        envelope.headers.insert(REPLAYS.into(), replays.into());
        envelope.reply_to = None;
        // A message past its deadline would be dropped, and the letter with it.
        envelope.deadline_ms = None;
        envelope.into()
    }

    /// For people and programs to look at, with a payload of at most so many bytes.
    pub fn view(&self, service: &str, payload_bytes_max: usize) -> LetterView {
        let time = |unix_ms| Rfc3339 { unix_ms }.to_string();
        let message = &self.message;
        let why = self.why.as_ref();
        let own = |name: &str| {
            let of_letter = why.is_some() && LETTER_HEADERS.contains(&name);
            !of_letter && name != REPLAYS
        };
        let headers = message.headers.iter();
        let headers = headers
            .filter(|(name, _)| own(name))
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let bytes = &message.payload;
        let truncated = bytes.len() > payload_bytes_max;
        let beginning = &bytes[..bytes.len().min(payload_bytes_max)];
        let payload = match serde_json::from_slice(bytes) {
            Ok(json) if !truncated => json,
            _ => Value::String(String::from_utf8_lossy(beginning).into_owned()),
        };
        LetterView {
            id: message.id.to_string(),
            service: service.to_owned(),
            input: why.map(|why| why.input.to_string()),
            reason: why.map(|why| why.reason.as_str()),
            error: why.map(|why| why.error.clone()),
            attempts: why.map(|why| why.attempts),
            failed_at: why.map(|why| time(why.failed_at_ms)),
            replays: self.replays(),
            fingerprint: why.map(DeadLetter::fingerprint),
            topic: message.topic.to_string(),
            kind: message.kind.to_string(),
            source: message.source.to_string(),
            time: time(message.time_ms),
            trace_id: format!("{:032x}", message.trace().trace_id),
            headers,
            payload_bytes: bytes.len(),
            payload,
            truncated,
        }
    }
}
