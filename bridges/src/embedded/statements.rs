//! SQL statements on messages, and decoding of rows.
//!
//! A row that differs from the one that was written stays in the file and is not served; the
//! rows beside it are. If SQLite finds a damaged page, the statement fails: `recovery` reads
//! around it.

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::{Connection, Error, ErrorCode, Row};
use brickwork::supervision::quarantine::CrashRecord;
use brickwork::transport::engine::{Entry, LoadRequest, Loaded, WINDOW_BYTES};
use brickwork::{Clock, Message};
use bytes::Bytes;
use tracing::warn;

use super::delays::CLOCK_STEP_MS;
use super::record::{self, EncodedRecord};
use super::schema::Id;

const INSERT: &str = "INSERT INTO message VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const DELETE: &str = "DELETE FROM message WHERE id BETWEEN ?1 AND ?2";

/// A row that cannot be served.
#[derive(Debug)]
pub(super) struct Corruption {
    /// Table and id.
    pub(super) place: String,
    pub(super) why: String,
}

impl Corruption {
    pub(super) fn new(table: &str, row: i64, why: impl Into<String>) -> Self {
        Self {
            place: format!("{table} {row}"),
            why: why.into(),
        }
    }
}

/// Whether a damaged file or disk causes an error. A bad sector does when it is read.
pub(super) fn is_damage(error: &SqliteError) -> bool {
    let code = match error {
        SqliteError::Sql { code, .. } => *code,
        SqliteError::Unusable { .. } => return true,
        other => return other.is_damage(),
    };
    matches!(
        code,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
    )
}

/// Index entry of a delayed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DueRow {
    pub(super) row: i64,
    pub(super) queue: u32,
    /// Whether the message waits for another attempt.
    pub(super) retry: bool,
}

/// A delayed message.
pub(super) struct DelayedMessage {
    pub(super) queue: u32,
    pub(super) retry: bool,
    pub(super) attempt: u32,
    /// Crashes of the process with this message in flight.
    pub(super) deaths: u32,
    pub(super) message: Message,
    pub(super) record: EncodedRecord,
}

/// A suspect as the file has it.
#[derive(Debug)]
pub(super) struct StoredSuspect {
    pub(super) message: Message,
    pub(super) record: CrashRecord,
}

/// Statements on one connection.
pub(super) struct Statements<'a>(pub(super) &'a Connection);

impl Statements<'_> {
    pub(super) fn insert(
        &self,
        id: Id,
        attempt: u32,
        deaths: u32,
        message: &Message,
        record: &EncodedRecord,
    ) -> Result<(), SqliteError> {
        let mut insert = self.0.prepare_cached(INSERT)?;
        let row = (
            id.row(),
            attempt,
            deaths,
            &*record.head,
            &*message.payload,
            record.sum,
        );
        insert.execute(row)?;
        Ok(())
    }

    /// Deletes the messages from one id to another, and returns their number.
    pub(super) fn delete(&self, first: Id, last: Id) -> Result<u64, SqliteError> {
        let mut delete = self.0.prepare_cached(DELETE)?;
        Ok(delete.execute((first.row(), last.row()))? as u64)
    }

    pub(super) fn delete_suspect(&self, id: Id) -> Result<u64, SqliteError> {
        let mut delete = self.0.prepare_cached("DELETE FROM suspect WHERE id = ?1")?;
        Ok(delete.execute([id.row()])? as u64)
    }

    pub(super) fn set_attempt(
        &self,
        id: Id,
        suspect: bool,
        attempt: u32,
    ) -> Result<(), SqliteError> {
        let mut update = self.0.prepare_cached(match suspect {
            false => "UPDATE message SET attempt = ?2 WHERE id = ?1",
            true => "UPDATE suspect SET attempt = ?2 WHERE id = ?1",
        })?;
        update.execute((id.row(), attempt))?;
        Ok(())
    }

    /// Inserts a message that was published for later.
    pub(super) fn schedule(
        &self,
        queue: u32,
        due_ms: u64,
        message: &Message,
        record: &EncodedRecord,
    ) -> Result<(), SqliteError> {
        let mut insert = self.0.prepare_cached(
            "INSERT INTO delayed (due_ms, queue, retry, attempt, held, head, payload, sum)
             VALUES (?1, ?2, 0, 1, 0, ?3, ?4, ?5)",
        )?;
        let row = (
            due_ms as i64,
            queue,
            &*record.head,
            &*message.payload,
            record.sum,
        );
        insert.execute(row)?;
        Ok(())
    }

    /// Copies a message to the delayed ones, for another attempt. Returns whether it exists.
    pub(super) fn delay(
        &self,
        id: Id,
        suspect: bool,
        due_ms: u64,
        attempt: u32,
    ) -> Result<bool, SqliteError> {
        let mut insert = self.0.prepare_cached(match suspect {
            false => {
                "INSERT INTO delayed (due_ms, queue, retry, attempt, held, head, payload, sum)
                 SELECT ?2, ?3, 1, ?4, held, head, payload, sum FROM message WHERE id = ?1"
            }
            true => {
                "INSERT INTO delayed (due_ms, queue, retry, attempt, held, head, payload, sum)
                 SELECT ?2, ?3, 1, ?4, held, head, payload, sum FROM suspect WHERE id = ?1"
            }
        })?;
        let copied = insert.execute((id.row(), due_ms as i64, id.queue(), attempt))?;
        Ok(copied > 0)
    }

    /// Reads the messages of a queue after `request.after` and before sequence number
    /// `before`, up to the bounds of a window. Adds unreadable rows to `damage`.
    pub(super) fn load(
        &self,
        queue: u32,
        request: LoadRequest,
        before: u64,
        damage: &mut Vec<Corruption>,
    ) -> Result<Loaded, SqliteError> {
        let LoadRequest { after, max } = request;
        let mut loaded = Loaded {
            last: after,
            ..Loaded::default()
        };
        let damaged_before = damage.len();
        let mut select = self.0.prepare_cached(
            "SELECT head, payload, sum, id, attempt FROM message
             WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        )?;
        let (first, end) = (Id::new(queue, after), Id::new(queue, before));
        let mut rows = select.query((first.row(), end.row(), max as i64 + 1))?;
        let (mut count, mut bytes, mut more) = (0, 0, false);
        while let Some(row) = rows.next()? {
            if count == max || bytes >= WINDOW_BYTES {
                more = true;
                break;
            }
            count += 1;
            let id = Id::from_row(row.get(3)?);
            loaded.last = id.sequence();
            match entry(row, id) {
                Ok(entry) => {
                    bytes += entry.message.size();
                    loaded.entries.push(entry);
                }
                Err(why) => damage.push(Corruption::new("message", id.row(), why)),
            }
        }
        loaded.damaged = (damage.len() - damaged_before) as u64;
        if !more {
            (loaded.end, loaded.last) = (true, before - 1);
        }
        Ok(loaded)
    }

    /// Reads one message by its id.
    pub(super) fn message(&self, id: Id) -> Result<Option<Result<Entry, Corruption>>, SqliteError> {
        let mut select = self
            .0
            .prepare_cached("SELECT head, payload, sum, id, attempt FROM message WHERE id = ?1")?;
        let mut rows = select.query([id.row()])?;
        let row = rows.next()?;
        Ok(row.map(|row| entry(row, id).map_err(|why| Corruption::new("message", id.row(), why))))
    }

    /// Reads a suspect by its id.
    pub(super) fn suspect(
        &self,
        id: Id,
    ) -> Result<Option<Result<StoredSuspect, Corruption>>, SqliteError> {
        let mut select = self.0.prepare_cached(
            "SELECT head, payload, sum, attempt, held, crashes FROM suspect WHERE id = ?1",
        )?;
        let read = |row: &Row<'_>| -> Result<StoredSuspect, String> {
            Ok(StoredSuspect {
                message: message(row)?,
                record: CrashRecord {
                    attempt: row.get(3).map_err(to_text)?,
                    deaths: row.get(4).map_err(to_text)?,
                    crashes: row.get(5).map_err(to_text)?,
                },
            })
        };
        let mut rows = select.query([id.row()])?;
        let row = rows.next()?;
        Ok(row.map(|row| read(row).map_err(|why| Corruption::new("suspect", id.row(), why))))
    }

    /// Follows the clock. Due times are times of day: if the clock was set back since the last one
    /// was written, all are moved by as much, so that no message waits longer than it was asked
    /// to.
    pub(super) fn follow_clock(&self, now_ms: u64) -> Result<(), SqliteError> {
        let mut select = self.0.prepare_cached("SELECT clock_ms FROM app")?;
        let clock_ms: i64 = select.query_row([], |row| row.get(0))?;
        let passed_ms = now_ms as i64 - clock_ms;
        if passed_ms.unsigned_abs() < CLOCK_STEP_MS {
            return Ok(());
        }
        if passed_ms < 0 {
            let mut shift = self
                .0
                .prepare_cached("UPDATE delayed SET due_ms = due_ms + ?1")?;
            let seconds = passed_ms.unsigned_abs() / 1000;
            match shift.execute([passed_ms]) {
                Ok(messages) => {
                    warn!(
                        seconds,
                        messages, "the clock was set back, delayed messages follow it"
                    );
                }
                // A damaged page must not keep the other messages back.
                Err(error) => {
                    warn!(seconds, %error, "the clock was set back, delayed messages can't follow it");
                }
            }
        }
        let mut update = self.0.prepare_cached("UPDATE app SET clock_ms = ?1")?;
        update.execute([now_ms as i64])?;
        Ok(())
    }

    /// Returns the rows that are due, by their times. Reads the index alone.
    pub(super) fn due_rows(&self, now_ms: u64, max: usize) -> Result<Vec<DueRow>, SqliteError> {
        let mut select = self.0.prepare_cached(
            "SELECT id, queue, retry FROM delayed WHERE due_ms <= ?1
             ORDER BY due_ms, queue, retry, id LIMIT ?2",
        )?;
        let rows = select.query_map((now_ms as i64, max as i64), |row| {
            Ok(DueRow {
                row: row.get(0)?,
                queue: row.get(1)?,
                retry: row.get(2)?,
            })
        })?;
        Ok(rows.collect::<Result<_, Error>>()?)
    }

    /// Reads a delayed message by its row.
    pub(super) fn delayed(
        &self,
        row: i64,
    ) -> Result<Option<Result<DelayedMessage, Corruption>>, SqliteError> {
        let mut select = self.0.prepare_cached(
            "SELECT head, payload, sum, queue, retry, attempt, held FROM delayed WHERE id = ?1",
        )?;
        let read = |it: &Row<'_>| -> Result<DelayedMessage, String> {
            let message = message(it)?;
            let head = String::from_utf8_lossy(bytes(it, 0)?).into_owned();
            let sum: i64 = it.get(2).map_err(to_text)?;
            Ok(DelayedMessage {
                queue: it.get(3).map_err(to_text)?,
                retry: it.get(4).map_err(to_text)?,
                attempt: it.get(5).map_err(to_text)?,
                deaths: it.get(6).map_err(to_text)?,
                message,
                record: EncodedRecord {
                    head,
                    sum: sum as u32,
                },
            })
        };
        let mut rows = select.query([row])?;
        let found = rows.next()?;
        Ok(found.map(|it| read(it).map_err(|why| Corruption::new("delayed", row, why))))
    }

    pub(super) fn delete_delayed(&self, row: i64) -> Result<(), SqliteError> {
        let mut delete = self.0.prepare_cached("DELETE FROM delayed WHERE id = ?1")?;
        delete.execute([row])?;
        Ok(())
    }

    /// Returns the earliest due time after `after_ms`.
    pub(super) fn next_due_ms(&self, after_ms: u64) -> Result<Option<u64>, SqliteError> {
        let mut select = self
            .0
            .prepare_cached("SELECT min(due_ms) FROM delayed WHERE due_ms > ?1")?;
        let next: Option<i64> = select.query_row([after_ms as i64], |row| row.get(0))?;
        Ok(next.map(|next| next as u64))
    }

    /// Records an unreadable row in the table `damaged`, where `check` finds it.
    pub(super) fn record_corruption(&self, damage: &Corruption) -> Result<(), SqliteError> {
        let mut insert = self
            .0
            .prepare_cached("INSERT OR IGNORE INTO damaged VALUES (?1, ?2, ?3)")?;
        let now = Clock::SYSTEM.unix_ms() as i64;
        insert.execute((&*damage.place, &*damage.why, now))?;
        Ok(())
    }
}

fn to_text(error: Error) -> String {
    error.to_string()
}

/// Decodes the first three columns: head, payload, checksum.
fn message(row: &Row<'_>) -> Result<Message, String> {
    let payload = Bytes::copy_from_slice(bytes(row, 1)?);
    record::decode(bytes(row, 0)?, payload, row.get(2).map_err(to_text)?)
}

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], String> {
    let value = row.get_ref(column).map_err(to_text)?;
    value.as_bytes().map_err(|error| error.to_string())
}

fn entry(row: &Row<'_>, id: Id) -> Result<Entry, String> {
    Ok(Entry {
        sequence: id.sequence(),
        message: message(row)?,
        attempt: row.get(4).map_err(to_text)?,
    })
}
