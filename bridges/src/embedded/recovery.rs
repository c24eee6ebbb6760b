//! Reading around damaged pages of the file.
//!
//! After a statement has met a damaged page, SQLite fails every later statement of the
//! transaction. So a commit that fails that way is not repeated: a task reads the rows one by
//! one on another connection. Readable messages are served. Unreadable rows stay in the file,
//! are logged, and are listed in the table `damaged`; put a copy of the file back to get them.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::Connection;
use brickwork::transport::engine::{Change, Loaded, WINDOW, WINDOW_BYTES};
use tokio::time::sleep;
use tracing::{error, warn};

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
        let Some(database) = self.database() else {
            return;
        };
        let journal = self.clone();
        self.runtime.spawn(async move {
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

    /// Serves a delayed message beside a damaged page: its row may be readable, although it
    /// can't be deleted.
    pub(super) fn promote_copy(self: &Arc<Self>, row: DueRow, error: &str) {
        warn!(
            row = row.row,
            error,
            "a delayed message could not be moved beside a damaged page: if it is readable, it \
             is served now, and again after a restart"
        );
        // Several commands may have met this row.
        let first = self.unreadable.lock().insert(row.row, row).is_none();
        if first {
            self.push(WriteOp::PromoteRow { row, copy: true });
        }
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
