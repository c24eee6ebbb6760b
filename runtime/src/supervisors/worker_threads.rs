//! The threads that services run on: an arbiter for each worker.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use actix::{Arbiter, ArbiterHandle};
use tokio::time::{Instant, timeout_at};

use crate::metrics::{Worker, WorkerLag};

/// How long threads that have been told to end may take.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

/// The workers of an app; without any, services run on the current thread.
pub(crate) struct Threads {
    arbiters: RefCell<Vec<Arbiter>>,
    pub(crate) lag: Arc<WorkerLag>,
    /// Threads that were given up and have not come back.
    blocked: Arc<AtomicUsize>,
}

impl Threads {
    pub(crate) fn new(workers: usize) -> Self {
        let lag = WorkerLag::new(workers);
        let threads = Self {
            arbiters: RefCell::default(),
            lag,
            blocked: Arc::default(),
        };
        for worker in 0..workers {
            let arbiter = threads.begin(threads.lag.worker(worker));
            threads.arbiters.borrow_mut().push(arbiter);
        }
        threads
    }

    fn begin(&self, worker: Arc<Worker>) -> Arbiter {
        let arbiter = Arbiter::new();
        arbiter.spawn(self.lag.clone().measure(worker));
        arbiter
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.arbiters.borrow().len()
    }

    /// The arbiter of a worker; `None` means the current one.
    pub(crate) fn arbiter(&self, worker: usize) -> Option<ArbiterHandle> {
        self.arbiters.borrow().get(worker).map(Arbiter::handle)
    }

    /// Where what runs on a worker says so.
    pub(crate) fn worker(&self, worker: usize) -> Arc<Worker> {
        if self.len() == 0 {
            Arc::default()
        } else {
            self.lag.worker(worker)
        }
    }

    /// Gives a worker's thread up and starts another one. The old one ends by itself
    /// when what blocks it ends.
    pub(crate) fn replace(&self, worker: usize) {
        let fresh = self.begin(self.lag.replace(worker));
        let old = std::mem::replace(&mut self.arbiters.borrow_mut()[worker], fresh);
        old.stop();
        self.blocked.fetch_add(1, Relaxed);
        let blocked = self.blocked.clone();
        // It waits for as long as the thread is blocked: perhaps for ever.
        let waiting = std::thread::Builder::new()
            .name("given-up-worker".into())
            .spawn(move || {
                // What panicked there was logged there.
                let _logged = old.join();
                blocked.fetch_sub(1, Relaxed);
            });
        if let Err(error) = waiting {
            tracing::warn!(%error, "nobody waits for the thread that was given up");
        }
    }

    /// How many threads were given up and have not come back.
    pub(crate) fn blocked(&self) -> usize {
        self.blocked.load(Relaxed)
    }

    /// Joins the threads that can be; returns how many can't. `stuck` are those that are
    /// known to be blocked; one of them that was given up since is counted as that, and
    /// its worker's new thread is joined. Nobody may give up a thread any more.
    pub(crate) async fn join(&self, stuck: &[Arc<Worker>]) -> usize {
        let arbiters = self.arbiters.take();
        let by = Instant::now() + JOIN_WITHIN;
        let mut left = 0;
        let mut joining = Vec::new();
        for (worker, arbiter) in arbiters.into_iter().enumerate() {
            arbiter.stop();
            let present = self.lag.worker(worker);
            if stuck.iter().any(|stuck| Arc::ptr_eq(stuck, &present)) {
                left += 1;
            } else {
                joining.push(tokio::task::spawn_blocking(move || arbiter.join()));
            }
        }
        for joined in joining {
            if !matches!(timeout_at(by, joined).await, Ok(Ok(Ok(())))) {
                left += 1;
            }
        }
        left + self.blocked()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_is_given_up_after_it_was_known_to_be_stuck_counts_once() {
        actix::System::new().block_on(async {
            let threads = Threads::new(2);
            let (free, held) = mpsc::channel::<()>();
            let (tell, told) = mpsc::channel();
            threads
                .arbiter(0)
                .expect("there are two")
                .spawn_fn(move || {
                    tell.send(()).expect("it is waited for");
                    // Until the test is over.
                    let _over = held.recv();
                });
            told.recv().expect("it runs");
            let stuck = [threads.worker(0), threads.worker(0)];
            threads.replace(0);
            assert_eq!(threads.join(&stuck).await, 1);
            drop(free);
        });
    }
}
