//! Opening a folder of queues: one process at a time, and what the last one had in hand is
//! known before anything is handed out.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use brickwork::Lock;
use brickwork::MessageId;
use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};
use brickwork::sqlite::{Database, SqliteError, Transaction, WriterPool};
use brickwork::supervision::quarantine::{CrashRecord, DeliveryMode};
use brickwork::transport::{Backpressure, Replies};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

use super::catalog::read_books;
use super::delays::Delays;
use super::disk_space::{RESERVE_BYTES, ReserveFile};
use super::health::Health;
use super::in_flight_log::{self, InFlightLog};
use super::routing::RoutingTable;
use super::schema::{self, Id};
use super::state::{QueueIndex, TransportState};
use super::statements::{Statements, is_damage};
use super::suspects::SuspectQueue;
use super::write_op::CommitGroup;
use super::write_queue::WriteQueue;

/// A process that has just ended may need a moment to be gone.
pub(super) const GONE_WAIT: Duration = Duration::from_secs(2);

/// The file of the queues in a folder.
pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join("queues.sqlite")
}

/// The lock of a folder.
pub(super) fn lock_file(folder: &Path) -> PathBuf {
    folder.join("lock")
}

pub(super) fn taken(folder: &Path, owner: &str) -> String {
    format!(
        "{owner} uses the queues in {}: one process at a time can; stop it, or give this app a \
         folder of its own",
        folder.display()
    )
}

/// Why a folder can't be used.
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

/// What is there when a process begins.
struct Recovered {
    books: QueueIndex,
    suspects: VecDeque<Id>,
    due_ms: Option<u64>,
    generation: i64,
}

/// Locks a folder and opens what is in it.
///
/// # Errors
/// It is used by another process, or can't be used.
pub(super) async fn open(
    folder: PathBuf,
    pressure: Arc<Backpressure>,
) -> Result<Arc<TransportState>, OpenError> {
    let lock = lock(&folder).await?;
    let writers = WriterPool::new(1);
    let (path, reserve) = (file(&folder), ReserveFile::of(&folder));
    let (database, reserve) = open_file(path, reserve, writers).await?;
    let found = match recover(&database, &folder).await {
        // It may be room that is missing: what was kept for that is used.
        Err(_) if reserve.helps() => {
            reserve.give_up();
            recover(&database, &folder).await?
        }
        recovered => recovered?,
    };
    let begun = match InFlightLog::begin(&folder, found.generation) {
        Err(_) if reserve.helps() => {
            reserve.give_up();
            InFlightLog::begin(&folder, found.generation)
        }
        begun => begun,
    };
    let hand = begun.map_err(|error| {
        let file = in_flight_log::path(&folder, found.generation);
        OpenError(format!("can't write {}: {error}", file.display()))
    })?;
    in_flight_log::tidy(&folder, found.generation);
    let delays = Delays::default();
    if let Some(due_ms) = found.due_ms {
        delays.add(due_ms);
    }
    // What a former process asked is nobody's any more.
    let address = format!("embedded-{}", MessageId::new());
    let core = Arc::new(TransportState {
        wires: RwLock::new(RoutingTable::default()),
        desk: WriteQueue::new(database),
        hand,
        ward: SuspectQueue::new(found.suspects),
        delays,
        replies: Arc::new(Replies::new(address)),
        health: Health::new(&pressure),
        pressure,
        books: Mutex::new(found.books),
        unreadable: Mutex::new(HashMap::new()),
        reserve,
        waiting_bytes: AtomicUsize::new(0),
        waiting_soon: AtomicUsize::new(0),
        runtime: Handle::current(),
        lock: Mutex::new(Some(lock)),
    });
    let reserving = core.clone();
    let reserving = tokio::task::spawn_blocking(move || reserving.reserve.make(RESERVE_BYTES));
    if let Ok(Err(error)) = reserving.await {
        // What is there can be worked off.
        core.is_down(CommitGroup::default(), &error);
    }
    Ok(core)
}

/// Opens the file, with the help of the reserve if there is no room.
///
/// # Errors
/// It can't be used.
pub(super) async fn open_file(
    path: PathBuf,
    reserve: ReserveFile,
    writers: WriterPool,
) -> Result<(Database, ReserveFile), OpenError> {
    let opening = move || {
        let open = || Database::open(&path, &schema::schema(), schema::options(), &writers);
        let opened = match open() {
            // What is there needs it, should there be no room for anything else; SQLite
            // doesn't say so where the index of its log finds none.
            Err(SqliteError::Full { .. } | SqliteError::Unusable { .. }) if reserve.helps() => {
                reserve.give_up();
                open()
            }
            opened => opened,
        };
        opened.map(|database| (database, reserve))
    };
    let opening = tokio::task::spawn_blocking(opening).await;
    Ok(opening.map_err(|_| OpenError("there is no thread to open it".into()))??)
}

/// Locks a folder, and makes it if there is none.
///
/// # Errors
/// It is used by another process, or can't be used.
pub(super) async fn lock(folder: &Path) -> Result<Lock, OpenError> {
    std::fs::create_dir_all(folder).map_err(|error| {
        OpenError(format!(
            "can't make the folder {}: {error}",
            folder.display()
        ))
    })?;
    let path = lock_file(folder);
    Ok(Lock::wait(&path, GONE_WAIT, |owner| taken(folder, owner)).await?)
}

/// Counts what the last process had in hand, once, and reads how much there is.
async fn recover(database: &Database, folder: &Path) -> Result<Recovered, OpenError> {
    let located = |error: SqliteError| OpenError::from(error.of(database.path()));
    let generation = database
        .read("which start it is", generation)
        .await
        .map_err(located)?;
    let mut noted = in_flight_log::read(folder, generation)?;
    loop {
        let last = noted.clone();
        let work = move |tx: &Transaction<'_>| begin(tx, generation + 1, &last);
        match database.write("the queues", work).await {
            // What lies on a damaged page isn't handed out either. The rest is counted.
            Err(error) if is_damage(&error) && !noted.is_empty() => {
                for (id, way) in std::mem::take(&mut noted) {
                    let work = move |tx: &Transaction<'_>| note(tx, id, way);
                    match database.write("what was in hand", work).await {
                        Err(error) if is_damage(&error) => {}
                        outcome => outcome.map_err(located)?,
                    }
                }
            }
            outcome => return outcome.map_err(located),
        }
    }
}

/// How often the file was opened by one that writes.
fn generation(connection: &Connection) -> Result<i64, SqliteError> {
    Ok(connection.query_row("SELECT generation FROM app", [], |row| row.get(0))?)
}

fn begin(
    connection: &Connection,
    generation: i64,
    noted: &[(Id, DeliveryMode)],
) -> Result<Recovered, SqliteError> {
    for (id, way) in noted {
        note(connection, *id, *way)?;
    }
    connection.execute("UPDATE app SET generation = ?1", [generation])?;
    let mut suspects = connection.prepare("SELECT id FROM suspect ORDER BY id")?;
    let suspects = suspects
        .query_map([], |row| row.get(0).map(Id::of_row))
        .and_then(Iterator::collect)?;
    Ok(Recovered {
        books: read_books(connection)?,
        suspects,
        due_ms: Statements(connection).next_due_ms(0)?,
        generation,
    })
}

/// A message was in hand when its process died.
fn note(connection: &Connection, id: Id, way: DeliveryMode) -> Result<(), SqliteError> {
    let select = match way {
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
    let Some(record) = record.map(|record| record.after(way)) else {
        // It was done with.
        return Ok(());
    };
    let CrashRecord {
        deaths,
        crashes,
        attempt,
    } = record;
    if way != DeliveryMode::Normal {
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
