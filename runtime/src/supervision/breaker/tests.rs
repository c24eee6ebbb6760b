//! The breaker against a model: the rules, written down directly over the list of all results.

use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn policy(failure_rate: f64, min_messages: u32) -> BreakerPolicy {
    BreakerPolicy {
        failure_rate,
        min_messages,
        within: ms(1_000),
        pause_min: ms(100),
        pause_max: ms(5_000),
    }
}

/// The model keeps every result since the breaker was last closed, and looks at all of them.
struct Model {
    policy: BreakerPolicy,
    now: u64,
    /// Number of the bucket and failure of each result, oldest first.
    results: Vec<(u64, bool)>,
    /// Messages that failed since the breaker was closed.
    failed: Vec<u64>,
    state: ModelState,
    /// Attempts that run, in order of their start, and the number of each.
    running: Vec<u64>,
    next: u64,
    /// Attempts with a smaller number no longer count.
    counted_from: u64,
}

#[derive(Clone, Copy)]
enum ModelState {
    Closed,
    Open {
        outage: u64,
        until: u64,
    },
    HalfOpen {
        outage: u64,
        probe: Option<(u64, u64)>,
    },
}

impl Model {
    fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            now: 0,
            results: Vec::new(),
            failed: Vec::new(),
            state: ModelState::Closed,
            running: Vec::new(),
            next: 0,
            counted_from: 0,
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        match self.state {
            ModelState::Open { outage, until } if until <= self.now => {
                self.state = ModelState::HalfOpen {
                    outage,
                    probe: None,
                };
            }
            ModelState::HalfOpen {
                outage,
                probe: Some((_, deadline)),
            } if deadline <= self.now => self.open(outage),
            _ => {}
        }
    }

    fn open(&mut self, outage: u64) {
        let pause = ((self.now - outage) * 1_000_000 / u64::from(OUTAGE_SHARE)).clamp(
            self.policy.pause_min.as_nanos() as u64,
            self.policy.pause_max.as_nanos() as u64,
        );
        // The model counts in milliseconds: the pause ends at the first one that is not earlier.
        let until = self.now + pause.div_ceil(1_000_000);
        self.state = ModelState::Open { outage, until };
        self.results.clear();
    }

    /// Starts an attempt if the rules admit one. Returns whether they do.
    fn admit(&mut self, within: u64) -> bool {
        let number = self.next;
        match &mut self.state {
            ModelState::Closed => {}
            ModelState::HalfOpen { probe, .. } if probe.is_none() => {
                *probe = Some((number, self.now + within));
            }
            _ => return false,
        }
        self.next += 1;
        self.running.push(number);
        true
    }

    fn record(&mut self, index: usize, message: u64, verdict: Verdict) {
        let number = self.running.remove(index);
        match (self.state, verdict) {
            (ModelState::Closed, Verdict::Success | Verdict::Failure)
                if number >= self.counted_from =>
            {
                let failed = verdict == Verdict::Failure;
                if failed && self.failed.contains(&message) {
                    return;
                }
                if failed {
                    self.failed.push(message);
                }
                self.results.push((self.now / 100, failed));
                if failed && self.should_open() {
                    self.open(self.now);
                }
            }
            (ModelState::HalfOpen { outage, probe }, _)
                if probe.is_some_and(|(probe, _)| probe == number) =>
            {
                match verdict {
                    Verdict::Success => {
                        self.state = ModelState::Closed;
                        self.failed.clear();
                        self.counted_from = self.next;
                    }
                    Verdict::Failure => self.open(outage),
                    Verdict::Nothing => {
                        self.state = ModelState::HalfOpen {
                            outage,
                            probe: None,
                        };
                    }
                }
            }
            _ => {}
        }
    }

    fn release(&mut self) {
        if let ModelState::HalfOpen { probe, .. } = &mut self.state {
            *probe = None;
        }
    }

    fn should_open(&self) -> bool {
        let min = self.policy.min_messages as usize;
        let bucket = self.now / 100;
        let window = self.results.iter().filter(|(at, _)| at + 10 > bucket);
        let window: Vec<bool> = window.map(|(_, failed)| *failed).collect();
        let failures = window.iter().filter(|failed| **failed).count();
        let rate = failures as f64 / window.len() as f64;
        let last: Vec<bool> = self.results.iter().rev().take(min).map(|it| it.1).collect();
        let in_a_row = last.len() == min && last.iter().all(|failed| *failed);
        (window.len() >= min && rate >= self.policy.failure_rate) || in_a_row
    }

    fn phase(&self) -> BreakerPhase {
        match self.state {
            ModelState::Closed => BreakerPhase::Closed,
            ModelState::Open { .. } => BreakerPhase::Open,
            ModelState::HalfOpen { probe: None, .. } => BreakerPhase::HalfOpen,
            ModelState::HalfOpen { probe: Some(_), .. } => BreakerPhase::Probing,
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Pass(u64),
    Admit,
    /// Records the result of one of the attempts that run.
    Record(usize, u64, Verdict),
    /// The run ends: its attempts have no results.
    Release,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Failure),
        3 => Just(Verdict::Success),
        1 => Just(Verdict::Nothing),
    ];
    let act = prop_oneof![
        2 => (0..150u64).prop_map(Act::Pass),
        1 => (0..3_000u64).prop_map(Act::Pass),
        6 => Just(Act::Admit),
        6 => (0..8usize, 0..30u64, verdict)
            .prop_map(|(index, message, verdict)| Act::Record(index, message, verdict)),
        1 => Just(Act::Release),
    ];
    proptest::collection::vec(act, 1..200)
}

/// Deadline of each probe, in milliseconds.
const PROBE_MS: u64 = 700;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_breaker_follows_the_model_and_never_sticks(
        acts in acts(),
        failure_rate in prop_oneof![Just(0.5), Just(1.0), 0.05f64..1.0],
        min_messages in 1u32..8,
    ) {
        let policy = policy(failure_rate, min_messages);
        let mut model = Model::new(policy);
        let mut breaker = Breaker::new(policy);
        let mut tickets: Vec<Ticket> = Vec::new();
        for act in acts {
            match act {
                Act::Pass(time) => {
                    model.pass(time);
                    breaker.advance(ms(model.now));
                }
                Act::Admit => {
                    let ticket = breaker.admit(ms(model.now), ms(PROBE_MS));
                    let probes = model.phase() == BreakerPhase::HalfOpen;
                    prop_assert_eq!(ticket.is_some(), model.admit(PROBE_MS));
                    if let Some(ticket) = ticket {
                        prop_assert_eq!(ticket.is_probe(), probes);
                        tickets.push(ticket);
                    }
                }
                Act::Record(index, message, verdict) => {
                    if index < tickets.len() {
                        let ticket = tickets.remove(index);
                        breaker.record(ticket, message, verdict, ms(model.now));
                        model.record(index, message, verdict);
                    }
                }
                Act::Release => {
                    breaker.release(ms(model.now));
                    model.release();
                }
            }
            prop_assert_eq!(breaker.phase(), model.phase());
        }
        // Whatever has happened, an attempt is admitted before long, without any result.
        model.now += PROBE_MS + 2 * 5_000;
        let now = ms(model.now);
        breaker.advance(now);
        breaker.advance(now + ms(5_000));
        let ticket = breaker.admit(now + ms(5_000), ms(PROBE_MS));
        prop_assert!(ticket.is_some(), "{:?}", breaker);
        breaker.record(ticket.unwrap(), 0, Verdict::Success, now + ms(5_000));
        prop_assert_eq!(breaker.phase(), BreakerPhase::Closed);
    }
}

/// Opens a breaker at 0 ms.
fn opened() -> Breaker {
    let mut breaker = Breaker::new(policy(0.5, 1));
    let ticket = breaker.admit(ms(0), ms(PROBE_MS)).unwrap();
    breaker.record(ticket, 0, Verdict::Failure, ms(0));
    assert_eq!(breaker.phase(), BreakerPhase::Open);
    breaker
}

#[test]
fn the_retries_of_a_few_bad_messages_do_not_open_the_breaker() {
    let mut breaker = Breaker::new(policy(0.5, 5));
    for nth in 0..100 {
        let ticket = breaker.admit(ms(nth), ms(PROBE_MS)).unwrap();
        breaker.record(ticket, nth % 4, Verdict::Failure, ms(nth));
    }
    assert_eq!(breaker.phase(), BreakerPhase::Closed);
    let ticket = breaker.admit(ms(100), ms(PROBE_MS)).unwrap();
    breaker.record(ticket, 5, Verdict::Failure, ms(100));
    assert_eq!(breaker.phase(), BreakerPhase::Open, "the fifth message");
}

#[test]
fn a_probe_spares_its_message_in_an_outage_of_less_than_sixty_of_the_longest_pauses() {
    let (mut breaker, mut spared) = (opened(), None);
    for second in 1..1_000 {
        let now = ms(second * 1_000);
        if let Some(probe) = breaker.admit(now, ms(PROBE_MS)) {
            let spares = second < 300;
            assert_eq!(probe.spares_message(), spares, "after {second} s");
            spared = Some(spares);
            breaker.record(probe, 0, Verdict::Failure, now);
        }
    }
    assert_eq!(spared, Some(false));
}

#[test]
fn a_probe_that_proves_nothing_or_has_no_result_frees_its_place() {
    // Rejected or deferred: the next message is the probe, at once.
    let mut breaker = opened();
    let probe = breaker.admit(ms(100), ms(PROBE_MS)).unwrap();
    assert_eq!(breaker.admit(ms(101), ms(PROBE_MS)), None, "one at a time");
    breaker.record(probe, 0, Verdict::Nothing, ms(102));
    let probe = breaker.admit(ms(102), ms(PROBE_MS)).unwrap();
    // It hangs: that is a failure at its deadline, and its late success counts for nothing.
    breaker.advance(ms(102 + PROBE_MS));
    assert_eq!(breaker.phase(), BreakerPhase::Open);
    breaker.record(probe, 0, Verdict::Success, ms(102 + PROBE_MS + 1));
    assert_eq!(breaker.phase(), BreakerPhase::Open);
    // Its run ends: the place is free.
    let _lost = breaker.admit(ms(2_000), ms(PROBE_MS)).unwrap();
    breaker.release(ms(2_001));
    assert!(breaker.admit(ms(2_001), ms(PROBE_MS)).is_some());
}

#[test]
fn a_late_result_from_before_the_outage_neither_closes_the_breaker_nor_counts_after_it() {
    let mut breaker = Breaker::new(policy(0.5, 1));
    let late: Vec<Ticket> = (0..3)
        .map(|_| breaker.admit(ms(0), ms(PROBE_MS)).unwrap())
        .collect();
    breaker.record(late[0], 0, Verdict::Failure, ms(0));
    breaker.record(late[1], 1, Verdict::Success, ms(1));
    assert_eq!(breaker.phase(), BreakerPhase::Open);
    let probe = breaker.admit(ms(200), ms(PROBE_MS)).unwrap();
    breaker.record(probe, 0, Verdict::Success, ms(200));
    breaker.record(late[2], 2, Verdict::Failure, ms(201));
    assert_eq!(breaker.phase(), BreakerPhase::Closed);
}

#[test]
fn a_breaker_without_any_success_opens_and_slow_failures_open_it_too() {
    let mut breaker = Breaker::new(policy(0.5, 5));
    for nth in 0..5 {
        assert_eq!(breaker.phase(), BreakerPhase::Closed);
        // Each failure is alone in its window.
        let now = ms(nth * 30_000);
        let ticket = breaker.admit(now, ms(PROBE_MS)).unwrap();
        breaker.record(ticket, nth, Verdict::Failure, now);
    }
    assert_eq!(breaker.phase(), BreakerPhase::Open);
}

#[test]
fn successes_of_hours_ago_do_not_keep_it_closed() {
    let mut breaker = Breaker::new(policy(0.5, 5));
    for _ in 0..100_000 {
        let ticket = breaker.admit(ms(0), ms(PROBE_MS)).unwrap();
        breaker.record(ticket, 0, Verdict::Success, ms(0));
    }
    for nth in 0..5 {
        let now = ms(7_200_000 + nth);
        let ticket = breaker.admit(now, ms(PROBE_MS)).unwrap();
        breaker.record(ticket, nth, Verdict::Failure, now);
    }
    assert_eq!(breaker.phase(), BreakerPhase::Open);
}

#[test]
fn with_the_defaults_the_wait_after_an_outage_of_a_minute_is_below_two_seconds() {
    let policy = BreakerPolicy::default();
    let minute = Duration::from_secs(60);
    assert_eq!(policy.pause(Duration::ZERO), Duration::from_secs(1));
    assert_eq!(policy.pause(minute), Duration::from_millis(1_500));
    assert_eq!(policy.pause(40 * minute), minute);
    assert_eq!(policy.pause(1_000 * minute), minute);
}
