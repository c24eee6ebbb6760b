//! Message ids: random for new messages, derived from the parent for emitted messages.
//!
//! Owns how an id is created, compared and printed. Knows no transport.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// Id of a message, the same on every attempt and in every process.
///
/// A message that starts in Brickwork gets a UUID version 7 (RFC 9562). A message that a handler
/// emits gets a UUID version 8: a hash of its parent's id, the service's name, the port and its
/// index. So a repeated attempt emits messages with the same ids. Other programs may use any
/// text, which is kept unchanged.
///
/// ```
/// use brickwork::MessageId;
///
/// let order: MessageId = "order-17".parse().unwrap();
/// let first = order.child("stock", "reserved", 0);
/// assert_eq!(first, order.child("stock", "reserved", 0));
/// assert_ne!(first, order.child("stock", "reserved", 1));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Form);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Form {
    Uuid([u8; 16]),
    Text(Arc<str>),
}

/// Maximum length of an id, in bytes (that of an AMQP short string).
pub const ID_BYTES_MAX: usize = 255;

/// The text can't be a message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message id has 1 to {ID_BYTES_MAX} bytes and no control characters")]
pub struct InvalidId;

impl MessageId {
    /// Creates an id that is unique and increases with time (UUID version 7).
    pub fn new() -> Self {
        GENERATOR.with_borrow_mut(|generator| Self(Form::Uuid(generator.next())))
    }

    /// Returns the id of the `index`-th message that `service` emits on `port` while it handles
    /// this message.
    ///
    /// The id is the first 16 bytes of the SHA-256 of the parts, each preceded by its length,
    /// marked as a UUID version 8 (RFC 9562, section 5.8).
    pub fn child(&self, service: &str, port: &str, index: u32) -> Self {
        let mut hash = Sha256::new();
        // One buffer and one update: the parts are short.
        let mut parts = [0u8; 256];
        let mut used = 0;
        let mut put = |bytes: &[u8]| {
            let length = (bytes.len() as u32).to_le_bytes();
            for piece in [&length[..], bytes] {
                if used + piece.len() > parts.len() {
                    hash.update(&parts[..used]);
                    used = 0;
                }
                if piece.len() > parts.len() {
                    hash.update(piece);
                } else {
                    parts[used..used + piece.len()].copy_from_slice(piece);
                    used += piece.len();
                }
            }
        };
        match &self.0 {
            Form::Uuid(bytes) => put(bytes),
            Form::Text(text) => put(text.as_bytes()),
        }
        put(service.as_bytes());
        put(port.as_bytes());
        put(&index.to_le_bytes());
        hash.update(&parts[..used]);
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(Form::Uuid(marked(bytes, 8)))
    }

    /// Returns 128 bits for this id, used as a trace id.
    pub fn as_u128(&self) -> u128 {
        match &self.0 {
            Form::Uuid(bytes) => u128::from_be_bytes(*bytes),
            Form::Text(text) => {
                let digest = Sha256::digest(text.as_bytes());
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&digest[..16]);
                u128::from_be_bytes(bytes)
            }
        }
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::new()
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() || text.len() > ID_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(InvalidId);
        }
        Ok(Self(match parse_uuid(text.as_bytes()) {
            Some(bytes) => Form::Uuid(bytes),
            None => Form::Text(text.into()),
        }))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Uuid(bytes) => {
                let mut text = [0u8; 36];
                f.write_str(format_uuid(bytes, &mut text))
            }
            Form::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn format_uuid<'a>(bytes: &[u8; 16], text: &'a mut [u8; 36]) -> &'a str {
    let mut at = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text[at] = b'-';
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    std::str::from_utf8(text).expect("hexadecimal digits are UTF-8")
}

/// Parses the canonical form only, so that an id is printed as it was received.
fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let mut bytes = [0u8; 16];
    let mut digits = 0;
    for (at, &character) in text.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            if character != b'-' {
                return None;
            }
            continue;
        }
        let digit = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => return None,
        };
        bytes[digits / 2] |= digit << if digits % 2 == 0 { 4 } else { 0 };
        digits += 1;
    }
    Some(bytes)
}

fn marked(mut bytes: [u8; 16], version: u8) -> [u8; 16] {
    bytes[6] = (bytes[6] & 0x0f) | (version << 4);
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}

thread_local! {
    static GENERATOR: RefCell<Generator> = RefCell::new(Generator::seeded());
}

/// Generator of UUIDs version 7 by RFC 9562, section 6.2, method 2. Within a millisecond the random
/// part increases by a random step, so the ids of one thread increase.
struct Generator {
    milliseconds: u64,
    /// The 74 random bits.
    random: u128,
    steps: fastrand::Rng,
}

const RANDOM_BITS: u32 = 74;

impl Generator {
    fn seeded() -> Self {
        let mut seed = [0u8; 8];
        getrandom::fill(&mut seed).expect("the operating system gives random bytes");
        Self {
            milliseconds: 0,
            random: 0,
            steps: fastrand::Rng::with_seed(u64::from_le_bytes(seed)),
        }
    }

    fn next(&mut self) -> [u8; 16] {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        if now > self.milliseconds {
            self.milliseconds = now;
            // The top bit is 0, so that there is room to count up.
            self.random = self.steps.u128(..) >> (128 - RANDOM_BITS + 1);
        } else {
            self.random += 1 + u128::from(self.steps.u32(..));
            if self.random >> RANDOM_BITS != 0 {
                self.milliseconds += 1;
                self.random = self.steps.u128(..) >> (128 - RANDOM_BITS + 1);
            }
        }
        let high = (self.random >> 62) as u64 & 0x0fff;
        let low = self.random as u64 & (u64::MAX >> 2);
        let value =
            (u128::from(self.milliseconds) << 80) | (u128::from(high) << 64) | u128::from(low);
        marked(value.to_be_bytes(), 7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_are_unique_and_increase_within_a_thread() {
        let ids: Vec<MessageId> = (0..10_000).map(|_| MessageId::new()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(ids[0].to_string().as_bytes()[14], b'7');
    }

    #[test]
    fn an_id_is_printed_as_it_was_received() {
        for text in [
            "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b",
            "0190A1B2-C3D4-7E5F-8A6B-7C8D9E0F1A2B",
            "order 17",
            "0190a1b2c3d47e5f8a6b7c8d9e0f1a2b",
        ] {
            assert_eq!(text.parse::<MessageId>().unwrap().to_string(), text);
        }
        for text in ["", "a\nb", &"x".repeat(256)] {
            assert_eq!(text.parse::<MessageId>(), Err(InvalidId));
        }
    }

    #[test]
    fn ids_of_emitted_messages_are_the_same_in_every_release() {
        let parent: MessageId = "order-17".parse().unwrap();
        // With another value, retries after an update would look like new messages.
        assert_eq!(
            parent.child("stock", "reserved", 0).to_string(),
            "714a5922-ba20-864a-ae65-6d39c0dc1e1d"
        );
    }

    #[test]
    fn the_parts_of_a_child_id_do_not_run_together() {
        let parent: MessageId = "p".parse().unwrap();
        assert_ne!(parent.child("ab", "c", 0), parent.child("a", "bc", 0));
        let long = "x".repeat(ID_BYTES_MAX).parse::<MessageId>().unwrap();
        assert_ne!(long.child("a", "b", 0), long.child("a", "b", 1));
    }
}
