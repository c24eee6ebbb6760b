//! The inbox: the ids of messages that are done, with their replies.

use rusqlite::{Connection, OptionalExtension};

use crate::message::Message;
use crate::sqlite::SqliteError;

/// The inbox entry of a message.
pub(crate) enum Entry {
    /// The message is new, and entered now.
    New,
    /// The message is done, with the stored reply.
    Done(Option<Vec<u8>>),
}

/// Enters a message, unless it is in the inbox.
pub(crate) fn enter(
    connection: &Connection,
    message: &Message,
    input: &str,
    now_ms: u64,
) -> Result<Entry, SqliteError> {
    let id = message.id.to_string();
    let mut insert = connection.prepare_cached(
        "INSERT INTO brickwork_inbox (id, input, at_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT DO NOTHING",
    )?;
    if insert.execute((&id, input, now_ms as i64))? == 1 {
        return Ok(Entry::New);
    }
    find(connection, &id, input)
}

/// Looks a message up by its id, and changes nothing.
pub(crate) fn find(connection: &Connection, id: &str, input: &str) -> Result<Entry, SqliteError> {
    let mut reply = connection
        .prepare_cached("SELECT reply FROM brickwork_inbox WHERE id = ?1 AND input = ?2")?;
    let reply = reply.query_row((id, input), |row| row.get(0)).optional()?;
    Ok(reply.map_or(Entry::New, Entry::Done))
}

/// Stores the reply to an entered message.
pub(crate) fn store_reply(
    connection: &Connection,
    message: &Message,
    input: &str,
    reply: &[u8],
) -> Result<(), SqliteError> {
    let mut update = connection
        .prepare_cached("UPDATE brickwork_inbox SET reply = ?3 WHERE id = ?1 AND input = ?2")?;
    update.execute((&message.id.to_string(), input, reply))?;
    Ok(())
}

/// Returns the time of the newest entry.
pub(super) fn last_entry_ms(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let mut last =
        connection.prepare("SELECT at_ms FROM brickwork_inbox ORDER BY n DESC LIMIT 1")?;
    let last: Option<i64> = last.query_row([], |row| row.get(0)).optional()?;
    Ok(last.and_then(|ms| u64::try_from(ms).ok()))
}

/// Maximum entries with a future time that one call corrects.
const FUTURE_MAX: u32 = 100_000;

/// Deletes up to `at_most` entries older than `before_ms`, and returns their number.
///
/// Entries are deleted in the order of their insertion. An entry with a future time, written
/// while the clock was ahead, would block those behind it; its time is set to `now_ms`.
pub(super) fn delete_old(
    connection: &Connection,
    before_ms: u64,
    now_ms: u64,
    at_most: u32,
) -> Result<usize, SqliteError> {
    let mut newest = connection.prepare_cached(
        "SELECT max(at_ms) FROM (SELECT at_ms FROM brickwork_inbox ORDER BY n LIMIT ?1)",
    )?;
    let newest: Option<i64> = newest.query_row([at_most], |row| row.get(0))?;
    if newest.is_some_and(|newest| newest > now_ms as i64) {
        connection.execute(
            "UPDATE brickwork_inbox SET at_ms = ?1 WHERE n IN
             (SELECT n FROM brickwork_inbox WHERE at_ms > ?1 LIMIT ?2)",
            (now_ms as i64, FUTURE_MAX),
        )?;
    }
    let mut delete = connection.prepare_cached(
        "DELETE FROM brickwork_inbox WHERE n IN
         (SELECT n FROM brickwork_inbox ORDER BY n LIMIT ?2) AND at_ms < ?1",
    )?;
    Ok(delete.execute((before_ms as i64, at_most))?)
}
