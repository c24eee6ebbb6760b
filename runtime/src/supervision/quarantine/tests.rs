//! Model test: an app whose process crashes again and again, run by the rules alone.
//!
//! The model hands out messages, carries requests from handlers to other queues, and ends a
//! process when a culprit is handled. As a transport does, it stores the queues and a
//! [`CrashRecord`] for each message.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const QUEUES: u8 = 3;

/// The effect of handling a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// The handler succeeds.
    Succeed,
    /// The process crashes.
    Crash,
    /// The handler asks in this queue, and succeeds after the answer.
    Ask(u8),
    /// The handler asks in this queue, and the process crashes after the answer.
    AskThenCrash(u8),
}

impl Effect {
    fn is_culprit(self) -> bool {
        matches!(self, Self::Crash | Self::AskThenCrash(_))
    }
}

#[derive(Debug, Clone, Copy)]
struct Message {
    queue: u8,
    effect: Effect,
    record: CrashRecord,
    /// The message whose handler waits for this one.
    asked_by: Option<usize>,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Done,
    GivenUp,
}

/// A message in flight.
#[derive(Debug, Clone, Copy)]
struct Flight {
    mode: DeliveryMode,
    /// The handler asked and waits.
    asking: Option<u8>,
    /// The handler has its answer.
    answered: bool,
}

struct Model {
    messages: Vec<Message>,
    attempts: u32,
    crashes: u32,
}

/// One process.
struct Process<'a> {
    model: &'a mut Model,
    isolation: Isolation<u8>,
    order: TrialOrder<usize>,
    /// A suspect that waits until the process is drained.
    draining: Option<usize>,
    flights: BTreeMap<usize, Flight>,
}

impl Model {
    fn new(effects: &[(u8, Effect)], attempts: u32) -> Self {
        let messages = effects.iter().map(|&(queue, effect)| Message {
            queue,
            effect,
            record: CrashRecord::new(1),
            asked_by: None,
            outcome: Outcome::Open,
        });
        Self {
            messages: messages.collect(),
            attempts,
            crashes: 0,
        }
    }

    fn is_open(&self, message: usize) -> bool {
        self.messages[message].outcome == Outcome::Open
    }

    fn is_done(&self) -> bool {
        self.messages.iter().all(|it| it.outcome != Outcome::Open)
    }

    /// Runs processes until everything is settled; `choices` decides which step is next.
    fn run(&mut self, mut choices: impl FnMut(usize) -> usize) {
        while !self.is_done() {
            let suspects = (0..self.messages.len())
                .filter(|it| self.is_open(*it) && self.messages[*it].record.is_suspect());
            let mut process = Process {
                isolation: Isolation::default(),
                order: suspects.collect(),
                model: self,
                draining: None,
                flights: BTreeMap::new(),
            };
            while process.step(&mut choices) {}
            // Enough for each culprit to be given up, one after the other.
            let culprits = self.messages.iter().filter(|it| it.effect.is_culprit());
            let most = (BLAME_IN_COMPANY_AFTER + self.attempts) * culprits.count() as u32;
            assert!(self.crashes <= most, "{} crashes", self.crashes);
        }
    }
}

impl Process<'_> {
    /// Takes one step. Returns whether the process goes on.
    fn step(&mut self, choices: &mut impl FnMut(usize) -> usize) -> bool {
        self.check();
        let mut steps: Vec<Step> = self.flights.keys().map(|it| Step::Handle(*it)).collect();
        for queue in 0..QUEUES {
            if let (false, Some(next)) = (self.isolation.blocks(&queue), self.next_of(queue)) {
                steps.push(Step::HandOut(next));
            }
        }
        match self.draining {
            Some(suspect) if self.isolation.is_drained(self.flights.len() as u64) => {
                steps.push(Step::HandOut(suspect));
            }
            None if !self.is_trying() && !self.order.is_empty() => steps.push(Step::Try),
            _ => {}
        }
        // A waiting handler goes on with its answer only.
        steps.retain(|step| match step {
            Step::Handle(it) => self.flights[it].asking.is_none() || self.flights[it].answered,
            _ => true,
        });
        if steps.is_empty() {
            assert!(
                self.model.is_done(),
                "the process is stuck: a queue is closed"
            );
            return false;
        }
        match steps[choices(steps.len())] {
            Step::HandOut(message) => self.hand_out(message),
            Step::Try => {
                let suspect = self.order.next(|_| true).expect("a suspect waits");
                match self.model.messages[suspect].record.mode() {
                    DeliveryMode::Exclusive => {
                        self.isolation.start();
                        self.draining = Some(suspect);
                    }
                    _ => self.hand_out(suspect),
                }
            }
            Step::Handle(message) => return self.handle(message),
        }
        true
    }

    fn is_trying(&self) -> bool {
        let mut flights = self.flights.values();
        flights.any(|it| it.mode != DeliveryMode::Normal)
    }

    /// The oldest message of a queue that waits and is no suspect.
    fn next_of(&self, queue: u8) -> Option<usize> {
        let mut messages = (0..self.model.messages.len()).filter(|it| {
            let message = &self.model.messages[*it];
            message.queue == queue && self.model.is_open(*it) && !message.record.is_suspect()
        });
        messages.find(|it| !self.flights.contains_key(it))
    }

    fn hand_out(&mut self, message: usize) {
        let record = self.model.messages[message].record;
        let mode = match self.draining.take_if(|it| *it == message) {
            Some(_) => self.isolation.deliver(),
            None => record.mode(),
        };
        if is_given_up(record.crashes, record.attempt, self.model.attempts) {
            return self.settle(message, Outcome::GivenUp);
        }
        let flight = Flight {
            mode,
            asking: None,
            answered: false,
        };
        self.flights.insert(message, flight);
    }

    /// Returns whether the process survives.
    fn handle(&mut self, message: usize) -> bool {
        let answered = self.flights[&message].answered;
        match self.model.messages[message].effect {
            Effect::Ask(queue) | Effect::AskThenCrash(queue) if !answered => {
                self.ask(message, queue);
                true
            }
            Effect::Succeed | Effect::Ask(_) => {
                self.settle(message, Outcome::Done);
                true
            }
            Effect::Crash | Effect::AskThenCrash(_) => {
                self.crash();
                false
            }
        }
    }

    fn ask(&mut self, message: usize, queue: u8) {
        if self.isolation.ask(&[queue]) {
            let mut flights = self.flights.values_mut();
            let alone = flights.find(|it| it.mode == DeliveryMode::Exclusive);
            alone.expect("a suspect is alone").mode = DeliveryMode::WithDependents;
        }
        self.flights
            .get_mut(&message)
            .expect("it is in flight")
            .asking = Some(queue);
        self.model.messages.push(Message {
            queue,
            effect: Effect::Succeed,
            record: CrashRecord::new(1),
            asked_by: Some(message),
            outcome: Outcome::Open,
        });
    }

    fn settle(&mut self, message: usize, outcome: Outcome) {
        self.model.messages[message].outcome = outcome;
        let flight = self.flights.remove(&message);
        if self.model.messages[message].record.is_suspect() {
            self.isolation.settled();
            self.isolation.finish();
        }
        assert!(flight.is_some() || outcome == Outcome::GivenUp);
        let asker = self.model.messages[message].asked_by;
        // The asker of an earlier process is gone.
        if let Some(asker) = asker.and_then(|it| self.flights.get_mut(&it))
            && let (Some(queue), false) = (asker.asking, asker.answered)
        {
            asker.answered = true;
            self.isolation.answered(&[queue]);
        }
    }

    fn crash(&mut self) {
        self.model.crashes += 1;
        for (message, flight) in &self.flights {
            let record = &mut self.model.messages[*message].record;
            *record = record.after(flight.mode);
        }
        for message in &mut self.model.messages {
            // The handlers that wait are gone with the process.
            message.asked_by = None;
        }
    }

    /// The promises at every moment.
    fn check(&self) {
        let suspects = self
            .flights
            .values()
            .filter(|it| it.mode != DeliveryMode::Normal);
        assert!(suspects.count() <= 1, "two suspects are tried at once");
        let alone = self
            .flights
            .values()
            .any(|it| it.mode == DeliveryMode::Exclusive);
        assert!(
            !alone || self.flights.len() == 1,
            "a message is beside an exclusive one"
        );
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    HandOut(usize),
    Try,
    Handle(usize),
}

fn effects() -> impl Strategy<Value = Effect> {
    prop_oneof![
        4 => Just(Effect::Succeed),
        1 => Just(Effect::Crash),
        2 => (0..QUEUES).prop_map(Effect::Ask),
        1 => (0..QUEUES).prop_map(Effect::AskThenCrash),
    ]
}

fn run(effects: &[(u8, Effect)], attempts: u32, choices: &[u8]) -> Model {
    let mut model = Model::new(effects, attempts);
    let mut choices = choices.iter().cycle();
    model.run(|count| usize::from(*choices.next().expect("it is a cycle")) % count);
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_culprit_is_given_up_in_bounded_time_and_no_message_that_asks_nothing_is_blamed(
        effects in prop::collection::vec((0..QUEUES, effects()), 1..10),
        attempts in 1u32..4,
        choices in prop::collection::vec(any::<u8>(), 32..64),
    ) {
        let model = run(&effects, attempts, &choices);
        for message in &model.messages {
            let record = message.record;
            match message.effect {
                Effect::Succeed => {
                    prop_assert_eq!((record.crashes, message.outcome), (0, Outcome::Done));
                }
                Effect::Crash | Effect::AskThenCrash(_) => {
                    prop_assert_eq!(message.outcome, Outcome::GivenUp);
                    prop_assert_eq!(record.crashes, attempts);
                }
                // Several culprits may have been its dependents, one after the other.
                Effect::Ask(_) => {}
            }
        }
    }

    #[test]
    fn beside_one_culprit_no_other_message_is_blamed(
        innocent in prop::collection::vec(
            (0..QUEUES, prop_oneof![
                Just(Effect::Succeed),
                (0..QUEUES).prop_map(Effect::Ask),
            ]),
            1..10,
        ),
        culprit in (0..QUEUES, prop_oneof![
            Just(Effect::Crash),
            (0..QUEUES).prop_map(Effect::AskThenCrash),
        ]),
        place in 0usize..10,
        choices in prop::collection::vec(any::<u8>(), 32..64),
    ) {
        let mut effects = innocent;
        effects.insert(place.min(effects.len()), culprit);
        let model = run(&effects, 1, &choices);
        for message in model.messages {
            let expected = match message.effect.is_culprit() {
                true => (1, Outcome::GivenUp),
                false => (0, Outcome::Done),
            };
            prop_assert_eq!((message.record.crashes, message.outcome), expected);
        }
    }

    #[test]
    fn crashes_that_were_only_counted_are_blamed_as_if_no_suspect_had_asked(
        deaths in 0u32..8,
        crashes in 0u32..12,
    ) {
        let start = CrashRecord { deaths, crashes: 0, attempt: 1 };
        let one_by_one = (0..crashes).fold(start, |record, _| record.after(record.mode()));
        prop_assert_eq!(start.after_trials(crashes), one_by_one);
    }
}

#[test]
fn a_message_in_flight_during_two_crashes_is_tried_concurrently_and_then_exclusively() {
    let mut record = CrashRecord::new(1);
    let mut modes = Vec::new();
    for _ in 0..6 {
        modes.push(record.mode());
        assert_eq!(record.is_suspect(), record.mode() != DeliveryMode::Normal);
        record = record.after(record.mode());
    }
    use DeliveryMode::{Concurrent, Exclusive, Normal};
    assert_eq!(
        modes,
        [Normal, Normal, Concurrent, Exclusive, Exclusive, Exclusive]
    );
    assert_eq!((record.crashes, record.attempt), (3, 4));
    assert!(is_given_up(record.crashes, record.attempt, 3));
    assert!(!is_given_up(record.crashes, record.attempt, 4));
    assert!(
        !is_given_up(0, 9, 3),
        "a failed message without a crash is retried as usual"
    );
}

#[test]
fn a_suspect_with_dependents_is_blamed_from_the_third_such_crash() {
    let mut record = CrashRecord::suspect(1).after(DeliveryMode::Concurrent);
    let mut crashes = Vec::new();
    for _ in 0..4 {
        assert_eq!(record.mode(), DeliveryMode::Exclusive);
        record = record.after(DeliveryMode::WithDependents);
        crashes.push(record.crashes);
    }
    assert_eq!(crashes, [0, 0, 1, 2]);
    assert_eq!(record.attempt, 3);
}

#[test]
fn queues_in_which_a_handler_asked_stay_open_until_all_answers_are_there() {
    let mut isolation = Isolation::default();
    assert!(!isolation.ask(&["prices"]), "no suspect is alone");
    isolation.start();
    assert!(!isolation.blocks(&"prices") && isolation.blocks(&"orders"));
    assert!(!isolation.is_drained(0), "a handler waits");
    assert_eq!(isolation.deliver(), DeliveryMode::WithDependents);
    isolation.answered(&["prices"]);
    assert!(isolation.blocks(&"prices") && isolation.is_drained(0) && !isolation.is_drained(1));
    assert_eq!(isolation.deliver(), DeliveryMode::Exclusive);
    assert!(
        !isolation.ask(&[]),
        "a request that no queue gets has no dependents"
    );
    assert!(isolation.ask(&["prices"]) && !isolation.ask(&["prices"]));
    isolation.answered(&["prices"]);
    assert!(!isolation.blocks(&"prices"), "the second request is open");
    isolation.answered(&["prices"]);
    assert!(isolation.blocks(&"prices"));
    isolation.finish();
    assert!(!isolation.blocks(&"prices"));
}

#[test]
fn suspects_are_tried_in_order_and_a_requeued_suspect_is_tried_last() {
    let mut order: TrialOrder<u8> = [1, 2, 3].into_iter().collect();
    assert_eq!(order.next(|key| *key != 1), Some(2));
    order.push(2);
    order.push(1);
    assert_eq!(order.iter().copied().collect::<Vec<_>>(), [1, 3, 2]);
    assert_eq!(order.next(|_| false), None);
    assert_eq!(order.next(|_| true), Some(1));
}
