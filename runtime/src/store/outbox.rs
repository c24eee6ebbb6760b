//! The outbox: what was emitted and not yet taken over by the transport.
//!
//! It is in the database; what was committed lately is also here, so that the relay needn't
//! read it again. What is here is bounded: of more, the relay learns that it is behind.
//!
//! What is in the database is bounded, too: above its high-water mark the sources of the app
//! wait, as for a queue, and when it is full, no message may add to it
//! ([`Outbox::is_full`]).

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
use crate::sqlite::{Database, Job, SqliteError, Transaction};
use crate::transport::{Backpressure, DepthGauge, Outgoing};

/// So many are kept here as well as in the database.
const FRESH_MAX: usize = 1024;

/// With more than so many in it, sources wait until it has halved.
const HIGH_WATER: u64 = 10_000;
/// With more than so many, it is full until it has halved: they may come from elsewhere than
/// from sources of this app.
const FULL: u64 = 2 * HIGH_WATER;

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

/// What the writer and the relay of one store share.
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// How many are in the database.
    waiting: AtomicU64,
    full: AtomicBool,
    /// Makes the app's sources wait; set once, when it is open.
    gauge: OnceLock<DepthGauge>,
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
            full: AtomicBool::new(waiting > FULL),
            gauge: OnceLock::new(),
            more: Notify::new(),
        }
    }

    /// How many wait for the transport.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// From now on it makes the sources of the app wait when it holds much. To be called
    /// before anything is written.
    pub(crate) fn press(&self, pressure: &Arc<Backpressure>) {
        self.gauge.get_or_init(|| pressure.gauge(HIGH_WATER));
        self.measure();
    }

    /// Whether it takes no more, until it has halved: what would emit must come again later.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// After each change. Those that change it are told of one after the other, by the
    /// database.
    fn measure(&self) {
        let waiting = self.waiting();
        let most = if self.is_full() { FULL / 2 } else { FULL };
        self.full.store(waiting > most, Relaxed);
        if let Some(gauge) = self.gauge.get() {
            gauge.update(waiting);
        }
    }

    /// These were committed, after all that were before.
    pub(crate) fn committed(&self, rows: Vec<Row>) {
        let Some(last) = rows.last().map(|row| row.n) else {
            return;
        };
        self.waiting.fetch_add(rows.len() as u64, Relaxed);
        self.measure();
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

    /// Those of one output that are behind the first place and not behind the second, in
    /// order.
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

    /// These leave it; resolves when they have left for good. They do, and are no longer
    /// counted, also if the future is dropped.
    pub(crate) fn leave(
        self: &Arc<Self>,
        database: &Database,
        name: &str,
        leave: Leave,
    ) -> impl Future<Output = Result<(), SqliteError>> + Send + use<> {
        let (waiter, left) = oneshot::channel();
        database.submit(Box::new(Leaving {
            outbox: self.clone(),
            name: name.into(),
            leave,
            count: 0,
            waiter,
        }));
        async move { left.await.unwrap_or(Err(SqliteError::Closed)) }
    }
}

/// What the relay is no longer to publish.
pub(crate) enum Leave {
    /// The transport has taken these over.
    Taken(Vec<i64>),
    /// It can never take this one: it stays in the file, and holds up no other.
    Refused(i64, String),
}

/// The job of those that leave: it counts them itself, since whoever waits may be gone.
struct Leaving {
    outbox: Arc<Outbox>,
    name: Box<str>,
    leave: Leave,
    count: u64,
    waiter: oneshot::Sender<Result<(), SqliteError>>,
}

impl Job for Leaving {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), SqliteError> {
        self.count = match &self.leave {
            Leave::Taken(taken) => {
                let mut delete = tx.prepare_cached("DELETE FROM brickwork_outbox WHERE n = ?1")?;
                let mut removed = 0;
                for n in taken {
                    removed += delete.execute([n])? as u64;
                }
                removed
            }
            Leave::Refused(n, why) => {
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
            self.outbox.measure();
        }
        // The relay may have begun anew.
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
        let message = read_head(&head, Bytes::from(payload)).map_err(|error| SqliteError::Sql {
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
}
