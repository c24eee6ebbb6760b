//! Names of services, ports, topics and queues.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Maximum length of a service or port name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Maximum length of a topic, in bytes (that of an AMQP routing key).
pub const TOPIC_BYTES_MAX: usize = 255;
/// The topic to which the runtime publishes an [`Event`](crate::Event) when a service starts, stops,
/// gives up or fails. Any service of the app may read it, and none may publish to it.
pub const EVENTS_TOPIC: &str = "brickwork.events";
/// Names that a service can't have, because names of queues end in them.
pub const RESERVED: [&str; 3] = ["dlq", "suspect", "lease"];

/// The reason why a text is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It is longer than allowed.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// It has a character that is not allowed.
    #[error("{0:?} is not allowed there: names start with a-z and go on with a-z, 0-9 and -")]
    Character(char),
    /// It is reserved for queues of the runtime.
    #[error("it is reserved")]
    Reserved,
}

/// Checks a service or port name: `[a-z][a-z0-9-]*`, not reserved.
///
/// # Errors
/// The name is not valid.
pub fn check_name(text: &str) -> Result<(), InvalidName> {
    check_segment(text)?;
    if text.len() > NAME_BYTES_MAX {
        return Err(InvalidName::TooLong(NAME_BYTES_MAX));
    }
    if RESERVED.contains(&text) {
        return Err(InvalidName::Reserved);
    }
    Ok(())
}

/// Checks a topic: names joined by dots.
///
/// # Errors
/// The topic is not valid.
pub fn check_topic(text: &str) -> Result<(), InvalidName> {
    if text.len() > TOPIC_BYTES_MAX {
        return Err(InvalidName::TooLong(TOPIC_BYTES_MAX));
    }
    text.split('.').try_for_each(check_segment)
}

/// Returns whether only the runtime may publish to a topic: its first name is `brickwork`.
pub(crate) fn is_of_runtime(topic: &str) -> bool {
    topic.split('.').next() == Some("brickwork")
}

fn check_segment(text: &str) -> Result<(), InvalidName> {
    let mut characters = text.chars();
    match characters.next() {
        None => return Err(InvalidName::Empty),
        Some('a'..='z') => {}
        Some(other) => return Err(InvalidName::Character(other)),
    }
    match characters.find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        None => Ok(()),
        Some(other) => Err(InvalidName::Character(other)),
    }
}

/// A queue: the service and the input that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueueId {
    /// Name of the service.
    pub service: Box<str>,
    /// Input port, or `dlq`, `suspect` or `lease`.
    pub input: Box<str>,
}

impl QueueId {
    /// Returns the queue of an input.
    pub fn new(service: &str, input: &str) -> Self {
        Self {
            service: service.into(),
            input: input.into(),
        }
    }

    /// Returns the dead-letter queue of a service.
    pub fn dead_letters(service: &str) -> Self {
        Self::new(service, "dlq")
    }

    /// Returns whether it is a [dead-letter queue](Self::dead_letters).
    pub fn is_dead_letters(&self) -> bool {
        &*self.input == "dlq"
    }

    /// Returns the queue by which processes agree on the one that runs a source.
    pub fn lease(service: &str) -> Self {
        Self::new(service, "lease")
    }

    /// Returns whether it is a [`lease`](Self::lease): it has no messages of the app.
    pub fn is_lease(&self) -> bool {
        &*self.input == "lease"
    }

    /// Returns whether it belongs to a service but to none of its inputs.
    pub fn is_auxiliary(&self) -> bool {
        RESERVED.contains(&&*self.input)
    }

    /// Returns the queue of suspects of a service: messages that were in flight during crashes.
    pub fn suspects(service: &str) -> Self {
        Self::new(service, "suspect")
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_topics_follow_one_grammar() {
        for good in ["a", "stock", "stock-2"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for good in ["a", "a.b", "github.deliveries", "a-b.c1"] {
            assert_eq!(check_topic(good), Ok(()));
        }
        assert_eq!(check_name("dlq"), Err(InvalidName::Reserved));
        assert_eq!(check_name("Stock"), Err(InvalidName::Character('S')));
        assert_eq!(check_name("a.b"), Err(InvalidName::Character('.')));
        assert_eq!(check_name(&"a".repeat(64)), Err(InvalidName::TooLong(63)));
        assert_eq!(check_topic("a..b"), Err(InvalidName::Empty));
        assert_eq!(check_topic("a.*"), Err(InvalidName::Character('*')));
    }
}
