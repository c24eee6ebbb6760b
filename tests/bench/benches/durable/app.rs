//! An app of the benchmark: orders from a source, through services, counted at the end.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::rounds::cpu_seconds;

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Order {
    pub(crate) order: u64,
    pub(crate) text: String,
}

pub(crate) const OUT: Output<Order> = Output::new("out");
pub(crate) const IN: Input<Order> = Input::new("in");

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OrdersConfig {
    /// How many.
    pub(crate) count: u64,
    /// Bytes of text in each.
    pub(crate) bytes: usize,
    /// How many are in flight.
    pub(crate) in_flight: usize,
}

impl Default for OrdersConfig {
    fn default() -> Self {
        Self {
            count: 20_000,
            bytes: 200,
            in_flight: 256,
        }
    }
}

static STARTED: Mutex<Option<Instant>> = Mutex::new(None);
static SEEN: AtomicU64 = AtomicU64::new(0);
static LAST: Mutex<Option<Instant>> = Mutex::new(None);

pub(crate) struct Orders;

impl Source for Orders {
    const NAME: &'static str = "orders";
    type Config = OrdersConfig;

    fn ports(_: &OrdersConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn ends(_: &OrdersConfig) -> bool {
        true
    }

    fn in_flight(config: &OrdersConfig) -> usize {
        config.in_flight
    }

    async fn run(config: &OrdersConfig, out: &mut Outlet) -> Result<(), Failure> {
        *STARTED.lock().expect("nobody panics with it") = Some(Instant::now());
        let text = "x".repeat(config.bytes);
        for order in 0..config.count {
            let text = text.clone();
            drop(out.submit(&OUT, Order { order, text }).await?);
            if order % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Counts what arrives.
pub(crate) struct Sink;

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
    async fn handle(&mut self, order: Order, _: &mut Context) -> Result<(), Failure> {
        std::hint::black_box(order);
        SEEN.fetch_add(1, Relaxed);
        *LAST.lock().expect("nobody panics with it") = Some(Instant::now());
        Ok(())
    }
}

/// What one run gave.
pub(crate) struct Ran {
    /// Messages a second, from the first that was sent to the last that arrived.
    pub(crate) rate: f64,
    /// Microseconds of this process's CPU time for each.
    pub(crate) cpu_us: f64,
}

/// Runs a manifest to its end in a folder of its own.
pub(crate) fn run(
    folder: &Path,
    transport: &str,
    services: &str,
    catalog: Catalog,
    count: u64,
) -> Ran {
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"{transport}\"\n[admin]\nlisten = \"off\"\n{services}"
    );
    let file = folder.join("app.toml");
    std::fs::write(&file, text).expect("the manifest can be written");
    let catalog = catalog.with_source::<Orders>().with::<Sink>();
    let transports: Transports = brickwork_bridges::all();
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    SEEN.store(0, Relaxed);
    let cpu = cpu_seconds();
    System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Threads, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        app.idle().await;
        app.stop().await;
    });
    let cpu = cpu_seconds() - cpu;
    assert_eq!(SEEN.load(Relaxed), count, "each arrives once");
    let moment = |at: &Mutex<Option<Instant>>| at.lock().expect("nobody panics").expect("it was");
    let took = moment(&LAST).duration_since(moment(&STARTED)).as_secs_f64();
    Ran {
        rate: count as f64 / took,
        cpu_us: cpu / count as f64 * 1e6,
    }
}
