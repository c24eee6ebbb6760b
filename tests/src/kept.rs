//! The queue file of an `embedded:` transport, read without the transport, also while an app uses
//! it.

use std::path::Path;

use brickwork::sqlite::rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::checker::DeadLetter;

/// The file with the queues of a folder.
#[derive(Debug)]
pub struct Queues(Connection);

impl Queues {
    /// Opens the file for reading. Returns `None` while it is missing or empty.
    ///
    /// # Panics
    /// If the file can't be read.
    pub fn open(folder: &Path) -> Option<Self> {
        let file = folder.join("queues.sqlite");
        let connection =
            Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        connection
            .busy_timeout(std::time::Duration::from_secs(5))
            .expect("it can wait");
        let queues = Self(connection);
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'queue'";
        (queues.count(tables) > 0).then_some(queues)
    }

    /// Runs SQL that damages the file.
    ///
    /// # Panics
    /// If the file can't be written.
    pub fn vandalise(folder: &Path, sql: &str) {
        let connection = Connection::open(folder.join("queues.sqlite")).expect("it is there");
        connection.execute_batch(sql).expect("it can be changed");
    }

    /// Returns the content of the dead-letter queues.
    ///
    /// # Panics
    /// If they can't be read.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let mut select = self
            .0
            .prepare(
                "SELECT head, payload FROM message
                 WHERE id >> 40 IN (SELECT number FROM queue WHERE input = 'dlq') ORDER BY id",
            )
            .expect("it is a table");
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let rows = rows.expect("it can be read");
        rows.map(|row| {
            let (head, payload): (String, Vec<u8>) = row.expect("it can be read");
            let head: Value = serde_json::from_str(&head).expect("the head is JSON");
            let payload: Value = serde_json::from_slice(&payload).expect("the payload is JSON");
            let header = |name: &str| head["headers"][name].as_str().expect("a header");
            DeadLetter {
                n: payload["n"].as_u64().expect("a number"),
                reason: header("brickwork-reason").to_owned(),
                attempts: header("brickwork-attempt").parse().expect("a number"),
            }
        })
        .collect()
    }

    /// Returns the error and the payload of each dead letter.
    ///
    /// # Panics
    /// If the dead letters can't be read.
    pub fn errors(&self) -> Vec<(String, Value)> {
        let sql = "SELECT head ->> '$.headers.\"brickwork-error\"', payload FROM message
                   WHERE id >> 40 IN (SELECT number FROM queue WHERE input = 'dlq') ORDER BY id";
        let mut select = self.0.prepare(sql).expect("it is a table");
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)));
        let rows = rows.expect("it can be read").map(|row| {
            let (error, payload) = row.expect("it can be read");
            (
                error,
                serde_json::from_slice(&payload).expect("the payload is JSON"),
            )
        });
        rows.collect()
    }

    /// Counts the different dead letters of each queue. A source that is killed before it has
    /// saved its position sends messages again, so a letter may be there twice.
    ///
    /// # Panics
    /// If the file can't be read.
    pub fn different_letters(&self) -> i64 {
        self.count(
            "SELECT count(DISTINCT (id >> 40) || ' ' || hex(payload)) FROM message
             WHERE id >> 40 IN (SELECT number FROM queue WHERE input = 'dlq')",
        )
    }

    /// Counts the messages in input queues, suspect queues and delays, without dead letters.
    ///
    /// # Panics
    /// If the file can't be read.
    pub fn left(&self) -> i64 {
        self.count(
            "SELECT (SELECT count(*) FROM message
                     WHERE id >> 40 IN (SELECT number FROM queue WHERE input != 'dlq'))
                  + (SELECT count(*) FROM delayed) + (SELECT count(*) FROM suspect)",
        )
    }

    /// Checks that the file is intact and that its recorded counts are right.
    ///
    /// # Panics
    /// If they aren't.
    pub fn check(&self) {
        let whole: String = self
            .0
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .expect("it can be checked");
        assert_eq!(whole, "ok");
        let wrong = self.count(
            "SELECT count(*) FROM queue AS q WHERE
                messages != (SELECT count(*) FROM message AS m WHERE m.id >> 40 = q.number)
                OR delayed != (SELECT count(*) FROM delayed AS d WHERE d.queue = q.number)
                OR retrying != (SELECT count(*) FROM delayed AS d WHERE d.queue = q.number
                                AND d.retry)",
        );
        assert_eq!(wrong, 0, "queues whose counts are wrong");
    }

    /// Returns the number that a statement selects.
    ///
    /// # Panics
    /// If the statement fails.
    pub fn count(&self, sql: &str) -> i64 {
        let count = self.0.query_row(sql, [], |row| row.get(0));
        count.expect("it can be counted")
    }
}
