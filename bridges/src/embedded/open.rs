//! Opening a folder of queues, and recovery after a crash.
//!
//! One process at a time has the folder (`lock`). Before anything is handed out, one
//! transaction counts the messages of the in-flight log and starts a new generation. So each
//! crash counts once, also if the process dies during recovery.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};
use brickwork::sqlite::{Database, SqliteError, Transaction, WriterPool};
use brickwork::supervision::quarantine::{CrashRecord, DeliveryMode};
use brickwork::transport::Backpressure;
use brickwork::transport::engine::{Engine, JournalEvents};
use brickwork::{Lock, MessageId};
use parking_lot::Mutex;

use super::catalog::QueueIndex;
use super::delays::Delays;
use super::disk_space::{RESERVE_BYTES, ReserveFile};
use super::engine_journal::EngineJournal;
use super::exclusive_trial::ExclusiveMode;
use super::health::Health;
use super::in_flight_log::{self, InFlightLog};
use super::journal::Journal;
use super::schema::{self, Id};
use super::state::TransportState;
use super::statements::{Statements, is_damage};
use super::suspects::SuspectQueue;
use super::write_op::CommitGroup;

/// How long to wait for the lock of a process that has just ended.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Returns the path of the database in a folder.
pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join("queues.sqlite")
}

/// Returns the path of the lock file in a folder.
pub(super) fn lock_file(folder: &Path) -> PathBuf {
    folder.join("lock")
}

fn in_use(folder: &Path, owner: &str) -> String {
    format!(
        "{owner} uses the queues in {}: one process at a time can; stop it, or give this app a \
         folder of its own",
        folder.display()
    )
}

/// Reason why a folder cannot be used.
#[derive(Debug)]
pub(super) struct OpenError(pub(super) String);

impl From<SqliteError> for OpenError {
    fn from(error: SqliteError) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Contents of the file when a process starts.
struct Recovered {
    index: QueueIndex,
    suspects: VecDeque<Id>,
    /// Due time of the first delayed message.
    due_ms: Option<u64>,
    generation: i64,
}

/// Locks a folder, and opens the queues in it.
///
/// # Errors
/// Another process uses the folder, or it cannot be used.
pub(super) async fn open(
    folder: PathBuf,
    pressure: Arc<Backpressure>,
) -> Result<(Arc<TransportState>, SuspectQueue), OpenError> {
    let lock = lock(&folder).await?;
    let writers = WriterPool::new(1);
    let (path, reserve) = (file(&folder), ReserveFile::new(&folder));
    let (database, reserve) = open_file(path, reserve, writers).await?;
    let found = match recover(&database, &folder).await {
        // The disk may be full.
        Err(_) if reserve.is_available() => {
            reserve.release();
            recover(&database, &folder).await?
        }
        recovered => recovered?,
    };
    let log = match InFlightLog::create(&folder, found.generation) {
        Err(_) if reserve.is_available() => {
            reserve.release();
            InFlightLog::create(&folder, found.generation)
        }
        created => created,
    };
    let log = log.map_err(|error| {
        let file = in_flight_log::path(&folder, found.generation);
        OpenError(format!("can't write {}: {error}", file.display()))
    })?;
    in_flight_log::remove_stale(&folder, found.generation);
    let delays = Delays::default();
    if found.due_ms.is_some() {
        // At once: the clock may have been set back while the file was closed.
        delays.add(0);
    }
    let health = Health::new(&pressure);
    let journal = Arc::new(Journal::new(database, found.index, reserve, health, delays));
    let in_flight_log = Arc::new(log);
    let exclusive = Arc::new(ExclusiveMode::new(in_flight_log.clone()));
    let engine_journal = Arc::new(EngineJournal {
        journal: journal.clone(),
        in_flight_log: in_flight_log.clone(),
        exclusive: exclusive.clone(),
    });
    // New for each process: no asker of a former process waits any more.
    let address = format!("embedded-{}", MessageId::new());
    let engine = Arc::new(Engine::new(pressure, address, Some(engine_journal)));
    let events: Weak<Engine> = Arc::downgrade(&engine);
    journal.connect(events as Weak<dyn JournalEvents>);
    let reserving = journal.clone();
    let reserving = tokio::task::spawn_blocking(move || reserving.reserve.make(RESERVE_BYTES));
    if let Ok(Err(error)) = reserving.await {
        // Messages in the queues can be handled all the same.
        journal.start_outage(CommitGroup::default(), &error);
    }
    let state = Arc::new(TransportState {
        engine,
        journal,
        in_flight_log,
        exclusive,
        lock: Mutex::new(Some(lock)),
    });
    let suspects = SuspectQueue::new(state.clone(), found.suspects);
    Ok((state, suspects))
}

/// Opens the database. Releases the reserve if the disk is full.
///
/// # Errors
/// The database cannot be used.
pub(super) async fn open_file(
    path: PathBuf,
    reserve: ReserveFile,
    writers: WriterPool,
) -> Result<(Database, ReserveFile), OpenError> {
    let opening = move || {
        let open = || Database::open(&path, &schema::schema(), schema::options(), &writers);
        let opened = match open() {
            // SQLite calls the file unusable if the index of its log finds no space.
            Err(SqliteError::Full { .. } | SqliteError::Unusable { .. })
                if reserve.is_available() =>
            {
                reserve.release();
                open()
            }
            opened => opened,
        };
        opened.map(|database| (database, reserve))
    };
    let opening = tokio::task::spawn_blocking(opening).await;
    Ok(opening.map_err(|_| OpenError("no thread is available to open the file".into()))??)
}

/// Locks a folder. Makes the folder if it is missing.
///
/// # Errors
/// Another process uses the folder, or it cannot be used.
pub(super) async fn lock(folder: &Path) -> Result<Lock, OpenError> {
    std::fs::create_dir_all(folder).map_err(|error| {
        OpenError(format!(
            "can't make the folder {}: {error}",
            folder.display()
        ))
    })?;
    let path = lock_file(folder);
    Ok(Lock::wait(&path, LOCK_WAIT, |owner| in_use(folder, owner)).await?)
}

/// Counts the crash of the last process, if it crashed, and reads the contents of the file.
async fn recover(database: &Database, folder: &Path) -> Result<Recovered, OpenError> {
    let located = |error: SqliteError| OpenError::from(error.of(database.path()));
    let generation = database
        .read("the generation", generation)
        .await
        .map_err(located)?;
    let mut in_flight = in_flight_log::read(folder, generation)?;
    loop {
        let counted = in_flight.clone();
        let work = move |tx: &Transaction<'_>| start_generation(tx, generation + 1, &counted);
        match database.write("the queues", work).await {
            // Counts the readable messages. A message on a damaged page is not handed out, so
            // its count does not matter.
            Err(error) if is_damage(&error) && !in_flight.is_empty() => {
                for (id, mode) in std::mem::take(&mut in_flight) {
                    let work = move |tx: &Transaction<'_>| count_crash(tx, id, mode);
                    match database.write("the in-flight log", work).await {
                        Err(error) if is_damage(&error) => {}
                        outcome => outcome.map_err(located)?,
                    }
                }
            }
            outcome => return outcome.map_err(located),
        }
    }
}

/// Reads how often the file was opened for writing.
fn generation(connection: &Connection) -> Result<i64, SqliteError> {
    Ok(connection.query_row("SELECT generation FROM app", [], |row| row.get(0))?)
}

fn start_generation(
    connection: &Connection,
    generation: i64,
    in_flight: &[(Id, DeliveryMode)],
) -> Result<Recovered, SqliteError> {
    for (id, mode) in in_flight {
        count_crash(connection, *id, *mode)?;
    }
    connection.execute("UPDATE app SET generation = ?1", [generation])?;
    let mut suspects = connection.prepare("SELECT id FROM suspect ORDER BY id")?;
    let suspects = suspects
        .query_map([], |row| row.get(0).map(Id::from_row))
        .and_then(Iterator::collect)?;
    Ok(Recovered {
        index: QueueIndex::load(connection)?,
        suspects,
        due_ms: Statements(connection).next_due_ms(0)?,
        generation,
    })
}

/// Counts a crash with a message in flight, and moves the message to the suspects if the
/// rules of the quarantine say so.
fn count_crash(connection: &Connection, id: Id, mode: DeliveryMode) -> Result<(), SqliteError> {
    let select = match mode {
        DeliveryMode::Normal => "SELECT attempt, held, 0 FROM message WHERE id = ?1",
        DeliveryMode::Concurrent | DeliveryMode::WithDependents | DeliveryMode::Exclusive => {
            "SELECT attempt, held, crashes FROM suspect WHERE id = ?1"
        }
    };
    let record = connection
        .prepare_cached(select)?
        .query_row([id.row()], |row| {
            Ok(CrashRecord {
                attempt: row.get(0)?,
                deaths: row.get(1)?,
                crashes: row.get(2)?,
            })
        })
        .optional()?;
    let Some(record) = record.map(|record| record.after(mode)) else {
        // The message was acked.
        return Ok(());
    };
    let CrashRecord {
        deaths,
        crashes,
        attempt,
    } = record;
    if mode != DeliveryMode::Normal {
        let mut update = connection.prepare_cached(
            "UPDATE suspect SET held = ?2, crashes = ?3, attempt = ?4 WHERE id = ?1",
        )?;
        update.execute((id.row(), deaths, crashes, attempt))?;
        return Ok(());
    }
    if !record.is_suspect() {
        let mut update = connection.prepare_cached("UPDATE message SET held = ?2 WHERE id = ?1")?;
        update.execute((id.row(), deaths))?;
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO suspect SELECT id, attempt, ?2, 0, head, payload, sum FROM message
         WHERE id = ?1",
    )?;
    insert.execute((id.row(), deaths))?;
    Statements(connection).delete(id, id)?;
    let mut update =
        connection.prepare_cached("UPDATE queue SET messages = messages - 1 WHERE number = ?1")?;
    update.execute([id.queue()])?;
    Ok(())
}
