//! The tables, and how messages are numbered in them.
//!
//! A message in a queue has the queue's number in the high bits of its id and its place in
//! the order of arrival in the low ones: a queue is appended to at its end and deleted from
//! at its front, without an index beside the table. No place is used twice.

use brickwork::sqlite::{Migration, Options, Part, Schema};
use std::time::Duration;

/// So many bits of an id are the place.
pub(super) const PLACE_BITS: u32 = 40;
/// So many bits of an id are used at all: the rest is free for marks.
pub(super) const ID_BITS: u32 = 60;

/// The id of a message: where it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(i64);

impl Id {
    pub(super) fn new(queue: u32, place: u64) -> Self {
        debug_assert!(place < 1 << PLACE_BITS);
        Self((i64::from(queue) << PLACE_BITS) | place as i64)
    }

    pub(super) fn of_row(row: i64) -> Self {
        Self(row)
    }

    pub(super) fn row(self) -> i64 {
        self.0
    }

    pub(super) fn queue(self) -> u32 {
        (self.0 >> PLACE_BITS) as u32
    }

    pub(super) fn place(self) -> u64 {
        self.0 as u64 & ((1 << PLACE_BITS) - 1)
    }
}

/// Whose the file is; which app's is in the table `app`, once it is known.
const OWNER: &str = "queues of Brickwork";

/// `queue` counts what is in each, so that nobody has to count millions of rows at a start:
/// `messages` those in `message`, `delayed` those in `delayed`, of which `retrying` wait for
/// another attempt. `held` is in how many hands a message was when its process died.
/// `head` is the envelope as JSON, `sum` the CRC-32 of head and payload.
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

/// The index says whose a row is: also of one that lies on a damaged page, so that nobody
/// waits for it.
const INDEX_OF_OWNERS: &str = "
    DROP INDEX delayed_due;
    CREATE INDEX delayed_due ON delayed (due_ms, queue, retry);
";

pub(super) fn schema() -> Schema {
    Schema {
        owner: OWNER.to_owned(),
        parts: vec![Part {
            name: "queues",
            steps: vec![
                Migration::new("queues", TABLES),
                Migration::new("whose what waits is", INDEX_OF_OWNERS),
            ],
        }],
    }
}

/// After so many pages in the write-ahead log they are moved to the file. Most messages are
/// deleted before that: then their pages are written once.
pub(super) const CHECKPOINT_PAGES: u32 = 1_000;

pub(super) fn options() -> Options {
    Options {
        // What one commit writes stays in memory until it does.
        cache_kib: 8 * 1024,
        checkpoint_pages: CHECKPOINT_PAGES,
        // One job is many publications; nobody else's statements run here.
        job_max: Duration::from_secs(60),
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_queue_and_place_and_follows_the_order_of_arrival() {
        let (queue, place) = ((1 << (ID_BITS - PLACE_BITS)) - 1, (1 << PLACE_BITS) - 1);
        let last = Id::new(queue, place);
        assert_eq!((last.queue(), last.place()), (queue, place));
        assert!(last.row() < 1 << ID_BITS);
        assert!(Id::new(1, 2) < Id::new(1, 3));
        assert!(Id::new(1, place) < Id::new(2, 1));
    }
}
