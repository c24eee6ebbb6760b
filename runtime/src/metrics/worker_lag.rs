//! Worker lag: how late the event loop of each worker thread runs.
//!
//! Each worker thread measures itself with a timer, and any thread can read the result. While
//! a worker is blocked, the time since its timer was due is its lag.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Interval of the timer.
const EVERY: Duration = Duration::from_millis(100);

/// A lag is kept for one to two windows, so that a scrape does not miss it.
const WINDOW: Duration = Duration::from_secs(10);

/// Lags of the worker threads of an app.
#[derive(Debug)]
pub(crate) struct WorkerLag {
    origin: Instant,
    /// An abandoned thread keeps writing to its `Worker`, so a replacement gets a new one.
    workers: Box<[Mutex<Arc<Worker>>]>,
}

/// An instance, as the numbers of its service and of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceRef {
    pub(crate) service: u32,
    pub(crate) instance: u32,
}

/// State of one worker thread, which it alone writes. Times are nanoseconds since the origin.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// The instance whose code ran last.
    running: AtomicU64,
    /// Number of times that code of an instance started to run.
    turns: AtomicU64,
    /// Time at which the timer is due; 0 while the thread is not measured.
    due_ns: AtomicU64,
    /// Number of the window of `max_ns`.
    window: AtomicU64,
    /// Greatest lag in that window.
    max_ns: AtomicU64,
    /// Greatest lag in the window before.
    max_before_ns: AtomicU64,
}

impl WorkerLag {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            workers: (0..workers).map(|_| Mutex::default()).collect(),
        })
    }

    /// Returns the current thread of a worker.
    pub(crate) fn worker(&self, worker: usize) -> Arc<Worker> {
        self.workers[worker].lock().clone()
    }

    /// Gives a worker another thread.
    pub(crate) fn replace(&self, worker: usize) -> Arc<Worker> {
        let fresh = Arc::new(Worker::default());
        *self.workers[worker].lock() = fresh.clone();
        fresh
    }

    fn all(&self) -> impl Iterator<Item = Arc<Worker>> {
        self.workers.iter().map(|worker| worker.lock().clone())
    }

    /// Measures the calling thread, which is `worker`, until the future is dropped.
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

    /// Returns the greatest lag of each worker in the last 10 to 20 seconds.
    pub(crate) fn recent(&self) -> impl Iterator<Item = Duration> {
        let now = self.origin.elapsed();
        self.all().map(move |worker| worker.recent(now))
    }

    /// Returns the current lag of each worker.
    pub(crate) fn overdue(&self) -> impl Iterator<Item = Duration> {
        let now = self.origin.elapsed();
        self.all().map(move |worker| worker.overdue(now))
    }
}

/// Resets `due_ns` on drop: a worker that is no longer measured has no lag.
struct Measuring<'a>(&'a Worker);

impl Drop for Measuring<'_> {
    fn drop(&mut self) {
        self.0.due_ns.store(0, Relaxed);
    }
}

impl Worker {
    /// Records the instance whose code runs now.
    pub(crate) fn runs(&self, instance: InstanceRef) {
        let packed = u64::from(instance.service) << 32 | u64::from(instance.instance);
        self.running.store(packed, Relaxed);
        // One thread writes.
        self.turns.store(self.turns.load(Relaxed) + 1, Relaxed);
    }

    /// Returns the instance whose code ran last, and the number of turns. On a blocked
    /// thread, that instance still runs.
    pub(crate) fn running(&self) -> (InstanceRef, u64) {
        let packed = self.running.load(Relaxed);
        let instance = InstanceRef {
            service: (packed >> 32) as u32,
            instance: packed as u32,
        };
        (instance, self.turns.load(Relaxed))
    }

    /// Records that the timer is due at `due`.
    fn expect(&self, due: Duration) {
        self.due_ns.store(ns(due), Relaxed);
    }

    /// Records that the timer has fired.
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
                let deadline = Instant::now() + 20 * SECOND;
                while measured.recent().max() < Some(Duration::from_millis(50)) {
                    assert!(Instant::now() < deadline, "the lag was not seen");
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
