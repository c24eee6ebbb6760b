//! The universe of one test: an actix system on the test's thread, whose time jumps when
//! nobody works.
//!
//! Owns the threads' rules: everything runs inside [`SimRuntime::run`], and nothing while the
//! test itself does something else. Knows nothing of apps.

use std::time::Duration;

use actix::{System, SystemRunner};
use tokio::runtime::{Builder, Handle};
use tokio::task::{LocalSet, yield_now};
use tokio::time::timeout;

/// What is due at the same moment is done in so many turns, or needs more time.
const TURNS: u32 = 256;

/// A system with a clock of its own.
pub(super) struct SimRuntime {
    /// Apart from the system's own, so that its end can be waited for. `None` while
    /// dropping.
    tasks: Option<LocalSet>,
    runner: SystemRunner,
}

impl SimRuntime {
    pub(super) fn new() -> Self {
        // The jitter of back-offs comes from here: the same in every run.
        fastrand::seed(0);
        let runner = System::with_tokio_rt(|| {
            Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .expect("a runtime can be built")
        });
        Self {
            tasks: Some(LocalSet::new()),
            runner,
        }
    }

    /// Lets time pass and everybody work until `future` is done.
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let tasks = self.tasks.as_ref().expect("it is there until the drop");
        self.runner.block_on(tasks.run_until(future))
    }

    /// Lets time pass, and what is due at its end be done.
    pub(super) fn advance(&self, duration: Duration) {
        self.run(async {
            tokio::time::sleep(duration).await;
            for _ in 0..TURNS {
                yield_now().await;
            }
        });
    }

    /// Whether every task that was spawned ends within this time.
    pub(super) fn ends(&mut self, within: Duration) -> bool {
        let tasks = self.tasks.as_mut().expect("it is there until the drop");
        self.runner.block_on(async {
            if timeout(within, tasks).await.is_err() {
                return false;
            }
            // Those that may move between threads are the runtime's own.
            let alive = || Handle::current().metrics().num_alive_tasks() > 0;
            let ended = async {
                while alive() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            !alive() || timeout(within, ended).await.is_ok()
        })
    }
}

impl Drop for SimRuntime {
    fn drop(&mut self) {
        // Inside the runtime: what is dropped may want to speak to its timers.
        let tasks = self.tasks.take();
        self.runner.block_on(async move { drop(tasks) });
    }
}
