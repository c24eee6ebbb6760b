//! The suspect lane: what was in hand when a process died is tried one at a time, and only
//! what is tried there can be blamed.
//!
//! A process that dies is a transport that is dropped with deliveries in hand: the broker
//! sees the same, and so does who opens the folder the next time.

mod asking;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    Backpressure, Completion, Consumer, Overflow, QueueSpec, Topology, Transport, take,
};
use brickwork::{Delivery, Envelope, QueueId, Settlement};
use brickwork_bridges::all;
use brickwork_tests::broker::Broker;
use futures_util::FutureExt;
use tempfile::TempDir;
use tokio::time::timeout;

/// For something that must come: far longer than it takes.
const SOON: Duration = Duration::from_secs(20);
/// For something that must not come: longer than it would take.
const A_WHILE: Duration = Duration::from_millis(300);

/// Where the queues are.
struct Place {
    url: String,
    /// A death with a suspect in hand beside the usual work is blamed on it: who else was in
    /// hand the broker doesn't tell.
    blames_in_company: bool,
    _folder: Option<TempDir>,
}

impl Place {
    fn amqp() -> Self {
        Self::at(Broker::shared())
    }

    fn at(broker: &Broker) -> Self {
        Self {
            url: broker.url(),
            blames_in_company: true,
            _folder: None,
        }
    }

    fn embedded() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let place = Self::embedded_in(folder.path());
        Self {
            _folder: Some(folder),
            ..place
        }
    }

    fn embedded_in(folder: &Path) -> Self {
        Self {
            url: format!("embedded:{}/queues", folder.display()),
            blames_in_company: false,
            _folder: None,
        }
    }

    /// In how many of so many deaths since it became suspect one is blamed.
    fn blamed(&self, deaths: u32) -> u32 {
        match self.blames_in_company {
            true => deaths,
            false => deaths.saturating_sub(1),
        }
    }
}

/// Makes each promise a test of its own on every transport that has a suspect lane.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod amqp {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Place::amqp()).await;
            })*
        }
        mod embedded {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Place::embedded()).await;
            })*
        }
    };
}

promises! {
    what_was_in_hand_at_two_deaths_is_tried_one_at_a_time_beside_the_usual_work
    a_suspect_is_blamed_for_each_death_and_then_tried_alone
    a_suspect_that_is_given_back_is_not_blamed
    a_suspect_that_fails_goes_on_as_any_message_does
    a_suspect_of_an_input_that_another_version_has_waits_for_that
}

/// A process that runs `stock`.
struct Process {
    transport: Arc<dyn Transport>,
    consumer: Box<dyn Consumer>,
    taken: VecDeque<Delivery>,
}

impl Process {
    async fn start(place: &Place, app: &str, single_active: bool) -> Self {
        Self::with_input(place, app, single_active, "requests").await
    }

    /// One whose manifest names this input alone.
    async fn with_input(place: &Place, app: &str, single_active: bool, input: &str) -> Self {
        let input = QueueId::new("stock", input);
        let (transports, url) = (all(), &place.url);
        let connector = transports.for_url(url).expect("it is there");
        let connecting = connector.connect(url, Arc::<Backpressure>::default());
        let transport = connecting.await.expect("it connects");
        let topology = Topology {
            app: app.into(),
            queues: vec![QueueSpec {
                id: input.clone(),
                topics: vec!["orders".into()],
                high_water: 1000,
                limit: None,
                overflow: Overflow::DeadLetter,
                single_active,
                feeds: Vec::new(),
            }],
            ..Topology::default()
        };
        transport.declare(&topology).await.expect("it declares");
        let consumer = transport.consume(&input, 10).await;
        Self {
            transport,
            consumer: consumer.expect("it consumes"),
            taken: VecDeque::new(),
        }
    }

    /// Publishes these, in order.
    async fn publish(&self, payloads: &[&'static str]) {
        let batch = payloads.iter().map(|payload| {
            let mut envelope = Envelope::new("order", *payload);
            envelope.topic = "orders".into();
            brickwork::Message::from(envelope).into()
        });
        let (done, outcome) = Completion::channel();
        self.transport.publish(batch.collect(), done);
        outcome.await.expect("it is confirmed");
    }

    async fn one(&mut self) -> Delivery {
        while self.taken.is_empty() {
            let taking = take(&mut *self.consumer, &mut self.taken, 1);
            let taken = timeout(SOON, taking).await;
            taken.expect("something comes").expect("it consumes");
        }
        self.taken.pop_front().expect("one")
    }

    async fn several(&mut self, count: usize) -> Vec<Delivery> {
        let mut several = Vec::new();
        for _ in 0..count {
            several.push(self.one().await);
        }
        several
    }

    /// Whether nothing comes for a while.
    async fn is_quiet(&mut self) -> bool {
        let taking = take(&mut *self.consumer, &mut self.taken, 1);
        timeout(A_WHILE, taking).await.is_err()
    }

    async fn total(&self) -> u64 {
        self.transport.flush().await.expect("it flushes");
        let depth = self.transport.depth(&requests()).await;
        depth.expect("it counts").total()
    }

    async fn letters(&self) -> u64 {
        let letters = QueueId::dead_letters("stock");
        let depth = self.transport.depth(&letters).await;
        depth.expect("it counts").total()
    }

    /// Dies with everything that it has in hand.
    fn die(self, in_flight: Vec<Delivery>) {
        drop(self.transport);
        drop(in_flight);
    }
}

fn requests() -> QueueId {
    QueueId::new("stock", "requests")
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message().payload).expect("it is text")
}

/// Three messages, in hand at two deaths.
async fn after_two_deaths(place: &Place, app: &str) {
    for round in 0..2 {
        let mut process = Process::start(place, app, false).await;
        if round == 0 {
            process.publish(&["1", "2", "3"]).await;
        }
        let in_flight = process.several(3).await;
        assert!(in_flight.iter().all(|it| it.crashes() == 0));
        process.die(in_flight);
    }
}

async fn what_was_in_hand_at_two_deaths_is_tried_one_at_a_time_beside_the_usual_work(place: Place) {
    let place = &place;
    after_two_deaths(place, "one-at-a-time").await;
    let mut process = Process::start(place, "one-at-a-time", false).await;
    let first = process.one().await;
    assert_eq!((first.attempt(), first.crashes()), (1, 0));
    assert!(process.is_quiet().await, "a second suspect is handed out");
    // What is no suspect needn't wait.
    process.publish(&["new"]).await;
    let new = process.one().await;
    assert_eq!(text(&new), "new");
    new.ack();
    let mut seen = vec![text(&first).to_owned()];
    first.ack();
    for _ in 0..2 {
        let next = process.one().await;
        seen.push(text(&next).to_owned());
        next.ack();
    }
    seen.sort();
    assert_eq!(seen, ["1", "2", "3"]);
    assert_eq!((process.total().await, process.letters().await), (0, 0));
    process.transport.close().await;
}

async fn a_suspect_is_blamed_for_each_death_and_then_tried_alone(place: Place) {
    let place = &place;
    after_two_deaths(place, "blamed").await;
    let mut culprit = String::new();
    for deaths in 0..3 {
        let mut process = Process::start(place, "blamed", false).await;
        let suspect = process.one().await;
        if deaths == 0 {
            culprit = text(&suspect).to_owned();
        }
        assert_eq!(text(&suspect), culprit, "it is tried again first");
        let blamed = place.blamed(deaths);
        assert_eq!((suspect.attempt(), suspect.crashes()), (blamed + 1, blamed));
        process.publish(&["new"]).await;
        if deaths == 0 {
            process.one().await.ack();
        } else {
            assert!(process.is_quiet().await, "it isn't tried alone");
        }
        process.transport.flush().await.expect("it flushes");
        process.die(vec![suspect]);
    }
    // The others are not blamed for it, nor is what came meanwhile.
    let mut process = Process::start(place, "blamed", false).await;
    let suspect = process.one().await;
    let blamed = place.blamed(3);
    assert_eq!((suspect.attempt(), suspect.crashes()), (blamed + 1, blamed));
    suspect.ack();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let next = process.one().await;
        assert_eq!((next.attempt(), next.crashes()), (1, 0), "{next:?}");
        seen.push(text(&next).to_owned());
        next.ack();
    }
    seen.sort();
    let mut expected = vec!["1", "2", "3", "new", "new"];
    expected.retain(|it| *it != culprit);
    assert_eq!(seen, expected);
    assert_eq!(process.total().await, 0);
    process.transport.close().await;
}

async fn a_suspect_that_is_given_back_is_not_blamed(place: Place) {
    let place = &place;
    after_two_deaths(place, "given-back").await;
    let mut process = Process::start(place, "given-back", false).await;
    for _ in 0..6 {
        let suspect = process.one().await;
        assert_eq!((suspect.attempt(), suspect.crashes()), (1, 0));
        suspect.nack_requeue();
    }
    // Also by a process that stops in order.
    let suspect = process.one().await;
    process.consumer.stop();
    suspect.nack_requeue();
    process.transport.flush().await.expect("it flushes");
    process.transport.close().await;
    let mut process = Process::start(place, "given-back", false).await;
    assert_eq!(process.total().await, 3);
    for _ in 0..3 {
        let suspect = process.one().await;
        assert_eq!((suspect.attempt(), suspect.crashes()), (1, 0));
        suspect.ack();
    }
    assert_eq!(process.total().await, 0);
    process.transport.close().await;
}

#[tokio::test]
async fn a_suspect_whose_connection_is_lost_is_not_blamed() {
    let broker = Broker::start();
    let place = Place::at(&broker);
    after_two_deaths(&place, "lost").await;
    let mut process = Process::start(&place, "lost", false).await;
    for _ in 0..3 {
        let suspect = process.one().await;
        assert_eq!((suspect.attempt(), suspect.crashes()), (1, 0));
        broker.ctl(&["close_all_connections", "a test closes them"]);
        let mut into = VecDeque::new();
        let ended = timeout(SOON, take(&mut *process.consumer, &mut into, 1)).await;
        ended.expect("it ends").expect_err("the connection is lost");
        drop(suspect);
        let again = timeout(SOON, process.transport.consume(&requests(), 10)).await;
        process.consumer = again.expect("it comes back").expect("it consumes");
    }
    for _ in 0..3 {
        let suspect = process.one().await;
        assert_eq!((suspect.attempt(), suspect.crashes()), (1, 0));
        suspect.ack();
    }
    assert_eq!(process.total().await, 0);
    process.transport.close().await;
}

async fn a_suspect_that_fails_goes_on_as_any_message_does(place: Place) {
    let place = &place;
    after_two_deaths(place, "fails").await;
    let mut process = Process::start(place, "fails", false).await;
    let suspect = process.one().await;
    let name = text(&suspect).to_owned();
    suspect.settle(Settlement::Retry {
        after: Duration::ZERO,
        attempt: 2,
    });
    let mut attempts = Vec::new();
    for _ in 0..3 {
        let next = process.one().await;
        attempts.push((text(&next) == name, next.attempt()));
        next.ack();
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [(false, 1), (false, 1), (true, 2)]);
    assert_eq!(process.total().await, 0);
    process.transport.close().await;
}

#[tokio::test]
async fn of_a_single_active_queue_one_process_gets_all_and_another_takes_over() {
    let place = &Place::amqp();
    let mut first = Process::start(place, "single", true).await;
    let mut second = Process::start(place, "single", true).await;
    first.publish(&["1", "2", "3"]).await;
    let mut in_flight = first.several(3).await;
    assert!(second.is_quiet().await, "both get messages");
    in_flight.remove(0).ack();
    first.transport.flush().await.expect("it flushes");
    first.die(in_flight);
    let in_flight = second.several(2).await;
    assert!(in_flight.iter().all(|it| it.crashes() == 0));
    let mut third = Process::start(place, "single", true).await;
    second.die(in_flight);
    // Suspects now: for the one that gets messages, whoever looks for them first.
    let mut fourth = Process::start(place, "single", true).await;
    let mut taken = VecDeque::new();
    let active = {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let mut poll = |process: &mut Process| {
                let taking = take(&mut *process.consumer, &mut taken, 1);
                taking.now_or_never().is_some()
            };
            if poll(&mut third) {
                break &mut third;
            }
            if poll(&mut fourth) {
                break &mut fourth;
            }
            assert!(tokio::time::Instant::now() < deadline, "nobody gets them");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    taken.pop_front().expect("one").ack();
    active.one().await.ack();
    assert_eq!(active.total().await, 0);
    third.transport.close().await;
    fourth.transport.close().await;
}

async fn a_suspect_of_an_input_that_another_version_has_waits_for_that(place: Place) {
    let place = &place;
    after_two_deaths(place, "versions").await;
    // This one moves them to the lane, and is gone before it has tried all.
    let mut first = Process::start(place, "versions", false).await;
    first.one().await.ack();
    first.consumer.stop();
    assert_eq!(first.total().await, 2);
    first.transport.close().await;
    let mut other = Process::with_input(place, "versions", false, "others").await;
    assert!(other.is_quiet().await, "it gets what isn't its own");
    assert_eq!(other.letters().await, 0);
    other.transport.close().await;
    let mut second = Process::start(place, "versions", false).await;
    for _ in 0..2 {
        let suspect = second.one().await;
        assert_eq!((suspect.attempt(), suspect.crashes()), (1, 0));
        suspect.ack();
    }
    assert_eq!((second.total().await, second.letters().await), (0, 0));
    second.transport.close().await;
}
