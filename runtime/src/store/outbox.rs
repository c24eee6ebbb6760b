//! The outbox: emitted messages that the transport has not yet confirmed.
//!
//! All of them are in the database. The newest are also kept in memory, up to a limit, so that
//! the relay need not read them again; beyond the limit the relay reads the database.
//!
//! The number of messages in the database is bounded too. Above the high-water mark the
//! sources of the app pause, as for a queue. When the outbox is full, a message that would
//! emit into it is deferred ([`Outbox::is_full`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, Rows};
use tokio::sync::{Notify, oneshot};

use crate::envelope_json::{read_head, write_head};
use crate::message::Message;
use crate::names::QueueId;
use crate::sqlite::{Database, Job, SqliteError, Transaction};
use crate::transport::{Backpressure, DepthGauge, Outgoing};

/// Maximum messages kept in memory.
const RECENT_MAX: usize = 1024;

/// Above this number of messages, sources pause until half of them are gone.
const HIGH_WATER: u64 = 10_000;
/// Above this number of messages, the outbox is full until half of them are gone. Pausing the
/// app's sources is not enough: messages may come from other apps.
const FULL: u64 = 2 * HIGH_WATER;

/// Begins the output of a message to an input of the service itself: the input follows.
pub(super) const TO_INPUT: char = '@';

/// One message in the outbox.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Number in the order of commits.
    pub(crate) n: i64,
    /// Name of its output, or `@` and the name of an input of the service itself.
    pub(crate) output: Box<str>,
    pub(crate) message: Message,
    /// Due time of a delayed message.
    pub(crate) due_ms: Option<u64>,
}

impl Row {
    /// Returns the message to publish, with the rest of its delay.
    pub(crate) fn outgoing(&self, service: &str, now_ms: u64) -> Outgoing {
        let delay = self.due_ms.map_or(0, |due| due.saturating_sub(now_ms));
        let input = self.output.strip_prefix(TO_INPUT);
        Outgoing {
            message: self.message.clone(),
            queue: input.map(|input| QueueId::new(service, input)),
            delay: Duration::from_millis(delay),
        }
    }

    /// Inserts a message into the outbox table.
    pub(crate) fn insert(
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

/// State that the writer and the relay of one store share.
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Messages in the database that are not refused.
    waiting: AtomicU64,
    full: AtomicBool,
    /// Reports the number to the app's backpressure; set once, after opening.
    gauge: OnceLock<DepthGauge>,
    committed: Notify,
}

struct State {
    /// The newest committed messages, unless `behind`.
    recent: VecDeque<Row>,
    /// Number of the last committed message.
    last: i64,
    /// The database has messages to publish that `recent` does not have.
    behind: bool,
}

impl Outbox {
    pub(super) fn new(waiting: u64, last: i64) -> Self {
        Self {
            state: Mutex::new(State {
                recent: VecDeque::new(),
                last,
                behind: waiting > 0,
            }),
            waiting: AtomicU64::new(waiting),
            full: AtomicBool::new(waiting > FULL),
            gauge: OnceLock::new(),
            committed: Notify::new(),
        }
    }

    /// Returns the number of messages that wait for the transport.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Connects the outbox to the app's backpressure. Call before the first write.
    pub(crate) fn connect(&self, service: &str, pressure: &Arc<Backpressure>) {
        let queue = QueueId::new(service, "outbox");
        self.gauge
            .get_or_init(|| pressure.gauge(&queue, HIGH_WATER));
        self.update_limits();
    }

    /// Returns whether the outbox is full: a message that would emit must be deferred.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Updates `full` and the backpressure after a change of `waiting`. The writer thread
    /// reports changes one after the other.
    fn update_limits(&self) {
        let waiting = self.waiting();
        let limit = if self.is_full() { FULL / 2 } else { FULL };
        self.full.store(waiting > limit, Relaxed);
        if let Some(gauge) = self.gauge.get() {
            gauge.update(waiting);
        }
    }

    /// Adds committed rows, in the order of their commits.
    pub(crate) fn add_committed(&self, rows: Vec<Row>) {
        let Some(last) = rows.last().map(|row| row.n) else {
            return;
        };
        self.waiting.fetch_add(rows.len() as u64, Relaxed);
        self.update_limits();
        let mut state = self.state.lock();
        state.last = last;
        if !state.behind && state.recent.len() + rows.len() <= RECENT_MAX {
            state.recent.extend(rows);
        } else {
            state.behind = true;
        }
        drop(state);
        self.committed.notify_one();
    }

    /// Resolves when messages may have been committed since the last call.
    pub(crate) async fn more(&self) {
        self.committed.notified().await;
    }

    /// Discards the memory: the relay starts again with the first message of the database.
    pub(crate) fn rewind(&self) {
        let mut state = self.state.lock();
        state.recent.clear();
        state.behind = self.waiting() > 0;
    }

    /// Returns up to `at_most` messages after the number `after`, in order.
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
                // Messages up to `after` were read from the database already.
                while state.recent.front().is_some_and(|row| row.n <= after) {
                    state.recent.pop_front();
                }
                if !state.recent.is_empty() {
                    let count = state.recent.len().min(at_most);
                    return Ok(state.recent.drain(..count).collect());
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
            // Nothing is left of the messages that were committed before this read.
            after = last;
        }
    }

    /// Returns up to `at_most` messages of one output with numbers after `after` and up to
    /// `until`, in order.
    pub(crate) async fn of_output(
        &self,
        database: &Database,
        name: &str,
        output: &str,
        (after, until): (i64, i64),
        at_most: usize,
    ) -> Result<Vec<Row>, SqliteError> {
        let output = output.to_owned();
        let reading = database.read(name, move |connection| {
            let mut rows = connection.prepare_cached(
                "SELECT n, output, head, payload, due_ms FROM brickwork_outbox
                 WHERE n > ?1 AND n <= ?2 AND output = ?3 AND refused IS NULL
                 ORDER BY n LIMIT ?4",
            )?;
            collect(rows.query((after, until, output, at_most as i64))?)
        });
        reading.await
    }

    /// Removes messages; resolves after the commit. Dropping the future does not cancel the
    /// removal.
    pub(super) fn remove(
        self: &Arc<Self>,
        database: &Database,
        name: &str,
        removal: Removal,
    ) -> impl Future<Output = Result<(), SqliteError>> + Send + use<> {
        let (waiter, removed) = oneshot::channel();
        database.submit(Box::new(RemoveJob {
            outbox: self.clone(),
            name: name.into(),
            removal,
            count: 0,
            waiter,
        }));
        async move { removed.await.unwrap_or(Err(SqliteError::Closed)) }
    }
}

/// Messages that the relay must not publish again, by number.
pub(super) enum Removal {
    /// Confirmed messages are deleted.
    Confirmed(Vec<i64>),
    /// A message that the transport can never publish stays in the file, with the reason.
    Refused(i64, String),
}

/// The database job of a removal. It updates the count itself, because the waiting future may
/// be dropped.
struct RemoveJob {
    outbox: Arc<Outbox>,
    name: Box<str>,
    removal: Removal,
    count: u64,
    waiter: oneshot::Sender<Result<(), SqliteError>>,
}

impl Job for RemoveJob {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        self.count = match &self.removal {
            Removal::Confirmed(confirmed) => {
                let mut delete = tx.prepare_cached("DELETE FROM brickwork_outbox WHERE n = ?1")?;
                let mut removed = 0;
                for n in confirmed {
                    removed += delete.execute([n])? as u64;
                }
                removed
            }
            Removal::Refused(n, why) => {
                let mut mark = tx.prepare_cached(
                    "UPDATE brickwork_outbox SET refused = ?2 WHERE n = ?1 AND refused IS NULL",
                )?;
                mark.execute((n, why))? as u64
            }
        };
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<(), SqliteError>) {
        if outcome.is_ok() {
            self.outbox.waiting.fetch_sub(self.count, Relaxed);
            self.outbox.update_limits();
        }
        // The relay may have started again, and no longer wait.
        let _gone = self.waiter.send(outcome);
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
        collect(rows.query((after, at_most as i64))?)
    });
    reading.await
}

fn collect(mut rows: Rows<'_>) -> Result<Vec<Row>, SqliteError> {
    let mut read = Vec::new();
    while let Some(row) = rows.next()? {
        let (n, output): (i64, String) = (row.get(0)?, row.get(1)?);
        let (head, payload): (String, Vec<u8>) = (row.get(2)?, row.get(3)?);
        let due: Option<i64> = row.get(4)?;
        let message = message_of(&head, payload, &n)?;
        read.push(Row {
            n,
            output: output.into(),
            message,
            due_ms: due.map(|ms| ms as u64),
        });
    }
    Ok(read)
}

/// Reads a stored message.
pub(super) fn message_of(
    head: &str,
    payload: Vec<u8>,
    name: &dyn std::fmt::Display,
) -> Result<Message, SqliteError> {
    read_head(head, Bytes::from(payload)).map_err(|error| SqliteError::Sql {
        code: None,
        text: format!("the message {name} of the outbox can't be read: {error}"),
    })
}
