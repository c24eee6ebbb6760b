//! The record that a dead letter carries: why a message was given up, in headers of the message.
//!
//! [`dead_letters`](crate::dead_letters) reads and removes the letters. This module lies below it,
//! since deliveries and transports write the record.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failure::{FAILURE_TEXT_BYTES_MAX, truncate};
use crate::message::{Envelope, Message};

mod fingerprint;

pub(crate) use fingerprint::fingerprint;

/// Why a message is in a dead-letter queue: header `brickwork-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The handler failed on every attempt.
    Error,
    /// The handler rejected the message, or it can't be decoded, or it is too large.
    Reject,
    /// The handler panicked on the last attempt.
    Panic,
    /// The handler exceeded its time limit on the last attempt.
    Timeout,
    /// The process crashed too often while this message was alone in flight.
    Crash,
    /// The queue was full.
    Overflow,
    /// The broker gave the message up: it was in the queue for too long.
    Expired,
    /// The broker gave the message up: another program rejected it.
    Rejected,
    /// The broker gave the message up: the queue was full.
    Maxlen,
    /// The broker gave the message up: it was delivered too often.
    #[serde(rename = "delivery_limit")]
    DeliveryLimit,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Error,
        Self::Reject,
        Self::Panic,
        Self::Timeout,
        Self::Crash,
        Self::Overflow,
        Self::Expired,
        Self::Rejected,
        Self::Maxlen,
        Self::DeliveryLimit,
    ];
    /// Number of reasons of the runtime: the first ones of [`ALL`](Self::ALL).
    pub(crate) const OF_RUNTIME: usize = 6;

    /// The reason as written in headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Reject => "reject",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Crash => "crash",
            Self::Overflow => "overflow",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Maxlen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }

    /// Returns whether a broker gave the message up, and not the runtime.
    pub fn is_of_broker(self) -> bool {
        self as usize >= Self::OF_RUNTIME
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The headers that turn a message into a dead letter.
pub(crate) const LETTER_HEADERS: [&str; 8] = [
    "brickwork-reason",
    "brickwork-error",
    "brickwork-service",
    "brickwork-input",
    "brickwork-attempt",
    "brickwork-failed-at",
    "brickwork-fingerprint",
    "brickwork-topic",
];

/// The record of a message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The reason.
    pub reason: Reason,
    /// The text of the last failure, without secrets. The letter keeps its first 4 KiB.
    pub error: String,
    /// The label of the service that gave the message up.
    pub service: Arc<str>,
    /// The name of the input that the message came to.
    pub input: Arc<str>,
    /// The number of attempts.
    pub attempts: u32,
    /// When the message was given up, in milliseconds since 1970-01-01 UTC.
    pub failed_at_ms: u64,
}

impl DeadLetter {
    /// Identifies a group of letters with the same failure: 16 hexadecimal digits made of the
    /// service, the reason and the error without numbers, ids, quoted values, paths and
    /// addresses.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.service, self.reason.as_str(), &self.kept_error())
    }

    /// The message as it is kept in the dead-letter queue.
    pub fn letter(&self, message: &Message) -> Message {
        let mut envelope: Envelope = message.edit();
        let mut put = |name: &str, value: &str| {
            envelope.headers.insert(name.into(), value.into());
        };
        put("brickwork-reason", self.reason.as_str());
        put("brickwork-error", &self.kept_error());
        put("brickwork-service", &self.service);
        put("brickwork-input", &self.input);
        put("brickwork-attempt", &self.attempts.to_string());
        put("brickwork-failed-at", &self.failed_at_ms.to_string());
        put("brickwork-fingerprint", &self.fingerprint());
        put("brickwork-topic", &message.topic);
        envelope.into()
    }

    /// Reads the record of a dead letter; `None` if the message has none.
    pub fn from_letter(letter: &Message) -> Option<Self> {
        let header = |name: &str| letter.headers.get(name);
        let reason = header("brickwork-reason")?;
        Some(Self {
            reason: *Reason::ALL.iter().find(|it| it.as_str() == &**reason)?,
            error: header("brickwork-error")?.to_string(),
            service: header("brickwork-service")?.clone(),
            input: header("brickwork-input")?.clone(),
            attempts: header("brickwork-attempt")?.parse().ok()?,
            failed_at_ms: header("brickwork-failed-at")?.parse().ok()?,
        })
    }

    /// The error as the letter keeps it.
    fn kept_error(&self) -> String {
        let mut error = self.error.clone();
        truncate(&mut error, FAILURE_TEXT_BYTES_MAX);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(error: &str) -> DeadLetter {
        DeadLetter {
            reason: Reason::Error,
            error: error.into(),
            service: "stock".into(),
            input: "requests".into(),
            attempts: 5,
            failed_at_ms: 0,
        }
    }

    #[test]
    fn a_record_can_be_read_from_its_letter() {
        let message = Envelope::new("order", "{}").into();
        let record = record("no stock");
        assert_eq!(
            DeadLetter::from_letter(&record.letter(&message)),
            Some(record)
        );
        assert_eq!(DeadLetter::from_letter(&message), None);
    }

    #[test]
    fn letters_with_the_same_failure_share_a_fingerprint() {
        let first = record("order 17 of 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b: no stock");
        let second = record("order 9 of 0190a1b2-ffff-7e5f-8a6b-7c8d9e0f1a2b: no stock");
        let other = record("order 17: refused");
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_ne!(first.fingerprint(), other.fingerprint());
    }

    #[test]
    fn a_letter_with_a_cut_error_has_the_fingerprint_of_its_record() {
        let message = Envelope::new("order", "{}").into();
        let record = record(&"no stock at all ".repeat(1000));
        let letter = record.letter(&message);
        let read = DeadLetter::from_letter(&letter).unwrap();
        assert!(read.error.len() < record.error.len());
        assert_eq!(read.fingerprint(), record.fingerprint());
        let kept = &letter.headers["brickwork-fingerprint"];
        assert_eq!(**kept, read.fingerprint());
    }
}
