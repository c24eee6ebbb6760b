//! Order by key on `memory:`: the rate with and without a key, and the latency of healthy keys
//! beside a slow and a poisoned one.
//!
//! `cargo bench -p brickwork-bench --bench keys [-- tell|p99]`

#![allow(missing_docs, reason = "a program")]

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, KeyRule, Message, ReadKey, Workers, manifest};
use brickwork_bench::flow::{self, Orders, Sink};
use brickwork_bench::rounds::{Rounds, machine};
use tokio::time::sleep;

const MESSAGES: u64 = 300_000;
const ROUNDS: usize = 7;
/// Number of keys.
const KEYS: u64 = 1_000;
/// Messages a millisecond in the measurement of latencies, and its length.
const PER_MS: u64 = 2;
const LENGTH: Duration = Duration::from_secs(20);

/// Reads a field, for `key = "FIELD"` in a manifest.
struct Field(KeyRule);

impl ReadKey for Field {
    fn read(&self, message: &Message) -> Result<Key, String> {
        self.0.key(message)
    }
}

fn field(name: &str) -> Result<Arc<dyn ReadKey>, String> {
    Ok(Arc::new(Field(KeyRule::field(name))))
}

fn tell() {
    let catalog = Catalog::new()
        .with_key_expressions(field)
        .with_source::<Orders<Raw>>()
        .with::<Sink<Raw>>();
    let run = |key: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let services = format!(
            "[services.sink]\nin = \"orders\"\ninstances = 4\n{key}\n\
             [services.orders]\nout = \"orders\"\nconfig.count = {MESSAGES}\n"
        );
        let ran = flow::run(
            folder.path(),
            "transport = \"memory:\"",
            &services,
            &catalog,
            &Transports::new(),
            Workers::Here,
            Some(MESSAGES),
        );
        MESSAGES as f64 / ran.seconds / 1e6
    };
    let medians = Rounds::new("120 bytes of 1,000 keys, memory:, one worker", "M/s")
        .with("without a key", || run(""))
        .with("with a key", || run("key = \"customer\""))
        .run(ROUNDS);
    if let [without, with] = medians.as_slice() {
        println!(
            "keyed is {:.2} times unkeyed (0.7 is asked for)\n",
            with / without
        );
    }
}

/// Latencies of the healthy keys in microseconds.
static LATENCIES: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn micros() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed().as_micros() as u64
}

#[message]
struct Sent {
    key: u64,
    at: u64,
}

/// Sends messages at a steady rate.
#[source(ends = true)]
async fn paced(messages: Feed<Sent>) -> Result {
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < LENGTH {
        let due = began.elapsed().as_millis() as u64 * PER_MS;
        while sent < due {
            let (key, at) = (sent % KEYS, micros());
            messages.send(Sent { key, at }).await?;
            sent += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

#[config]
struct WorkConfig {
    /// Fate of the messages of key 0: `fine`, `slow` or `poisoned`.
    first: String,
}

struct Work {
    first: String,
}

/// Handles a message in a millisecond.
#[service(key = "key")]
impl Work {
    fn start(config: &WorkConfig) -> Result<Self> {
        let first = config.first.clone();
        Ok(Self { first })
    }

    #[input]
    async fn messages(&mut self, message: Sent) -> Result {
        match (message.key, self.first.as_str()) {
            (0, "slow") => sleep(Duration::from_secs(1)).await,
            (0, "poisoned") => return Err(Failure::retry("it is poisoned")),
            _ => sleep(Duration::from_millis(1)).await,
        }
        if message.key > 0 {
            let took = micros() - message.at;
            let mut latencies = LATENCIES.lock().expect("no thread panics with it");
            latencies.push(took);
        }
        Ok(())
    }
}

/// Returns the 50th and the 99th percentile in microseconds.
fn latency(first: &str) -> [u64; 2] {
    LATENCIES.lock().expect("no thread panics with it").clear();
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = Catalog::new().with_source::<paced>().with::<Work>();
    let services = format!(
        "[services.work]\nin = \"messages\"\ninstances = 16\nconfig.first = \"{first}\"\n\
         retry = {{ attempts = 3, backoff = {{ min = \"1s\", max = \"2s\" }} }}\n\
         [services.paced]\nout = \"messages\"\n"
    );
    let manifest = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\nworkers = 2\n\
         [admin]\nlisten = \"off\"\n{services}"
    );
    let file = folder.path().join("app.toml");
    std::fs::write(&file, manifest).expect("the manifest can be written");
    let transports = Transports::new();
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Threads, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        // Messages of the first key may be left.
        sleep(LENGTH + Duration::from_secs(1)).await;
        app.stop().await;
    });
    let mut latencies = LATENCIES.lock().expect("no thread panics with it");
    latencies.sort_unstable();
    [50, 99].map(|percent| latencies[latencies.len() * percent / 100])
}

fn p99() {
    println!(
        "{KEYS} keys, {} messages a second, 16 instances, 1 ms each",
        PER_MS * 1_000
    );
    let mut usual = 0;
    for first in ["fine", "slow", "poisoned"] {
        let [p50, p99] = latency(first);
        if first == "fine" {
            usual = p99;
        }
        println!(
            "  first key {first}: others p50 {p50} µs, p99 {p99} µs, {:.2} times (1.5 is allowed)",
            p99 as f64 / usual as f64
        );
    }
}

fn main() {
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    println!("{}\n", machine());
    if wanted("tell") {
        tell();
    }
    if wanted("p99") {
        p99();
    }
}
