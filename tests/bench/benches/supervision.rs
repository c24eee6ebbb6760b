//! The cost of supervision under trouble: neighbours beside a flooded service, and the restart of
//! a service with 10,000 instances.
//!
//! `cargo bench -p brickwork-bench --bench supervision [-- fairness|restart]`

#![allow(missing_docs, reason = "a program")]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::rounds::{machine, median};

const TICK: Duration = Duration::from_millis(10);
const WATCHED: Duration = Duration::from_secs(5);
const ROUNDS: usize = 5;

/// Times of the neighbour's ticks.
static TICKS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());
static STARTED: AtomicUsize = AtomicUsize::new(0);
static FAIL: AtomicBool = AtomicBool::new(false);

const WORK: Input<Work> = Input::new("in");
const OUT: Output<Work> = Output::new("out");
const BEAT: Tick = Tick::new("beat");

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Work {
    n: u64,
}

/// Sends at full speed.
struct Flood;

impl Source for Flood {
    const NAME: &'static str = "flood";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    async fn run(_: &NoConfig, out: &mut SourceContext) -> Result<(), Failure> {
        for n in 0.. {
            drop(out.submit(&OUT, Work { n }).await?);
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Works for a while without awaiting.
struct Busy(Duration);

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct BusyConfig {
    micros: u64,
}

impl Service for Busy {
    const NAME: &'static str = "busy";
    type Config = BusyConfig;

    fn ports(_: &BusyConfig, ports: &mut Ports<Self>) {
        ports.input(&WORK);
    }

    async fn start(config: &BusyConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self(Duration::from_micros(config.micros)))
    }
}

impl Handle<Work> for Busy {
    async fn handle(&mut self, _: Work, _: &mut Context) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < self.0 {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

struct Neighbour;

impl Service for Neighbour {
    const NAME: &'static str = "neighbour";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&WORK).tick(BEAT, TICK);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn tick(&mut self, _: Tick, _: &mut Context) -> Result<(), Failure> {
        TICKS
            .lock()
            .expect("no thread panics while holding it")
            .push(Instant::now());
        Ok(())
    }
}

impl Handle<Work> for Neighbour {
    async fn handle(&mut self, _: Work, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// One of many instances; the first one fails when told to.
struct Many;

impl Service for Many {
    const NAME: &'static str = "many";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&WORK);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        STARTED.fetch_add(1, SeqCst);
        Ok(Self)
    }
}

impl Handle<Work> for Many {
    async fn handle(&mut self, _: Work, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// In a group with `many`: when this one fails, all restart.
struct Trigger;

impl Service for Trigger {
    const NAME: &'static str = "trigger";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&WORK).tick(BEAT, Duration::from_millis(1));
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn tick(&mut self, _: Tick, _: &mut Context) -> Result<(), Failure> {
        if FAIL.swap(false, SeqCst) {
            return Err(Failure::retry("told to fail"));
        }
        Ok(())
    }
}

impl Handle<Work> for Trigger {
    async fn handle(&mut self, _: Work, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

fn run<T>(services: &str, test: impl AsyncFnOnce() -> T) -> T {
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\nworkers = 1\n[admin]\nlisten = \"off\"\n\
         [topics.nothing]\nexternal = \"in\"\n{services}"
    );
    let file: PathBuf =
        std::env::temp_dir().join(format!("brickwork-bench-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the manifest can be written");
    let catalog = Catalog::new()
        .with_source::<Flood>()
        .with::<Busy>()
        .with::<Neighbour>()
        .with::<Many>()
        .with::<Trigger>();
    let transports = Transports::new();
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    std::fs::remove_file(&file).expect("it was there");
    System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Threads, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        let result = test().await;
        app.stop().await;
        result
    })
}

/// Returns the share of the neighbour's ticks that ran, and the 99th percentile and maximum of
/// their lateness beyond 10 ms, in milliseconds.
fn ticks_beside(services: &str) -> (f64, f64, f64) {
    let services = format!("[services.neighbour]\nin = \"nothing\"\n{services}");
    run(&services, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        TICKS
            .lock()
            .expect("no thread panics while holding it")
            .clear();
        tokio::time::sleep(WATCHED).await;
        let ticks = std::mem::take(&mut *TICKS.lock().expect("no thread panics while holding it"));
        let due = WATCHED.as_secs_f64() / TICK.as_secs_f64();
        let gaps = ticks.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        let mut late: Vec<f64> = gaps
            .map(|gap| gap.saturating_sub(TICK).as_secs_f64() * 1e3)
            .collect();
        late.sort_by(f64::total_cmp);
        let p99 = late[late.len() * 99 / 100];
        (ticks.len() as f64 / due, p99, late[late.len() - 1])
    })
}

fn fairness() {
    let flooded = "[services.flood]\nout = \"work\"\n[services.busy]\nin = \"work\"\n";
    let mut ten = String::from("[services.flood]\nout = \"work\"\n");
    for n in 0..10 {
        ten.push_str(&format!(
            "[services.busy{n}]\nuse = \"busy\"\nin = \"work\"\nconfig.micros = 1000\nqueue.high_water = 1000000\n"
        ));
    }
    println!(
        "a neighbour's 10 ms tick on the same arbiter, over {WATCHED:?}, medians of {ROUNDS}; the maximum of all"
    );
    for (name, services) in [
        ("alone", ""),
        ("beside one flooded service", flooded),
        ("beside ten with handlers of 1 ms, flooded", &ten),
    ] {
        let (mut shares, mut p99s, mut max) = (Vec::new(), Vec::new(), 0.0f64);
        for _ in 0..ROUNDS {
            let (share, p99, longest) = ticks_beside(services);
            shares.push(share * 100.0);
            p99s.push(p99);
            max = max.max(longest);
        }
        println!(
            "  {name:<44} {:>5.1} % of the ticks ran; late by {:.1} ms at p99, {max:.1} ms at most",
            median(&mut shares),
            median(&mut p99s)
        );
    }
}

fn restart() {
    const INSTANCES: usize = 10_000;
    let services = format!(
        "[groups.all]\nservices = [\"trigger\", \"many\"]\nmax_restarts = 1000\n\
         [services.trigger]\nin = \"nothing\"\n\
         restart = {{ max_restarts = 0, on_give_up = \"escalate\", backoff = {{ min = \"1ms\", max = \"1ms\" }} }}\n\
         [services.many]\nin = \"nothing\"\ninstances = {INSTANCES}\n"
    );
    let mut times: Vec<f64> = run(&services, async || {
        let mut times = Vec::new();
        for _ in 0..=ROUNDS {
            let before = STARTED.load(SeqCst);
            let begun = Instant::now();
            FAIL.store(true, SeqCst);
            while STARTED.load(SeqCst) < before + INSTANCES {
                assert!(begun.elapsed() < Duration::from_secs(10), "not restarted");
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        times
    });
    times.remove(0);
    println!(
        "a service with {INSTANCES} instances, failure beside it to all started again: {:.1} ms (median of {ROUNDS})",
        median(&mut times)
    );
}

fn main() {
    println!("{}\n", machine());
    let mut only = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"));
    let only = only.next().unwrap_or_default();
    if only != "restart" {
        fairness();
    }
    if only != "fairness" {
        restart();
    }
}
