//! Tables of the file, and ids of messages.
//!
//! The id of a message has the number of its queue in the high bits, and its sequence number
//! in the low bits. So a queue is a range of ids: messages are appended at its end and deleted
//! at its front, and the table needs no index. No sequence number is used twice.

use std::time::Duration;

use brickwork::sqlite::{Migration, Options, Part, Schema};
use brickwork::transport::engine::EntryId;

/// Bits of an id that hold the sequence number.
pub(super) const SEQUENCE_BITS: u32 = 40;
/// Bits of an id. The in-flight log uses the other bits of a word.
pub(super) const ID_BITS: u32 = 60;

/// Id of a stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(i64);

impl Id {
    pub(super) fn new(queue: u32, sequence: u64) -> Self {
        debug_assert!(sequence < 1 << SEQUENCE_BITS);
        Self((i64::from(queue) << SEQUENCE_BITS) | sequence as i64)
    }

    pub(super) fn from_row(row: i64) -> Self {
        Self(row)
    }

    pub(super) fn row(self) -> i64 {
        self.0
    }

    pub(super) fn queue(self) -> u32 {
        (self.0 >> SEQUENCE_BITS) as u32
    }

    pub(super) fn sequence(self) -> u64 {
        self.0 as u64 & ((1 << SEQUENCE_BITS) - 1)
    }
}

impl From<EntryId> for Id {
    fn from(id: EntryId) -> Self {
        Self::new(id.queue, id.sequence)
    }
}

/// Owner of the file. The table `app` has the name of the app, once it has declared queues.
const OWNER: &str = "queues of Brickwork";

/// The first tables.
///
/// - `queue` has the counts of each queue, so that a start does not count millions of rows:
///   `messages` of the table `message`, `delayed` of the table `delayed`, and `retrying` for
///   those of them that wait for another attempt. `next_place` is the next sequence number.
/// - `held` is the number of crashes with the message in flight; `crashes` of a suspect are
///   those that it is blamed for.
/// - `head` is the envelope in JSON; `sum` is the CRC-32 of head and payload.
/// - `damaged` lists unreadable rows.
const TABLES: &str = "
    CREATE TABLE app (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        name TEXT,
        generation INTEGER NOT NULL
    ) STRICT;
    INSERT INTO app VALUES (1, NULL, 0);
    CREATE TABLE queue (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        service TEXT NOT NULL,
        input TEXT NOT NULL,
        next_place INTEGER NOT NULL DEFAULT 1,
        messages INTEGER NOT NULL DEFAULT 0,
        delayed INTEGER NOT NULL DEFAULT 0,
        retrying INTEGER NOT NULL DEFAULT 0,
        UNIQUE (service, input)
    ) STRICT;
    CREATE TABLE message (
        id INTEGER PRIMARY KEY,
        attempt INTEGER NOT NULL,
        held INTEGER NOT NULL,
        head TEXT NOT NULL,
        payload BLOB NOT NULL,
        sum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE delayed (
        id INTEGER PRIMARY KEY,
        due_ms INTEGER NOT NULL,
        queue INTEGER NOT NULL,
        retry INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        held INTEGER NOT NULL,
        head TEXT NOT NULL,
        payload BLOB NOT NULL,
        sum INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX delayed_due ON delayed (due_ms);
    CREATE TABLE suspect (
        id INTEGER PRIMARY KEY,
        attempt INTEGER NOT NULL,
        held INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        head TEXT NOT NULL,
        payload BLOB NOT NULL,
        sum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE damaged (
        place TEXT PRIMARY KEY,
        why TEXT NOT NULL,
        found_ms INTEGER NOT NULL
    ) STRICT;
";

/// The index has the queue of each delayed row. If the row lies on a damaged page, its queue
/// must not count it.
const INDEX_OF_OWNERS: &str = "
    DROP INDEX delayed_due;
    CREATE INDEX delayed_due ON delayed (due_ms, queue, retry);
";

/// `clock_ms` is the clock when a due time was last written: see `follow_clock`.
const CLOCK: &str = "ALTER TABLE app ADD COLUMN clock_ms INTEGER NOT NULL DEFAULT 0;";

pub(super) fn schema() -> Schema {
    Schema {
        owner: OWNER.to_owned(),
        parts: vec![Part {
            name: "queues",
            steps: vec![
                Migration::new("queues", TABLES),
                Migration::new("whose what waits is", INDEX_OF_OWNERS),
                Migration::new("the clock of due times", CLOCK),
            ],
        }],
    }
}

/// Pages in the write-ahead log before a checkpoint moves them to the file. Most messages are
/// deleted before that, so that their pages are written once.
pub(super) const CHECKPOINT_PAGES: u32 = 1_000;

pub(super) fn options() -> Options {
    Options {
        // Holds the pages of one commit.
        cache_kib: 8 * 1024,
        checkpoint_pages: CHECKPOINT_PAGES,
        // One job has the commands of many callers.
        job_max: Duration::from_secs(60),
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_queue_and_sequence_and_follow_the_order_of_arrival() {
        let queue = (1 << (ID_BITS - SEQUENCE_BITS)) - 1;
        let sequence = (1 << SEQUENCE_BITS) - 1;
        let last = Id::new(queue, sequence);
        assert_eq!((last.queue(), last.sequence()), (queue, sequence));
        assert!(last.row() < 1 << ID_BITS);
        assert!(Id::new(1, 2) < Id::new(1, 3));
        assert!(Id::new(1, sequence) < Id::new(2, 1));
    }
}
