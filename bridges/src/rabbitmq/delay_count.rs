//! How many messages of a queue wait on the delay ladder, as far as this process knows.
//!
//! The broker can't tell for which queue a waiting message is, so each process counts
//! what it sent there itself. It rather counts a message for a moment too long, when it
//! has arrived already, than not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::topology::Step;

/// What the broker may take to move a message whose time is over.
const MOVE_TIME: Duration = Duration::from_millis(200);
/// Times are counted together in grains of this part of the wait, and at most
/// [`GRAIN_MAX`]: that bounds the memory that this takes.
const BUCKETS_PER_WAIT: u32 = 64;
const BUCKET_MAX: Duration = Duration::from_secs(1);

/// The waiting messages of one queue.
pub(super) struct DelayCount {
    origin: Instant,
    /// How many are counted until when (since `origin`).
    until: Mutex<BTreeMap<Duration, u64>>,
}

impl DelayCount {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            until: Mutex::default(),
        }
    }

    /// A message has begun to wait.
    pub(super) fn add(&self, step: Step) {
        let bucket = (step.wait / BUCKETS_PER_WAIT).min(BUCKET_MAX);
        let due = (self.origin.elapsed() + step.wait + MOVE_TIME).as_nanos();
        let due = due.div_ceil(bucket.as_nanos()) * bucket.as_nanos();
        let due = Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX));
        let mut until = self.until.lock();
        Self::drop_past(&mut until, self.origin.elapsed());
        *until.entry(due).or_default() += 1;
    }

    /// How many wait now.
    pub(super) fn count(&self) -> u64 {
        let mut until = self.until.lock();
        Self::drop_past(&mut until, self.origin.elapsed());
        until.values().sum()
    }

    fn drop_past(until: &mut BTreeMap<Duration, u64>, now: Duration) {
        while let Some(first) = until.first_entry()
            && *first.key() <= now
        {
            first.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_counts_until_its_time_is_over_and_not_much_longer() {
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
