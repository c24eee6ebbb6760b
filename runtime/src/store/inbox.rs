//! The inbox: which messages are done, with the replies that were given.

use rusqlite::{Connection, OptionalExtension};

use crate::message::Message;
use crate::sqlite::SqliteError;

/// What the inbox says of a message.
pub(crate) enum Entry {
    /// It wasn't done; now it is entered.
    New,
    /// It was done before, and answered so.
    Done(Option<Vec<u8>>),
}

/// Enters a message, unless it is there.
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
    let mut reply = connection
        .prepare_cached("SELECT reply FROM brickwork_inbox WHERE id = ?1 AND input = ?2")?;
    let reply = reply.query_row((&id, input), |row| row.get(0)).optional()?;
    Ok(Entry::Done(reply.flatten()))
}

/// Keeps the reply to a message that was entered.
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

/// When the newest entry was made; `None` if there is none.
pub(super) fn last_entry_ms(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let mut last =
        connection.prepare("SELECT at_ms FROM brickwork_inbox ORDER BY n DESC LIMIT 1")?;
    let last: Option<i64> = last.query_row([], |row| row.get(0)).optional()?;
    Ok(last.and_then(|ms| u64::try_from(ms).ok()))
}

/// So many entries of a clock that was ahead are mended in one go.
const AHEAD_MAX: u32 = 100_000;

/// Forgets some of those that were entered before a time; says how many.
///
/// They are in order, but for those of a clock that was ahead: these are from now, so that they
/// don't hold up the others until that time has come.
pub(super) fn forget(
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
            (now_ms as i64, AHEAD_MAX),
        )?;
    }
    let mut delete = connection.prepare_cached(
        "DELETE FROM brickwork_inbox WHERE n IN
         (SELECT n FROM brickwork_inbox ORDER BY n LIMIT ?2) AND at_ms < ?1",
    )?;
    Ok(delete.execute((before_ms as i64, at_most))?)
}
