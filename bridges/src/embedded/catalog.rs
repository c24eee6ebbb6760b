//! Queues and their owner, as the file has them.

use std::collections::HashMap;

use brickwork::QueueId;
use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::Connection;
use brickwork::transport::{Topology, TransportError};

/// All queues in the file.
#[derive(Debug, Default)]
pub(super) struct QueueIndex {
    pub(super) numbers: HashMap<QueueId, u32>,
    pub(super) stats: HashMap<u32, QueueStats>,
}

/// Counts of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueStats {
    /// Sequence number of the next message.
    pub(super) next_sequence: u64,
    /// Messages in the queue, in flight or not, without suspects.
    pub(super) messages: u64,
    /// Delayed messages.
    pub(super) delayed: u64,
    /// Delayed messages that wait for another attempt.
    pub(super) retrying: u64,
}

impl Default for QueueStats {
    fn default() -> Self {
        Self {
            next_sequence: 1,
            messages: 0,
            delayed: 0,
            retrying: 0,
        }
    }
}

impl QueueIndex {
    /// Reads the index.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn load(connection: &Connection) -> Result<Self, SqliteError> {
        let mut index = Self::default();
        let mut select = connection.prepare(
            "SELECT number, service, input, next_place, messages, delayed, retrying FROM queue",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let number = row.get(0)?;
            let (service, input): (String, String) = (row.get(1)?, row.get(2)?);
            let stats = QueueStats {
                next_sequence: row.get::<_, i64>(3)? as u64,
                messages: row.get::<_, i64>(4)? as u64,
                delayed: row.get::<_, i64>(5)? as u64,
                retrying: row.get::<_, i64>(6)? as u64,
            };
            index.numbers.insert(QueueId::new(&service, &input), number);
            index.stats.insert(number, stats);
        }
        Ok(index)
    }

    /// Returns the counts of a queue; a new one has none yet.
    pub(super) fn stats(&self, number: u32) -> QueueStats {
        self.stats.get(&number).copied().unwrap_or_default()
    }
}

impl QueueStats {
    /// Writes the counts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn store(&self, connection: &Connection, number: u32) -> Result<(), SqliteError> {
        let mut update = connection.prepare_cached(
            "UPDATE queue SET next_place = ?2, messages = ?3, delayed = ?4, retrying = ?5
             WHERE number = ?1",
        )?;
        update.execute((
            number,
            self.next_sequence as i64,
            self.messages as i64,
            self.delayed as i64,
            self.retrying as i64,
        ))?;
        Ok(())
    }
}

/// Returns the queues of a topology; some may occur twice.
pub(super) fn required_queues(topology: &Topology) -> impl Iterator<Item = QueueId> {
    let dead_letters = topology.services().map(QueueId::dead_letters);
    let inputs = topology.queues.iter().map(|spec| spec.id.clone());
    dead_letters.chain(inputs)
}

type Made = Result<Vec<(QueueId, u32)>, TransportError>;

/// Makes the missing queues of a topology if `make` is set, and returns them.
///
/// # Errors
/// The file cannot be written. The inner error says that the file belongs to another app.
pub(super) fn declare(
    connection: &Connection,
    index: &QueueIndex,
    topology: &Topology,
    make: bool,
) -> Result<Made, SqliteError> {
    let app = &*topology.app;
    match owner(connection)? {
        Some(owner) if owner != app => {
            return Ok(Err(TransportError::Declare {
                what: format!("the queues of {app}"),
                why: format!(
                    "the folder has the queues of {owner}: {}",
                    remedy(&owner, app)
                ),
            }));
        }
        None if make => {
            connection.execute("UPDATE app SET name = ?1", [app])?;
        }
        _ => {}
    }
    let mut made = Vec::new();
    if !make {
        return Ok(Ok(made));
    }
    for id in required_queues(topology) {
        if index.numbers.contains_key(&id) || made.iter().any(|(other, _)| *other == id) {
            continue;
        }
        let number = connection.query_row(
            "INSERT INTO queue (service, input) VALUES (?1, ?2) RETURNING number",
            [&id.service, &id.input],
            |row| row.get(0),
        )?;
        made.push((id, number));
    }
    Ok(Ok(made))
}

/// Returns the help for an app that finds the queues of another one.
pub(super) fn remedy(owner: &str, app: &str) -> String {
    format!(
        "give each app a folder of its own; if this app was called {owner} before, write its new \
         name there: sqlite3 queues.sqlite \"UPDATE app SET name = '{app}'\""
    )
}

/// Returns the app whose queues are in a file, once one has declared some.
pub(super) fn owner(connection: &Connection) -> Result<Option<String>, SqliteError> {
    Ok(connection.query_row("SELECT name FROM app", [], |row| row.get(0))?)
}
