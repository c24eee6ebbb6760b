//! Attempt history: the last handler attempts of one service, in a ring of fixed size.
//!
//! The host records one attempt per handled message; the message trace reads them. The
//! instances of one service share a thread, so the lock has no contention. A record has
//! about 100 bytes and is copied; recording allocates only until the ring has its full
//! size. Values that can be computed later, such as the time of day, are not stored. An
//! idle service has no ring.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::id::MessageId;
use crate::message::Envelope;
use crate::metrics::Outcome;
use crate::supervision::RetryDecision;
use crate::trace_context::TraceContext;

/// Attempts kept per service.
pub(crate) const KEPT: usize = 1024;
/// Initial capacity of the ring; it doubles until it reaches [`KEPT`].
const FIRST: usize = 16;
/// Outputs per message whose emitted messages are counted. For a message that emitted on
/// more outputs, the trace searches for the rest.
const COUNTED: usize = 4;

/// The last attempts of one service, the newest last.
#[derive(Default)]
pub(crate) struct AttemptHistory(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    records: Vec<AttemptRecord>,
    /// Index of the next record: after the newest, over the oldest.
    next: usize,
    /// Older records were overwritten.
    lost: bool,
}

/// One moment on the monotonic clock and on the wall clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockPair {
    instant: Instant,
    unix_ms: u64,
}

impl ClockPair {
    pub(crate) fn now(clock: &Clock) -> Self {
        Self {
            instant: Instant::now(),
            unix_ms: clock.unix_ms(),
        }
    }

    /// Returns the wall-clock time of an earlier moment.
    fn unix_ms(&self, then: Instant) -> u64 {
        let since = self.instant.saturating_duration_since(then).as_millis();
        self.unix_ms.saturating_sub(since as u64)
    }
}

/// One attempt at one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptRecord {
    pub(crate) id: MessageId,
    /// High and low half of the trace id; 0 if the message started the trace.
    trace: [u64; 2],
    ended: Instant,
    took: Duration,
    retry_ms: u32,
    pub(crate) attempt: u32,
    pub(crate) input: u16,
    outcome: u8,
    decision: Decision,
    pub(crate) emitted: Emitted,
}

/// Decision of the host about the message after the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Done,
    Retry,
    DeadLetter,
}

/// Number of emitted messages by output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Emitted {
    counts: [(u16, u16); COUNTED],
    /// More messages may have been emitted than were counted.
    pub(crate) more: bool,
}

impl Emitted {
    /// Emitted messages that were not counted.
    pub(crate) const UNKNOWN: Self = Self {
        counts: [(0, 0); COUNTED],
        more: true,
    };

    /// Counts the outputs on which a handler emitted, one entry per message.
    pub(crate) fn from_outputs(outputs: impl IntoIterator<Item = usize>) -> Self {
        let mut emitted = Self::default();
        for output in outputs {
            emitted.count(output);
        }
        emitted
    }

    fn count(&mut self, output: usize) {
        let output = output as u16;
        let mut entries = self.counts.iter_mut();
        match entries.find(|(number, count)| *count == 0 || *number == output) {
            Some((_, u16::MAX)) | None => self.more = true,
            Some((number, count)) => {
                *number = output;
                *count += 1;
            }
        }
    }

    /// Returns the outputs with the number of messages emitted on each.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (usize, u32)> {
        let counted = self.counts.iter().filter(|(_, count)| *count > 0);
        counted.map(|(output, count)| (usize::from(*output), u32::from(*count)))
    }
}

impl AttemptRecord {
    /// Creates the record of an attempt that has ended.
    pub(crate) fn new(
        message: &Envelope,
        input: usize,
        attempt: u32,
        outcome: Outcome,
        ended: Instant,
    ) -> Self {
        let trace = message.trace.as_ref().map_or(0, |trace| trace.trace_id);
        Self {
            id: message.id.clone(),
            trace: [(trace >> 64) as u64, trace as u64],
            ended,
            took: Duration::ZERO,
            retry_ms: 0,
            attempt,
            input: input as u16,
            outcome: outcome as u8,
            decision: Decision::Done,
            emitted: Emitted::default(),
        }
    }

    pub(crate) fn took(mut self, took: Duration) -> Self {
        self.took = took;
        self
    }

    pub(crate) fn emitting(mut self, emitted: Emitted) -> Self {
        self.emitted = emitted;
        self
    }

    /// The transport did not confirm the emitted messages.
    pub(crate) fn unconfirmed(mut self, decision: &RetryDecision) -> Self {
        self.outcome = Outcome::Defer as u8;
        self.emitted = Emitted::default();
        self.decided(decision)
    }

    pub(crate) fn decided(mut self, decision: &RetryDecision) -> Self {
        match decision {
            RetryDecision::Ack => {}
            RetryDecision::Retry { after, .. } => {
                self.decision = Decision::Retry;
                self.retry_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            }
            RetryDecision::DeadLetter(_) => self.decision = Decision::DeadLetter,
        }
        self
    }

    /// Returns the trace id of the message.
    pub(crate) fn trace_id(&self) -> u128 {
        match self.trace {
            [0, 0] => TraceContext::root(&self.id).trace_id,
            [high, low] => (u128::from(high) << 64) | u128::from(low),
        }
    }

    pub(crate) fn outcome(&self) -> &'static str {
        Outcome::NAMES[usize::from(self.outcome)]
    }

    /// Returns the run time of the handler.
    pub(crate) fn duration(&self) -> Duration {
        self.took
    }

    /// Returns the end of the attempt, in milliseconds since 1970-01-01 UTC.
    pub(crate) fn at_ms(&self, now: ClockPair) -> u64 {
        now.unix_ms(self.ended)
    }

    /// Returns the delay of the retry in milliseconds, if the message is retried.
    pub(crate) fn again_ms(&self) -> Option<u64> {
        (self.decision == Decision::Retry).then_some(self.retry_ms.into())
    }

    /// Returns whether the message was dead-lettered.
    pub(crate) fn gave_up(&self) -> bool {
        self.decision == Decision::DeadLetter
    }
}

impl AttemptHistory {
    /// Adds an attempt; the oldest one goes if the ring is full.
    pub(crate) fn record(&self, record: AttemptRecord) {
        let mut ring = self.0.lock();
        let ring = &mut *ring;
        let kept = ring.records.len();
        match ring.records.get_mut(ring.next) {
            Some(oldest) => {
                *oldest = record;
                ring.lost = true;
            }
            None => {
                if kept == ring.records.capacity() {
                    // Doubles, but never beyond `KEPT`.
                    let more = kept.clamp(FIRST, KEPT - kept);
                    ring.records.reserve_exact(more);
                }
                ring.records.push(record);
            }
        }
        ring.next = (ring.next + 1) % KEPT;
    }

    /// Returns the kept attempts that match, the oldest first.
    pub(crate) fn find(&self, wanted: impl Fn(&AttemptRecord) -> bool) -> Vec<AttemptRecord> {
        let ring = self.0.lock();
        let (newer, older) = ring.records.split_at(ring.next.min(ring.records.len()));
        let records = older.iter().chain(newer);
        records.filter(|record| wanted(record)).cloned().collect()
    }

    /// Returns the end of the oldest kept attempt, in milliseconds since 1970-01-01 UTC, if
    /// older ones were overwritten.
    pub(crate) fn since_ms(&self, now: ClockPair) -> Option<u64> {
        let ring = self.0.lock();
        let oldest = ring.records.get(ring.next).filter(|_| ring.lost);
        oldest.map(|record| record.at_ms(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32) -> AttemptRecord {
        let id: MessageId = format!("order-{number}").parse().unwrap();
        let mut envelope = Envelope::new("order", "{}");
        envelope.id = id;
        AttemptRecord::new(&envelope, 0, number, Outcome::Ok, Instant::now())
    }

    #[test]
    fn a_history_keeps_the_last_attempts_in_bounded_memory_and_an_idle_one_has_none() {
        let history = AttemptHistory::default();
        assert_eq!(history.0.lock().records.capacity(), 0);
        let now = ClockPair::now(&Clock::SYSTEM);
        for number in 0..5000 {
            history.record(attempt(number));
            if number == 10 {
                assert_eq!(history.0.lock().records.capacity(), FIRST);
                assert_eq!(history.since_ms(now), None);
            }
        }
        assert_eq!(history.0.lock().records.capacity(), KEPT);
        let kept = history.find(|_| true);
        let attempts: Vec<u32> = kept.iter().map(|record| record.attempt).collect();
        assert!(attempts.iter().copied().eq(5000 - KEPT as u32..5000));
        assert!(history.since_ms(now).is_some());
        assert!(
            size_of::<AttemptRecord>() <= 104,
            "{}",
            size_of::<AttemptRecord>()
        );
    }

    #[test]
    fn a_record_has_the_end_of_the_attempt_and_the_delay_of_its_retry() {
        let now = ClockPair::now(&Clock::SYSTEM);
        let retry = RetryDecision::Retry {
            after: Duration::from_secs(3),
            attempt: 2,
        };
        let mut record = attempt(1).decided(&retry);
        record.ended = now.instant.checked_sub(Duration::from_millis(250)).unwrap();
        assert_eq!(record.at_ms(now), now.unix_ms - 250);
        assert_eq!(record.again_ms(), Some(3000));
        record.ended = now.instant + Duration::from_secs(1);
        assert_eq!(record.at_ms(now), now.unix_ms, "not later than now");
    }

    #[test]
    fn emitted_messages_are_counted_by_output_and_an_overflow_is_marked() {
        let mut emitted = Emitted::from_outputs([7, 2, 7, 7, 3, 4]);
        let counts: Vec<_> = emitted.counts().collect();
        assert_eq!(counts, [(7, 3), (2, 1), (3, 1), (4, 1)]);
        assert!(!emitted.more);
        emitted.count(5);
        assert!(emitted.more);
        assert_eq!(emitted.counts().count(), COUNTED);
    }
}
