//! Counts the delayed messages of a queue, as far as this process knows.
//!
//! The broker can't tell which queue a delayed message belongs to. So each process counts the
//! messages that it sent itself. It counts a message slightly too long rather than too short.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::topology::Step;

/// Time in which the broker moves a message whose delay is over.
const MOVE_TIME: Duration = Duration::from_millis(200);
/// Due times share a bucket of this fraction of the delay, at most [`BUCKET_MAX`]. This bounds
/// the memory.
const BUCKETS_PER_WAIT: u32 = 64;
const BUCKET_MAX: Duration = Duration::from_secs(1);

/// The delayed messages of one queue.
pub(super) struct DelayCount {
    origin: Instant,
    /// Number of messages by due time (since `origin`).
    until: Mutex<BTreeMap<Duration, u64>>,
    /// Messages that the relay of this process moves at present.
    moving: AtomicU64,
}

impl DelayCount {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            until: Mutex::default(),
            moving: AtomicU64::new(0),
        }
    }

    /// Counts a message that was sent to a delay queue.
    pub(super) fn add(&self, step: Step) {
        let bucket = (step.wait / BUCKETS_PER_WAIT).min(BUCKET_MAX);
        let due = (self.origin.elapsed() + step.wait + MOVE_TIME).as_nanos();
        let due = due.div_ceil(bucket.as_nanos()) * bucket.as_nanos();
        let due = Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX));
        let mut until = self.until.lock();
        Self::drop_past(&mut until, self.origin.elapsed());
        *until.entry(due).or_default() += 1;
    }

    /// Returns the number of delayed messages.
    pub(super) fn count(&self) -> u64 {
        let mut until = self.until.lock();
        Self::drop_past(&mut until, self.origin.elapsed());
        until.values().sum::<u64>() + self.moving.load(Relaxed)
    }

    /// Counts a message as delayed until the result is dropped.
    pub(super) fn moving(&self) -> Moving<'_> {
        self.moving.fetch_add(1, Relaxed);
        Moving(self)
    }

    fn drop_past(until: &mut BTreeMap<Duration, u64>, now: Duration) {
        while let Some(first) = until.first_entry()
            && *first.key() <= now
        {
            first.remove();
        }
    }
}

/// A message on its way from `APP.due` to its queue.
pub(super) struct Moving<'a>(&'a DelayCount);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.moving.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_counts_until_its_delay_is_over_and_not_much_longer() {
        let step = Step::at_least(Duration::from_secs(1)).unwrap();
        let delayed = DelayCount::new();
        for _ in 0..10_000 {
            delayed.add(step);
        }
        assert!(delayed.until.lock().len() < 3);
        tokio::time::advance(step.wait).await;
        assert_eq!(delayed.count(), 10_000);
        tokio::time::advance(MOVE_TIME + step.wait / 32).await;
        assert_eq!(delayed.count(), 0);
    }
}
