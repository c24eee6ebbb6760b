//! Circuit breaker: stops a service whose attempts mostly fail, and tries again later.
//!
//! ```text
//! closed ──── opens ────▶ open ──── pause over ────▶ half-open
//!   ▲                      ▲                            │  │
//!   │                      └── probe fails or is late ──┘  │
//!   └───────────────────────────── probe succeeds ─────────┘
//! ```
//!
//! # Invariants
//! - An open breaker admits no attempt. A half-open breaker admits one attempt at a time, the probe.
//! - Each admitted attempt has a [`Ticket`]. A result counts only if no change of state and no
//!   other probe came between: a late result of an attempt from before the breaker opened neither
//!   closes it nor takes the place of a probe.
//! - A half-open breaker never sticks. The place of a probe is free again after any result, also one
//!   that counts as nothing, and after [`release`](Breaker::release). A probe without a result is
//!   a failure at its deadline.
//! - The breaker opens at a failure only, in two cases. Either the share of failures in the sliding
//!   window reaches `failure_rate`, and the window holds `min_messages` results. Or the last
//!   `min_messages` results all were failures, however long they took: handlers that hang until
//!   their timeout give few results in a window.
//! - While the breaker is closed, a message counts as failed once: the retries of a few bad
//!   messages say nothing about the service.
//! - The pause is [`OUTAGE_SHARE`] of the outage so far, at least `min` and at most `max`. So the
//!   wait after the end of an outage is short compared with the outage, and a long outage gets few
//!   probes.
//! - A probe uses up the last attempt of its message only in an outage of [`SPARING_PAUSES`] times
//!   the longest pause: a shorter outage costs no message.

use std::collections::VecDeque;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Buckets of the sliding window. A result counts for nine to ten tenths of the window.
const BUCKETS: u64 = 10;

/// The pause is the outage divided by this number: after an outage of one minute, 1.5 s.
pub const OUTAGE_SHARE: u32 = 40;

/// An outage of this many times the longest pause, an hour by default, may cost messages.
const SPARING_PAUSES: u32 = 60;

/// Maximum failed messages that a closed breaker remembers.
const REMEMBERED: usize = 1024;

/// When a breaker opens, and how long it pauses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerPolicy {
    /// Share of failures, above 0 and at most 1, at which the breaker opens.
    pub failure_rate: f64,
    /// Minimum messages with a result in the window; with fewer, the breaker stays closed.
    pub min_messages: u32,
    /// Length of the sliding window.
    pub within: Duration,
    /// Shortest and first pause before a probe.
    pub pause_min: Duration,
    /// Longest pause before a probe.
    pub pause_max: Duration,
}

/// The permission for one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
    probe: bool,
    spares: bool,
}

/// The result of an attempt, for a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The handler succeeded.
    Success,
    /// The handler returned an error, panicked or timed out.
    Failure,
    /// The attempt proves nothing: the message was rejected or deferred. A handler may reject a
    /// message before it calls the outside system, so a rejection doesn't prove that the system
    /// works.
    Nothing,
}

/// The state of a breaker, without times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerPhase {
    /// Every attempt is admitted.
    Closed,
    /// No attempt is admitted.
    Open,
    /// The next attempt is admitted as the probe.
    HalfOpen,
    /// A probe runs, and no other attempt is admitted.
    Probing,
}

/// A circuit breaker. Times count from any fixed point of the caller's choice.
///
/// ```
/// use std::time::Duration;
/// use brickwork::supervision::{Breaker, BreakerPhase, BreakerPolicy, Verdict};
///
/// let second = Duration::from_secs(1);
/// let policy = BreakerPolicy {
///     failure_rate: 0.5,
///     min_messages: 2,
///     within: 10 * second,
///     pause_min: second,
///     pause_max: 60 * second,
/// };
/// let mut breaker = Breaker::new(policy);
/// for message in 0..2 {
///     let ticket = breaker.admit(second, second).unwrap();
///     breaker.record(ticket, message, Verdict::Failure, second);
/// }
/// assert_eq!(breaker.admit(second, second), None);
/// let probe = breaker.admit(2 * second, second).unwrap();
/// breaker.record(probe, 2, Verdict::Success, 2 * second);
/// assert_eq!(breaker.phase(), BreakerPhase::Closed);
/// ```
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
    /// Rises with each change of state and each probe.
    generation: u64,
    window: Window,
    failures_in_a_row: u32,
    /// The last messages that failed since the breaker was closed.
    failed: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open {
        outage: Duration,
        until: Duration,
    },
    HalfOpen {
        outage: Duration,
        since: Duration,
        /// Deadline of the probe that runs.
        probe: Option<Duration>,
    },
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failure_rate: 0.5,
            min_messages: 20,
            within: Duration::from_secs(10),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
        }
    }
}

impl Ticket {
    /// The permission that a closed breaker of this generation gives to every attempt.
    pub fn of_closed(generation: u64) -> Self {
        Self {
            generation,
            probe: false,
            spares: false,
        }
    }

    /// Returns the generation of the breaker that gave the permission.
    pub fn generation(self) -> u64 {
        self.generation
    }

    /// Whether the attempt is the probe of a half-open breaker.
    pub fn is_probe(self) -> bool {
        self.probe
    }

    /// Whether a failure must not use up the last attempt of the message.
    pub fn spares_message(self) -> bool {
        self.spares
    }
}

impl BreakerPolicy {
    /// The pause after a failure at which the outage has lasted for this long.
    pub fn pause(&self, outage: Duration) -> Duration {
        let share = outage / OUTAGE_SHARE;
        share.max(self.pause_min).min(self.pause_max)
    }
}

impl Breaker {
    /// Creates a closed breaker.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            state: State::Closed,
            generation: 0,
            window: Window::default(),
            failures_in_a_row: 0,
            failed: VecDeque::new(),
        }
    }

    /// Admits an attempt, or returns `None`. An attempt that becomes the probe counts as failed
    /// after `probe_within`.
    pub fn admit(&mut self, now: Duration, probe_within: Duration) -> Option<Ticket> {
        self.advance(now);
        let sparing = self.policy.pause_max.saturating_mul(SPARING_PAUSES);
        let (probe, spares) = match &mut self.state {
            State::Closed => (false, false),
            State::Open { .. } | State::HalfOpen { probe: Some(_), .. } => return None,
            State::HalfOpen { outage, probe, .. } => {
                *probe = Some(now.saturating_add(probe_within));
                self.generation += 1;
                (true, now.saturating_sub(*outage) < sparing)
            }
        };
        Some(Ticket {
            generation: self.generation,
            probe,
            spares,
        })
    }

    /// Records the result of an admitted attempt. `message` is a number by which the message is
    /// known again, such as a hash of its id.
    pub fn record(&mut self, ticket: Ticket, message: u64, verdict: Verdict, now: Duration) {
        self.advance(now);
        if ticket.generation != self.generation {
            return;
        }
        match (self.state, verdict) {
            (State::Closed, Verdict::Success) => {
                self.record_successes(1, now);
            }
            (State::Closed, Verdict::Failure) => self.failed(message, now),
            (State::HalfOpen { .. }, Verdict::Success) => self.change(State::Closed),
            (State::HalfOpen { outage, .. }, Verdict::Failure) => self.open(outage, now),
            (State::HalfOpen { .. }, Verdict::Nothing) => self.release(now),
            (State::Closed, Verdict::Nothing) | (State::Open { .. }, _) => {}
        }
    }

    /// Records successes of a closed breaker that were counted elsewhere. They belong to the part
    /// of the window that ends with [`part_end`](Self::part_end).
    pub fn record_successes(&mut self, count: u64, at: Duration) {
        if count > 0 && matches!(self.state, State::Closed) {
            self.window.add(0, count, at, self.policy.within);
            self.failures_in_a_row = 0;
        }
    }

    /// Returns the end of the part of the window in which a time lies. All results of one part
    /// leave the window together, so a caller may count successes until then.
    pub fn part_end(&self, now: Duration) -> Duration {
        let length = part_length(self.policy.within);
        Duration::from_nanos((nanos(now) / length + 1).saturating_mul(length))
    }

    /// Returns the number by which [`admit`](Self::admit) marks the attempts of the present state.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Records a failure whose ticket is lost with its thread. It is the result of the probe, if
    /// one runs.
    pub fn record_lost(&mut self, message: u64, now: Duration) {
        let ticket = Ticket {
            generation: self.generation,
            probe: false,
            spares: false,
        };
        if self.phase() != BreakerPhase::HalfOpen {
            self.record(ticket, message, Verdict::Failure, now);
        }
    }

    /// Makes the transitions that are due: the end of a pause, and the deadline of a probe.
    pub fn advance(&mut self, now: Duration) {
        match self.state {
            State::Open { outage, until } if until <= now => self.change(State::HalfOpen {
                outage,
                since: now,
                probe: None,
            }),
            State::HalfOpen {
                outage,
                probe: Some(deadline),
                ..
            } if deadline <= now => self.open(outage, now),
            _ => {}
        }
    }

    /// Frees the place of a probe that will have no result, because its run has ended.
    pub fn release(&mut self, now: Duration) {
        if let State::HalfOpen {
            outage,
            probe: Some(_),
            ..
        } = self.state
        {
            self.change(State::HalfOpen {
                outage,
                since: now,
                probe: None,
            });
        }
    }

    /// Returns the time of the next transition that [`advance`](Self::advance) will make.
    pub fn due(&self) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Open { until, .. } => Some(until),
            State::HalfOpen { probe, .. } => probe,
        }
    }

    /// Returns the state.
    pub fn phase(&self) -> BreakerPhase {
        match self.state {
            State::Closed => BreakerPhase::Closed,
            State::Open { .. } => BreakerPhase::Open,
            State::HalfOpen { probe: None, .. } => BreakerPhase::HalfOpen,
            State::HalfOpen { probe: Some(_), .. } => BreakerPhase::Probing,
        }
    }

    /// Returns the time at which the outage began; `None` while the breaker is closed.
    pub fn outage(&self) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Open { outage, .. } | State::HalfOpen { outage, .. } => Some(outage),
        }
    }

    /// Returns the time since which a half-open breaker has had nothing to probe with.
    pub fn idle_since(&self) -> Option<Duration> {
        match self.state {
            State::HalfOpen {
                since, probe: None, ..
            } => Some(since),
            _ => None,
        }
    }

    /// Returns the failures, and the results of which they are a part, for which the breaker
    /// opened or would open.
    pub fn counts(&self) -> (u64, u64) {
        let in_a_row = u64::from(self.failures_in_a_row);
        let (failures, results) = self.window.counts();
        (failures.max(in_a_row), results.max(in_a_row))
    }

    fn failed(&mut self, message: u64, now: Duration) {
        if self.failed.contains(&message) {
            return;
        }
        if self.failed.len() == REMEMBERED {
            self.failed.pop_front();
        }
        self.failed.push_back(message);
        self.window.add(1, 1, now, self.policy.within);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let min = self.policy.min_messages;
        let (failures, results) = self.window.counts();
        let many =
            results >= min.into() && failures as f64 >= self.policy.failure_rate * results as f64;
        if many || self.failures_in_a_row >= min {
            self.open(now, now);
        }
    }

    fn open(&mut self, outage: Duration, now: Duration) {
        let pause = self.policy.pause(now.saturating_sub(outage));
        let until = now.saturating_add(pause);
        self.change(State::Open { outage, until });
    }

    fn change(&mut self, to: State) {
        if matches!(to, State::Closed) {
            self.window = Window::default();
            self.failures_in_a_row = 0;
            self.failed.clear();
        }
        self.state = to;
        self.generation += 1;
    }
}

/// Results of the last [`BUCKETS`] buckets. A bucket is reused after as many others.
#[derive(Debug, Clone, Default)]
struct Window {
    buckets: [Bucket; BUCKETS as usize],
    /// Number of the latest bucket.
    latest: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    number: u64,
    failures: u64,
    results: u64,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the length of a bucket, in nanoseconds.
fn part_length(within: Duration) -> u64 {
    (nanos(within) / BUCKETS).max(1)
}

impl Window {
    fn add(&mut self, failures: u64, results: u64, now: Duration, within: Duration) {
        // Time never goes back, but threads may report in another order than they read the clock.
        self.latest = self.latest.max(nanos(now) / part_length(within));
        let number = self.latest;
        let bucket = &mut self.buckets[(number % BUCKETS) as usize];
        if bucket.number != number {
            *bucket = Bucket {
                number,
                ..Bucket::default()
            };
        }
        bucket.results += results;
        bucket.failures += failures;
    }

    fn counts(&self) -> (u64, u64) {
        let current = self.buckets.iter();
        let current = current.filter(|bucket| bucket.number + BUCKETS > self.latest);
        current.fold((0, 0), |(failures, results), bucket| {
            (failures + bucket.failures, results + bucket.results)
        })
    }
}
