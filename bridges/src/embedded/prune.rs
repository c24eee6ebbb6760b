//! What earlier manifests of an app left in its folder: found, and pruned.
//!
//! The file knows every queue that was ever declared. Pruning is for one who has the folder
//! alone: nothing comes meanwhile. A queue goes in steps, each in a commit of its own with
//! what the file says of how much is left, the queue itself with the last one: whoever is
//! killed in the middle, or has no more room, begins again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use brickwork::sqlite::rusqlite::{Connection, Params};
use brickwork::sqlite::{Database, SqliteError, Transaction, WriterPool};
use brickwork::transport::{
    Prune, PruneAction, Pruned, StaleQueue, StaleResource, Topology, judge,
};
use brickwork::{Lock, QueueId};

use super::catalog::{self, needed, read_books};
use super::disk_space::{ReserveFile, give_back_more};
use super::inspection::in_words;
use super::open::{GONE_WAIT, OpenError, file, lock_file, open_file};
use super::read_only::{ReadOnlyFolder, user};
use super::schema::{Id, PLACE_BITS};
use super::state::QueueStats;

/// So many messages go with one commit.
const STEP_ROWS: u32 = 1_000;

/// How much a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueContents {
    ready: u64,
    delayed: u64,
    suspects: u64,
}

impl QueueContents {
    /// # Errors
    /// It can't be read.
    pub(super) fn of(
        connection: &Connection,
        number: u32,
        page: &QueueStats,
    ) -> Result<Self, SqliteError> {
        let count = "SELECT count(*) FROM suspect WHERE id BETWEEN ?1 AND ?2";
        let (first, last) = span(number);
        Ok(Self {
            ready: page.messages,
            delayed: page.delayed,
            suspects: connection.query_row(count, (first, last), |row| row.get(0))?,
        })
    }

    fn all(&self) -> u64 {
        self.ready + self.delayed + self.suspects
    }

    /// `None` if that is nothing.
    pub(super) fn in_words(&self) -> Option<String> {
        let parts = [
            (self.ready, "ready"),
            (self.delayed, "waiting for their time"),
            (self.suspects, "suspects"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let words: Vec<_> = parts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// A queue that the manifest doesn't name, and its number in the file.
struct JudgedQueue {
    number: u32,
    queue: StaleQueue,
    fate: PruneAction,
}

/// What is left over; changes nothing.
///
/// # Errors
/// It can't be read.
pub(super) fn find(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> Result<Vec<StaleResource>, SqliteError> {
    let left = judged(connection, topology, with_messages)?;
    Ok(left.into_iter().map(told).collect())
}

fn judged(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> Result<Vec<JudgedQueue>, SqliteError> {
    let books = read_books(connection)?;
    let needed: HashSet<QueueId> = needed(topology).collect();
    let mut left = Vec::new();
    for (id, number) in books.numbers {
        if needed.contains(&id) {
            continue;
        }
        let page = books.pages.get(&number).copied().unwrap_or_default();
        left.push((
            number,
            StaleQueue {
                id,
                messages: QueueContents::of(connection, number, &page)?.all(),
                // Who would consume has the folder alone.
                consumers: 0,
            },
        ));
    }
    left.sort_by(|(_, one), (_, other)| one.id.cmp(&other.id));
    let queues: Vec<_> = left.iter().map(|(_, queue)| queue.clone()).collect();
    let fates = judge(&queues, with_messages);
    let left = left.into_iter().zip(fates);
    let left = left.map(|((number, queue), fate)| JudgedQueue {
        number,
        queue,
        fate,
    });
    Ok(left.collect())
}

fn told(left: JudgedQueue) -> StaleResource {
    StaleResource {
        what: format!("queue {}", left.queue.id),
        messages: Some(left.queue.messages),
        consumers: None,
        fate: left.fate,
    }
}

/// Prunes a folder.
///
/// # Errors
/// Another process uses it, it is another app's, or can't be read or written.
pub(super) async fn prune(
    folder: PathBuf,
    topology: Topology,
    how: Prune,
) -> Result<Pruned, OpenError> {
    let looking = (folder.clone(), topology.clone());
    let looking = move || look(&looking.0, &looking.1, how.with_messages);
    let seen = tokio::task::spawn_blocking(looking).await;
    let seen = seen.map_err(|_| OpenError("there is no thread to look".into()))??;
    let PruneScan { pruned, user } = seen;
    if !how.remove || pruned.leftovers.is_empty() {
        return Ok(pruned);
    }
    // A process that has just ended may need a moment to be gone.
    let lock = lock_file(&folder);
    let lock = Lock::wait(&lock, GONE_WAIT, |owner| {
        let user = user.as_deref().unwrap_or(owner);
        format!(
            "{user} uses the queues in {}: stop it (brickwork stop), then prune",
            folder.display()
        )
    });
    let _lock = lock.await?;
    sweep(&folder, topology, how.with_messages).await
}

/// What is seen before anything is changed.
struct PruneScan {
    pruned: Pruned,
    /// Who uses the folder, in words.
    user: Option<String>,
}

fn look(folder: &Path, topology: &Topology, with_messages: bool) -> Result<PruneScan, OpenError> {
    let sight = ReadOnlyFolder::of(folder)?;
    let owner = sight.owner()?;
    if let Some(owner) = &owner {
        own(folder, owner, topology)?;
    }
    let found = sight.read(|connection| find(connection, topology, with_messages))?;
    let mut notes = Vec::new();
    if found.is_none() {
        let why = match sight.is_up_to_date {
            true => "there are no queues yet",
            false => "its tables are those of an earlier version: start the app first",
        };
        notes.push(format!("{}: {why}", folder.display()));
    }
    let holder = sight.holder.as_deref();
    let user = holder.map(|holder| user(holder, owner.as_deref()));
    if let Some(user) = &user {
        notes.push(format!(
            "{user} uses the queues, and perhaps these: it must be stopped before they are removed"
        ));
    }
    let leftovers = found.unwrap_or_default();
    let pruned = Pruned { notes, leftovers };
    Ok(PruneScan { pruned, user })
}

/// # Errors
/// The queues are another app's.
fn own(folder: &Path, owner: &str, topology: &Topology) -> Result<(), OpenError> {
    if *owner == *topology.app {
        return Ok(());
    }
    Err(OpenError(format!(
        "the queues in {} are those of the app {owner}, and nothing of it is removed for {}",
        folder.display(),
        topology.app
    )))
}

/// Removes what can be; where messages may end goes last.
async fn sweep(
    folder: &Path,
    topology: Topology,
    with_messages: bool,
) -> Result<Pruned, OpenError> {
    let path = file(folder);
    let before = bytes(&path);
    let opening = open_file(path.clone(), ReserveFile::of(folder), WriterPool::new(1));
    let (database, reserve) = opening.await?;
    let judging = {
        let folder = folder.to_owned();
        move |tx: &Transaction<'_>| {
            // It may have changed since.
            if let Some(owner) = catalog::owner(tx)? {
                own(&folder, &owner, &topology)?;
            }
            Ok::<_, OpenError>(judged(tx, &topology, with_messages)?)
        }
    };
    let mut left = database.write("prune", judging).await?;
    for auxiliary in [false, true] {
        for at in 0..left.len() {
            let (number, id) = (left[at].number, left[at].queue.id.clone());
            if id.is_auxiliary() != auxiliary || left[at].fate != PruneAction::Removable {
                continue;
            }
            let failed = |other: &&JudgedQueue| {
                other.queue.id.service == id.service && matches!(other.fate, PruneAction::Failed(_))
            };
            left[at].fate = match left.iter().find(failed) {
                Some(stays) => {
                    PruneAction::Kept(format!("what {} holds may end there", stays.queue.id))
                }
                None => match remove(&database, number, &reserve).await {
                    Ok(()) => PruneAction::Removed,
                    Err(error) => PruneAction::Failed(error.of(&path).to_string()),
                },
            };
        }
    }
    let mut notes = Vec::new();
    if let Err(error) = shrink(&database).await {
        notes.push(format!("the space isn't given back: {error}"));
    }
    database.close().await;
    let after = bytes(&path);
    if after < before {
        let (before, after) = (in_words(before), in_words(after));
        notes.push(format!(
            "{} had {before}, and has {after} now",
            path.display()
        ));
    }
    let leftovers = left.into_iter().map(told).collect();
    Ok(Pruned { notes, leftovers })
}

/// Gives back what is free.
async fn shrink(database: &Database) -> Result<(), SqliteError> {
    let step = |tx: &Transaction<'_>| give_back_more(tx);
    while database.write("prune", step).await? {}
    Ok(())
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// Removes a queue with what it holds.
async fn remove(
    database: &Database,
    number: u32,
    reserve: &ReserveFile,
) -> Result<(), SqliteError> {
    let mut helped = false;
    loop {
        let step = move |tx: &Transaction<'_>| step(tx, number);
        match database.write("prune", step).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.is_full() && !helped => {
                // That is what it is kept for. The app makes it again.
                reserve.give_up();
                helped = true;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes a part of a queue, or what is left of it. Whether there is more.
fn step(connection: &Connection, number: u32) -> Result<bool, SqliteError> {
    let (first, last) = span(number);
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

/// How many rows were deleted, and how many of them said yes.
fn delete(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<(u64, u64), SqliteError> {
    let mut delete = connection.prepare_cached(sql)?;
    let mut rows = delete.query(parameters)?;
    let (mut all, mut yes) = (0, 0);
    while let Some(row) = rows.next()? {
        all += 1;
        yes += u64::from(row.get::<_, bool>(0)?);
    }
    Ok((all, yes))
}

/// The first and the last row that a queue can have.
fn span(number: u32) -> (i64, i64) {
    let last = Id::new(number, (1 << PLACE_BITS) - 1);
    (Id::new(number, 0).row(), last.row())
}
