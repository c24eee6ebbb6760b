//! Accounts of messages: lost, unexpected, duplicated, dead-lettered.
//!
//! The accounts come from the output of a `file-out` and from dead-letter queues. Messages are
//! told apart by the number `n` in their payload.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use lapin::options::BasicGetOptions;
use lapin::types::AMQPValue;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;

/// The lines of an output file, by their number.
#[derive(Debug)]
pub struct Kept(HashMap<u64, Vec<Value>>);

impl Kept {
    /// Reads the lines that the file has so far.
    ///
    /// # Panics
    /// If a line is incomplete or has no number.
    pub fn read(file: &Path) -> Self {
        Self::of(&std::fs::read_to_string(file).unwrap_or_default())
    }

    fn of(text: &str) -> Self {
        let mut kept: HashMap<u64, Vec<Value>> = HashMap::new();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).expect("every line is complete");
            let number = value["n"].as_u64().expect("a number");
            kept.entry(number).or_default().push(value);
        }
        Self(kept)
    }

    /// Counts the distinct numbers in a file that is still being written.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn count_so_far(file: &Path) -> usize {
        let mut text = std::fs::read_to_string(file).unwrap_or_default();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Self::of(&text).count()
    }

    /// Returns the count of distinct numbers.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether the file has this number.
    pub fn has(&self, number: u64) -> bool {
        self.0.contains_key(&number)
    }

    /// Returns the numbers of the range that the file lacks.
    pub fn missing(&self, of: Range<u64>) -> Vec<u64> {
        of.filter(|number| !self.has(*number)).collect()
    }

    /// Returns the numbers in the file that were never sent.
    pub fn unexpected(&self, attempted: &Range<u64>) -> Vec<u64> {
        let all = self.0.keys().copied();
        all.filter(|number| !attempted.contains(number)).collect()
    }

    /// Returns the count of duplicate lines. `ids` are the fields that hold message ids; a
    /// duplicate must have the same ids as the first line.
    ///
    /// # Panics
    /// If a number occurs under several ids.
    pub fn again(&self, ids: &[&str]) -> usize {
        let mut again = 0;
        for (number, copies) in &self.0 {
            let under: HashSet<Vec<&str>> = copies
                .iter()
                .map(|line| {
                    let id = |name: &&str| line[*name].as_str().expect("an id");
                    ids.iter().map(id).collect()
                })
                .collect();
            assert_eq!(under.len(), 1, "{number} under several ids: {under:?}");
            again += copies.len() - 1;
        }
        again
    }
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message's number.
    pub n: u64,
    /// The reason in the dead letter.
    pub reason: String,
    /// Attempts before the message was dead-lettered.
    pub attempts: i64,
}

/// Reads the dead-letter queues of an app's services. The messages stay there.
///
/// # Panics
/// If the broker can't be read.
pub fn dead_letters(url: &str, app: &str, services: &[&str]) -> Vec<DeadLetter> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let reading = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let mut letters = Vec::new();
        for service in services {
            let queue = format!("{app}.{service}.dlq");
            let get = || channel.basic_get(queue.as_str().into(), BasicGetOptions::default());
            while let Some(got) = get().await? {
                letters.push(letter(&got.delivery));
            }
        }
        // Closing the connection requeues the unacked messages.
        connection.close(200, "read".into()).await?;
        lapin::Result::Ok(letters)
    };
    runtime.block_on(reading).expect("dead letters can be read")
}

fn letter(delivery: &lapin::message::Delivery) -> DeadLetter {
    let payload: Value = serde_json::from_slice(&delivery.data).expect("the payload is JSON");
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    let header = |name: &str| headers.inner().get(name).cloned();
    DeadLetter {
        n: payload["n"].as_u64().expect("a number"),
        reason: match header("brickwork-reason") {
            Some(AMQPValue::LongString(reason)) => reason.to_string(),
            other => format!("{other:?}"),
        },
        attempts: match header("brickwork-attempt") {
            Some(AMQPValue::LongLongInt(attempts)) => attempts,
            Some(AMQPValue::LongInt(attempts)) => attempts.into(),
            Some(AMQPValue::LongUInt(attempts)) => attempts.into(),
            _ => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(lines: &str) -> Kept {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        std::fs::write(file.path(), lines).expect("it can be written");
        Kept::read(file.path())
    }

    #[test]
    fn lost_duplicate_and_unexpected_numbers_are_found() {
        let kept = kept("{\"n\":0,\"id\":\"a\"}\n{\"n\":2,\"id\":\"c\"}\n{\"n\":2,\"id\":\"c\"}\n");
        assert_eq!(kept.missing(0..4), [1, 3]);
        assert_eq!(kept.unexpected(&(0..2)), [2]);
        assert_eq!((kept.count(), kept.again(&["id"])), (2, 1));
    }

    #[test]
    #[should_panic(expected = "2 under several ids")]
    fn a_duplicate_under_another_id_is_found() {
        kept("{\"n\":2,\"id\":\"c\"}\n{\"n\":2,\"id\":\"d\"}\n").again(&["id"]);
    }
}
