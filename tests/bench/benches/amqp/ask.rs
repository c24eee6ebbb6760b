//! Request and reply, one at a time, beside direct reply-to by hand, in alternating rounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Backpressure;
use brickwork::{App, Clock, Envelope, Workers};
use brickwork_bench::raw::Asker;
use brickwork_bench::rounds::median;

use crate::work::{Bench, Order, handled, order, plan};

const ASKS: usize = 3_000;
const ROUNDS: usize = 5;
const BYTES: usize = 256;

const QUESTIONS: Input<Order, Order> = Input::new("in");

/// Answers requests.
struct Answerer;

impl Service for Answerer {
    const NAME: &'static str = "answerer";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&QUESTIONS);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Order, Order> for Answerer {
    async fn handle(&mut self, order: Order, _: &mut Context) -> Result<Order, Failure> {
        Ok(handled(order))
    }
}

/// Median and 99th percentile in microseconds.
type Latency = (f64, f64);

fn latency(mut all: Vec<f64>) -> Latency {
    let p50 = median(&mut all);
    (p50, all[all.len() * 99 / 100])
}

fn ours(bench: &Bench) -> Latency {
    let url = bench.broker.url();
    let services =
        "[topics.questions]\nexternal = \"in\"\n[services.answerer]\nin = \"questions\"\n";
    let catalog = Catalog::new().with::<Answerer>();
    let plan = plan(&url, services, &[], &catalog);
    System::new().block_on(async {
        let transports = brickwork_bridges::all();
        let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        let connector = transports.for_url(&url).expect("amqp: is there");
        let asker = connector
            .connect(&url, Arc::<Backpressure>::default())
            .await;
        let asker = asker.expect("it connects");
        let topology = brickwork::transport::Topology {
            app: "bench".into(),
            ..Default::default()
        };
        asker.declare(&topology).await.expect("it declares");
        let mut all = Vec::with_capacity(ASKS);
        for n in 0..ASKS {
            let began = Instant::now();
            let payload = serde_json::to_vec(&order(n, BYTES)).expect("it is JSON");
            let mut question = Envelope::new("order", payload);
            question.topic = "questions".into();
            let reply = asker.ask(question.into(), Duration::from_secs(10)).await;
            let reply = reply.expect("an answer");
            let answer: Order = serde_json::from_slice(&reply.payload).expect("it is JSON");
            std::hint::black_box(answer);
            all.push(began.elapsed().as_secs_f64() * 1e6);
        }
        asker.close().await;
        app.stop().await;
        latency(all)
    })
}

fn by_hand(bench: &Bench) -> Latency {
    let url = bench.broker.url();
    let handle = |payload: &[u8]| {
        let order: Order = serde_json::from_slice(payload).expect("it is JSON");
        serde_json::to_vec(&handled(order)).expect("it is JSON")
    };
    bench.runtime.block_on(async {
        let mut asker = Asker::start(&url, "bench", "questions", "bench.answerer.in", handle).await;
        let mut all = Vec::with_capacity(ASKS);
        for n in 0..ASKS {
            let began = Instant::now();
            let payload = serde_json::to_vec(&order(n, BYTES)).expect("it is JSON");
            let reply = asker.ask(&payload).await;
            let answer: Order = serde_json::from_slice(&reply).expect("it is JSON");
            std::hint::black_box(answer);
            all.push(began.elapsed().as_secs_f64() * 1e6);
        }
        asker.close().await;
        latency(all)
    })
}

pub(crate) fn run(bench: &Bench) {
    let (mut with_us, mut hand) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (a, b) = (ours(bench), by_hand(bench));
        if round > 0 {
            with_us.push(a);
            hand.push(b);
        }
    }
    let p50 = |all: &[Latency]| median(&mut all.iter().map(|it| it.0).collect::<Vec<_>>());
    let p99 = |all: &[Latency]| median(&mut all.iter().map(|it| it.1).collect::<Vec<_>>());
    println!("{ASKS} asks of {BYTES} bytes, one at a time, quorum, median of {ROUNDS} rounds");
    for (name, all) in [("Brickwork", &with_us), ("direct reply-to by hand", &hand)] {
        println!(
            "  {name:<24} p50 {:>6.0} µs, p99 {:>6.0} µs",
            p50(all),
            p99(all)
        );
    }
    println!(
        "  p50 {:.2} times, p99 {:.2} times\n",
        p50(&with_us) / p50(&hand),
        p99(&with_us) / p99(&hand)
    );
}
