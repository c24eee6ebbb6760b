//! The runtime of one test: an actix system on the test's thread with a virtual clock. The clock
//! jumps to the next timer when no task can run.
//!
//! Tasks run only inside of [`SimRuntime::run`].

use std::time::Duration;

use actix::{System, SystemRunner};
use tokio::runtime::{Builder, Handle};
use tokio::task::{LocalSet, yield_now};
use tokio::time::timeout;

/// Turns given to tasks that become due at the same moment.
const TURNS: u32 = 256;

/// An actix system with a clock of its own.
pub(super) struct SimRuntime {
    /// Separate from the system's own tasks, so that the kit can wait for their end. `None`
    /// during the drop.
    tasks: Option<LocalSet>,
    runner: SystemRunner,
}

impl SimRuntime {
    pub(super) fn new() -> Self {
        // Back-off jitter: the same in every run.
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

    /// Runs all tasks, and lets time pass, until `future` is done.
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let tasks = self.tasks.as_ref().expect("it is there until the drop");
        self.runner.block_on(tasks.run_until(future))
    }

    /// Lets time pass, then gives due tasks their turns.
    pub(super) fn advance(&self, duration: Duration) {
        self.run(async {
            tokio::time::sleep(duration).await;
            for _ in 0..TURNS {
                yield_now().await;
            }
        });
    }

    /// Waits for the end of every spawned task. Returns false if one still runs after this
    /// time.
    pub(super) fn tasks_end(&mut self, within: Duration) -> bool {
        let tasks = self.tasks.as_mut().expect("it is there until the drop");
        self.runner.block_on(async {
            if timeout(within, tasks).await.is_err() {
                return false;
            }
            // Tasks that may move between threads belong to the tokio runtime.
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
        // Inside of the runtime: destructors of tasks may use its timers.
        let tasks = self.tasks.take();
        self.runner.block_on(async move { drop(tasks) });
    }
}
