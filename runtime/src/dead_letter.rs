//! Why a message was given up, in the form in which it is kept.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{FAILURE_TEXT_BYTES_MAX, truncate};
use crate::message::{Envelope, Message};

mod shape;

/// Why a message is in a dead-letter queue: header `brickwork-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The handler failed on every attempt.
    Error,
    /// The handler, or the runtime before it, said that it can never work.
    Reject,
    /// The handler panicked on the last attempt.
    Panic,
    /// The handler ran out of time on the last attempt.
    Timeout,
    /// The process died with this message alone in hand, too often.
    Crash,
    /// The queue was full.
    Overflow,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Error,
        Self::Reject,
        Self::Panic,
        Self::Timeout,
        Self::Crash,
        Self::Overflow,
    ];

    /// The word in headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Reject => "reject",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Crash => "crash",
            Self::Overflow => "overflow",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The headers that make a message a letter.
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

/// What is kept with a message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why.
    pub reason: Reason,
    /// The last failure's text, without secrets, 4 KiB at most.
    pub error: String,
    /// The service that gave it up.
    pub service: Arc<str>,
    /// The input that it came in by.
    pub input: Arc<str>,
    /// How many attempts were made.
    pub attempts: u32,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub failed_at_ms: u64,
}

impl DeadLetter {
    /// The same for letters that failed alike: 16 hexadecimal digits made of service,
    /// reason and the error without numbers, ids, quoted values, paths and addresses.
    pub fn fingerprint(&self) -> String {
        // As much of it as is kept, so that the letter has the same one.
        let mut error = self.error.clone();
        truncate(&mut error, FAILURE_TEXT_BYTES_MAX);
        fingerprint(
            &self.service,
            self.reason.as_str(),
            &shape::shape_of(&error),
        )
    }

    /// The message as it is kept in the dead-letter queue.
    pub fn letter(&self, message: &Message) -> Message {
        let mut error = self.error.clone();
        truncate(&mut error, FAILURE_TEXT_BYTES_MAX);
        let mut envelope: Envelope = message.edit();
        let mut put = |name: &str, value: &str| {
            envelope.headers.insert(name.into(), value.into());
        };
        put("brickwork-reason", self.reason.as_str());
        put("brickwork-error", &error);
        put("brickwork-service", &self.service);
        put("brickwork-input", &self.input);
        put("brickwork-attempt", &self.attempts.to_string());
        put("brickwork-failed-at", &self.failed_at_ms.to_string());
        put("brickwork-fingerprint", &self.fingerprint());
        let topic = message.topic.clone();
        put("brickwork-topic", &topic);
        envelope.into()
    }

    /// What is kept with a message in a dead-letter queue; `None` if it isn't a letter.
    pub fn of(letter: &Message) -> Option<Self> {
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
}

/// What stands for service, reason and shape.
pub(crate) fn fingerprint(service: &str, reason: &str, shape: &str) -> String {
    let mut hash = Sha256::new();
    for part in [service, reason, shape] {
        hash.update(part.as_bytes());
        hash.update([0xff]);
    }
    hash.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(error: &str) -> DeadLetter {
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
    fn a_letter_can_be_read_again() {
        let message = Envelope::new("order", "{}").into();
        let why = letter("no stock");
        assert_eq!(DeadLetter::of(&why.letter(&message)), Some(why));
        assert_eq!(DeadLetter::of(&message), None);
    }

    #[test]
    fn letters_that_failed_alike_share_a_fingerprint() {
        let first = letter("order 17 of 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b: no stock");
        let second = letter("order 9 of 0190a1b2-ffff-7e5f-8a6b-7c8d9e0f1a2b: no stock");
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_ne!(
            first.fingerprint(),
            letter("order 17: refused").fingerprint()
        );
    }

    #[test]
    fn what_is_kept_has_the_fingerprint_of_what_was_given_up() {
        let message = Envelope::new("order", "{}").into();
        let why = letter(&"no stock at all ".repeat(1000));
        let kept = why.letter(&message);
        let read = DeadLetter::of(&kept).unwrap();
        assert!(read.error.len() < why.error.len());
        assert_eq!(read.fingerprint(), why.fingerprint());
        assert_eq!(&*kept.headers["brickwork-fingerprint"], read.fingerprint());
    }
}
