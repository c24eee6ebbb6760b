//! Reading and writing rows.
//!
//! Owns the statements on messages, and the rule that a row which isn't what was written is
//! left where it is and not served: what is readable beside it is. Where SQLite's own pages
//! are damaged its errors are passed on: see `salvage`.

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::{Connection, ErrorCode, Row as SqliteRow};
use brickwork::supervision::quarantine::CrashRecord;
use brickwork::{Clock, Message};
use bytes::Bytes;

use super::queue::{Entry, Loaded, WINDOW_BYTES};
use super::record;
use super::record::EncodedRecord;
use super::schema::Id;
use super::suspects::Suspect;

type Sqlite<T> = Result<T, brickwork::sqlite::rusqlite::Error>;

const INSERT: &str = "INSERT INTO message VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const DELETE: &str = "DELETE FROM message WHERE id BETWEEN ?1 AND ?2";

/// A row that can't be served.
#[derive(Debug)]
pub(super) struct Corruption {
    /// Its table and id.
    pub(super) place: String,
    pub(super) why: String,
}

/// Whether it is the file that is to blame.
pub(super) fn is_damage(error: &SqliteError) -> bool {
    let code = match error {
        SqliteError::Sql { code, .. } => *code,
        // A bad sector is one to read, too.
        SqliteError::Unusable { .. } => return true,
        other => return other.is_damage(),
    };
    matches!(
        code,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
    )
}

/// Where one that is due is, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DueRow {
    pub(super) row: i64,
    pub(super) queue: u32,
    /// It waited for another attempt.
    pub(super) retry: bool,
}

/// A message that waits for its time no longer.
pub(super) struct Due {
    pub(super) row: i64,
    pub(super) queue: u32,
    pub(super) retry: bool,
    pub(super) attempt: u32,
    pub(super) held: u32,
    pub(super) message: Message,
    pub(super) written: EncodedRecord,
}

/// Statements of one commit.
pub(super) struct Statements<'a>(pub(super) &'a Connection);

impl Statements<'_> {
    pub(super) fn insert(
        &self,
        id: Id,
        attempt: u32,
        held: u32,
        message: &Message,
        written: &EncodedRecord,
    ) -> Result<(), SqliteError> {
        let mut insert = self.0.prepare_cached(INSERT)?;
        let row = (
            id.row(),
            attempt,
            held,
            &*written.head,
            &*message.payload,
            written.sum,
        );
        insert.execute(row)?;
        Ok(())
    }

    /// Deletes what lies from one id to another. How many there were.
    pub(super) fn delete(&self, first: Id, last: Id) -> Result<u64, SqliteError> {
        let mut delete = self.0.prepare_cached(DELETE)?;
        Ok(delete.execute((first.row(), last.row()))? as u64)
    }

    pub(super) fn delete_suspect(&self, id: Id) -> Result<u64, SqliteError> {
        let mut delete = self.0.prepare_cached("DELETE FROM suspect WHERE id = ?1")?;
        Ok(delete.execute([id.row()])? as u64)
    }

    pub(super) fn set_attempt(&self, id: Id, attempt: u32) -> Result<(), SqliteError> {
        let mut update = self
            .0
            .prepare_cached("UPDATE message SET attempt = ?2 WHERE id = ?1")?;
        update.execute((id.row(), attempt))?;
        Ok(())
    }

    /// Keeps a message that was published for later.
    pub(super) fn schedule(
        &self,
        queue: u32,
        due_ms: u64,
        message: &Message,
        written: &EncodedRecord,
    ) -> Result<(), SqliteError> {
        let mut insert = self.0.prepare_cached(
            "INSERT INTO delayed (due_ms, queue, retry, attempt, held, head, payload, sum)
             VALUES (?1, ?2, 0, 1, 0, ?3, ?4, ?5)",
        )?;
        let row = (
            due_ms as i64,
            queue,
            &*written.head,
            &*message.payload,
            written.sum,
        );
        insert.execute(row)?;
        Ok(())
    }

    /// Moves a message to those that wait for another attempt. Whether it was there.
    pub(super) fn wait(
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
        let moved = insert.execute((id.row(), due_ms as i64, id.queue(), attempt))?;
        Ok(moved > 0)
    }

    /// Reads the front of what lies in a queue between two places, both excluded.
    pub(super) fn load(
        &self,
        queue: u32,
        after: u64,
        before: u64,
        max: usize,
        damage: &mut Vec<Corruption>,
    ) -> Result<Loaded, SqliteError> {
        let mut loaded = Loaded {
            last: after,
            ..Loaded::default()
        };
        let before_damage = damage.len();
        let mut select = self.0.prepare_cached(
            "SELECT head, payload, sum, id, attempt FROM message
             WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        )?;
        let (first, end) = (Id::new(queue, loaded.last), Id::new(queue, before));
        let mut rows = select.query((first.row(), end.row(), max as i64 + 1))?;
        let (mut count, mut bytes, mut more) = (0, 0, false);
        while let Some(row) = rows.next()? {
            if count == max || bytes >= WINDOW_BYTES {
                more = true;
                break;
            }
            count += 1;
            let id = Id::of_row(row.get(3)?);
            loaded.last = id.place();
            match entry(row, id) {
                Ok(entry) => {
                    bytes += entry.message.size();
                    loaded.entries.push(entry);
                }
                Err(why) => damage.push(of_message(id, why)),
            }
        }
        loaded.damaged = (damage.len() - before_damage) as u64;
        if !more {
            (loaded.end, loaded.last) = (true, before - 1);
        }
        Ok(loaded)
    }

    /// Reads a suspect; `None` if it isn't there.
    pub(super) fn suspect(
        &self,
        id: Id,
    ) -> Result<Option<Result<Suspect, Corruption>>, SqliteError> {
        let mut select = self.0.prepare_cached(
            "SELECT head, payload, sum, attempt, held, crashes FROM suspect WHERE id = ?1",
        )?;
        let read = |row: &SqliteRow<'_>| -> Result<Suspect, String> {
            Ok(Suspect {
                message: message(row)?,
                record: CrashRecord {
                    attempt: row.get(3).map_err(in_words)?,
                    deaths: row.get(4).map_err(in_words)?,
                    crashes: row.get(5).map_err(in_words)?,
                },
            })
        };
        let mut rows = select.query([id.row()])?;
        Ok(rows.next()?.map(|row| {
            read(row).map_err(|why| Corruption {
                place: format!("suspect {}", id.row()),
                why,
            })
        }))
    }

    /// The rows that are due, by their time. Reads the index alone.
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
        Ok(rows.collect::<Sqlite<_>>()?)
    }

    /// Reads one that is due; `None` if it isn't there.
    pub(super) fn due(&self, row: i64) -> Result<Option<Result<Due, Corruption>>, SqliteError> {
        let mut select = self.0.prepare_cached(
            "SELECT head, payload, sum, queue, retry, attempt, held FROM delayed WHERE id = ?1",
        )?;
        let read = |it: &SqliteRow<'_>| -> Result<Due, String> {
            let message = message(it)?;
            let head = String::from_utf8_lossy(bytes(it, 0)?).into_owned();
            let sum: i64 = it.get(2).map_err(in_words)?;
            Ok(Due {
                row,
                queue: it.get(3).map_err(in_words)?,
                retry: it.get(4).map_err(in_words)?,
                attempt: it.get(5).map_err(in_words)?,
                held: it.get(6).map_err(in_words)?,
                message,
                written: EncodedRecord {
                    head,
                    sum: sum as u32,
                },
            })
        };
        let mut rows = select.query([row])?;
        Ok(rows
            .next()?
            .map(|it| read(it).map_err(|why| of_delayed(row, why))))
    }

    pub(super) fn delete_due(&self, row: i64) -> Result<(), SqliteError> {
        let mut delete = self.0.prepare_cached("DELETE FROM delayed WHERE id = ?1")?;
        delete.execute([row])?;
        Ok(())
    }

    /// When the next one is due, of those after a time.
    pub(super) fn next_due_ms(&self, after_ms: u64) -> Result<Option<u64>, SqliteError> {
        let mut select = self
            .0
            .prepare_cached("SELECT min(due_ms) FROM delayed WHERE due_ms > ?1")?;
        let next: Option<i64> = select.query_row([after_ms as i64], |row| row.get(0))?;
        Ok(next.map(|next| next as u64))
    }

    /// Notes what can't be served, for whoever looks.
    pub(super) fn note(&self, damage: &Corruption) -> Result<(), SqliteError> {
        let mut insert = self
            .0
            .prepare_cached("INSERT OR IGNORE INTO damaged VALUES (?1, ?2, ?3)")?;
        let now = Clock::SYSTEM.unix_ms() as i64;
        insert.execute((&*damage.place, &*damage.why, now))?;
        Ok(())
    }
}

fn in_words(error: brickwork::sqlite::rusqlite::Error) -> String {
    error.to_string()
}

pub(super) fn of_delayed(row: i64, why: String) -> Corruption {
    Corruption {
        place: format!("delayed {row}"),
        why,
    }
}

pub(super) fn of_message(id: Id, why: String) -> Corruption {
    Corruption {
        place: format!("message {}", id.row()),
        why,
    }
}

/// The message in the first three columns: head, payload, sum.
fn message(row: &SqliteRow<'_>) -> Result<Message, String> {
    let payload = Bytes::copy_from_slice(bytes(row, 1)?);
    record::read(bytes(row, 0)?, payload, row.get(2).map_err(in_words)?)
}

fn bytes<'a>(row: &'a SqliteRow<'_>, column: usize) -> Result<&'a [u8], String> {
    let value = row.get_ref(column).map_err(in_words)?;
    value.as_bytes().map_err(|error| error.to_string())
}

pub(super) fn entry(row: &SqliteRow<'_>, id: Id) -> Result<Entry, String> {
    Ok(Entry {
        place: id.place(),
        message: message(row)?,
        attempt: row.get(4).map_err(in_words)?,
    })
}
