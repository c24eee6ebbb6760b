//! Meters: the counters of one service on the hot path.
//!
//! The instances of a service share a thread, so a [`Counter`] has one writer, which adds by a
//! plain load and store. Any thread may read it. A [`SharedCounter`] has several writers and
//! costs more.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::expired::ExpiredRequests;
use crate::dead_letter::Reason;

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the writing thread may call it.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter with any number of writers.
#[derive(Debug, Default)]
pub(crate) struct SharedCounter(AtomicU64);

impl SharedCounter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets of every duration, in nanoseconds: 10 µs to a minute.
pub(crate) const BUCKETS_NS: [u64; 12] = [
    10_000,
    100_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    60_000_000_000,
];

/// A histogram of durations with one writer.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// Not cumulated. The last one counts values above all bounds.
    pub(crate) buckets: [Counter; BUCKETS_NS.len() + 1],
    pub(crate) sum_ns: Counter,
}

impl Durations {
    pub(crate) fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 1);
        let bucket = BUCKETS_NS
            .iter()
            .position(|&bound| ns <= bound)
            .unwrap_or(BUCKETS_NS.len());
        self.buckets[bucket].add(1);
        self.sum_ns.add(ns);
    }
}

/// Outcome of an attempt: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Retry,
    Reject,
    Panic,
    Timeout,
    Defer,
    Expired,
}

impl Outcome {
    pub(crate) const NAMES: [&'static str; 7] = [
        "ok", "retry", "reject", "panic", "timeout", "defer", "expired",
    ];
}

/// Outcome of an ask: the label `outcome`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AskOutcome {
    Ok,
    Timeout,
    Failed,
}

impl AskOutcome {
    pub(crate) const NAMES: [&'static str; 3] = ["ok", "timeout", "failed"];
}

/// Cause of a restart: the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Panic,
    Timeout,
    Start,
    Tick,
    Source,
    Bridge,
    /// The supervisor restarted the whole service.
    Supervisor,
    /// The child process of the service has ended.
    Process,
    /// The relay of the outbox has failed.
    Relay,
    /// A handler asked for a new instance.
    Requested,
}

impl Cause {
    pub(crate) const NAMES: [&'static str; 10] = [
        "panic",
        "timeout",
        "start",
        "tick",
        "source",
        "bridge",
        "supervisor",
        "process",
        "relay",
        "requested",
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Meters of one input.
#[derive(Debug, Default)]
pub(crate) struct InputMeter {
    pub(crate) outcomes: [Counter; Outcome::NAMES.len()],
    pub(crate) handle: Durations,
    pub(crate) wait: Durations,
}

/// A counter of either kind.
enum Slot<'a> {
    One(&'a Counter),
    Shared(&'a SharedCounter),
}

/// Meters of one service.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) inputs: Box<[InputMeter]>,
    outputs: Box<[SharedCounter]>,
    restarts: [SharedCounter; Cause::NAMES.len()],
    dead_letters: [SharedCounter; Reason::OF_RUNTIME],
    asks: [SharedCounter; AskOutcome::NAMES.len()],
    /// Attempts to handle a message without an id.
    pub(crate) anonymous: SharedCounter,
    /// Not part of [`counts`](Self::counts): the askers become known by their requests.
    pub(crate) expired: ExpiredRequests,
    pub(crate) entities: EntityMeters,
}

/// Meters of the entities of one service.
#[derive(Debug, Default)]
pub(crate) struct EntityMeters {
    /// Entities that came into memory.
    pub(crate) started: SharedCounter,
    /// Entities that left memory because they were idle, or because there were too many.
    pub(crate) passivated: SharedCounter,
    active: AtomicU64,
}

impl EntityMeters {
    pub(crate) fn started(&self) {
        self.started.add(1);
        self.active.fetch_add(1, Relaxed);
    }

    pub(crate) fn ended(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// Returns the number of entities in the memory of this process.
    pub(crate) fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }
}

impl Meters {
    pub(crate) fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            inputs: (0..inputs).map(|_| InputMeter::default()).collect(),
            outputs: (0..outputs).map(|_| SharedCounter::default()).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn handled(&self, input: usize, outcome: Outcome) {
        self.inputs[input].outcomes[outcome as usize].add(1);
    }

    pub(crate) fn emitted(&self, output: usize, copies: u64) {
        self.outputs[output].add(copies);
    }

    pub(crate) fn restarted(&self, cause: Cause) {
        self.restarts[cause as usize].add(1);
    }

    pub(crate) fn dead_lettered(&self, reason: Reason) {
        self.dead_letters[reason as usize].add(1);
    }

    pub(crate) fn asked(&self, outcome: AskOutcome) {
        self.asks[outcome as usize].add(1);
    }

    pub(crate) fn outputs(&self) -> impl Iterator<Item = u64> {
        self.outputs.iter().map(SharedCounter::get)
    }

    pub(crate) fn restarts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Cause::NAMES
            .into_iter()
            .zip(self.restarts.iter().map(SharedCounter::get))
    }

    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let reasons = Reason::ALL.into_iter().map(Reason::as_str);
        reasons.zip(self.dead_letters.iter().map(SharedCounter::get))
    }

    pub(crate) fn asks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        AskOutcome::NAMES
            .into_iter()
            .zip(self.asks.iter().map(SharedCounter::get))
    }

    /// Every count, in an order of its own: for [`add_counts`](Self::add_counts) of the
    /// same service in another process.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let mut counts = Vec::new();
        self.each(|slot| {
            counts.push(match slot {
                Slot::One(counter) => counter.get(),
                Slot::Shared(counter) => counter.get(),
            });
        });
        counts
    }

    /// Adds the difference of two [`counts`](Self::counts) of another process. Only the
    /// writing thread may call it. Returns false and adds nothing if the counts belong to
    /// a service with other ports.
    pub(crate) fn add_counts(&self, since: &[u64], now: &[u64]) -> bool {
        let mut slots = 0;
        self.each(|_| slots += 1);
        if now.len() != slots || (since.len() != slots && !since.is_empty()) {
            return false;
        }
        let since = since.iter().copied().chain(std::iter::repeat(0));
        let mut grown = now
            .iter()
            .zip(since)
            .map(|(now, since)| now - since.min(*now));
        self.each(|slot| {
            let grown = grown.next().unwrap_or_default();
            match slot {
                Slot::One(counter) => counter.add(grown),
                Slot::Shared(counter) => counter.add(grown),
            }
        });
        true
    }

    fn each<'a>(&'a self, mut visit: impl FnMut(Slot<'a>)) {
        for input in &self.inputs {
            let durations = [&input.handle, &input.wait].into_iter();
            let durations =
                durations.flat_map(|it| it.buckets.iter().chain(std::iter::once(&it.sum_ns)));
            for counter in input.outcomes.iter().chain(durations) {
                visit(Slot::One(counter));
            }
        }
        let shared = self.outputs.iter().chain(&self.restarts);
        let shared = shared.chain(&self.dead_letters).chain(&self.asks);
        let entities = [
            &self.anonymous,
            &self.entities.started,
            &self.entities.passivated,
        ];
        for counter in shared.chain(entities) {
            visit(Slot::Shared(counter));
        }
    }

    /// Returns the attempts with an outcome, over all inputs.
    pub(crate) fn outcome_total(&self, outcome: Outcome) -> u64 {
        self.inputs
            .iter()
            .map(|input| input.outcomes[outcome as usize].get())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_another_process_are_added_and_never_decrease_when_it_restarts() {
        let (here, there) = (Meters::new(2, 1), Meters::new(2, 1));
        there.handled(1, Outcome::Panic);
        there.inputs[0].wait.record(Duration::from_millis(3));
        there.emitted(0, 7);
        there.asked(AskOutcome::Timeout);
        there.anonymous.add(2);
        let first = there.counts();
        assert!(here.add_counts(&[], &first));
        assert_eq!(here.counts(), first);
        there.emitted(0, 1);
        let second = there.counts();
        assert!(here.add_counts(&first, &second));
        assert_eq!(here.counts(), second);
        // A restarted process counts from 0.
        let restarted = Meters::new(2, 1);
        restarted.emitted(0, 5);
        assert!(here.add_counts(&[], &restarted.counts()));
        assert_eq!(here.outputs().sum::<u64>(), 13);
        assert_eq!(here.outcome_total(Outcome::Panic), 1);
    }

    #[test]
    fn counts_of_another_service_are_refused() {
        let (here, there) = (Meters::new(1, 1), Meters::new(1, 2));
        assert!(!here.add_counts(&[], &there.counts()));
        assert!(!here.add_counts(&there.counts(), &here.counts()));
        assert!(here.counts().iter().all(|count| *count == 0));
    }
}
