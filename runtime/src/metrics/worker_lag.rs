//! How late the threads of workers turn: whether something blocks them.
//!
//! Each worker measures itself, and anybody can read it from outside, also while the
//! worker is blocked: then the time since it should have turned is its lag.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often a worker looks.
const EVERY: Duration = Duration::from_millis(100);

/// A lag is remembered for one to two windows, so that a scrape doesn't miss it.
const WINDOW: Duration = Duration::from_secs(10);

/// The lags of an app's workers.
#[derive(Debug)]
pub(crate) struct WorkerLag {
    origin: Instant,
    /// A thread that was given up goes on writing into what it has: the worker gets
    /// another thread, and another of these.
    workers: Box<[Mutex<Arc<Worker>>]>,
}

/// An instance, by the numbers of its service and its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) service: u32,
    pub(crate) instance: u32,
}

/// Written by the worker's own thread. All times are nanoseconds since the origin.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// Whose code ran last: service and instance.
    running: AtomicU64,
    /// How often somebody's code was given a turn.
    turns: AtomicU64,
    /// When it should turn next; 0 while nobody measures.
    due_ns: AtomicU64,
    /// The number of the window that `max_ns` belongs to.
    window: AtomicU64,
    /// The greatest lag in that window.
    max_ns: AtomicU64,
    /// The greatest lag in the window before.
    max_before_ns: AtomicU64,
}

impl WorkerLag {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            workers: (0..workers).map(|_| Mutex::default()).collect(),
        })
    }

    /// The thread that a worker has now.
    pub(crate) fn worker(&self, worker: usize) -> Arc<Worker> {
        self.workers[worker].lock().clone()
    }

    /// The worker gets another thread.
    pub(crate) fn replace(&self, worker: usize) -> Arc<Worker> {
        let fresh = Arc::new(Worker::default());
        *self.workers[worker].lock() = fresh.clone();
        fresh
    }

    fn all(&self) -> impl Iterator<Item = Arc<Worker>> {
        self.workers.iter().map(|worker| worker.lock().clone())
    }

    /// Measures on the calling thread, which is `worker`, until it is dropped.
    pub(crate) async fn measure(self: Arc<Self>, worker: Arc<Worker>) {
        let worker = &*worker;
        let _end = Measuring(worker);
        loop {
            let due = Instant::now() + EVERY;
            worker.expect(due.duration_since(self.origin));
            tokio::time::sleep_until(due.into()).await;
            worker.turned(self.origin.elapsed());
        }
    }

    /// The greatest lag of each worker in the last 10 to 20 seconds.
    pub(crate) fn recent(&self) -> impl Iterator<Item = Duration> {
        let now = self.origin.elapsed();
        self.all().map(move |worker| worker.recent(now))
    }

    /// For how long each worker has not turned though it should have.
    pub(crate) fn overdue(&self) -> impl Iterator<Item = Duration> {
        let now = self.origin.elapsed();
        self.all().map(move |worker| worker.overdue(now))
    }
}

/// A worker that isn't measured any more isn't late.
struct Measuring<'a>(&'a Worker);

impl Drop for Measuring<'_> {
    fn drop(&mut self) {
        self.0.due_ns.store(0, Relaxed);
    }
}

impl Worker {
    /// Says whose code runs now.
    pub(crate) fn runs(&self, who: Who) {
        let packed = u64::from(who.service) << 32 | u64::from(who.instance);
        self.running.store(packed, Relaxed);
        // One thread writes.
        self.turns.store(self.turns.load(Relaxed) + 1, Relaxed);
    }

    /// Whose code ran last, and how many turns there were. While the thread doesn't turn,
    /// that one is still running.
    pub(crate) fn running(&self) -> (Who, u64) {
        let packed = self.running.load(Relaxed);
        let who = Who {
            service: (packed >> 32) as u32,
            instance: packed as u32,
        };
        (who, self.turns.load(Relaxed))
    }

    /// It should turn at `due`.
    fn expect(&self, due: Duration) {
        self.due_ns.store(ns(due), Relaxed);
    }

    /// It has turned.
    fn turned(&self, now: Duration) {
        let lag_ns = ns(self.overdue(now));
        let (window, last) = (window_of(now), self.window.load(Relaxed));
        if window == last {
            self.max_ns.fetch_max(lag_ns, Relaxed);
        } else {
            let before = if window == last + 1 {
                self.max_ns.load(Relaxed)
            } else {
                0
            };
            self.max_before_ns.store(before, Relaxed);
            self.max_ns.store(lag_ns, Relaxed);
            self.window.store(window, Relaxed);
        }
    }

    fn overdue(&self, now: Duration) -> Duration {
        match self.due_ns.load(Relaxed) {
            0 => Duration::ZERO,
            due_ns => now.saturating_sub(Duration::from_nanos(due_ns)),
        }
    }

    fn recent(&self, now: Duration) -> Duration {
        let (max, before) = (self.max_ns.load(Relaxed), self.max_before_ns.load(Relaxed));
        let remembered_ns = match window_of(now).saturating_sub(self.window.load(Relaxed)) {
            0 => max.max(before),
            1 => max,
            _ => 0,
        };
        self.overdue(now).max(Duration::from_nanos(remembered_ns))
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn window_of(now: Duration) -> u64 {
    now.as_secs() / WINDOW.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_blocked_worker_is_late_while_it_is_blocked() {
        let worker = Worker::default();
        worker.expect(SECOND);
        assert_eq!(worker.recent(SECOND), Duration::ZERO);
        assert_eq!(worker.recent(5 * SECOND), 4 * SECOND);
        assert_eq!(worker.overdue(5 * SECOND), 4 * SECOND);
    }

    #[test]
    fn a_lag_is_remembered_for_one_to_two_windows() {
        let worker = Worker::default();
        worker.expect(SECOND);
        worker.turned(4 * SECOND);
        worker.expect(5 * SECOND);
        worker.turned(5 * SECOND);
        assert_eq!(worker.recent(5 * SECOND), 3 * SECOND);
        worker.expect(12 * SECOND);
        worker.turned(12 * SECOND);
        worker.expect(30 * SECOND);
        assert_eq!(worker.overdue(12 * SECOND), Duration::ZERO);
        assert_eq!(worker.recent(19 * SECOND), 3 * SECOND);
        assert_eq!(worker.recent(20 * SECOND), Duration::ZERO);
    }

    #[test]
    fn a_blocked_thread_is_seen_from_outside_and_a_stopped_measurement_is_not_late() {
        let lag = WorkerLag::new(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let measured = lag.clone();
        runtime.block_on(async {
            let task = tokio::spawn(measured.clone().measure(measured.worker(0)));
            while measured.worker(0).due_ns.load(Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            // The runtime's only thread waits here for another one: it is blocked.
            let seen = std::thread::spawn(move || {
                let give_up = Instant::now() + 20 * SECOND;
                while measured.recent().max() < Some(Duration::from_millis(50)) {
                    assert!(Instant::now() < give_up, "the lag was not seen");
                    std::thread::yield_now();
                }
            });
            seen.join().unwrap();
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        });
        assert_eq!(lag.overdue().max(), Some(Duration::ZERO));
    }
}
