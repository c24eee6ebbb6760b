//! A letter: a message as it is kept, and the message that it was.

use super::stats::UNKNOWN;
use crate::dead_letter::{DeadLetter, LETTER_HEADERS, fingerprint};
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

    /// The same for letters of a service that failed alike:
    /// [`DeadLetter::fingerprint`]. Those that the runtime didn't write are alike.
    pub fn fingerprint(&self, service: &str) -> String {
        match &self.why {
            Some(why) => why.fingerprint(),
            None => fingerprint(service, UNKNOWN, ""),
        }
    }

    /// Why it was given up, in a word.
    pub(super) fn reason(&self) -> &'static str {
        self.why.as_ref().map_or(UNKNOWN, |why| why.reason.as_str())
    }

    /// Whether a header is the message's own, and not the letter's.
    pub(super) fn is_own(&self, header: &str) -> bool {
        let of_letter = self.why.is_some() && LETTER_HEADERS.contains(&header);
        !of_letter && header != REPLAYS
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
}
