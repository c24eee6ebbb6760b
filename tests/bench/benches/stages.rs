//! Throughput of `dedup` and `aggregate`: one instance each, with the default settings, every
//! message durable in the store, between a source and a sink on the memory transport.
//!
//! `cargo bench -p brickwork-bench --bench stages`

#![allow(missing_docs, reason = "a program")]

use brickwork::Workers;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork_bench::flow::{self, Orders, Sink};
use brickwork_bench::rounds::{machine, median};

const MESSAGES: u64 = 100_000;
const ROUNDS: usize = 5;

/// Runs a stage. Returns messages per second, CPU time in microseconds per message, and the
/// number of outputs.
fn run(stage: &str) -> (f64, f64, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let services = format!(
        "[services.orders]\nout = \"orders\"\nconfig.count = {MESSAGES}\n\
         [services.sink]\nin = \"done\"\n\
         [services.stage]\nstore = true\nin = \"orders\"\nout = \"done\"\n{stage}"
    );
    let catalog = brickwork_actors::catalog()
        .with_source::<Orders<Raw>>()
        .with::<Sink<Raw>>();
    let ran = flow::run(
        folder.path(),
        "transport = \"memory:\"\nworkers = 2",
        &services,
        &catalog,
        &Transports::new(),
        Workers::Threads,
        // There are fewer groups than messages.
        None,
    );
    let messages = MESSAGES as f64;
    (
        messages / ran.seconds,
        ran.cpu_seconds / messages * 1e6,
        ran.arrived,
    )
}

fn main() {
    println!("{}\n", machine());
    println!("{MESSAGES} messages, memory transport, 2 workers, median of {ROUNDS} rounds");
    for (name, stage) in [
        ("dedup by id", "use = \"dedup\"\n"),
        (
            "dedup by an expression",
            "use = \"dedup\"\nconfig.key = \"msg.order\"\n",
        ),
        (
            "aggregate, 10 of each of 1,000 keys",
            "use = \"aggregate\"\nconfig.key = \"msg.customer\"\nconfig.count = 10\n\
             config.within = \"1m\"\n",
        ),
        (
            "aggregate, 100 of all",
            "use = \"aggregate\"\nconfig.count = 100\n",
        ),
    ] {
        let (mut rates, mut cpus) = (Vec::new(), Vec::new());
        let mut out = 0;
        for _ in 0..ROUNDS {
            let (rate, cpu, received) = run(stage);
            rates.push(rate);
            cpus.push(cpu);
            out = received;
        }
        let (rate, cpu) = (median(&mut rates), median(&mut cpus));
        println!("  {name}: {rate:.0} messages/s, {cpu:.1} µs of CPU a message, {out} came out");
    }
}
