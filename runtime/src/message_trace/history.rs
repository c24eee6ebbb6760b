//! What a service handled last: a ring of fixed size, written on the way of every message.
//!
//! One service's instances share a thread, so nobody waits for the lock; a record is some
//! 100 bytes, copied, and nothing is allocated for it once the ring has grown to its size: a
//! few dozen nanoseconds, half of them for the lock. What can be reckoned later, such as the
//! time of day, is. A service that is idle has no ring.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::id::MessageId;
use crate::message::Envelope;
use crate::metrics::Outcome;
use crate::service::PendingEmit;
use crate::supervision::RetryDecision;

/// So many attempts of a service are kept.
pub(crate) const KEPT: usize = 1024;
/// The first piece of memory; it doubles until it has [`KEPT`].
const FIRST: usize = 16;
/// On how many outputs one message emitted is counted; of one that emitted on more, the rest
/// is looked for.
const COUNTED: usize = 4;
/// The last attempts of one service, the newest last.
#[derive(Default)]
pub(crate) struct History(Mutex<HistoryBuffer>);

#[derive(Default)]
struct HistoryBuffer {
    steps: Vec<AttemptRecord>,
    /// Where the next one goes: after the newest, over the oldest.
    next: usize,
    /// Older ones have gone.
    lost: bool,
}

/// A moment by both clocks.
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

    /// The time of day that it was then.
    fn unix_ms(&self, then: Instant) -> u64 {
        let since = self.instant.saturating_duration_since(then).as_millis();
        self.unix_ms.saturating_sub(since as u64)
    }
}

/// One attempt at one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptRecord {
    pub(crate) id: MessageId,
    /// High and low half; 0 if the message has a trace of its own.
    trace: [u64; 2],
    ended: Instant,
    took: Duration,
    again_ms: u32,
    pub(crate) attempt: u32,
    pub(crate) input: u16,
    outcome: u8,
    fate: Next,
    pub(crate) emitted: Emitted,
}

/// What was decided about the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Done.
    Nothing,
    /// To be tried again.
    Again,
    /// Given up.
    DeadLetter,
}

/// How many messages were emitted, by output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Emitted {
    counts: [(u16, u16); COUNTED],
    /// There may be more than that.
    pub(crate) more: bool,
}

impl Emitted {
    /// Nobody counted.
    pub(crate) const UNKNOWN: Self = Self {
        counts: [(0, 0); COUNTED],
        more: true,
    };

    /// What a handler holds for its message.
    pub(crate) fn of(held: &[PendingEmit]) -> Self {
        Self::of_outputs(held.iter().map(|held| held.output))
    }

    pub(super) fn of_outputs(outputs: impl IntoIterator<Item = usize>) -> Self {
        let mut emitted = Self::default();
        outputs.into_iter().for_each(|it| emitted.count(it));
        emitted
    }

    fn count(&mut self, output: usize) {
        let output = output as u16;
        let mut places = self.counts.iter_mut();
        match places.find(|(number, count)| *count == 0 || *number == output) {
            Some((_, u16::MAX)) | None => self.more = true,
            Some((number, count)) => {
                *number = output;
                *count += 1;
            }
        }
    }

    /// The outputs, with how many were emitted on each.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (usize, u32)> {
        let counted = self.counts.iter().filter(|(_, count)| *count > 0);
        counted.map(|(output, count)| (usize::from(*output), u32::from(*count)))
    }
}

impl AttemptRecord {
    /// An attempt that has ended.
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
            again_ms: 0,
            attempt,
            input: input as u16,
            outcome: outcome as u8,
            fate: Next::Nothing,
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

    /// What it emitted was not taken over.
    pub(crate) fn undone(mut self, fate: &RetryDecision) -> Self {
        self.outcome = Outcome::Defer as u8;
        self.emitted = Emitted::default();
        self.then(fate)
    }

    pub(crate) fn then(mut self, fate: &RetryDecision) -> Self {
        match fate {
            RetryDecision::Ack => {}
            RetryDecision::Retry { after, .. } => {
                self.fate = Next::Again;
                self.again_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            }
            RetryDecision::DeadLetter(_) => self.fate = Next::DeadLetter,
        }
        self
    }

    /// The trace of the message.
    pub(crate) fn trace_id(&self) -> u128 {
        match self.trace {
            [0, 0] => super::trace_of(&self.id),
            [high, low] => (u128::from(high) << 64) | u128::from(low),
        }
    }

    pub(crate) fn outcome(&self) -> &'static str {
        Outcome::NAMES[usize::from(self.outcome)]
    }

    /// How long the handler took.
    pub(crate) fn duration(&self) -> Duration {
        self.took
    }

    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub(crate) fn at_ms(&self, now: ClockPair) -> u64 {
        now.unix_ms(self.ended)
    }

    /// How much later it was to be tried again, in milliseconds, if it was.
    pub(crate) fn again_ms(&self) -> Option<u64> {
        (self.fate == Next::Again).then_some(self.again_ms.into())
    }

    /// Whether it was given up.
    pub(crate) fn gave_up(&self) -> bool {
        self.fate == Next::DeadLetter
    }
}

impl History {
    /// Keeps an attempt.
    pub(crate) fn keep(&self, step: AttemptRecord) {
        let mut ring = self.0.lock();
        let ring = &mut *ring;
        let kept = ring.steps.len();
        match ring.steps.get_mut(ring.next) {
            Some(oldest) => {
                *oldest = step;
                ring.lost = true;
            }
            None => {
                if kept == ring.steps.capacity() {
                    // Not more than is ever used.
                    let more = kept.clamp(FIRST, KEPT - kept);
                    ring.steps.reserve_exact(more);
                }
                ring.steps.push(step);
            }
        }
        ring.next = (ring.next + 1) % KEPT;
    }

    /// Those of the kept attempts that are wanted, the oldest first.
    pub(crate) fn find(&self, wanted: impl Fn(&AttemptRecord) -> bool) -> Vec<AttemptRecord> {
        let ring = self.0.lock();
        let (newer, older) = ring.steps.split_at(ring.next.min(ring.steps.len()));
        let steps = older.iter().chain(newer);
        steps.filter(|step| wanted(step)).cloned().collect()
    }

    /// When the oldest of them ended, in milliseconds since 1970-01-01 UTC, if there were
    /// older ones.
    pub(crate) fn since_ms(&self, now: ClockPair) -> Option<u64> {
        let ring = self.0.lock();
        let oldest = ring.steps.get(ring.next).filter(|_| ring.lost);
        oldest.map(|step| step.at_ms(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u32) -> AttemptRecord {
        let id: MessageId = format!("order-{number}").parse().unwrap();
        let mut envelope = Envelope::new("order", "{}");
        envelope.id = id;
        AttemptRecord::new(&envelope, 0, number, Outcome::Ok, Instant::now())
    }

    #[test]
    fn a_trail_keeps_the_last_ones_in_memory_that_is_bounded_and_an_idle_one_none() {
        let trail = History::default();
        assert_eq!(trail.0.lock().steps.capacity(), 0);
        let now = ClockPair::now(&Clock::SYSTEM);
        for number in 0..5000 {
            trail.keep(step(number));
            if number == 10 {
                assert_eq!(trail.0.lock().steps.capacity(), FIRST);
                assert_eq!(trail.since_ms(now), None);
            }
        }
        assert_eq!(trail.0.lock().steps.capacity(), KEPT);
        let kept = trail.find(|_| true);
        let attempts: Vec<u32> = kept.iter().map(|step| step.attempt).collect();
        assert!(attempts.iter().copied().eq(5000 - KEPT as u32..5000));
        assert!(trail.since_ms(now).is_some());
        assert!(
            size_of::<AttemptRecord>() <= 104,
            "{}",
            size_of::<AttemptRecord>()
        );
    }

    #[test]
    fn a_step_tells_when_it_ended_and_when_it_is_tried_again() {
        let now = ClockPair::now(&Clock::SYSTEM);
        let again = RetryDecision::Retry {
            after: Duration::from_secs(3),
            attempt: 2,
        };
        let mut step = step(1).then(&again);
        step.ended = now.instant.checked_sub(Duration::from_millis(250)).unwrap();
        assert_eq!(step.at_ms(now), now.unix_ms - 250);
        assert_eq!(step.again_ms(), Some(3000));
        step.ended = now.instant + Duration::from_secs(1);
        assert_eq!(step.at_ms(now), now.unix_ms, "not later than now");
    }

    #[test]
    fn what_was_emitted_is_counted_by_output_and_too_much_is_said() {
        let mut emitted = Emitted::of_outputs([7, 2, 7, 7, 3, 4]);
        let counts: Vec<_> = emitted.counts().collect();
        assert_eq!(counts, [(7, 3), (2, 1), (3, 1), (4, 1)]);
        assert!(!emitted.more);
        emitted.count(5);
        assert!(emitted.more);
        assert_eq!(emitted.counts().count(), COUNTED);
    }
}
