//! A dead letter: a message with the record of why it was given up.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::stats::UNKNOWN;
use crate::dead_letter::{DeadLetter, LETTER_HEADERS, fingerprint};
use crate::message::Message;

/// The header that counts how often a message was replayed from a dead-letter queue.
pub const REPLAYS: &str = "brickwork-replays";

/// A letter of a dead-letter queue.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The message, with the headers of the record.
    pub message: Message,
    /// The record; `None` if another program put the message in the queue.
    pub dead_letter: Option<DeadLetter>,
}

impl Letter {
    /// Reads the record from a message of a dead-letter queue.
    pub fn new(message: Message) -> Self {
        let dead_letter = DeadLetter::from_letter(&message);
        Self {
            message,
            dead_letter,
        }
    }

    /// The number of replays before.
    pub fn replays(&self) -> u32 {
        let header = self.message.headers.get(REPLAYS);
        header.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// The fingerprint of the letter's group: [`DeadLetter::fingerprint`]. The letters of a
    /// service without a record form one group.
    pub fn fingerprint(&self, service: &str) -> String {
        match &self.dead_letter {
            Some(record) => record.fingerprint(),
            None => fingerprint(service, UNKNOWN, ""),
        }
    }

    /// Identifies the letter: copies of it have the same identity. A process that dies while it
    /// puts a letter back leaves two copies. `None` for a letter that the runtime didn't write: two
    /// of them may be equal.
    pub(super) fn identity(&self) -> Option<String> {
        let record = self.dead_letter.as_ref()?;
        if self.message.anonymous || record.reason.is_of_broker() {
            return None;
        }
        let DeadLetter {
            input,
            attempts,
            failed_at_ms,
            ..
        } = record;
        let (id, replays) = (&self.message.id, self.replays());
        let mut payload = DefaultHasher::new();
        self.message.payload.hash(&mut payload);
        let payload = payload.finish();
        Some(format!(
            "{id} {input} {attempts} {failed_at_ms} {replays} {payload}"
        ))
    }

    /// The reason as text; `unknown` without a record.
    pub(super) fn reason(&self) -> &'static str {
        let record = self.dead_letter.as_ref();
        record.map_or(UNKNOWN, |record| record.reason.as_str())
    }

    /// Whether a header belongs to the message, and not to the record.
    pub(super) fn is_own(&self, header: &str) -> bool {
        let is_of_record = self.dead_letter.is_some() && LETTER_HEADERS.contains(&header);
        !is_of_record && header != REPLAYS
    }

    /// The message as it was before it was given up, with one more replay counted: the same
    /// id, type, headers and trace.
    ///
    /// It has no reply address, since its caller got an answer when the message was given up.
    /// It has no deadline, since it would be dropped after that, and the letter with it.
    pub fn replayed(&self) -> Message {
        let mut envelope = self.message.edit();
        // A record that can't be read is a record, too.
        if self.message.headers.contains_key(LETTER_HEADERS[0]) {
            for name in LETTER_HEADERS {
                envelope.headers.remove(name);
            }
        }
        let replays = self.replays().saturating_add(1).to_string();
        envelope.headers.insert(REPLAYS.into(), replays.into());
        envelope.reply_to = None;
        envelope.deadline_ms = None;
        envelope.into()
    }
}
