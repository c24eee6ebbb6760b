//! The memory transport end to end, on one worker: a source encodes 113 bytes of JSON,
//! publishes, the bridge carries, the service decodes, handles and acks; then the same
//! with a second hop.
//!
//! `cargo bench -p brickwork-bench --bench end_to_end`

#![allow(missing_docs, reason = "a program")]

use std::cell::Cell;
use std::time::Instant;

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::rounds::{cpu_seconds, machine, median};

const MESSAGES: u64 = 400_000;
const ROUNDS: usize = 7;

/// 113 bytes as JSON.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Order {
    order: u64,
    sku: String,
    quantity: u32,
    customer: String,
    note: String,
}

fn order(n: u64) -> Order {
    Order {
        order: 1_000_000 + n,
        sku: "brick-red-2x4".into(),
        quantity: 12,
        customer: "a-customer-of-ours".into(),
        note: "leave at the door".into(),
    }
}

const OUT: Output<Order> = Output::new("out");
const IN: Input<Order> = Input::new("in");

thread_local! {
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
    static TOOK: Cell<f64> = const { Cell::new(0.0) };
}

struct Orders;

impl Source for Orders {
    const NAME: &'static str = "orders";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn ends(_: &NoConfig) -> bool {
        true
    }

    async fn run(_: &NoConfig, out: &mut Outlet) -> Result<(), Failure> {
        STARTED.set(Some(Instant::now()));
        for n in 0..MESSAGES {
            // The ticket is what a source waits for before it forgets; this one has
            // nothing to forget.
            drop(out.submit(&OUT, order(n)).await?);
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
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
        cx.emit(&OUT, order)
    }
}

struct Sink(u64);

impl Service for Sink {
    const NAME: &'static str = "sink";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self(0))
    }
}

impl Handle<Order> for Sink {
    async fn handle(&mut self, order: Order, _: &mut Context) -> Result<(), Failure> {
        self.0 += 1;
        std::hint::black_box(order);
        if self.0 == MESSAGES {
            let started = STARTED.get().expect("the source has started");
            TOOK.set(started.elapsed().as_secs_f64());
        }
        Ok(())
    }
}

/// Runs a manifest; returns messages a second (in millions) and CPU time a message
/// (in microseconds).
fn run(services: &str) -> (f64, f64) {
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n{services}"
    );
    let file = std::env::temp_dir().join(format!("brickwork-bench-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the manifest can be written");
    let catalog = Catalog::new()
        .with_source::<Orders>()
        .with::<Hop>()
        .with::<Sink>();
    let transports = Transports::new();
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    std::fs::remove_file(&file).expect("it was there");
    let cpu = cpu_seconds();
    System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        app.idle().await;
        app.stop().await;
    });
    let cpu = cpu_seconds() - cpu;
    (
        MESSAGES as f64 / TOOK.get() / 1e6,
        cpu / MESSAGES as f64 * 1e6,
    )
}

fn main() {
    println!("{}\n", machine());
    let one = "[services.orders]\nout = \"orders\"\n[services.sink]\nin = \"orders\"\n";
    let two = "[services.orders]\nout = \"orders\"\n[services.hop]\nin = \"orders\"\n\
               out = \"checked\"\n[services.sink]\nin = \"checked\"\n";
    let bytes = serde_json::to_vec(&order(0))
        .expect("an order is JSON")
        .len();
    println!("{bytes} bytes of JSON, memory transport, one worker, median of {ROUNDS} rounds");
    let mut results: [(Vec<f64>, Vec<f64>); 2] = Default::default();
    for round in 0..=ROUNDS {
        for (services, (rates, cpus)) in [one, two].into_iter().zip(&mut results) {
            let (rate, cpu) = run(services);
            if round > 0 {
                rates.push(rate);
                cpus.push(cpu);
            }
        }
    }
    let [(mut rate_1, mut cpu_1), (mut rate_2, mut cpu_2)] = results;
    let (rate_1, cpu_1) = (median(&mut rate_1), median(&mut cpu_1));
    let (rate_2, cpu_2) = (median(&mut rate_2), median(&mut cpu_2));
    println!("  one hop:  {rate_1:.3} M/s, {cpu_1:.2} µs of CPU a message");
    println!("  two hops: {rate_2:.3} M/s, {cpu_2:.2} µs of CPU a message");
    println!("  a second hop costs {:.2} µs", 1.0 / rate_2 - 1.0 / rate_1);
}
