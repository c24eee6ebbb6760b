//! The writer pool: a few threads that commit for all databases of an app.
//!
//! The threads are blocking threads of the tokio runtime, so that the paused clock of a test
//! waits for them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

/// Shares threads among databases: a limited number of them write at the same time.
#[derive(Clone)]
pub struct WriterPool(Arc<Inner>);

/// The pending writes of one database.
pub(super) trait PendingWrites: Send + Sync {
    /// Runs one commit. Returns whether more writes are pending.
    fn commit_group(&self) -> bool;

    /// Fails all pending writes, because no thread will run them.
    fn abort(&self);
}

struct Inner {
    runtime: Handle,
    threads_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    busy: usize,
    /// Databases with pending writes and no thread.
    waiting: VecDeque<Arc<dyn PendingWrites>>,
}

impl WriterPool {
    /// Creates a pool of at most `threads_max` threads of the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(threads_max: usize) -> Self {
        Self(Arc::new(Inner {
            runtime: Handle::current(),
            threads_max: threads_max.max(1),
            state: Mutex::default(),
        }))
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Schedules a database. The caller does not schedule it again before all its writes are
    /// done.
    pub(super) fn schedule(&self, database: Arc<dyn PendingWrites>) {
        {
            let mut state = self.0.state.lock();
            if state.busy == self.0.threads_max {
                state.waiting.push_back(database);
                return;
            }
            state.busy += 1;
        }
        self.start(database);
    }

    /// Starts a thread, which `busy` counts already.
    fn start(&self, database: Arc<dyn PendingWrites>) {
        let writer = WriterThread {
            pool: self.clone(),
            database: Some(database),
        };
        self.0.runtime.spawn_blocking(move || writer.run());
    }
}

impl std::fmt::Debug for WriterPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriterPool({})", self.0.threads_max)
    }
}

/// One thread, which ends when no database waits.
struct WriterThread {
    pool: WriterPool,
    database: Option<Arc<dyn PendingWrites>>,
}

impl WriterThread {
    fn run(mut self) {
        while let Some(database) = &self.database {
            let more = database.commit_group();
            let mut state = self.pool.0.state.lock();
            if more && state.waiting.is_empty() {
                continue;
            }
            if more {
                state.waiting.extend(self.database.take());
            }
            self.database = state.waiting.pop_front();
            if self.database.is_none() {
                // Under the same lock: a database that is scheduled now gets a new thread.
                state.busy -= 1;
            }
        }
    }
}

impl Drop for WriterThread {
    /// With a database: the commit panicked, or the runtime has ended and never ran it.
    fn drop(&mut self) {
        let Some(database) = self.database.take() else {
            return;
        };
        database.abort();
        let next = {
            let mut state = self.pool.0.state.lock();
            let next = state.waiting.pop_front();
            state.busy -= usize::from(next.is_none());
            next
        };
        if let Some(next) = next {
            self.pool.start(next);
        }
    }
}
