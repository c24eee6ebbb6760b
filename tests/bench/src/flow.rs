//! Orders from a source, through whatever is measured, into a sink that counts; and running
//! an app of them to its end.
//!
//! One app at a time: when its orders went and came is kept for the process.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, Workers, manifest};

use crate::rounds::cpu_seconds;

/// What a source can emit so many of.
pub trait Made: Sized {
    /// The one with this number, larger by so many bytes.
    fn made(number: u64, bytes: usize) -> Self;
}

/// 113 bytes as JSON, and those that it is larger by.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Order {
    /// Its number.
    pub order: u64,
    /// Of what;
    pub sku: String,
    /// how many;
    pub quantity: u32,
    /// for whom.
    pub customer: String,
    /// What else there is to say.
    pub note: String,
}

impl Made for Order {
    fn made(number: u64, bytes: usize) -> Self {
        Self {
            order: 1_000_000 + number,
            sku: "brick-red-2x4".into(),
            quantity: 12,
            customer: "a-customer-of-ours".into(),
            note: "leave at the door".to_owned() + &"x".repeat(bytes),
        }
    }
}

/// Orders as text, about 120 bytes each, of 1,000 customers.
impl Made for Raw {
    fn made(n: u64, _: usize) -> Self {
        let customer = n * 7_919 % 1_000;
        let order = format!(
            r#"{{"order":{n},"sku":"brick-red-2x4","quantity":12,"customer":"customer-{customer}","note":"leave at the door, please"}}"#
        );
        Self::bytes("order", order)
    }
}

/// How many, and how.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OrdersConfig {
    /// How many.
    pub count: u64,
    /// How many bytes each is larger by.
    pub bytes: usize,
    /// How many are in flight.
    pub in_flight: usize,
}

impl Default for OrdersConfig {
    fn default() -> Self {
        Self {
            count: 20_000,
            bytes: 0,
            in_flight: 256,
        }
    }
}

static STARTED: Mutex<Option<Instant>> = Mutex::new(None);
static FIRST: Mutex<Option<Instant>> = Mutex::new(None);
static LAST: Mutex<Option<Instant>> = Mutex::new(None);
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// The clock is asked when so many have arrived; at each, if that isn't known.
static EXPECTED: AtomicU64 = AtomicU64::new(0);

fn mark(at: &Mutex<Option<Instant>>) {
    *at.lock().expect("nobody panics with it") = Some(Instant::now());
}

fn seconds(from: &Mutex<Option<Instant>>, to: &Mutex<Option<Instant>>) -> f64 {
    let at = |it: &Mutex<Option<Instant>>| it.lock().expect("nobody panics").expect("it was");
    at(to).duration_since(at(from)).as_secs_f64()
}

/// Emits orders as fast as they are taken, to `out`.
#[derive(Debug)]
pub struct Orders<T>(PhantomData<T>);

impl<T: Made + brickwork::Payload> Source for Orders<T> {
    const NAME: &'static str = "orders";
    type Config = OrdersConfig;

    fn ports(_: &OrdersConfig, ports: &mut SourcePorts) {
        ports.output(&Output::<T>::new("out"));
    }

    fn ends(_: &OrdersConfig) -> bool {
        true
    }

    fn in_flight(config: &OrdersConfig) -> usize {
        config.in_flight
    }

    async fn run(config: &OrdersConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let output = Output::<T>::new("out");
        mark(&STARTED);
        for n in 0..config.count {
            // The ticket is what a source waits for before it forgets; this one has nothing
            // to forget.
            drop(out.submit(&output, T::made(n, config.bytes)).await?);
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Counts what arrives at `in`.
#[derive(Debug)]
pub struct Sink<T>(PhantomData<T>);

impl<T: brickwork::Payload> Service for Sink<T> {
    const NAME: &'static str = "sink";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&Input::<T>::new("in"));
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self(PhantomData))
    }
}

impl<T: brickwork::Payload> Handle<T> for Sink<T> {
    async fn handle(&mut self, order: T, _: &mut Context) -> Result<(), Failure> {
        std::hint::black_box(order);
        let arrived = ARRIVED.fetch_add(1, Relaxed) + 1;
        if arrived == 1 {
            mark(&FIRST);
        }
        let expected = EXPECTED.load(Relaxed);
        if expected == 0 || arrived == expected {
            mark(&LAST);
        }
        Ok(())
    }
}

/// What a run gave.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// How many arrived.
    pub arrived: u64,
    /// From the first that was sent to the last that arrived, in seconds.
    pub seconds: f64,
    /// From the first that arrived to the last, in seconds.
    pub arriving_seconds: f64,
    /// This process's CPU time, in seconds.
    pub cpu_seconds: f64,
}

/// Runs an app of these services in a folder, to its end: `app` are more lines of its table.
/// `expected` is how many arrive, if that is known.
///
/// # Panics
/// It can't be run, or others arrive.
pub fn run(
    folder: &Path,
    app: &str,
    services: &str,
    catalog: &Catalog,
    transports: &Transports,
    workers: Workers,
    expected: Option<u64>,
) -> Ran {
    let text = format!("[app]\nname = \"bench\"\n{app}\n[admin]\nlisten = \"off\"\n{services}");
    let file = folder.join("app.toml");
    std::fs::write(&file, text).expect("the manifest can be written");
    let plan = manifest::load(&file, &manifest::Options::default(), catalog, transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    ARRIVED.store(0, Relaxed);
    EXPECTED.store(expected.unwrap_or(0), Relaxed);
    let cpu = cpu_seconds();
    System::new().block_on(async {
        let app = App::start(plan, transports, workers, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        app.idle().await;
        app.stop().await;
    });
    let cpu_seconds = cpu_seconds() - cpu;
    let arrived = ARRIVED.load(Relaxed);
    if let Some(expected) = expected {
        assert_eq!(arrived, expected, "each arrives once");
    }
    Ran {
        arrived,
        seconds: seconds(&STARTED, &LAST),
        arriving_seconds: seconds(&FIRST, &LAST),
        cpu_seconds,
    }
}
