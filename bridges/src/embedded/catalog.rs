//! Declaring: queues in the file, and whose they are.

use std::sync::Arc;

use brickwork::QueueId;
use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::Connection;
use brickwork::transport::{Topology, TransportError};

use super::queue::InitialCounts;
use super::state::{QueueIndex, QueueStats, TransportState};
use super::statements::{DueRow, Statements};

type Made = Result<Vec<(QueueId, u32)>, TransportError>;

/// The queues that a topology needs.
pub(super) fn needed(topology: &Topology) -> impl Iterator<Item = QueueId> {
    let letters = topology.services().map(QueueId::dead_letters);
    let inputs = topology.queues.iter().map(|spec| spec.id.clone());
    letters.chain(inputs)
}

/// Makes the queues that aren't there, if that is wanted.
///
/// # Errors
/// It can't be written. Within: the file is another app's.
pub(super) fn declare(
    pen: &Statements<'_>,
    core: &TransportState,
    topology: &Topology,
    make: bool,
) -> Result<Made, SqliteError> {
    let app = &*topology.app;
    match owner(pen.0)? {
        Some(owner) if owner != app => {
            return Ok(Err(TransportError::Declare {
                what: format!("the queues of {app}"),
                why: format!(
                    "the folder holds those of {owner}: {}",
                    way_out(&owner, app)
                ),
            }));
        }
        None if make => {
            pen.0.execute("UPDATE app SET name = ?1", [app])?;
        }
        _ => {}
    }
    let mut made = Vec::new();
    if !make {
        return Ok(Ok(made));
    }
    for id in needed(topology) {
        let known = core.books.lock().numbers.contains_key(&id);
        if known || made.iter().any(|(other, _)| *other == id) {
            continue;
        }
        let number = pen.0.query_row(
            "INSERT INTO queue (service, input) VALUES (?1, ?2) RETURNING number",
            [&id.service, &id.input],
            |row| row.get(0),
        )?;
        made.push((id, number));
    }
    Ok(Ok(made))
}

/// What somebody can do whose app finds another's queues.
pub(super) fn way_out(owner: &str, app: &str) -> String {
    format!(
        "give each app a folder of its own; if this one was called {owner} before, write its new \
         name there: sqlite3 queues.sqlite \"UPDATE app SET name = '{app}'\""
    )
}

/// The app whose queues are in a file, once one has declared some.
pub(super) fn owner(connection: &Connection) -> Result<Option<String>, SqliteError> {
    Ok(connection.query_row("SELECT name FROM app", [], |row| row.get(0))?)
}

/// Knows the queues of a topology from now on. Called by who writes, between commits.
pub(super) fn wire(core: &Arc<TransportState>, topology: &Topology) {
    // Nobody waits for what can't be read.
    let unreadable = core.unreadable.lock();
    let unreadable = |number: u32, also: fn(&DueRow) -> bool| {
        let rows = unreadable
            .values()
            .filter(|it| it.queue == number && also(it));
        rows.count() as u64
    };
    let books = core.books.lock();
    let known = |id: &QueueId| {
        let number = *books.numbers.get(id)?;
        let page = books.pages.get(&number).copied().unwrap_or_default();
        let start = InitialCounts {
            next_place: page.next_place,
            messages: page.messages,
            delayed: page.delayed.saturating_sub(unreadable(number, |_| true)),
            retrying: page
                .retrying
                .saturating_sub(unreadable(number, |it| it.retry)),
            suspects: core.ward.count(number),
        };
        Some((number, start))
    };
    core.wires.write().declare(topology, &core.pressure, known);
}

/// Reads what the file says of each queue.
///
/// # Errors
/// It can't be read.
pub(super) fn read_books(connection: &Connection) -> Result<QueueIndex, SqliteError> {
    let mut books = QueueIndex::default();
    let mut select = connection.prepare(
        "SELECT number, service, input, next_place, messages, delayed, retrying FROM queue",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let number = row.get(0)?;
        let (service, input): (String, String) = (row.get(1)?, row.get(2)?);
        let page = QueueStats {
            next_place: row.get::<_, i64>(3)? as u64,
            messages: row.get::<_, i64>(4)? as u64,
            delayed: row.get::<_, i64>(5)? as u64,
            retrying: row.get::<_, i64>(6)? as u64,
        };
        books.numbers.insert(QueueId::new(&service, &input), number);
        books.pages.insert(number, page);
    }
    Ok(books)
}

pub(super) fn write_page(
    pen: &Statements<'_>,
    number: u32,
    page: &QueueStats,
) -> Result<(), SqliteError> {
    let mut update = pen.0.prepare_cached(
        "UPDATE queue SET next_place = ?2, messages = ?3, delayed = ?4, retrying = ?5
         WHERE number = ?1",
    )?;
    let QueueStats {
        next_place,
        messages,
        delayed,
        retrying,
    } = *page;
    update.execute((
        number,
        next_place as i64,
        messages as i64,
        delayed as i64,
        retrying as i64,
    ))?;
    Ok(())
}
