//! The outbox: what was emitted and not yet taken over by the transport.
//!
//! It is in the database; what was committed lately is also here, so that the relay needn't
//! read it again. What is here is bounded: of more, the relay learns that it is behind.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::head::{read_head, write_head};
use crate::message::Message;
use crate::sqlite::{Database, SqliteError};
use crate::transport::Outgoing;

/// So many are kept here as well as in the database.
const FRESH_MAX: usize = 1024;

/// One message in the outbox.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Its place in the order in which they were committed.
    pub(crate) n: i64,
    /// The output that it was emitted on.
    pub(crate) output: Box<str>,
    pub(crate) message: Message,
    /// When it is to be delivered, if later.
    pub(crate) due_ms: Option<u64>,
}

impl Row {
    /// As it is published now.
    pub(crate) fn outgoing(&self, now_ms: u64) -> Outgoing {
        let delay = self.due_ms.map_or(0, |due| due.saturating_sub(now_ms));
        Outgoing {
            message: self.message.clone(),
            queue: None,
            delay: Duration::from_millis(delay),
        }
    }

    /// Writes it and says which place it got.
    pub(super) fn insert(
        connection: &Connection,
        output: &str,
        message: &Message,
        due_ms: Option<u64>,
    ) -> Result<Self, SqliteError> {
        let mut insert = connection.prepare_cached(
            "INSERT INTO brickwork_outbox (output, head, payload, due_ms) VALUES (?1, ?2, ?3, ?4)",
        )?;
        let due = due_ms.map(|ms| ms as i64);
        let n = insert.insert((output, write_head(message), &*message.payload, due))?;
        Ok(Self {
            n,
            output: output.into(),
            message: message.clone(),
            due_ms,
        })
    }
}

/// What the writer and the relay of one store share.
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// How many are in the database.
    waiting: AtomicU64,
    more: Notify,
}

struct State {
    fresh: VecDeque<Row>,
    /// The last that was committed.
    last: i64,
    /// There are some that aren't in `fresh`.
    behind: bool,
}

impl Outbox {
    pub(super) fn new(waiting: u64, last: i64) -> Self {
        Self {
            state: Mutex::new(State {
                fresh: VecDeque::new(),
                last,
                behind: waiting > 0,
            }),
            waiting: AtomicU64::new(waiting),
            more: Notify::new(),
        }
    }

    /// How many wait for the transport.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    pub(super) fn one_less(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// These were committed, after all that were before.
    pub(super) fn committed(&self, rows: Vec<Row>) {
        let Some(last) = rows.last().map(|row| row.n) else {
            return;
        };
        self.waiting.fetch_add(rows.len() as u64, Relaxed);
        let mut state = self.state.lock();
        state.last = last;
        if !state.behind && state.fresh.len() + rows.len() <= FRESH_MAX {
            state.fresh.extend(rows);
        } else {
            state.behind = true;
        }
        drop(state);
        self.more.notify_one();
    }

    /// Some may have come since this was called last.
    pub(crate) async fn more(&self) {
        self.more.notified().await;
    }

    /// Begins anew after this place, with what the database has.
    pub(crate) fn rewind(&self) {
        let mut state = self.state.lock();
        state.fresh.clear();
        state.behind = self.waiting() > 0;
    }

    /// The next ones after `after`, in order; none if there are none.
    pub(crate) async fn next(
        &self,
        database: &Database,
        name: &str,
        after: i64,
        at_most: usize,
    ) -> Result<Vec<Row>, SqliteError> {
        let mut after = after;
        loop {
            let last;
            {
                let mut state = self.state.lock();
                // Those that were read from the database needn't come a second time.
                while state.fresh.front().is_some_and(|row| row.n <= after) {
                    state.fresh.pop_front();
                }
                if !state.fresh.is_empty() {
                    let count = state.fresh.len().min(at_most);
                    return Ok(state.fresh.drain(..count).collect());
                }
                if !state.behind {
                    return Ok(Vec::new());
                }
                if after >= state.last {
                    state.behind = false;
                    return Ok(Vec::new());
                }
                last = state.last;
            }
            let read = read(database, name, after, at_most).await?;
            if !read.is_empty() {
                return Ok(read);
            }
            // Nothing is left of what was committed before this look; of what came since,
            // the next one tells.
            after = last;
        }
    }

    /// The transport has taken these over: removes them.
    pub(crate) async fn remove(
        &self,
        database: &Database,
        name: &str,
        taken: Vec<i64>,
    ) -> Result<(), SqliteError> {
        let removing = database.write(name, move |tx| {
            let mut delete = tx.prepare_cached("DELETE FROM brickwork_outbox WHERE n = ?1")?;
            let mut removed = 0;
            for n in taken {
                removed += delete.execute([n])? as u64;
            }
            Ok::<_, SqliteError>(removed)
        });
        let removed = removing.await?;
        self.waiting.fetch_sub(removed, Relaxed);
        Ok(())
    }
}

async fn read(
    database: &Database,
    name: &str,
    after: i64,
    at_most: usize,
) -> Result<Vec<Row>, SqliteError> {
    let reading = database.read(name, move |connection| {
        let mut rows = connection.prepare_cached(
            "SELECT n, output, head, payload, due_ms FROM brickwork_outbox
             WHERE n > ?1 AND refused IS NULL ORDER BY n LIMIT ?2",
        )?;
        let rows = rows.query_map((after, at_most as i64), |row| {
            let payload: Vec<u8> = row.get(3)?;
            let head: String = row.get(2)?;
            let message = read_head(&head, Bytes::from(payload));
            let due: Option<i64> = row.get(4)?;
            Ok((row.get(0)?, row.get::<_, String>(1)?, message, due))
        })?;
        let mut read = Vec::new();
        for row in rows {
            let (n, output, message, due) = row?;
            let message = message.map_err(|error| SqliteError::Sql {
                code: None,
                text: format!("the message {n} of the outbox can't be read: {error}"),
            })?;
            read.push(Row {
                n,
                output: output.into(),
                message,
                due_ms: due.map(|ms| ms as u64),
            });
        }
        Ok(read)
    });
    reading.await
}
