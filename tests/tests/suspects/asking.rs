//! A suspect that is tried alone, and asks: what it waits for is handed out, and is its
//! company. Of the embedded transport.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    AskError, Backpressure, Completion, Consumer, Overflow, QueueSpec, Topology, Transport, take,
};
use brickwork::{Delivery, Envelope, Message, QueueId, Settlement};
use brickwork_bridges::all;
use brickwork_tests::checker::Kept;
use brickwork_tests::kept::Queues;
use brickwork_tests::process::{Process, until};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::time::timeout;

use super::{A_WHILE, Place, SOON, text};

/// A service `stock`, which asks a service `prices`. There are also `orders`, who asks, too.
struct App {
    transport: Arc<dyn Transport>,
}

struct Input {
    consumer: Box<dyn Consumer>,
    taken: VecDeque<Delivery>,
}

impl Input {
    async fn one(&mut self) -> Delivery {
        while self.taken.is_empty() {
            let taking = take(&mut *self.consumer, &mut self.taken, 1);
            let taken = timeout(SOON, taking).await;
            taken.expect("something comes").expect("it consumes");
        }
        self.taken.pop_front().expect("one")
    }

    async fn is_quiet(&mut self) -> bool {
        let taking = take(&mut *self.consumer, &mut self.taken, 1);
        timeout(A_WHILE, taking).await.is_err()
    }
}

impl App {
    async fn start(place: &Place) -> Self {
        let (transports, url) = (all(), &place.url);
        let connector = transports.for_url(url).expect("it is there");
        let connecting = connector.connect(url, Arc::<Backpressure>::default());
        let transport = connecting.await.expect("it connects");
        let queue = |service: &str| QueueSpec {
            id: QueueId::new(service, "in"),
            topics: vec![service.into()],
            high_water: 1000,
            limit: None,
            overflow: Overflow::DeadLetter,
            single_active: false,
            feeds: Vec::new(),
        };
        let topology = Topology {
            app: "shop".into(),
            queues: ["stock", "prices", "orders"].map(queue).into(),
            ..Topology::default()
        };
        transport.declare(&topology).await.expect("it declares");
        Self { transport }
    }

    async fn consume(&self, service: &str) -> Input {
        let queue = QueueId::new(service, "in");
        let consumer = self.transport.consume(&queue, 10).await;
        Input {
            consumer: consumer.expect("it consumes"),
            taken: VecDeque::new(),
        }
    }

    async fn publish(&self, topic: &str, payload: impl Into<Bytes>) {
        let (done, outcome) = Completion::channel();
        let message = message("web", topic, payload);
        self.transport.publish(vec![message.into()], done);
        outcome.await.expect("it is confirmed");
    }

    fn ask(&self, asker: &str) -> BoxFuture<'static, Result<Message, AskError>> {
        self.transport.ask(message(asker, "prices", "price"), SOON)
    }

    fn die(self, in_flight: Vec<Delivery>) {
        drop(self.transport);
        drop(in_flight);
    }
}

fn message(asker: &str, topic: &str, payload: impl Into<Bytes>) -> Message {
    let mut envelope = Envelope::new("note", payload);
    envelope.topic = topic.into();
    envelope.source = format!("/shop/{asker}").into();
    envelope.into()
}

/// A message for `stock` that is to be tried alone the next time.
async fn after_three_deaths(place: &Place) {
    for round in 0..3 {
        let app = App::start(place).await;
        if round == 0 {
            app.publish("stock", "suspect").await;
        }
        let suspect = app.consume("stock").await.one().await;
        app.die(vec![suspect]);
    }
}

async fn answered(request: Delivery, reply: BoxFuture<'static, Result<Message, AskError>>) {
    assert_eq!(text(&request), "price");
    request.settle(Settlement::Ack(Some(Ok(Bytes::from("7")))));
    let reply = timeout(SOON, reply).await.expect("it ends");
    assert_eq!(reply.expect("it is answered").payload, "7");
}

#[tokio::test]
async fn a_suspect_that_asks_while_it_is_alone_is_answered_and_nothing_else_moves() {
    let place = Place::embedded();
    after_three_deaths(&place).await;
    let app = App::start(&place).await;
    app.publish("prices", "before").await;
    app.publish("orders", "new").await;
    let mut stock = app.consume("stock").await;
    let suspect = stock.one().await;
    let (mut prices, mut orders) = (app.consume("prices").await, app.consume("orders").await);
    assert!(prices.is_quiet().await, "it isn't tried alone");
    // The world outside can wait.
    let outside = app.ask("web");
    assert!(prices.is_quiet().await, "it isn't tried alone");
    let reply = app.ask("stock");
    let before = prices.one().await;
    assert_eq!(text(&before), "before", "in order");
    before.ack();
    answered(prices.one().await, outside).await;
    answered(prices.one().await, reply).await;
    app.publish("prices", "after").await;
    assert!(prices.is_quiet().await, "nobody waits for it");
    assert!(orders.is_quiet().await, "nobody asked for it");
    suspect.ack();
    prices.one().await.ack();
    orders.one().await.ack();
    app.transport.close().await;
}

#[tokio::test]
async fn who_is_in_hand_and_asks_is_answered_before_a_suspect_is_tried_alone() {
    let place = Place::embedded();
    after_three_deaths(&place).await;
    let app = App::start(&place).await;
    let (mut prices, mut orders) = (app.consume("prices").await, app.consume("orders").await);
    app.publish("orders", "asks").await;
    let asker = orders.one().await;
    let reply = app.ask("orders");
    let mut stock = app.consume("stock").await;
    let request = prices.one().await;
    let mut suspect = VecDeque::new();
    let taking = take(&mut *stock.consumer, &mut suspect, 1);
    assert!(taking.now_or_never().is_none(), "it isn't tried alone");
    answered(request, reply).await;
    asker.ack();
    stock.one().await.ack();
    app.transport.close().await;
}

#[tokio::test]
async fn a_suspect_that_asked_is_not_blamed_for_its_company_but_in_the_end_it_is() {
    let place = Place::embedded();
    after_three_deaths(&place).await;
    for blamed in [0, 0, 0, 1, 2] {
        let app = App::start(&place).await;
        let mut stock = app.consume("stock").await;
        let suspect = stock.one().await;
        let found = (suspect.attempt(), suspect.crashes());
        assert_eq!(found, (blamed + 1, blamed));
        // What is answered long ago was company, too.
        let mut prices = app.consume("prices").await;
        let reply = app.ask("stock");
        answered(prices.one().await, reply).await;
        app.transport.flush().await.expect("it flushes");
        app.die(vec![suspect]);
    }
}

/// Each may fail once: one that is held up until its deadline is given up.
const ERRANDS: &str = r#"
[app]
name = "shop"
transport = "embedded:data/queues"
[admin]
listen = "off"
[topics.stock]
external = "in"
[services.stock]
use = "asker"
in = "stock"
out = { ask = "questions", out = "done" }
instances = 4
retry.attempts = 1
[services.answers]
use = "answerer"
in = "questions"
[services.keep]
use = "file-out"
in = "done"
config.path = "done.jsonl"
"#;
const COUNT: u64 = 20;
const CULPRIT: u64 = 1;
/// When it is in hand as any other, and beside the usual work; and then in company.
const DEATHS: usize = 3 + 3;
/// Well before any handler's deadline.
const IN_TIME: Duration = Duration::from_secs(25);

fn life(folder: &Path, number: usize) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command.args(["run", "app.toml"]).current_dir(folder);
    let logs = folder.join(format!("life-{number}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    Process::start(command, &logs, "it was just built")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_handler_that_asks_and_then_ends_the_process_is_given_up_alone() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    // Each is there once: a source that dies may send again.
    let app = App::start(&Place::embedded_in(&folder.join("data"))).await;
    for n in 0..COUNT {
        let errand = json!({"n": n, "abort": n == CULPRIT});
        app.publish("stock", errand.to_string()).await;
    }
    app.transport.close().await;
    std::fs::write(folder.join("app.toml"), ERRANDS).expect("it can be written");
    let done = folder.join("done.jsonl");
    let mut deaths = 0;
    let mut app = life(folder, deaths);
    let letters = || {
        let queues = Queues::open(&folder.join("data/queues"));
        queues.map_or_else(Vec::new, |queues| queues.dead_letters())
    };
    until("only the culprit is given up", IN_TIME, || {
        if app.has_ended() {
            deaths += 1;
            app = life(folder, deaths);
        }
        let (kept, letters) = (Kept::count_so_far(&done), letters());
        match kept + letters.len() >= COUNT as usize {
            true => Ok(()),
            false => Err(format!("{kept} done, {deaths} deaths, {letters:?}")),
        }
    });
    app.stop();
    let letters: Vec<_> = letters().iter().map(|letter| letter.n).collect();
    assert_eq!(letters, [CULPRIT]);
    assert_eq!(Kept::read(&done).missing(0..COUNT), [CULPRIT]);
    assert_eq!(deaths, DEATHS);
}
