//! Finds and removes queues that earlier manifests of an app left in its folder.
//!
//! The file has every queue that was ever declared. The process that prunes has the folder
//! alone, so no message arrives meanwhile. It removes a queue in steps. Each step is a commit
//! that updates the counts of the queue; the last one removes the queue itself. After a crash,
//! or when the disk is full, pruning starts again.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use brickwork::sqlite::rusqlite::{Connection, Params};
use brickwork::sqlite::{Database, SqliteError, Transaction, WriterPool};
use brickwork::transport::{
    Prune, PruneAction, Pruned, StaleQueue, StaleResource, StrandedQueue, Topology, judge,
    next_to_remove,
};
use brickwork::{Lock, QueueId};

use super::catalog::{self, QueueIndex, QueueStats, required_queues};
use super::disk_space::{ReserveFile, size_text, vacuum_step};
use super::open::{LOCK_WAIT, OpenError, file, lock_file, open_file};
use super::read_only::{ReadOnlyFolder, user};
use super::schema::{Id, SEQUENCE_BITS};

/// Maximum messages per commit.
const STEP_ROWS: u32 = 1_000;

/// Contents of a queue, in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueContents {
    ready: u64,
    delayed: u64,
    suspects: u64,
}

impl QueueContents {
    /// Counts the contents of a queue.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn count(
        connection: &Connection,
        number: u32,
        stats: &QueueStats,
    ) -> Result<Self, SqliteError> {
        let count = "SELECT count(*) FROM suspect WHERE id BETWEEN ?1 AND ?2";
        let (first, last) = rows_of(number);
        Ok(Self {
            ready: stats.messages,
            delayed: stats.delayed,
            suspects: connection.query_row(count, (first, last), |row| row.get(0))?,
        })
    }

    fn total(&self) -> u64 {
        self.ready + self.delayed + self.suspects
    }

    /// Returns the contents as text, or `None` if the queue is empty.
    pub(super) fn text(&self) -> Option<String> {
        let parts = [
            (self.ready, "ready"),
            (self.delayed, "delayed"),
            (self.suspects, "suspects"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let words: Vec<_> = parts
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Finds stale queues, and changes nothing.
///
/// # Errors
/// The file cannot be read.
pub(super) fn find(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> Result<Vec<StaleResource>, SqliteError> {
    let (stale, _) = classify(connection, topology, with_messages)?;
    Ok(stale.into_iter().map(into_resource).collect())
}

/// Finds stale queues with messages, while this process uses the folder.
///
/// # Errors
/// The file cannot be read.
pub(super) fn stranded(
    folder: &Path,
    topology: &Topology,
) -> Result<Vec<StrandedQueue>, SqliteError> {
    let view = ReadOnlyFolder::open(folder)?;
    let stale = view.read(|connection| classify(connection, topology, false))?;
    let (stale, _) = stale.unwrap_or_default();
    let full = stale.into_iter().filter(|queue| queue.messages > 0);
    let stranded = full.map(|StaleQueue { id, messages, .. }| StrandedQueue {
        queue: id.to_string(),
        messages,
    });
    Ok(stranded.collect())
}

/// Returns the queues that the manifest does not have, and the numbers of all queues.
fn classify(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> Result<(Vec<StaleQueue>, HashMap<QueueId, u32>), SqliteError> {
    let index = QueueIndex::load(connection)?;
    let required: HashSet<QueueId> = required_queues(topology).collect();
    let mut stale = Vec::new();
    for (id, number) in index
        .numbers
        .iter()
        .filter(|(id, _)| !required.contains(id))
    {
        let stats = index.stats(*number);
        stale.push(StaleQueue {
            id: id.clone(),
            messages: QueueContents::count(connection, *number, &stats)?.total(),
            // Counted above.
            delayed: 0,
            // No other process has the folder.
            consumers: 0,
            action: PruneAction::Removable,
        });
    }
    stale.sort_by(|one, other| one.id.cmp(&other.id));
    judge(&mut stale, with_messages);
    Ok((stale, index.numbers))
}

fn into_resource(stale: StaleQueue) -> StaleResource {
    StaleResource {
        what: format!("queue {}", stale.id),
        messages: Some(stale.messages),
        consumers: None,
        fate: stale.action,
    }
}

/// Prunes a folder.
///
/// # Errors
/// Another process uses the folder, it has the queues of another app, or the file cannot be
/// read or written.
pub(super) async fn prune(
    folder: PathBuf,
    topology: Topology,
    how: Prune,
) -> Result<Pruned, OpenError> {
    let scanned = (folder.clone(), topology.clone());
    let scanning = move || scan(&scanned.0, &scanned.1, how.with_messages);
    let scanned = tokio::task::spawn_blocking(scanning).await;
    let scanned = scanned.map_err(|_| OpenError("no thread is available to read it".into()))??;
    let PruneScan { pruned, user } = scanned;
    if !how.remove || pruned.leftovers.is_empty() {
        return Ok(pruned);
    }
    let lock = lock_file(&folder);
    let lock = Lock::wait(&lock, LOCK_WAIT, |owner| {
        let user = user.as_deref().unwrap_or(owner);
        format!(
            "{user} uses the queues in {}: stop it (brickwork stop), then prune",
            folder.display()
        )
    });
    let _lock = lock.await?;
    remove_all(&folder, topology, how.with_messages).await
}

/// State of a folder before anything is removed.
struct PruneScan {
    pruned: Pruned,
    /// The process that uses the folder, as text.
    user: Option<String>,
}

fn scan(folder: &Path, topology: &Topology, with_messages: bool) -> Result<PruneScan, OpenError> {
    let view = ReadOnlyFolder::open(folder)?;
    let owner = view.owner()?;
    if let Some(owner) = &owner {
        check_owner(folder, owner, topology)?;
    }
    let found = view.read(|connection| find(connection, topology, with_messages))?;
    let mut notes = Vec::new();
    if found.is_none() {
        let why = match view.is_up_to_date {
            true => "there are no queues yet",
            false => "its tables are those of an earlier version: start the app first",
        };
        notes.push(format!("{}: {why}", folder.display()));
    }
    let process = view.owner_process.as_deref();
    let user = process.map(|process| user(process, owner.as_deref()));
    if let Some(user) = &user {
        notes.push(format!(
            "{user} uses the queues, and perhaps these: it must be stopped before they are removed"
        ));
    }
    let leftovers = found.unwrap_or_default();
    let pruned = Pruned { notes, leftovers };
    Ok(PruneScan { pruned, user })
}

/// Checks that the queues belong to the app of the topology.
///
/// # Errors
/// They belong to another app.
fn check_owner(folder: &Path, owner: &str, topology: &Topology) -> Result<(), OpenError> {
    if *owner == *topology.app {
        return Ok(());
    }
    Err(OpenError(format!(
        "the queues in {} belong to the app {owner}, so none is removed for {}",
        folder.display(),
        topology.app
    )))
}

/// Removes the removable queues.
async fn remove_all(
    folder: &Path,
    topology: Topology,
    with_messages: bool,
) -> Result<Pruned, OpenError> {
    let path = file(folder);
    let before = bytes(&path);
    let opening = open_file(path.clone(), ReserveFile::new(folder), WriterPool::new(1));
    let (database, reserve) = opening.await?;
    let classifying = {
        let folder = folder.to_owned();
        move |tx: &Transaction<'_>| {
            // It may have changed since the scan.
            if let Some(owner) = catalog::owner(tx)? {
                check_owner(&folder, &owner, &topology)?;
            }
            Ok::<_, OpenError>(classify(tx, &topology, with_messages)?)
        }
    };
    let (mut stale, numbers) = database.write("prune", classifying).await?;
    while let Some(queue) = next_to_remove(&mut stale) {
        queue.action = match remove(&database, numbers[&queue.id], &reserve).await {
            Ok(()) => PruneAction::Removed,
            Err(error) => PruneAction::Failed(error.of(&path).to_string()),
        };
    }
    let mut notes = Vec::new();
    if let Err(error) = shrink(&database).await {
        notes.push(format!("free space is not returned to the disk: {error}"));
    }
    database.close().await;
    let after = bytes(&path);
    if after < before {
        let (before, after) = (size_text(before), size_text(after));
        notes.push(format!(
            "{} had {before}, and has {after} now",
            path.display()
        ));
    }
    let leftovers = stale.into_iter().map(into_resource).collect();
    Ok(Pruned { notes, leftovers })
}

/// Returns free space to the disk.
async fn shrink(database: &Database) -> Result<(), SqliteError> {
    let step = |tx: &Transaction<'_>| vacuum_step(tx);
    while database.write("prune", step).await? {}
    Ok(())
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// Removes a queue with its messages.
async fn remove(
    database: &Database,
    number: u32,
    reserve: &ReserveFile,
) -> Result<(), SqliteError> {
    let mut released = false;
    loop {
        let step = move |tx: &Transaction<'_>| step(tx, number);
        match database.write("prune", step).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.is_full() && !released => {
                // The app makes the reserve again.
                reserve.release();
                released = true;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes a part of a queue, or the rest of it. Returns whether there is more.
fn step(connection: &Connection, number: u32) -> Result<bool, SqliteError> {
    let (first, last) = rows_of(number);
    let range = (first, last, STEP_ROWS);
    let (messages, _) = delete(
        connection,
        "DELETE FROM message WHERE id IN
         (SELECT id FROM message WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3) RETURNING 0",
        range,
    )?;
    let (delayed, retrying) = delete(
        connection,
        "DELETE FROM delayed WHERE id IN (SELECT id FROM delayed WHERE queue = ?1 LIMIT ?2)
         RETURNING retry",
        (number, STEP_ROWS),
    )?;
    let (suspects, _) = delete(
        connection,
        "DELETE FROM suspect WHERE id IN
         (SELECT id FROM suspect WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3) RETURNING 0",
        range,
    )?;
    let most = messages.max(delayed).max(suspects);
    if most == u64::from(STEP_ROWS) {
        let mut update = connection.prepare_cached(
            "UPDATE queue SET messages = max(0, messages - ?2), delayed = max(0, delayed - ?3),
             retrying = max(0, retrying - ?4) WHERE number = ?1",
        )?;
        update.execute((number, messages as i64, delayed as i64, retrying as i64))?;
        return Ok(true);
    }
    connection.execute(
        "DELETE FROM damaged WHERE substr(place, 1, instr(place, ' ')) IN ('message ', 'messages ', 'suspect ')
         AND CAST(substr(place, instr(place, ' ') + 1) AS INTEGER) BETWEEN ?1 AND ?2",
        (first, last),
    )?;
    connection.execute("DELETE FROM queue WHERE number = ?1", [number])?;
    Ok(false)
}

/// Deletes rows. Returns their number, and how many of them returned true.
fn delete(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<(u64, u64), SqliteError> {
    let mut delete = connection.prepare_cached(sql)?;
    let mut rows = delete.query(parameters)?;
    let (mut all, mut trues) = (0, 0);
    while let Some(row) = rows.next()? {
        all += 1;
        trues += u64::from(row.get::<_, bool>(0)?);
    }
    Ok((all, trues))
}

/// Returns the first and the last id that a queue can have.
fn rows_of(number: u32) -> (i64, i64) {
    let last = Id::new(number, (1 << SEQUENCE_BITS) - 1);
    (Id::new(number, 0).row(), last.row())
}
