//! What `dedup` and `aggregate` carry: one instance each, with the default settings, every
//! message durable in the store, between a source and a sink on the memory transport.
//!
//! `cargo bench -p brickwork-bench --bench stages`

#![allow(missing_docs, reason = "a program")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::rounds::{cpu_seconds, machine, median};

const MESSAGES: u64 = 100_000;
const ROUNDS: usize = 5;

const OUT: Output<Raw> = Output::new("out");
const IN: Input<Raw> = Input::new("in");

static STARTED: Mutex<Option<Instant>> = Mutex::new(None);
/// When the sink had something last, in microseconds since the start.
static LAST_US: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);

fn since_start() -> u64 {
    let started = STARTED.lock().expect("nobody panics");
    started.map_or(0, |started| started.elapsed().as_micros() as u64)
}

/// Emits so many orders of 1,000 customers, each of about 120 bytes.
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
        *STARTED.lock().expect("nobody panics") = Some(Instant::now());
        for n in 0..MESSAGES {
            let customer = n * 7_919 % 1_000;
            let order = format!(
                r#"{{"order":{n},"sku":"brick-red-2x4","quantity":12,"customer":"customer-{customer}","note":"leave at the door, please"}}"#
            );
            // The ticket is for sources that have something to forget.
            drop(out.submit(&OUT, Raw::bytes("order", order)).await?);
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Counts what comes.
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

impl Handle<Raw> for Sink {
    async fn handle(&mut self, _: Raw, _: &mut Context) -> Result<(), Failure> {
        RECEIVED.fetch_add(1, Relaxed);
        LAST_US.store(since_start(), Relaxed);
        Ok(())
    }
}

/// Runs a stage; returns messages a second, CPU time a message in microseconds, and how
/// many came out.
fn run(stage: &str) -> (f64, f64, u64) {
    let folder = std::env::temp_dir().join(format!("brickwork-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\nworkers = 2\n\
         [admin]\nlisten = \"off\"\n\
         [services.orders]\nout = \"orders\"\n[services.sink]\nin = \"done\"\n\
         [services.stage]\nstore = true\nin = \"orders\"\nout = \"done\"\n{stage}"
    );
    let file = folder.join("app.toml");
    std::fs::write(&file, text).expect("the manifest can be written");
    let catalog = brickwork_actors::catalog()
        .with_source::<Orders>()
        .with::<Sink>();
    let transports = Transports::new();
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    RECEIVED.store(0, Relaxed);
    let cpu = cpu_seconds();
    System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Threads, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        app.idle().await;
        app.stop().await;
    });
    let cpu = cpu_seconds() - cpu;
    std::fs::remove_dir_all(&folder).expect("it was there");
    (
        MESSAGES as f64 / (LAST_US.load(Relaxed) as f64 / 1e6),
        cpu / MESSAGES as f64 * 1e6,
        RECEIVED.load(Relaxed),
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
