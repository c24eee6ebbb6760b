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

/// The last attempts of one service.
#[derive(Default)]
pub(crate) struct AttemptHistory(Mutex<HistoryBuffer>);

#[derive(Default)]
struct HistoryBuffer {
    records: Vec<AttemptRecord>,
    /// The place of the next record: behind the newest, over the oldest.
    next: usize,
}

/// One attempt at one message.
#[derive(Debug, Clone)]
pub(crate) struct AttemptRecord {
    pub(crate) id: MessageId,
    pub(crate) parent: Option<MessageId>,
    /// High and low half of the trace id; 0 if the message starts its trace.
    trace: [u64; 2],
    ended: Instant,
    took_us: u32,
    pub(crate) attempt: u32,
    pub(crate) next: Next,
    /// The number of messages that the handler emitted outside of a transaction.
    pub(crate) emitted: u16,
    pub(crate) input: u16,
    pub(crate) outcome: Outcome,
}

/// The decision about the message after the attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Next {
    Done,
    Retry { after_ms: u32 },
    DeadLetter,
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
            parent: message.parent.clone(),
            trace: trace_of(message),
            ended,
            took_us: 0,
            attempt,
            next: Next::Done,
            emitted: 0,
            input: input as u16,
            outcome,
        }
    }

    pub(crate) fn took(mut self, took: Duration) -> Self {
        self.took_us = micros(took);
        self
    }

    pub(crate) fn emitting(mut self, messages: usize) -> Self {
        self.emitted = u16::try_from(messages).unwrap_or(u16::MAX);
        self
    }

    /// Turns the record into that of a deferred attempt: the transport did not confirm the
    /// emitted messages.
    pub(crate) fn unconfirmed(mut self, decision: &RetryDecision) -> Self {
        self.outcome = Outcome::Defer;
        self.emitted = 0;
        self.then(decision)
    }

    pub(crate) fn then(mut self, decision: &RetryDecision) -> Self {
        self.next = match decision {
            RetryDecision::Ack => Next::Done,
            RetryDecision::Retry { after, .. } => Next::Retry {
                after_ms: u32::try_from(after.as_millis()).unwrap_or(u32::MAX),
            },
            RetryDecision::DeadLetter(_) => Next::DeadLetter,
        };
        self
    }

    /// The trace id of the message.
    pub(crate) fn trace_id(&self) -> u128 {
        match self.trace {
            [0, 0] => TraceContext::root(&self.id).trace_id,
            [high, low] => (u128::from(high) << 64) | u128::from(low),
        }
    }

    /// The duration of the handler.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_micros(self.took_us.into())
    }

    /// The end of the attempt, in milliseconds since 1970-01-01 UTC.
    pub(crate) fn ended_ms(&self, clock: &Clock) -> u64 {
        let since_ms = self.ended.elapsed().as_millis() as u64;
        clock.unix_ms().saturating_sub(since_ms)
    }
}

/// Returns the halves of the trace id; 0 if the message starts its trace.
fn trace_of(message: &Envelope) -> [u64; 2] {
    let trace = message.trace.as_ref().map_or(0, |trace| trace.trace_id);
    [(trace >> 64) as u64, trace as u64]
}

fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

impl HistoryBuffer {
    /// Returns the oldest record of a full buffer, to be overwritten.
    fn oldest(&mut self) -> Option<&mut AttemptRecord> {
        let oldest = self.records.get_mut(self.next)?;
        self.next = (self.next + 1) % KEPT;
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
        oldest.parent.clone_from(&message.parent);
        oldest.trace = trace_of(message);
        oldest.ended = ended;
        oldest.took_us = micros(took);
        oldest.attempt = attempt;
        oldest.next = Next::Done;
        oldest.emitted = 0;
        oldest.input = input as u16;
        oldest.outcome = Outcome::Ok;
    }

    /// The kept attempts that are wanted, the oldest first.
    pub(crate) fn find(&self, is_wanted: impl Fn(&AttemptRecord) -> bool) -> Vec<AttemptRecord> {
        let buffer = self.0.lock();
        let records = &buffer.records;
        let (newer, older) = records.split_at(buffer.next.min(records.len()));
        let records = older.iter().chain(newer);
        records.filter(|it| is_wanted(it)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_the_last_attempts_in_bounded_memory_and_takes_none_when_idle() {
        let history = AttemptHistory::default();
        assert_eq!(history.0.lock().records.capacity(), 0);
        for number in 0..5000 {
            let message = Envelope::new("order", "{}");
            let now = Instant::now();
            history.add(AttemptRecord::new(&message, 0, number, Outcome::Ok, now));
            if number == 10 {
                assert_eq!(history.0.lock().records.capacity(), FIRST);
            }
        }
        assert_eq!(history.0.lock().records.capacity(), KEPT);
        let kept = history.find(|_| true);
        let attempts: Vec<u32> = kept.iter().map(|record| record.attempt).collect();
        assert!(attempts.iter().copied().eq(5000 - KEPT as u32..5000));
        let bytes = size_of::<AttemptRecord>();
        assert!(bytes <= 104, "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_has_the_time_of_its_end() {
        let ended = Instant::now();
        let record = AttemptRecord::new(&Envelope::new("a", ""), 0, 1, Outcome::Ok, ended);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let ended_ms = record.ended_ms(&Clock::SYSTEM);
        let now_ms = Clock::SYSTEM.unix_ms();
        assert!(now_ms.abs_diff(ended_ms + 3_600_000) < 60_000);
    }
}
