//! Entities in a store: the state of each by key, and their reminders.
//!
//! # Invariants
//! - A state is replaced only by a writer that knows its version, so a writer that was overtaken
//!   changes nothing.
//! - A reminder has a row until its message is handled or it is cancelled. The row is written
//!   together with the message's row in the outbox.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use tokio::sync::oneshot;

use super::outbox::{Outbox, Row, TO_INPUT, message_of};
use crate::message::Message;
use crate::sqlite::{Job, Migration, SqliteError, Transaction};

/// Migrations of a store that has entities.
pub(crate) const ENTITY_TABLES: &[Migration] = &[Migration::new(
    "entities and reminders",
    "CREATE TABLE brickwork_entity (
        key TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        state TEXT NOT NULL
    ) STRICT;
    CREATE TABLE brickwork_reminder (
        id TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        input TEXT NOT NULL,
        due_ms INTEGER NOT NULL,
        outbox INTEGER NOT NULL,
        head TEXT NOT NULL,
        payload BLOB NOT NULL
    ) STRICT;
    CREATE INDEX brickwork_reminder_of_key ON brickwork_reminder (key);",
)];

/// The saved state of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedState {
    /// 1 after the first message, then one more for each message.
    pub(crate) version: i64,
    /// JSON.
    pub(crate) state: String,
}

/// Returns the state of an entity; `None` if it has handled no message.
pub(crate) fn load(connection: &Connection, key: &str) -> Result<Option<SavedState>, SqliteError> {
    let mut select =
        connection.prepare_cached("SELECT version, state FROM brickwork_entity WHERE key = ?1")?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(SavedState {
            version: row.get(0)?,
            state: row.get(1)?,
        })
    };
    Ok(select.query_row([key], read).optional()?)
}

/// Saves the state that follows on `version`; 0 for a new entity. Returns false, and changes
/// nothing, if the state has another version.
pub(crate) fn save(
    connection: &Connection,
    key: &str,
    version: i64,
    state: &str,
    now_ms: u64,
) -> Result<bool, SqliteError> {
    let sql = match version {
        0 => {
            "INSERT INTO brickwork_entity (key, version, at_ms, state) VALUES (?1, ?2 + 1, ?3, ?4)
             ON CONFLICT DO NOTHING"
        }
        _ => {
            "UPDATE brickwork_entity SET version = ?2 + 1, at_ms = ?3, state = ?4
             WHERE key = ?1 AND version = ?2"
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.execute((key, version, now_ms as i64, state))? == 1)
}

/// Removes an entity with its reminders. Returns whether it was there.
pub(crate) fn evict(connection: &Connection, key: &str) -> Result<bool, SqliteError> {
    connection.execute("DELETE FROM brickwork_reminder WHERE key = ?1", [key])?;
    let deleted = connection.execute("DELETE FROM brickwork_entity WHERE key = ?1", [key])?;
    Ok(deleted == 1)
}

/// An entity in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ListedEntity {
    pub(crate) key: String,
    /// Messages that it has handled.
    pub(crate) version: i64,
    /// Time of the last message, in milliseconds since 1970-01-01 UTC.
    pub(crate) at_ms: i64,
    /// Size of the state as JSON.
    pub(crate) bytes: i64,
    /// Reminders that have not been handled.
    pub(crate) reminders: i64,
}

/// Returns up to `at_most` entities whose keys come after `after`, by key.
pub(crate) fn list(
    connection: &Connection,
    after: &str,
    at_most: u32,
) -> Result<Vec<ListedEntity>, SqliteError> {
    let mut select = connection.prepare(
        "SELECT key, version, at_ms, length(CAST(state AS BLOB)),
                (SELECT count(*) FROM brickwork_reminder r WHERE r.key = e.key)
         FROM brickwork_entity e WHERE key > ?1 ORDER BY key LIMIT ?2",
    )?;
    let rows = select.query_map((after, at_most), |row| {
        Ok(ListedEntity {
            key: row.get(0)?,
            version: row.get(1)?,
            at_ms: row.get(2)?,
            bytes: row.get(3)?,
            reminders: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns the number of entities.
pub(crate) fn count(connection: &Connection) -> Result<i64, SqliteError> {
    Ok(
        connection.query_row("SELECT count(*) FROM brickwork_entity", [], |row| {
            row.get(0)
        })?,
    )
}

/// A message that an entity sends to itself.
#[derive(Debug)]
pub(crate) struct Reminder {
    pub(crate) input: String,
    pub(crate) message: Message,
    pub(crate) due_ms: u64,
}

/// Writes a reminder, and returns its row in the outbox.
pub(crate) fn remind(
    connection: &Connection,
    key: &str,
    reminder: &Reminder,
) -> Result<Row, SqliteError> {
    let Reminder {
        input,
        message,
        due_ms,
    } = reminder;
    let row = Row::insert(
        connection,
        &format!("{TO_INPUT}{input}"),
        message,
        Some(*due_ms),
    )?;
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO brickwork_reminder (id, key, input, due_ms, outbox, head, payload)
         SELECT ?1, ?2, ?3, ?4, n, head, payload FROM brickwork_outbox WHERE n = ?5",
    )?;
    let id = message.id.to_string();
    insert.execute((id, key, input, *due_ms as i64, row.n))?;
    Ok(row)
}

/// Returns whether a reminder is neither handled nor cancelled.
pub(crate) fn has_reminder(
    connection: &Connection,
    key: &str,
    id: &str,
) -> Result<bool, SqliteError> {
    let mut select =
        connection.prepare_cached("SELECT 1 FROM brickwork_reminder WHERE id = ?1 AND key = ?2")?;
    Ok(select.exists((id, key))?)
}

/// Removes a reminder: its message has no effect any more.
pub(crate) fn remove_reminder(
    connection: &Connection,
    key: &str,
    id: &str,
) -> Result<(), SqliteError> {
    let mut delete =
        connection.prepare_cached("DELETE FROM brickwork_reminder WHERE id = ?1 AND key = ?2")?;
    delete.execute((id, key))?;
    Ok(())
}

/// The database job that puts reminders into the outbox again that are not there: those whose
/// messages went with an earlier process.
pub(super) struct RestoreReminders {
    outbox: Arc<Outbox>,
    name: Box<str>,
    rows: Vec<Row>,
    waiter: oneshot::Sender<Result<(), SqliteError>>,
}

impl RestoreReminders {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        name: &str,
    ) -> (Box<Self>, oneshot::Receiver<Result<(), SqliteError>>) {
        let (waiter, receiver) = oneshot::channel();
        let job = Self {
            outbox,
            name: name.into(),
            rows: Vec::new(),
            waiter,
        };
        (Box::new(job), receiver)
    }
}

impl Job for RestoreReminders {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        let mut select = tx.prepare(
            "SELECT id, input, due_ms, head, payload FROM brickwork_reminder r
             WHERE NOT EXISTS (SELECT 1 FROM brickwork_outbox o WHERE o.n = r.outbox)
             ORDER BY due_ms, id",
        )?;
        let mut found = select.query([])?;
        while let Some(row) = found.next()? {
            let (id, input, due): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (head, payload): (String, Vec<u8>) = (row.get(3)?, row.get(4)?);
            let message = message_of(&head, payload, &id)?;
            let output = format!("{TO_INPUT}{input}");
            let inserted = Row::insert(tx, &output, &message, Some(due as u64))?;
            self.rows.push(inserted);
        }
        drop(found);
        for row in &self.rows {
            tx.execute(
                "UPDATE brickwork_reminder SET outbox = ?2 WHERE id = ?1",
                (&row.message.id.to_string(), row.n),
            )?;
        }
        Ok(())
    }

    fn done(mut self: Box<Self>, outcome: Result<(), SqliteError>) {
        if outcome.is_ok() {
            self.outbox.add_committed(std::mem::take(&mut self.rows));
        }
        // The relay may have ended.
        let _gone = self.waiter.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Stores;

    #[tokio::test]
    async fn a_writer_that_was_overtaken_saves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new("shop".into(), folder.path());
        let opened = stores.open("carts", ENTITY_TABLES).await.unwrap();
        let database = &opened.database;
        let save = async |version, state: &'static str| {
            let save = move |tx: &Transaction<'_>| save(tx, "c-1", version, state, 7);
            database.write("carts", save).await.unwrap()
        };
        assert!(save(0, "1").await);
        assert!(!save(0, "other").await, "it is not new");
        assert!(save(1, "2").await);
        assert!(!save(1, "late").await, "another handler was faster");
        let saved = || database.read("carts", |connection| load(connection, "c-1"));
        let expected = SavedState {
            version: 2,
            state: "2".into(),
        };
        assert_eq!(saved().await.unwrap(), Some(expected));
        assert!(opened.evict_entity("carts", "c-1").await.unwrap());
        assert!(!opened.evict_entity("carts", "c-1").await.unwrap());
        assert!(!save(2, "3").await, "it was evicted");
        assert_eq!(saved().await.unwrap(), None);
    }

    #[tokio::test]
    async fn entities_are_listed_in_pages() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new("shop".into(), folder.path());
        let opened = stores.open("carts", ENTITY_TABLES).await.unwrap();
        let fill = |tx: &Transaction<'_>| {
            for number in 0..5 {
                save(tx, &format!("c-{number}"), 0, "{}", number)?;
            }
            Ok::<_, SqliteError>(())
        };
        opened.database.write("carts", fill).await.unwrap();
        let page = async |after: &'static str, at_most| {
            let page = move |connection: &Connection| list(connection, after, at_most);
            let page = opened.database.read("carts", page).await.unwrap();
            page.into_iter().map(|it| it.key).collect::<Vec<_>>()
        };
        assert_eq!(page("", 2).await, ["c-0", "c-1"]);
        assert_eq!(page("c-1", 2).await, ["c-2", "c-3"]);
        assert_eq!(page("c-3", 2).await, ["c-4"]);
    }
}
