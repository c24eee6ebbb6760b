//! What a service handled last: a ring of fixed size, written on the way of every message.
//!
//! One service's instances share a thread, so nobody waits for the lock; a record is some
//! 80 bytes, copied, and nothing is allocated for it once the ring has grown to its size. A
//! service that is idle has none.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::id::MessageId;
use crate::message::Envelope;
use crate::metrics::Outcome;
use crate::service::Held;
use crate::supervision::Fate;

/// So many attempts of a service are kept.
pub(crate) const KEPT: usize = 1024;
/// The first piece of memory; it doubles until it has [`KEPT`].
const FIRST: usize = 16;
/// On how many outputs one message emitted is counted; of one that emitted on more, the rest
/// is looked for.
const COUNTED: usize = 4;
/// The wall clock is read again after so long: until then the time is reckoned from it.
const CLOCK_READ_EVERY: Duration = Duration::from_secs(1);

/// The last attempts of one service, the newest last.
#[derive(Default)]
pub(crate) struct Trail(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    steps: VecDeque<Step>,
    /// A moment by both clocks.
    clock: Option<(Instant, u64)>,
    /// Older ones have gone.
    lost: bool,
}

/// One attempt at one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) id: MessageId,
    /// High and low half; 0 if the message has a trace of its own.
    trace: [u64; 2],
    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub(crate) at_ms: u64,
    took_us: u32,
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
    pub(crate) fn of(held: &[Held]) -> Self {
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

impl Step {
    /// An attempt that has ended now.
    pub(crate) fn new(message: &Envelope, input: usize, attempt: u32, outcome: Outcome) -> Self {
        let trace = message.trace.as_ref().map_or(0, |trace| trace.trace_id);
        Self {
            id: message.id.clone(),
            trace: [(trace >> 64) as u64, trace as u64],
            at_ms: 0,
            took_us: 0,
            again_ms: 0,
            attempt,
            input: input as u16,
            outcome: outcome as u8,
            fate: Next::Nothing,
            emitted: Emitted::default(),
        }
    }

    pub(crate) fn took(mut self, took: Duration) -> Self {
        self.took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self
    }

    pub(crate) fn emitting(mut self, emitted: Emitted) -> Self {
        self.emitted = emitted;
        self
    }

    pub(crate) fn then(mut self, fate: &Fate) -> Self {
        match fate {
            Fate::Ack => {}
            Fate::Again { after, .. } => {
                self.fate = Next::Again;
                self.again_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            }
            Fate::DeadLetter(_) => self.fate = Next::DeadLetter,
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
        Duration::from_micros(self.took_us.into())
    }

    /// When it was to be tried again, if it was.
    pub(crate) fn again_at_ms(&self) -> Option<u64> {
        (self.fate == Next::Again).then(|| self.at_ms + u64::from(self.again_ms))
    }

    /// Whether it was given up.
    pub(crate) fn gave_up(&self) -> bool {
        self.fate == Next::DeadLetter
    }
}

impl Trail {
    /// Keeps an attempt that ended at `now`.
    pub(crate) fn keep(&self, mut step: Step, clock: &Clock, now: Instant) {
        let mut ring = self.0.lock();
        let ring = &mut *ring;
        let (read, read_ms) = match ring.clock {
            Some((read, ms)) if now.saturating_duration_since(read) < CLOCK_READ_EVERY => {
                (read, ms)
            }
            _ => *ring.clock.insert((now, clock.unix_ms())),
        };
        step.at_ms = read_ms + now.saturating_duration_since(read).as_millis() as u64;
        let kept = ring.steps.len();
        if kept == KEPT {
            ring.steps.pop_front();
            ring.lost = true;
        } else if kept == ring.steps.capacity() {
            // Not more than is ever used.
            let more = kept.clamp(FIRST, KEPT - kept);
            ring.steps.reserve_exact(more);
        }
        ring.steps.push_back(step);
    }

    /// Those of the kept attempts that are wanted, the oldest first.
    pub(crate) fn find(&self, wanted: impl Fn(&Step) -> bool) -> Vec<Step> {
        let ring = self.0.lock();
        ring.steps
            .iter()
            .filter(|step| wanted(step))
            .cloned()
            .collect()
    }

    /// When the oldest of them ended, in milliseconds since 1970-01-01 UTC, if there were
    /// older ones.
    pub(crate) fn since_ms(&self) -> Option<u64> {
        let ring = self.0.lock();
        let first = ring.steps.front().filter(|_| ring.lost);
        first.map(|step| step.at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u32) -> Step {
        let id: MessageId = format!("order-{number}").parse().unwrap();
        let mut envelope = Envelope::new("order", "{}");
        envelope.id = id;
        Step::new(&envelope, 0, number, Outcome::Ok)
    }

    #[test]
    fn a_trail_keeps_the_last_ones_in_memory_that_is_bounded_and_an_idle_one_none() {
        let trail = Trail::default();
        assert_eq!(trail.0.lock().steps.capacity(), 0);
        let now = Instant::now();
        for number in 0..5000 {
            trail.keep(step(number), &Clock::SYSTEM, now);
            if number == 10 {
                assert_eq!(trail.0.lock().steps.capacity(), FIRST);
                assert_eq!(trail.since_ms(), None);
            }
        }
        assert_eq!(trail.0.lock().steps.capacity(), KEPT);
        let kept = trail.find(|_| true);
        let attempts: Vec<u32> = kept.iter().map(|step| step.attempt).collect();
        assert!(attempts.iter().copied().eq(5000 - KEPT as u32..5000));
        assert!(trail.since_ms().is_some());
        assert!(size_of::<Step>() <= 88, "{}", size_of::<Step>());
    }

    #[test]
    fn a_step_tells_when_it_ended_and_when_it_is_tried_again() {
        let trail = Trail::default();
        let (now, clock) = (Instant::now(), Clock::SYSTEM);
        let before = clock.unix_ms();
        let again = Fate::Again {
            after: Duration::from_secs(3),
            attempt: 2,
        };
        trail.keep(step(1), &clock, now);
        let later = now + Duration::from_millis(250);
        trail.keep(step(2).then(&again), &clock, later);
        let kept = trail.find(|_| true);
        assert!(kept[0].at_ms >= before && kept[0].at_ms < before + 1000);
        assert_eq!(kept[1].at_ms, kept[0].at_ms + 250);
        assert_eq!(kept[1].again_at_ms(), Some(kept[1].at_ms + 3000));
        assert_eq!(kept[0].again_at_ms(), None);
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
