//! The inbox: which messages are done, with the replies that were given.

use rusqlite::{Connection, OptionalExtension};

use crate::message::Message;
use crate::sqlite::SqliteError;

/// What the inbox says of a message.
pub(super) enum Entry {
    /// It wasn't done; now it is entered.
    New,
    /// It was done before, and answered so.
    Done(Option<Vec<u8>>),
}

/// Enters a message, unless it is there.
pub(super) fn enter(
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
    let mut reply = connection
        .prepare_cached("SELECT reply FROM brickwork_inbox WHERE id = ?1 AND input = ?2")?;
    let reply = reply.query_row((&id, input), |row| row.get(0)).optional()?;
    Ok(Entry::Done(reply.flatten()))
}

/// Keeps the reply to a message that was entered.
pub(super) fn keep_reply(
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

/// Forgets some of those that were entered before a time; says how many. They are in order.
pub(super) fn forget(
    connection: &Connection,
    before_ms: u64,
    at_most: u32,
) -> Result<usize, SqliteError> {
    let mut delete = connection.prepare_cached(
        "DELETE FROM brickwork_inbox WHERE n IN
         (SELECT n FROM brickwork_inbox ORDER BY n LIMIT ?2) AND at_ms < ?1",
    )?;
    Ok(delete.execute((before_ms as i64, at_most))?)
}
