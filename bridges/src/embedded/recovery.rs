//! Reading around damaged pages of the file.
//!
//! After a statement has met a damaged page, SQLite fails every later statement of the
//! transaction. So a commit that fails that way is not repeated: a task reads the rows one by
//! one on another connection. Readable messages are served. Unreadable rows stay in the file,
//! are logged, and are listed in the table `damaged`; put a copy of the file back to get them.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use brickwork::Clock;
use brickwork::sqlite::rusqlite::Connection;
use brickwork::sqlite::{Database, SqliteError};
use brickwork::transport::engine::{Change, Loaded, WINDOW, WINDOW_BYTES};
use tokio::time::sleep;
use tracing::{error, warn};

use super::commit::DUE_MAX;
use super::delays::due_ms;
use super::journal::Journal;
use super::schema::Id;
use super::statements::{Corruption, DueRow, Statements, is_damage};
use super::write_op::WriteOp;

/// Maximum sequence numbers per read: most messages of a long range may be handled.
const SEQUENCES_MAX: u64 = 256 * 1024;
/// Pause before another try to read.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Journal {
    /// Loads the readable messages of a queue after a sequence number. Call it on the writer
    /// thread: the index then agrees with the engine.
    pub(super) fn load_around_damage(self: &Arc<Self>, queue: u32, after: u64) {
        let before = self.index.lock().stats(queue).next_sequence;
        let journal = self.clone();
        self.spawn_with_database(async move |database| {
            let read = move |connection: &Connection| {
                load_one_by_one(&Statements(connection), queue, after, before)
            };
            match database.read("messages around damage", read).await {
                Ok((loaded, damage)) => {
                    journal.record_corruption(damage);
                    let change = Change {
                        loaded: Some(loaded),
                        ..Change::default()
                    };
                    journal.changed(queue, change);
                }
                Err(SqliteError::Closed) => {}
                Err(error) => {
                    error!(%error, queue, "messages could not be loaded, trying again");
                    journal.retry_load(queue);
                }
            }
        });
    }

    /// Reports a failed load after a pause; the engine then starts another.
    pub(super) fn retry_load(self: &Arc<Self>, queue: u32) {
        let journal = Arc::downgrade(self);
        self.runtime.spawn(async move {
            sleep(RETRY_AFTER).await;
            if let Some(journal) = journal.upgrade() {
                let change = Change {
                    load_failed: true,
                    ..Change::default()
                };
                journal.changed(queue, change);
            }
        });
    }

    /// Moves the readable messages that are due, each in a command of its own: a page beside
    /// it may be damaged.
    pub(super) fn promote_around_damage(self: &Arc<Self>) {
        let journal = self.clone();
        self.spawn_with_database(async move |database| {
            let known = journal.unreadable.lock().clone();
            let read =
                move |connection: &Connection| partition_readable(&Statements(connection), &known);
            let DueRows {
                readable,
                unreadable,
            } = match database.read("due messages around damage", read).await {
                Ok(due) => due,
                Err(SqliteError::Closed) => return,
                Err(error) => {
                    error!(%error, "delayed messages could not be read, trying again");
                    return journal.delays.add(due_ms(RETRY_AFTER));
                }
            };
            if readable.is_empty() && unreadable.is_empty() {
                error!(
                    "delayed messages could not be found, since the file is damaged; trying again"
                );
                return journal.delays.add(due_ms(RETRY_AFTER));
            }
            for (row, _) in &unreadable {
                journal.exclude_unreadable(*row);
            }
            let damage = unreadable.into_iter().map(|(_, damage)| damage);
            journal.record_corruption(damage.collect());
            for row in readable {
                journal.push(WriteOp::PromoteRow { row, copy: false });
            }
            journal.push(WriteOp::PromoteDue);
        });
    }

    /// Serves a delayed message that cannot be deleted beside a damaged page. It comes again
    /// after a restart.
    pub(super) fn promote_copy(self: &Arc<Self>, row: DueRow) {
        warn!(
            row = row.row,
            "a delayed message could not be deleted beside a damaged page; it is served now, and \
             again after a restart"
        );
        // Several commands may have met this row.
        let first = self.unreadable.lock().insert(row.row, row).is_none();
        if first {
            self.push(WriteOp::PromoteRow { row, copy: true });
        }
    }

    /// Stops counting an unreadable row as delayed.
    fn exclude_unreadable(&self, row: DueRow) {
        // Locked until the change is applied: see `with_known_queues`.
        let mut unreadable = self.unreadable.lock();
        if unreadable.insert(row.row, row).is_some() {
            return;
        }
        let change = Change {
            due: 1,
            due_retrying: u64::from(row.retry),
            ..Change::default()
        };
        self.changed(row.queue, change);
    }

    /// Logs unreadable rows and stores their list in the file.
    pub(super) fn record_corruption(self: &Arc<Self>, damage: Vec<Corruption>) {
        for Corruption { place, why } in &damage {
            warn!(
                row = place,
                error = why,
                "keeping an unreadable row in the file, and not serving it"
            );
        }
        if !damage.is_empty() {
            self.push(WriteOp::RecordCorruption(damage));
        }
    }

    /// Runs a task beside the writer thread, while the file is open.
    fn spawn_with_database<W, F>(&self, work: W)
    where
        W: FnOnce(Database) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(database) = self.database() {
            self.runtime.spawn(work(database));
        }
    }
}

/// Reads the messages between two sequence numbers, both excluded, one by one.
fn load_one_by_one(
    statements: &Statements<'_>,
    queue: u32,
    after: u64,
    before: u64,
) -> Result<(Loaded, Vec<Corruption>), SqliteError> {
    let mut loaded = Loaded {
        last: after,
        ..Loaded::default()
    };
    let (mut damage, mut pages) = (Vec::new(), DamagedRanges::default());
    let end = before.min(after.saturating_add(1 + SEQUENCES_MAX));
    let mut bytes = 0;
    for sequence in after + 1..end {
        let id = Id::new(queue, sequence);
        match statements.message(id) {
            Ok(None) => {}
            Ok(Some(Ok(entry))) => {
                bytes += entry.message.size();
                loaded.entries.push(entry);
            }
            Ok(Some(Err(corruption))) => damage.push(corruption),
            Err(error) if is_damage(&error) => pages.add(id, &error),
            Err(error) => return Err(error),
        }
        loaded.last = sequence;
        if loaded.entries.len() >= WINDOW || bytes >= WINDOW_BYTES {
            break;
        }
    }
    loaded.end = loaded.last + 1 == before;
    loaded.damaged = damage.len() as u64;
    damage.extend(pages.into_damage());
    Ok((loaded, damage))
}

/// Ranges of ids on damaged pages. How many messages they had is unknown.
#[derive(Default)]
struct DamagedRanges(Vec<(RangeInclusive<i64>, String)>);

impl DamagedRanges {
    fn add(&mut self, id: Id, error: &SqliteError) {
        let row = id.row();
        match self.0.last_mut() {
            Some((range, _)) if *range.end() + 1 == row => *range = *range.start()..=row,
            _ => self.0.push((row..=row, error.to_string())),
        }
    }

    fn into_damage(self) -> impl Iterator<Item = Corruption> {
        self.0.into_iter().map(|(range, why)| Corruption {
            place: match range.start() == range.end() {
                true => format!("message {}", range.start()),
                false => format!("messages {} to {}", range.start(), range.end()),
            },
            why,
        })
    }
}

/// The next rows that are due.
#[derive(Default)]
struct DueRows {
    readable: Vec<DueRow>,
    unreadable: Vec<(DueRow, Corruption)>,
}

fn partition_readable(
    statements: &Statements<'_>,
    known: &HashMap<i64, DueRow>,
) -> Result<DueRows, SqliteError> {
    let rows = statements.due_rows(Clock::SYSTEM.unix_ms(), DUE_MAX + known.len())?;
    let mut due = DueRows::default();
    for row in rows.into_iter().filter(|it| !known.contains_key(&it.row)) {
        match statements.delayed(row.row) {
            Err(error) if is_damage(&error) => {
                let corruption = Corruption::of_delayed(row.row, error.to_string());
                due.unreadable.push((row, corruption));
            }
            // The command that moves the row checks its content.
            found => due.readable.extend(found?.map(|_| row)),
        }
    }
    Ok(due)
}
