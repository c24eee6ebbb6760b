//! The last attempts of one service: a ring buffer of fixed size, written for every message.
//!
//! The instances of a service share a thread, so nothing waits for the lock. A record has about
//! 100 bytes and allocates nothing once the buffer has its full size: a few dozen nanoseconds
//! per attempt, half of them for the lock. Values that can be computed later, such as the time
//! of day, are. The buffer of an idle service takes no memory.

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
/// Records in the first allocation; the buffer doubles up to [`KEPT`].
const FIRST: usize = 16;
/// Outputs whose messages are counted per attempt. Messages of further outputs are searched.
const COUNTED: usize = 4;

/// The last attempts of one service.
#[derive(Default)]
pub(crate) struct AttemptHistory(Mutex<HistoryBuffer>);

#[derive(Default)]
struct HistoryBuffer {
    records: Vec<AttemptRecord>,
    /// The place of the next record: behind the newest, over the oldest.
    next: usize,
    /// Records were overwritten.
    is_full: bool,
}

/// The same moment on the monotonic clock and on the clock of the app.
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

    /// The time of day of an earlier moment.
    fn unix_ms(&self, then: Instant) -> u64 {
        let since = self.instant.saturating_duration_since(then).as_millis();
        self.unix_ms.saturating_sub(since as u64)
    }
}

/// One attempt at one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptRecord {
    pub(crate) id: MessageId,
    /// High and low half of the trace id; 0 if the message starts its trace.
    trace: [u64; 2],
    ended: Instant,
    took: Duration,
    retry_after_ms: u32,
    pub(crate) attempt: u32,
    pub(crate) input: u16,
    outcome: u8,
    next: Next,
    pub(crate) emitted: Emitted,
}

/// The decision about the message after the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Done,
    Retry,
    DeadLetter,
}

/// The number of emitted messages, by output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Emitted {
    counts: [(u16, u16); COUNTED],
    /// More messages may have been emitted than are counted.
    pub(crate) may_have_more: bool,
}

impl Emitted {
    /// The messages were not counted.
    pub(crate) const UNKNOWN: Self = Self {
        counts: [(0, 0); COUNTED],
        may_have_more: true,
    };

    /// Counts messages by the numbers of their outputs.
    pub(crate) fn on(outputs: impl IntoIterator<Item = usize>) -> Self {
        let mut emitted = Self::default();
        outputs.into_iter().for_each(|it| emitted.count(it));
        emitted
    }

    fn count(&mut self, output: usize) {
        let output = output as u16;
        let mut counts = self.counts.iter_mut();
        match counts.find(|(number, count)| *count == 0 || *number == output) {
            Some((_, u16::MAX)) | None => self.may_have_more = true,
            Some((number, count)) => {
                *number = output;
                *count += 1;
            }
        }
    }

    /// The number of messages by output number.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (usize, u32)> {
        let counted = self.counts.iter().filter(|(_, count)| *count > 0);
        counted.map(|(output, count)| (usize::from(*output), u32::from(*count)))
    }
}

impl AttemptRecord {
    /// The record of an attempt that has ended.
    pub(crate) fn new(
        message: &Envelope,
        input: usize,
        attempt: u32,
        outcome: Outcome,
        ended: Instant,
    ) -> Self {
        Self {
            id: message.id.clone(),
            trace: trace_of(message),
            ended,
            took: Duration::ZERO,
            retry_after_ms: 0,
            attempt,
            input: input as u16,
            outcome: outcome as u8,
            next: Next::Done,
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

    /// Turns the record into that of a deferred attempt: the transport did not confirm the
    /// emitted messages.
    pub(crate) fn unconfirmed(mut self, decision: &RetryDecision) -> Self {
        self.outcome = Outcome::Defer as u8;
        self.emitted = Emitted::default();
        self.then(decision)
    }

    pub(crate) fn then(mut self, decision: &RetryDecision) -> Self {
        match decision {
            RetryDecision::Ack => {}
            RetryDecision::Retry { after, .. } => {
                self.next = Next::Retry;
                self.retry_after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            }
            RetryDecision::DeadLetter(_) => self.next = Next::DeadLetter,
        }
        self
    }

    /// The trace id of the message.
    pub(crate) fn trace_id(&self) -> u128 {
        match self.trace {
            [0, 0] => TraceContext::root(&self.id).trace_id,
            [high, low] => (u128::from(high) << 64) | u128::from(low),
        }
    }

    pub(crate) fn outcome(&self) -> &'static str {
        Outcome::NAMES[usize::from(self.outcome)]
    }

    /// The duration of the handler.
    pub(crate) fn duration(&self) -> Duration {
        self.took
    }

    /// The end of the attempt, in milliseconds since 1970-01-01 UTC.
    pub(crate) fn ended_ms(&self, now: ClockPair) -> u64 {
        now.unix_ms(self.ended)
    }

    /// The delay before the next attempt, in milliseconds, if the message is retried.
    pub(crate) fn retry_after_ms(&self) -> Option<u64> {
        (self.next == Next::Retry).then_some(self.retry_after_ms.into())
    }

    pub(crate) fn is_dead_lettered(&self) -> bool {
        self.next == Next::DeadLetter
    }
}

/// Returns the halves of the trace id; 0 if the message starts its trace.
fn trace_of(message: &Envelope) -> [u64; 2] {
    let trace = message.trace.as_ref().map_or(0, |trace| trace.trace_id);
    [(trace >> 64) as u64, trace as u64]
}

impl HistoryBuffer {
    /// Returns the oldest record of a full buffer, to be overwritten.
    fn oldest(&mut self) -> Option<&mut AttemptRecord> {
        let oldest = self.records.get_mut(self.next)?;
        self.next = (self.next + 1) % KEPT;
        self.is_full = true;
        Some(oldest)
    }

    /// Adds a record to a buffer that is not full.
    fn push(&mut self, record: AttemptRecord) {
        let length = self.records.len();
        if length == self.records.capacity() {
            // Never more than KEPT.
            let more = length.clamp(FIRST, KEPT - length);
            self.records.reserve_exact(more);
        }
        self.records.push(record);
        self.next = self.records.len() % KEPT;
    }
}

impl AttemptHistory {
    /// Adds an attempt, over the oldest one if the buffer is full.
    pub(crate) fn add(&self, record: AttemptRecord) {
        let mut buffer = self.0.lock();
        match buffer.oldest() {
            Some(oldest) => *oldest = record,
            None => buffer.push(record),
        }
    }

    /// Adds the attempt of a handler that succeeded and emitted nothing.
    ///
    /// The fields are written one by one in their place: a copy of a record that was just put
    /// together stalls the processor.
    pub(crate) fn add_done(
        &self,
        message: &Envelope,
        input: usize,
        attempt: u32,
        ended: Instant,
        took: Duration,
    ) {
        let mut buffer = self.0.lock();
        let Some(oldest) = buffer.oldest() else {
            let record = AttemptRecord::new(message, input, attempt, Outcome::Ok, ended);
            return buffer.push(record.took(took));
        };
        oldest.id.clone_from(&message.id);
        oldest.trace = trace_of(message);
        oldest.ended = ended;
        oldest.took = took;
        oldest.retry_after_ms = 0;
        oldest.attempt = attempt;
        oldest.input = input as u16;
        oldest.outcome = Outcome::Ok as u8;
        oldest.next = Next::Done;
        oldest.emitted = Emitted::default();
    }

    /// The kept attempts that are wanted, the oldest first.
    pub(crate) fn find(&self, is_wanted: impl Fn(&AttemptRecord) -> bool) -> Vec<AttemptRecord> {
        let buffer = self.0.lock();
        let records = &buffer.records;
        let (newer, older) = records.split_at(buffer.next.min(records.len()));
        let records = older.iter().chain(newer);
        records.filter(|it| is_wanted(it)).cloned().collect()
    }

    /// When the oldest kept attempt ended, in milliseconds since 1970-01-01 UTC, if older ones
    /// were overwritten.
    pub(crate) fn oldest_if_full(&self, now: ClockPair) -> Option<u64> {
        let buffer = self.0.lock();
        let oldest = buffer.records.get(buffer.next);
        oldest.filter(|_| buffer.is_full).map(|it| it.ended_ms(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32) -> AttemptRecord {
        let mut envelope = Envelope::new("order", "{}");
        envelope.id = format!("order-{number}").parse().unwrap();
        AttemptRecord::new(&envelope, 0, number, Outcome::Ok, Instant::now())
    }

    #[test]
    fn a_history_keeps_the_last_attempts_in_bounded_memory_and_takes_none_when_idle() {
        let history = AttemptHistory::default();
        assert_eq!(history.0.lock().records.capacity(), 0);
        let now = ClockPair::now(&Clock::SYSTEM);
        for number in 0..5000 {
            history.add(record(number));
            if number == 10 {
                assert_eq!(history.0.lock().records.capacity(), FIRST);
                assert_eq!(history.oldest_if_full(now), None);
            }
        }
        assert_eq!(history.0.lock().records.capacity(), KEPT);
        let kept = history.find(|_| true);
        let attempts: Vec<u32> = kept.iter().map(|record| record.attempt).collect();
        assert!(attempts.iter().copied().eq(5000 - KEPT as u32..5000));
        assert!(history.oldest_if_full(now).is_some());
        let bytes = size_of::<AttemptRecord>();
        assert!(bytes <= 104, "{bytes}");
    }

    #[test]
    fn a_record_has_the_time_of_its_end_and_of_the_retry() {
        let now = ClockPair::now(&Clock::SYSTEM);
        let retry = RetryDecision::Retry {
            after: Duration::from_secs(3),
            attempt: 2,
        };
        let mut record = record(1).then(&retry);
        record.ended = now.instant.checked_sub(Duration::from_millis(250)).unwrap();
        assert_eq!(record.ended_ms(now), now.unix_ms - 250);
        assert_eq!(record.retry_after_ms(), Some(3000));
        record.ended = now.instant + Duration::from_secs(1);
        assert_eq!(record.ended_ms(now), now.unix_ms, "not later than now");
    }

    #[test]
    fn emitted_messages_are_counted_for_the_first_outputs() {
        let mut emitted = Emitted::on([7, 2, 7, 7, 3, 4]);
        let counts: Vec<_> = emitted.counts().collect();
        assert_eq!(counts, [(7, 3), (2, 1), (3, 1), (4, 1)]);
        assert!(!emitted.may_have_more);
        emitted.count(5);
        assert!(emitted.may_have_more);
        assert_eq!(emitted.counts().count(), COUNTED);
    }
}
