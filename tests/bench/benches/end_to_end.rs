//! The memory transport end to end, on one worker: a source encodes 113 bytes of JSON and
//! publishes, the bridge carries, the service decodes, handles and acks; then the same with a
//! second hop.
//!
//! `cargo bench -p brickwork-bench --bench end_to_end`

#![allow(missing_docs, reason = "a program")]

use brickwork::Workers;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork_bench::flow::{self, Made, Order, Orders, Sink};
use brickwork_bench::rounds::{machine, median};

const MESSAGES: u64 = 400_000;
const ROUNDS: usize = 7;

const OUT: Output<Order> = Output::new("out");
const IN: Input<Order> = Input::new("in");

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

/// Runs a manifest. Returns million messages per second and CPU time in microseconds per message.
fn run(services: &str) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = Catalog::new()
        .with_source::<Orders<Order>>()
        .with::<Hop>()
        .with::<Sink<Order>>();
    let ran = flow::run(
        folder.path(),
        "transport = \"memory:\"",
        &format!("{services}[services.orders]\nout = \"orders\"\nconfig.count = {MESSAGES}\n"),
        &catalog,
        &Transports::new(),
        Workers::Here,
        Some(MESSAGES),
    );
    let messages = MESSAGES as f64;
    (
        messages / ran.seconds / 1e6,
        ran.cpu_seconds / messages * 1e6,
    )
}

fn main() {
    println!("{}\n", machine());
    let one = "[services.sink]\nin = \"orders\"\n";
    let two = "[services.hop]\nin = \"orders\"\n\
               out = \"checked\"\n[services.sink]\nin = \"checked\"\n";
    let bytes = serde_json::to_vec(&Order::made(0, 0))
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
