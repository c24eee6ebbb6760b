//! Over RabbitMQ: consume, handle, publish confirmed, ack. Beside it the same work by hand
//! with lapin, with the same guarantees, on the same broker (quorum queues), by turns.
//!
//! `cargo bench -p brickwork-bench --bench amqp`

#![allow(missing_docs, reason = "a program")]

use std::cell::Cell;
use std::time::{Duration, Instant};

use actix::System;
use brickwork::prelude::*;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::raw::{self, Wire};
use brickwork_bench::rounds::{cpu_seconds, machine, median};
use brickwork_tests::broker::Broker;

const MESSAGES: usize = 20_000;
const ROUNDS: usize = 5;

/// What is handled: JSON of a size that its padding gives.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Order {
    order: u64,
    sku: String,
    quantity: u32,
    note: String,
}

fn order(n: usize, bytes: usize) -> Order {
    let mut order = Order {
        order: 1_000_000 + n as u64,
        sku: "brick-red-2x4".into(),
        quantity: 12,
        note: String::new(),
    };
    let bare = serde_json::to_vec(&order).expect("it is JSON").len();
    order.note = "x".repeat(bytes - bare);
    order
}

fn handled(mut order: Order) -> Order {
    order.quantity += 1;
    order
}

const OUT: Output<Order> = Output::new("out");
const IN: Input<Order> = Input::new("in");

thread_local! {
    /// Messages to be handled: asking the broker all the time whether it is done would be
    /// measured, too.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

struct Hop;

impl Service for Hop {
    const NAME: &'static str = "hop";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Order> for Hop {
    async fn handle(&mut self, order: Order, cx: &mut Context) -> Result<(), Failure> {
        LEFT.set(LEFT.get().saturating_sub(1));
        cx.emit(&OUT, handled(order))
    }
}

struct Sink;

impl Service for Sink {
    const NAME: &'static str = "sink";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Order> for Sink {
    async fn handle(&mut self, _: Order, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// What one round gave.
#[derive(Clone, Copy)]
struct Round {
    /// Messages a second, in thousands.
    rate: f64,
    /// CPU time of the client, a message, in microseconds.
    cpu: f64,
}

fn measured(work: impl FnOnce()) -> Round {
    let (cpu, began) = (cpu_seconds(), Instant::now());
    work();
    let (cpu, took) = (cpu_seconds() - cpu, began.elapsed().as_secs_f64());
    Round {
        rate: MESSAGES as f64 / took / 1e3,
        cpu: cpu / MESSAGES as f64 * 1e6,
    }
}

struct Bench {
    broker: Broker,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn fill(&self, bytes: usize) {
        let payloads = (0..MESSAGES)
            .map(|n| serde_json::to_vec(&order(n, bytes)).expect("it is JSON"))
            .collect();
        let url = self.broker.url();
        self.runtime.block_on(async {
            let connection = raw::connect(&url).await;
            let channel = raw::confirming(&connection).await;
            raw::fill(&channel, "bench", "todo", payloads).await;
            let purged = channel.queue_purge("bench.sink.in".into(), Default::default());
            purged.await.expect("it is emptied");
            let _closed = connection.close(200, "done".into()).await;
        });
    }

    /// How many messages are ready in a queue.
    fn ready(&self, queue: &str) -> u32 {
        let url = self.broker.url();
        self.runtime.block_on(async {
            let connection = raw::connect(&url).await;
            let channel = connection.create_channel().await.expect("a channel");
            let options = lapin::options::QueueDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let declared = channel.queue_declare(queue.into(), options, Default::default());
            let count = declared.await.expect("it is there").message_count();
            let _closed = connection.close(200, "done".into()).await;
            count
        })
    }

    fn by_hand(&self, wire: Wire) {
        let url = self.broker.url();
        let handle = |payload: &[u8]| {
            let order: Order = serde_json::from_slice(payload).expect("it is JSON");
            serde_json::to_vec(&handled(order)).expect("it is JSON")
        };
        let work = raw::work(
            &url,
            "bench.hop.in",
            "bench",
            "done",
            MESSAGES,
            wire,
            handle,
        );
        self.runtime.block_on(work);
    }

    fn ours(&self, only: &[&str]) {
        let text = format!(
            "[app]\nname = \"bench\"\ntransport = \"{}\"\n[admin]\nlisten = \"off\"\n\
             [topics.todo]\nexternal = \"in\"\n\
             [services.hop]\nin = \"todo\"\nout = \"done\"\nmailbox = {}\n\
             [services.sink]\nin = \"done\"\n",
            self.broker.url(),
            raw::WINDOW - 1,
        );
        let file =
            std::env::temp_dir().join(format!("brickwork-bench-{}.toml", std::process::id()));
        std::fs::write(&file, text).expect("the manifest can be written");
        let catalog = Catalog::new().with::<Hop>().with::<Sink>();
        let transports = brickwork_bridges::all();
        let options = manifest::Options {
            only: only.iter().map(|label| (*label).to_owned()).collect(),
            ..Default::default()
        };
        let plan = manifest::load(&file, &options, &catalog, &transports)
            .unwrap_or_else(|report| panic!("{}", report.render(false)));
        std::fs::remove_file(&file).expect("it was there");
        System::new().block_on(async {
            let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
            let app = app.unwrap_or_else(|error| panic!("{error}"));
            while LEFT.get() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            app.idle().await;
            app.stop().await;
        });
    }
}

fn main() {
    println!("{}\n", machine());
    let bench = Bench {
        broker: Broker::start(),
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime"),
    };
    // Makes the queues.
    bench.ours(&["hop"]);
    for bytes in [256, 4096] {
        let ours = || bench.ours(&["hop"]);
        let same = || bench.by_hand(Wire::Same);
        let bare = || bench.by_hand(Wire::Bare);
        let mut candidates: [(&str, &dyn Fn(), Vec<Round>); 3] = [
            ("Brickwork", &ours, Vec::new()),
            ("lapin by hand, same headers", &same, Vec::new()),
            ("lapin by hand, bare", &bare, Vec::new()),
        ];
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        for round in 0..=ROUNDS {
            for (name, work, rounds) in &mut candidates {
                if !name.contains(&only) {
                    continue;
                }
                bench.fill(bytes);
                LEFT.set(MESSAGES);
                let measured = measured(work);
                assert_eq!(bench.ready("bench.sink.in"), MESSAGES as u32);
                if round > 0 {
                    rounds.push(measured);
                }
            }
        }
        println!("{bytes} bytes, quorum, {MESSAGES} messages, median of {ROUNDS} rounds");
        report(&candidates.map(|(name, _, rounds)| (name, rounds)));
    }
}

fn report(candidates: &[(&str, Vec<Round>)]) {
    let rate = |rounds: &[Round]| median(&mut rounds.iter().map(|it| it.rate).collect::<Vec<_>>());
    let cpu = |rounds: &[Round]| median(&mut rounds.iter().map(|it| it.cpu).collect::<Vec<_>>());
    let ours = &candidates[0].1;
    for (name, rounds) in candidates.iter().filter(|(_, rounds)| !rounds.is_empty()) {
        let (rate_here, cpu_here) = (rate(rounds), cpu(rounds));
        print!("  {name:<28} {rate_here:>7.2} k/s  {cpu_here:>6.1} µs of CPU a message");
        if !ours.is_empty() {
            let (rate, cpu) = (rate(ours) / rate_here, cpu(ours) / cpu_here);
            print!(", ours is {rate:.2} times as fast at {cpu:.2} times the CPU");
        }
        println!();
    }
    println!();
}
