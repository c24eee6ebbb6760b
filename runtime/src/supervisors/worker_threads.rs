//! The worker threads of an app: one actix arbiter per worker.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use actix::{Arbiter, ArbiterHandle};
use tokio::time::{Instant, timeout_at};

use crate::metrics::{Worker, WorkerLag};

/// Time for stopped threads to end.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

/// The workers of an app. Without any, services run on the current thread.
pub(crate) struct Threads {
    arbiters: RefCell<Vec<Arbiter>>,
    pub(crate) lag: Arc<WorkerLag>,
    /// Number of replaced threads that are still blocked.
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
            let arbiter = threads.start(threads.lag.worker(worker));
            threads.arbiters.borrow_mut().push(arbiter);
        }
        threads
    }

    fn start(&self, worker: Arc<Worker>) -> Arbiter {
        let arbiter = Arbiter::new();
        arbiter.spawn(self.lag.clone().measure(worker));
        arbiter
    }

    /// The number of workers.
    pub(crate) fn len(&self) -> usize {
        self.arbiters.borrow().len()
    }

    /// The arbiter of a worker; `None` means the current thread.
    pub(crate) fn arbiter(&self, worker: usize) -> Option<ArbiterHandle> {
        self.arbiters.borrow().get(worker).map(Arbiter::handle)
    }

    /// The record of the work that runs on a worker.
    pub(crate) fn worker(&self, worker: usize) -> Arc<Worker> {
        if self.len() == 0 {
            Arc::default()
        } else {
            self.lag.worker(worker)
        }
    }

    /// Starts another thread for a worker. The old thread ends when its handler returns.
    pub(crate) fn replace(&self, worker: usize) {
        let fresh = self.start(self.lag.replace(worker));
        let old = std::mem::replace(&mut self.arbiters.borrow_mut()[worker], fresh);
        old.stop();
        self.blocked.fetch_add(1, Relaxed);
        let blocked = self.blocked.clone();
        // The join lasts as long as the thread is blocked, perhaps for ever.
        let waiting = std::thread::Builder::new()
            .name("blocked-worker".into())
            .spawn(move || {
                // A panic of the thread was logged there.
                let _logged = old.join();
                blocked.fetch_sub(1, Relaxed);
            });
        if let Err(error) = waiting {
            tracing::warn!(%error, "no thread can wait for the blocked thread");
        }
    }

    /// The number of replaced threads that are still blocked.
    pub(crate) fn blocked(&self) -> usize {
        self.blocked.load(Relaxed)
    }

    /// Joins the threads and returns how many can't be joined.
    ///
    /// `stuck` are the workers whose threads are known to be blocked. A thread of these that
    /// was replaced since counts once, as a blocked thread; the worker's new thread is joined.
    /// No thread may be replaced after this call.
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
    fn a_replaced_thread_that_was_known_to_be_stuck_counts_once() {
        actix::System::new().block_on(async {
            let threads = Threads::new(2);
            let (release, released) = mpsc::channel::<()>();
            let (started, has_started) = mpsc::channel();
            threads
                .arbiter(0)
                .expect("there are two")
                .spawn_fn(move || {
                    started.send(()).expect("the test waits for it");
                    // Blocks until the test is over.
                    let _over = released.recv();
                });
            has_started.recv().expect("it runs");
            let stuck = [threads.worker(0), threads.worker(0)];
            threads.replace(0);
            assert_eq!(threads.join(&stuck).await, 1);
            drop(release);
        });
    }
}
