//! A database: one file that one process writes, in groups.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;
use tracing::warn;

use super::job::{Closure, Job, caught, tell};
use super::open::{Options, writer};
use super::readers::Readers;
use super::statement_timeout::StatementTimeout;
use super::transaction::{Fence, Transaction};
use super::{Schema, SqliteError, WriterPool};

/// So many jobs share a commit at most,
const GROUP_JOBS: usize = 512;
/// or as many as are done within this time.
const GROUP_TIME: Duration = Duration::from_millis(2);

// No statement of anybody else reads like these: they are kept prepared by their text.
const BEGIN: &str = "BEGIN IMMEDIATE -- group";
const COMMIT: &str = "COMMIT -- group";
const SAVEPOINT: &str = "SAVEPOINT job";
const RELEASE: &str = "RELEASE job";
const UNDO: &str = "ROLLBACK TO job";

/// A database. Clones are the same one; it closes with the last.
#[derive(Clone)]
pub struct Database {
    desk: Arc<WriteQueue>,
    readers: Arc<Readers>,
}

/// Where jobs wait, and are done.
pub(super) struct WriteQueue {
    path: PathBuf,
    writers: WriterPool,
    state: Mutex<State>,
    /// Used by one thread at a time; `None` once it is closed.
    writer: Mutex<Option<Writer>>,
    idle: Notify,
}

#[derive(Default)]
struct State {
    /// Bounded by whoever submits: each bounds what it has under way.
    pending: VecDeque<Box<dyn Job>>,
    /// A thread is on its way or at work.
    scheduled: bool,
    closed: bool,
}

struct Writer {
    connection: Connection,
    watch: StatementTimeout,
    fence: Fence,
}

impl Database {
    /// Opens a file, makes it if there is none, and migrates it. Blocks its thread.
    ///
    /// # Errors
    /// It can't be used; the error says which file, why, and what to do.
    pub fn open(
        path: &Path,
        schema: &Schema,
        options: Options,
        writers: &WriterPool,
    ) -> Result<Self, SqliteError> {
        let mut connection = writer(path, schema, &options)?;
        let watch = StatementTimeout::of(&mut connection, options.job_max)?;
        let fence = Fence::around(&mut connection)?;
        Ok(Self {
            desk: Arc::new(WriteQueue {
                path: path.to_owned(),
                writers: writers.clone(),
                state: Mutex::default(),
                writer: Mutex::new(Some(Writer {
                    connection,
                    watch,
                    fence,
                })),
                idle: Notify::new(),
            }),
            readers: Arc::new(Readers::new(path.to_owned(), options)),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.desk.path
    }

    /// Reads at once, on this thread; before others use it.
    pub(crate) fn read_now<R>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, SqliteError> {
        match &*self.desk.writer.lock() {
            Some(writer) => {
                work(&writer.connection).map_err(|error| SqliteError::from(error).of(self.path()))
            }
            None => Err(SqliteError::Closed),
        }
    }

    /// Hands a job over. Jobs of one database are done in the order in which they come.
    ///
    /// Never waits: whoever submits bounds how much it has under way.
    pub fn submit(&self, job: Box<dyn Job>) {
        self.submit_all(vec![job]);
    }

    /// Hands several jobs over at once: as far as they fit, they share a commit.
    ///
    /// Never waits, as [`submit`](Database::submit).
    pub fn submit_all(&self, jobs: Vec<Box<dyn Job>>) {
        if jobs.is_empty() {
            return;
        }
        let start = {
            let mut state = self.desk.state.lock();
            if state.closed {
                drop(state);
                for job in jobs {
                    tell(job, Err(SqliteError::Closed));
                }
                return;
            }
            state.pending.extend(jobs);
            !std::mem::replace(&mut state.scheduled, true)
        };
        if start {
            self.desk.writers.schedule(self.desk.clone());
        }
    }

    /// Does something within a transaction; the future resolves when it is on the disk. It
    /// is handed over at once, and done or not as a whole, also when the future is dropped.
    ///
    /// # Errors
    /// What the closure returns: then nothing of it was done. Or it couldn't be written.
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

    /// Reads what is committed, as it was at one moment. Doesn't wait for who writes.
    ///
    /// # Errors
    /// What the closure returns, or it can't be read.
    pub async fn read<R, E>(
        &self,
        name: &str,
        work: impl FnOnce(&Connection) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<SqliteError> + Send + 'static,
    {
        let _turn = self.readers.turn().await?;
        let (readers, name) = (self.readers.clone(), name.to_owned());
        let reading = move || readers.read(&name, work);
        let read = self.desk.writers.runtime().spawn_blocking(reading).await;
        read.unwrap_or_else(|_| Err(SqliteError::Closed.into()))
    }

    /// Does what is pending, then closes the file. What comes meanwhile is refused, and
    /// still is when the future is dropped: a job that never ends keeps the file open.
    pub async fn close(&self) {
        self.desk.state.lock().closed = true;
        loop {
            let idle = self.desk.idle.notified();
            if !self.desk.state.lock().scheduled {
                break;
            }
            idle.await;
        }
        self.readers.close();
        let desk = self.desk.clone();
        let closing = self.desk.writers.runtime().spawn_blocking(move || {
            if let Some(writer) = desk.writer.lock().take() {
                writer.close(&desk.path);
            }
        });
        // A runtime that ends closes it, too: with its memory.
        let _ended = closing.await;
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.desk.path.display())
    }
}

impl WriteQueue {
    /// One commit. Says whether there is more to do.
    pub(super) fn turn(&self) -> bool {
        let mut writer = self.writer.lock();
        let mut group = Group::default();
        let outcome = match &*writer {
            Some(writer) => self.group(writer, &mut group),
            None => Err(SqliteError::Closed),
        };
        if outcome.is_err()
            && let Some(writer) = &mut *writer
        {
            writer.roll_back(&self.path);
        }
        drop(writer);
        if outcome.is_err() && group.0.is_empty() {
            // It couldn't even begin: who comes first is told, or nobody ever was.
            let first = self.state.lock().pending.pop_front();
            group.0.extend(first.map(|job| (job, Ok(()))));
        }
        for (job, result) in group.0 {
            // One that failed by itself knows why; the others share what went wrong.
            tell(job, result.and_then(|()| outcome.clone()));
        }
        let mut state = self.state.lock();
        state.scheduled = !state.pending.is_empty();
        if !state.scheduled {
            self.idle.notify_waiters();
        }
        state.scheduled
    }

    fn group(&self, writer: &Writer, group: &mut Group) -> Result<(), SqliteError> {
        let located = |error: SqliteError| error.of(&self.path);
        let connection = &writer.connection;
        let tx = Transaction::new(connection, &writer.fence);
        execute(connection, BEGIN).map_err(located)?;
        let began = Instant::now();
        while group.0.len() < GROUP_JOBS && began.elapsed() < GROUP_TIME {
            let Some(mut job) = self.state.lock().pending.pop_front() else {
                break;
            };
            let name = job.name().to_owned();
            let rolled_back = || SqliteError::Unusable {
                path: self.path.clone(),
                why: format!("SQLite has rolled back what was done together with {name}"),
            };
            let run = || {
                caught(&name, || job.run(&tx))??;
                // It may have gone on after a statement that failed.
                match connection.is_autocommit() {
                    true => Err(rolled_back()),
                    false => Ok(()),
                }
            };
            let result = execute(connection, SAVEPOINT)
                .and_then(|()| writer.watch.over(&name, run))
                .map_err(located);
            let failed = result.is_err();
            group.0.push((job, result));
            if connection.is_autocommit() {
                // SQLite has rolled all of it back: no room, the disk is at fault, or a statement
                // that writes was stopped. What one did by itself isn't the others' fault.
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
        let committed = writer.fence.open(|| execute(connection, COMMIT));
        committed.map_err(located)
    }

    /// There is no thread any more: nothing will be done.
    pub(super) fn end(&self) {
        let pending = {
            let mut state = self.state.lock();
            state.closed = true;
            state.scheduled = false;
            std::mem::take(&mut state.pending)
        };
        for job in pending {
            tell(job, Err(SqliteError::Closed));
        }
        self.idle.notify_waiters();
    }
}

/// The jobs of one commit, each with how it went by itself.
#[derive(Default)]
struct Group(Vec<(Box<dyn Job>, Result<(), SqliteError>)>);

impl Writer {
    fn roll_back(&mut self, path: &Path) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            warn!(path = %path.display(), %error, "a transaction can't be rolled back");
        }
    }

    /// Moves what is in the WAL to the file, and cuts it: the file alone is all of it.
    fn close(self, path: &Path) {
        let moved = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = moved {
            // It is whole nevertheless, with its WAL.
            warn!(path = %path.display(), %error, "the write-ahead log stays beside its file");
        }
        if let Err((_, error)) = self.connection.close() {
            warn!(path = %path.display(), %error, "the database was not closed in order");
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> Result<(), SqliteError> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
