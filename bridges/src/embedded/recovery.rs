//! Reading what lies beside damaged pages of the file.
//!
//! Once a statement of a transaction has met damage, SQLite does nothing more in that
//! transaction. So what a commit stumbled on is looked at beside it, place by place: what
//! can be read is served, the rest stays where it is and is told of.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use brickwork::Clock;
use brickwork::sqlite::rusqlite::Connection;
use brickwork::sqlite::{Database, SqliteError};
use tokio::time::sleep;
use tracing::{error, warn};

use super::delays::due_ms;
use super::queue::{Change, Loaded, Queue, WINDOW, WINDOW_BYTES};
use super::schema::Id;
use super::state::TransportState;
use super::statements::{Corruption, DueRow, Statements, entry, is_damage, of_delayed, of_message};
use super::write_op::WriteOp;
use super::write_queue::DUE_MAX;

/// So many places are looked at in one go: most of them may be those of messages that were
/// handled long ago.
const PLACES_MAX: u64 = 256 * 1024;
/// What couldn't be read is looked at again after this time.
pub(super) const LATER: Duration = Duration::from_secs(5);

/// Loads what follows in a queue, as far as it can be read. Called by who writes.
pub(super) fn load(core: &Arc<TransportState>, queue: &Arc<Queue>) {
    let (core, queue) = (core.clone(), queue.clone());
    beside(&core.clone(), async move |database| {
        let (after, before) = queue.not_seen();
        let number = queue.number;
        let read = move |connection: &Connection| singly(connection, number, after, before);
        let read = database.read("what lies beside damage", read).await;
        match read {
            Ok((loaded, damage)) => {
                core.found(damage);
                let change = Change {
                    loaded: Some(loaded),
                    ..Change::default()
                };
                core.let_in(&queue, change);
            }
            Err(SqliteError::Closed) => {}
            Err(error) => {
                error!(%error, %queue.id, "what is on the disk can't be loaded, trying again");
                load_later(&core, &queue);
            }
        }
    });
}

/// What could not be loaded is loaded a little later, unless it is closed by then.
pub(super) fn load_later(core: &Arc<TransportState>, queue: &Arc<Queue>) {
    queue.not_loaded();
    let (weak, queue) = (Arc::downgrade(core), queue.clone());
    core.runtime.spawn(async move {
        sleep(LATER).await;
        if let Some(core) = weak.upgrade() {
            core.let_in(&queue, Change::default());
        }
    });
}

/// Finds out which of the messages that are due can't be read, and goes on without them: the
/// others are moved one at a time, since some may lie beside them. Called by who writes.
pub(super) fn due(core: &Arc<TransportState>) {
    let core = core.clone();
    beside(&core.clone(), async move |database| {
        let known = core.unreadable.lock().clone();
        let read = move |connection: &Connection| tell_apart(connection, &known);
        let Due {
            readable,
            unreadable,
        } = match database.read("what is due, beside damage", read).await {
            Ok(due) => due,
            Err(SqliteError::Closed) => return,
            Err(error) => {
                error!(%error, "what waits for its time can't be read, trying again");
                return core.delays.add(due_ms(LATER));
            }
        };
        if readable.is_empty() && unreadable.is_empty() {
            error!("what waits for its time can't be looked for: the file is damaged");
            return core.delays.add(due_ms(LATER));
        }
        for (it, _) in &unreadable {
            core.waits_no_more(*it);
        }
        core.found(unreadable.into_iter().map(|(_, damage)| damage).collect());
        for it in readable {
            core.desk.push(&core, WriteOp::DueRow { it, copy: false });
        }
        core.desk.push(&core, WriteOp::Due);
    });
}

/// A message that is due lies beside damage, and can't be deleted there: it goes to its queue
/// now, and once more when the app is started again. Called by who writes.
pub(super) fn copy(core: &Arc<TransportState>, it: DueRow) {
    warn!(
        row = it.row,
        "what lies beside a message that waited is damaged: it is served now, and comes again \
         when the app is started again"
    );
    // Once, however many have stumbled on it.
    if core.unreadable.lock().insert(it.row, it).is_none() {
        core.desk.push(core, WriteOp::DueRow { it, copy: true });
    }
}

impl TransportState {
    /// What can't be read stays in the file; nobody waits for it.
    fn waits_no_more(self: &Arc<Self>, it: DueRow) {
        // Held so long: a queue that is declared now counts either this or without it.
        let mut unreadable = self.unreadable.lock();
        if unreadable.insert(it.row, it).is_some() {
            return;
        }
        let queue = self.wires.read().by_number.get(&it.queue).cloned();
        let change = Change {
            due: 1,
            due_retrying: u64::from(it.retry),
            ..Change::default()
        };
        if let Some(queue) = queue {
            self.let_in(&queue, change);
        }
    }

    /// Something can't be read: it is said, and noted for whoever looks later.
    pub(super) fn found(self: &Arc<Self>, damage: Vec<Corruption>) {
        for Corruption { place, why } in &damage {
            warn!(
                row = place,
                error = why,
                "what is there can't be served: it stays in the file"
            );
        }
        if !damage.is_empty() {
            self.desk.push(self, WriteOp::Note(damage));
        }
    }
}

/// Runs work beside who writes, for as long as the file is open.
fn beside<W, F>(core: &TransportState, work: W)
where
    W: FnOnce(Database) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    // If it is closed nobody wants anything.
    if let Some(database) = core.desk.database() {
        core.runtime.spawn(work(database));
    }
}

/// Reads one place after the other, between two of them.
fn singly(
    connection: &Connection,
    queue: u32,
    after: u64,
    before: u64,
) -> Result<(Loaded, Vec<Corruption>), SqliteError> {
    let mut select = connection
        .prepare_cached("SELECT head, payload, sum, id, attempt FROM message WHERE id = ?1")?;
    let mut loaded = Loaded {
        last: after,
        ..Loaded::default()
    };
    let (mut damage, mut pages) = (Vec::new(), Ranges::default());
    let last = before.min(after.saturating_add(1 + PLACES_MAX));
    let mut bytes = 0;
    for place in after + 1..last {
        let id = Id::new(queue, place);
        let found = select
            .query([id.row()])
            .and_then(|mut rows| rows.next().map(|row| row.map(|row| entry(row, id))))
            .map_err(SqliteError::from);
        match found {
            Ok(None) => {}
            Ok(Some(Ok(entry))) => {
                bytes += entry.message.size();
                loaded.entries.push(entry);
            }
            Ok(Some(Err(why))) => damage.push(of_message(id, why)),
            Err(error) if is_damage(&error) => pages.add(id, &error),
            Err(error) => return Err(error),
        }
        loaded.last = place;
        if loaded.entries.len() >= WINDOW || bytes >= WINDOW_BYTES {
            break;
        }
    }
    loaded.end = loaded.last + 1 == before;
    loaded.damaged = damage.len() as u64;
    damage.extend(pages.into_damage());
    Ok((loaded, damage))
}

/// Places that lie side by side on damaged pages. Nobody knows how many messages are there.
#[derive(Default)]
struct Ranges(Vec<(RangeInclusive<i64>, String)>);

impl Ranges {
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

/// The rows that are due next.
#[derive(Default)]
struct Due {
    readable: Vec<DueRow>,
    unreadable: Vec<(DueRow, Corruption)>,
}

fn tell_apart(connection: &Connection, known: &HashMap<i64, DueRow>) -> Result<Due, SqliteError> {
    let pen = Statements(connection);
    let rows = pen.due_rows(Clock::SYSTEM.unix_ms(), DUE_MAX + known.len())?;
    let mut due = Due::default();
    for it in rows.into_iter().filter(|it| !known.contains_key(&it.row)) {
        match pen.due(it.row) {
            Err(error) if is_damage(&error) => {
                due.unreadable
                    .push((it, of_delayed(it.row, error.to_string())));
            }
            // One that isn't what was written is found so when it is to be moved.
            found => due.readable.extend(found?.map(|_| it)),
        }
    }
    Ok(due)
}
