//! Redeliveries without a crash: messages that this process requeued, or that were in flight
//! when a connection or a channel was lost.
//!
//! The broker counts every delivery without an ack, whatever the reason. The redeliveries
//! recorded here are subtracted, so that only crashes remain. A process that crashes loses the
//! record. Then a message that was requeued before becomes a suspect sooner, which takes time
//! but blames no message.
//!
//! A delivery can be lost while its handler runs, for example because the handler takes longer
//! than the broker waits for an ack. The record then has the state of that run: the message must
//! not start again while it runs, and need not if the run succeeds.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use brickwork::MessageId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Maximum messages in the record. A process with more is in serious trouble: the record is
/// cleared, and all of them may become suspects.
const MESSAGES_MAX: usize = 65_536;
/// How long a message that is done waits for its redelivery. Another process may have got it.
const DONE_KEPT: Duration = Duration::from_secs(60 * 60);
/// The same for a message without an id: another one may have the same content.
const ANONYMOUS_KEPT: Duration = Duration::from_secs(60);

/// A message in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MessageKey {
    hash: u64,
    pub(super) has_id: bool,
}

/// The runs of a message whose deliveries were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostRun {
    /// There is none: the message may start.
    None,
    /// The service has the message: another delivery of it must wait.
    Running,
    /// The message is done, and the broker doesn't know: another delivery of it is acked.
    Done,
}

/// The record of one message, or of several with the same content and without ids.
#[derive(Debug, Default)]
struct Record {
    redeliveries: u64,
    /// Lost runs that have not ended.
    running: u32,
    /// Lost runs that succeeded, whose redeliveries have not come.
    done: u32,
    /// End of the last run.
    ended: Option<Instant>,
}

/// Redeliveries without a crash, by message. Outlives sessions.
pub(super) struct NonCrashRedeliveries {
    /// False if nothing is recorded, which is the usual case.
    any: AtomicBool,
    records: Mutex<HashMap<MessageKey, Record>>,
    hash: RandomState,
    /// Changes when a lost run has ended.
    ended: watch::Sender<()>,
}

impl Default for NonCrashRedeliveries {
    fn default() -> Self {
        Self {
            any: AtomicBool::new(false),
            records: Mutex::default(),
            hash: RandomState::new(),
            ended: watch::Sender::new(()),
        }
    }
}

impl NonCrashRedeliveries {
    /// Returns the key of a message with an id. Messages with equal hashes share a key.
    pub(super) fn key(&self, queue: &str, id: &MessageId) -> MessageKey {
        MessageKey {
            hash: self.hash.hash_one((queue, id)),
            has_id: true,
        }
    }

    /// Returns the key of a message without an id.
    pub(super) fn content_key(&self, queue: &str, content: impl Hash) -> MessageKey {
        MessageKey {
            hash: self.hash.hash_one((queue, content)),
            has_id: false,
        }
    }

    /// Records one redelivery.
    pub(super) fn add(&self, key: MessageKey) {
        self.record(key, |record| record.redeliveries += 1);
    }

    /// Records a delivery that was lost while the service had it. [`ended`](Self::ended) follows.
    pub(super) fn lost(&self, key: MessageKey) {
        self.record(key, |record| {
            record.redeliveries += 1;
            record.running += 1;
        });
    }

    /// Records the end of a run whose delivery was lost.
    pub(super) fn ended(&self, key: MessageKey, is_done: bool) {
        self.record(key, |record| {
            record.running = record.running.saturating_sub(1);
            record.done += u32::from(is_done);
            record.ended = Some(Instant::now());
        });
        self.ended.send_replace(());
    }

    /// Returns the recorded redeliveries of a message.
    pub(super) fn count(&self, key: MessageKey) -> u64 {
        let records = self.records.lock();
        records.get(&key).map_or(0, |record| record.redeliveries)
    }

    /// Returns the run of a message whose earlier delivery was lost.
    pub(super) fn lost_run(&self, key: MessageKey) -> LostRun {
        if !self.any.load(Relaxed) {
            return LostRun::None;
        }
        let kept = match key.has_id {
            true => DONE_KEPT,
            false => ANONYMOUS_KEPT,
        };
        match self.records.lock().get(&key) {
            Some(record)
                if record.done > 0 && record.ended.is_some_and(|end| end.elapsed() <= kept) =>
            {
                LostRun::Done
            }
            Some(record) if record.running > 0 => LostRun::Running,
            _ => LostRun::None,
        }
    }

    /// Forgets that a message is done, because its redelivery has come.
    pub(super) fn take_done(&self, key: MessageKey) {
        self.record(key, |record| record.done = record.done.saturating_sub(1));
        self.forget(key);
    }

    /// Watches for the end of lost runs.
    pub(super) fn ends(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }

    /// Forgets a settled message. Cheap while nothing is recorded.
    pub(super) fn forget(&self, key: MessageKey) {
        if !self.any.load(Relaxed) {
            return;
        }
        let mut records = self.records.lock();
        // Others with the same content may not be settled.
        if records
            .get(&key)
            .is_some_and(|record| record.running + record.done == 0)
        {
            records.remove(&key);
        }
        self.any.store(!records.is_empty(), Relaxed);
    }

    fn record(&self, key: MessageKey, change: impl FnOnce(&mut Record)) {
        let mut records = self.records.lock();
        if records.len() >= MESSAGES_MAX {
            records.clear();
        }
        change(records.entry(key).or_default());
        self.any.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MessageId {
        text.parse().unwrap()
    }

    #[test]
    fn redeliveries_count_for_one_message_in_one_queue() {
        let redeliveries = NonCrashRedeliveries::default();
        let [a, b] = ["a", "b"].map(|text| redeliveries.key("q", &id(text)));
        let other = redeliveries.key("other", &id("a"));
        redeliveries.add(a);
        redeliveries.add(a);
        assert_eq!(redeliveries.count(a), 2);
        assert_eq!(redeliveries.count(b), 0);
        assert_eq!(redeliveries.count(other), 0);
        redeliveries.forget(other);
        assert_eq!(redeliveries.count(a), 2);
        redeliveries.forget(a);
        assert_eq!(redeliveries.count(a), 0);
        assert!(!redeliveries.any.load(Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_done_is_remembered_for_its_redelivery() {
        let redeliveries = NonCrashRedeliveries::default();
        let key = redeliveries.key("q", &id("a"));
        assert_eq!(redeliveries.lost_run(key), LostRun::None);
        redeliveries.lost(key);
        assert_eq!(redeliveries.lost_run(key), LostRun::Running);
        let ends = redeliveries.ends();
        redeliveries.ended(key, false);
        assert!(ends.has_changed().unwrap());
        assert_eq!(redeliveries.lost_run(key), LostRun::None);
        redeliveries.lost(key);
        redeliveries.ended(key, true);
        assert_eq!(redeliveries.lost_run(key), LostRun::Done);
        assert_eq!(redeliveries.count(key), 2);
        tokio::time::advance(DONE_KEPT + Duration::from_secs(1)).await;
        assert_eq!(redeliveries.lost_run(key), LostRun::None);
    }

    #[test]
    fn messages_with_the_same_content_are_counted() {
        let redeliveries = NonCrashRedeliveries::default();
        let key = redeliveries.content_key("q", "content");
        assert_ne!(key, redeliveries.content_key("q", "other"));
        redeliveries.lost(key);
        redeliveries.lost(key);
        redeliveries.ended(key, true);
        assert_eq!(redeliveries.lost_run(key), LostRun::Done);
        redeliveries.take_done(key);
        assert_eq!(redeliveries.lost_run(key), LostRun::Running);
        // A third one is acked.
        redeliveries.forget(key);
        assert_eq!(redeliveries.lost_run(key), LostRun::Running);
        redeliveries.ended(key, true);
        redeliveries.take_done(key);
        assert!(!redeliveries.any.load(Relaxed));
    }

    #[test]
    fn the_record_is_bounded() {
        let redeliveries = NonCrashRedeliveries::default();
        for number in 0..MESSAGES_MAX + 10 {
            redeliveries.add(redeliveries.key("q", &id(&number.to_string())));
        }
        assert!(redeliveries.records.lock().len() <= MESSAGES_MAX);
    }
}
