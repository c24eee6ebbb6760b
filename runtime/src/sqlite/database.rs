//! A database: one file, written by one process in groups of jobs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;
use tracing::warn;

use super::error::SqliteError;
use super::job::{Closure, Job, catch, report};
use super::migration::Schema;
use super::open::{Options, writer};
use super::readers::Readers;
use super::statement_timeout::StatementTimeout;
use super::transaction::{StatementGuard, Transaction};
use super::writers::{PendingWrites, WriterPool};

/// Maximum jobs per commit.
const GROUP_JOBS: usize = 512;
/// Maximum time of the jobs of one commit.
const GROUP_TIME: Duration = Duration::from_millis(2);

// The comments and names make these texts unique in the cache of prepared statements.
const BEGIN: &str = "BEGIN IMMEDIATE -- group";
const COMMIT: &str = "COMMIT -- group";
const SAVEPOINT: &str = "SAVEPOINT job";
const RELEASE: &str = "RELEASE job";
const UNDO: &str = "ROLLBACK TO job";

/// A database file with its writer and readers.
///
/// Clones share one database; it closes when the last one is dropped.
///
/// ```
/// use brickwork::sqlite::{Database, Migration, Options, Part, Schema, SqliteError, WriterPool};
///
/// # async fn example(folder: &std::path::Path) -> Result<(), SqliteError> {
/// let steps = vec![Migration::new("t", "CREATE TABLE t (a INTEGER) STRICT")];
/// let schema = Schema {
///     owner: "the example".to_owned(),
///     parts: vec![Part { name: "example", steps }],
/// };
/// let writers = WriterPool::new(1);
/// let file = folder.join("example.sqlite");
/// let database = Database::open(&file, &schema, Options::default(), &writers)?;
/// database
///     .write("insert", |tx| {
///         tx.execute("INSERT INTO t VALUES (1)", [])?;
///         Ok::<_, SqliteError>(())
///     })
///     .await?;
/// let count: u32 = database
///     .read("count", |db| {
///         Ok::<_, SqliteError>(db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
///     })
///     .await?;
/// assert_eq!(count, 1);
/// # Ok(())
/// # }
/// # let folder = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(folder.path())).unwrap();
/// ```
#[derive(Clone)]
pub struct Database {
    queue: Arc<WriteQueue>,
    readers: Arc<Readers>,
}

/// The pending jobs of a database, and the connection that runs them.
struct WriteQueue {
    path: PathBuf,
    writers: WriterPool,
    state: Mutex<State>,
    /// `None` once the database is closed.
    writer: Mutex<Option<Writer>>,
    idle: Notify,
}

#[derive(Default)]
struct State {
    /// Bounded by the callers: each limits its own jobs in flight.
    pending: VecDeque<Box<dyn Job>>,
    /// The writer pool has this database.
    scheduled: bool,
    closed: bool,
}

struct Writer {
    connection: Connection,
    timeout: StatementTimeout,
    guard: StatementGuard,
}

impl Database {
    /// Opens and migrates a file, and creates it if it does not exist. Blocks the thread.
    ///
    /// # Errors
    /// The file can't be used. The error names the file, the reason and the remedy.
    pub fn open(
        path: &Path,
        schema: &Schema,
        options: Options,
        writers: &WriterPool,
    ) -> Result<Self, SqliteError> {
        let mut connection = writer(path, schema, &options)?;
        let timeout = StatementTimeout::new(&mut connection, options.job_max)?;
        let guard = StatementGuard::install(&mut connection)?;
        Ok(Self {
            queue: Arc::new(WriteQueue {
                path: path.to_owned(),
                writers: writers.clone(),
                state: Mutex::default(),
                writer: Mutex::new(Some(Writer {
                    connection,
                    timeout,
                    guard,
                })),
                idle: Notify::new(),
            }),
            readers: Arc::new(Readers::new(path.to_owned(), options)),
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.queue.path
    }

    /// Reads on this thread, with the writing connection. For use right after opening.
    pub(crate) fn read_now<R>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, SqliteError> {
        match &*self.queue.writer.lock() {
            Some(writer) => {
                work(&writer.connection).map_err(|error| SqliteError::from(error).of(self.path()))
            }
            None => Err(SqliteError::Closed),
        }
    }

    /// Submits a job. The jobs of one database run in the order of submission.
    ///
    /// Never waits: the caller limits its own jobs in flight.
    pub fn submit(&self, job: Box<dyn Job>) {
        self.submit_all(vec![job]);
    }

    /// Submits several jobs at once; they share a commit if they fit into one.
    ///
    /// Never waits, as [`submit`](Database::submit).
    pub fn submit_all(&self, jobs: Vec<Box<dyn Job>>) {
        if jobs.is_empty() {
            return;
        }
        let start = {
            let mut state = self.queue.state.lock();
            if state.closed {
                drop(state);
                for job in jobs {
                    report(job, Err(SqliteError::Closed));
                }
                return;
            }
            state.pending.extend(jobs);
            !std::mem::replace(&mut state.scheduled, true)
        };
        if start {
            self.queue.writers.schedule(self.queue.clone());
        }
    }

    /// Runs a closure in a transaction; the future resolves after the commit is on disk. The
    /// job is submitted at once and runs also if the future is dropped. `name` identifies the
    /// job in errors and log lines.
    ///
    /// # Errors
    /// The error of the closure, or the database can't be written: nothing was done.
    pub fn write<F, R, E>(
        &self,
        name: &str,
        work: F,
    ) -> impl Future<Output = Result<R, E>> + Send + use<F, R, E>
    where
        F: FnOnce(&Transaction<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: From<SqliteError> + Send + 'static,
    {
        let (job, done) = Closure::new(name, work);
        self.submit(job);
        async move {
            done.await
                .unwrap_or_else(|_| Err(SqliteError::Closed.into()))
        }
    }

    /// Runs a closure on a snapshot of the committed data, without waiting for writers.
    ///
    /// # Errors
    /// The error of the closure, or the database can't be read.
    pub async fn read<R, E>(
        &self,
        name: &str,
        work: impl FnOnce(&Connection) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<SqliteError> + Send + 'static,
    {
        let _permit = self.readers.acquire().await?;
        let (readers, name) = (self.readers.clone(), name.to_owned());
        let reading = move || readers.read(&name, work);
        let read = self.queue.writers.runtime().spawn_blocking(reading).await;
        read.unwrap_or_else(|_| Err(SqliteError::Closed.into()))
    }

    /// Runs the pending jobs, then closes the file. Jobs submitted meanwhile fail, also if the
    /// future is dropped. A job that never ends keeps the file open.
    pub async fn close(&self) {
        self.queue.state.lock().closed = true;
        loop {
            let idle = self.queue.idle.notified();
            if !self.queue.state.lock().scheduled {
                break;
            }
            idle.await;
        }
        self.readers.close();
        let queue = self.queue.clone();
        let closing = self.queue.writers.runtime().spawn_blocking(move || {
            if let Some(writer) = queue.writer.lock().take() {
                writer.close(&queue.path);
            }
        });
        // An error means that the runtime ends, which closes the file too.
        let _ended = closing.await;
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.queue.path.display())
    }
}

impl PendingWrites for WriteQueue {
    fn commit_group(&self) -> bool {
        let mut writer = self.writer.lock();
        let mut group = Group::default();
        let outcome = match &*writer {
            Some(writer) => self.run_group(writer, &mut group),
            None => Err(SqliteError::Closed),
        };
        if outcome.is_err()
            && let Some(writer) = &mut *writer
        {
            writer.roll_back(&self.path);
        }
        drop(writer);
        if outcome.is_err() && group.0.is_empty() {
            // The transaction could not begin: the first job fails, so that the queue shrinks.
            let first = self.state.lock().pending.pop_front();
            group.0.extend(first.map(|job| (job, Ok(()))));
        }
        for (job, result) in group.0 {
            // A job that failed by itself has its own error; the others get that of the group.
            report(job, result.and_then(|()| outcome.clone()));
        }
        let mut state = self.state.lock();
        state.scheduled = !state.pending.is_empty();
        if !state.scheduled {
            self.idle.notify_waiters();
        }
        state.scheduled
    }

    fn abort(&self) {
        let pending = {
            let mut state = self.state.lock();
            state.closed = true;
            state.scheduled = false;
            std::mem::take(&mut state.pending)
        };
        for job in pending {
            report(job, Err(SqliteError::Closed));
        }
        self.idle.notify_waiters();
    }
}

impl WriteQueue {
    /// Runs pending jobs in one transaction, and commits it.
    fn run_group(&self, writer: &Writer, group: &mut Group) -> Result<(), SqliteError> {
        let located = |error: SqliteError| error.of(&self.path);
        let connection = &writer.connection;
        let tx = Transaction::new(connection, &writer.guard);
        execute(connection, BEGIN).map_err(located)?;
        let began = Instant::now();
        while group.0.len() < GROUP_JOBS && began.elapsed() < GROUP_TIME {
            let Some(mut job) = self.state.lock().pending.pop_front() else {
                break;
            };
            let name = job.name().to_owned();
            let rolled_back = || SqliteError::Unusable {
                path: self.path.clone(),
                why: format!(
                    "SQLite rolled back the transactions that shared a commit with {name}"
                ),
            };
            let run = || {
                catch(&name, || job.run(&tx))??;
                // The job may have ignored a statement after which SQLite rolled back.
                match connection.is_autocommit() {
                    true => Err(rolled_back()),
                    false => Ok(()),
                }
            };
            let result = execute(connection, SAVEPOINT)
                .and_then(|()| writer.timeout.run(&name, run))
                .map_err(located);
            let failed = result.is_err();
            group.0.push((job, result));
            if connection.is_autocommit() {
                // SQLite rolled the whole group back: the disk is full or failing, or a writing
                // statement was interrupted. Only an error of the disk concerns the other jobs.
                use SqliteError::{Full, Unusable};
                return Err(match group.0.last() {
                    Some((_, Err(error @ (Full { .. } | Unusable { .. })))) => error.clone(),
                    _ => rolled_back(),
                });
            }
            if failed {
                execute(connection, UNDO).map_err(located)?;
            }
            execute(connection, RELEASE).map_err(located)?;
        }
        let committed = writer.guard.allow_commit(|| execute(connection, COMMIT));
        committed.map_err(located)
    }
}

/// The jobs of one commit, each with its own result.
#[derive(Default)]
struct Group(Vec<(Box<dyn Job>, Result<(), SqliteError>)>);

impl Writer {
    fn roll_back(&mut self, path: &Path) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            warn!(path = %path.display(), %error, "rollback failed");
        }
    }

    /// Moves the write-ahead log into the file and closes it.
    fn close(self, path: &Path) {
        let moved = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = moved {
            // No data is lost: the next opening reads the log.
            warn!(path = %path.display(), %error, "write-ahead log not merged into its file");
        }
        if let Err((_, error)) = self.connection.close() {
            warn!(path = %path.display(), %error, "closing the database failed");
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> Result<(), SqliteError> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
