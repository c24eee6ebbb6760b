//! The threads that write: few, and shared by all databases of an app.
//!
//! They are the runtime's blocking threads, so that a paused clock of a test waits for them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::database::WriteQueue;

/// Shares threads among databases: at most so many write at the same time.
#[derive(Clone)]
pub struct WriterPool(Arc<Inner>);

struct Inner {
    runtime: Handle,
    threads_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    busy: usize,
    /// Databases that have something to write and no thread.
    waiting: VecDeque<Arc<WriteQueue>>,
}

impl WriterPool {
    /// At most so many threads of the current tokio runtime.
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

    /// A database has something to write. It is told once until it has written it all.
    pub(super) fn schedule(&self, desk: Arc<WriteQueue>) {
        {
            let mut state = self.0.state.lock();
            if state.busy == self.0.threads_max {
                state.waiting.push_back(desk);
                return;
            }
            state.busy += 1;
        }
        self.start(desk);
    }

    /// A thread that is counted already begins.
    fn start(&self, desk: Arc<WriteQueue>) {
        let turns = Turns {
            writers: self.clone(),
            desk: Some(desk),
        };
        self.0.runtime.spawn_blocking(move || turns.run());
    }
}

impl std::fmt::Debug for WriterPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writers({})", self.0.threads_max)
    }
}

/// One thread's work, as long as there is some.
struct Turns {
    writers: WriterPool,
    desk: Option<Arc<WriteQueue>>,
}

impl Turns {
    fn run(mut self) {
        while let Some(desk) = &self.desk {
            let more = desk.turn();
            let mut state = self.writers.0.state.lock();
            if more && state.waiting.is_empty() {
                continue;
            }
            if more {
                state.waiting.extend(self.desk.take());
            }
            self.desk = state.waiting.pop_front();
            if self.desk.is_none() {
                // At once: who comes now must not wait for a thread that has looked already.
                state.busy -= 1;
            }
        }
    }
}

impl Drop for Turns {
    /// With a database: it panicked, or the runtime has ended and will never run it.
    fn drop(&mut self) {
        let Some(desk) = self.desk.take() else { return };
        desk.end();
        let next = {
            let mut state = self.writers.0.state.lock();
            let next = state.waiting.pop_front();
            state.busy -= usize::from(next.is_none());
            next
        };
        if let Some(next) = next {
            self.writers.start(next);
        }
    }
}
