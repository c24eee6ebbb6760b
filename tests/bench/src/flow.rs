//! Orders from a source through the measured services into a counting sink, and running an app of
//! them to its end.
//!
//! One app at a time: the times of its orders are kept in statics.

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

/// A payload that a source can generate.
pub trait Made: Sized {
    /// Returns the payload with this number and `bytes` of padding.
    fn made(number: u64, bytes: usize) -> Self;
}

/// An order: 113 bytes as JSON, and its padding.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Order {
    /// Number of the order.
    pub order: u64,
    /// Ordered article.
    pub sku: String,
    /// Ordered quantity.
    pub quantity: u32,
    /// Name of the customer.
    pub customer: String,
    /// Padding.
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

/// Config of the source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OrdersConfig {
    /// Number of orders.
    pub count: u64,
    /// Padding in bytes.
    pub bytes: usize,
    /// Maximum orders in flight.
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
/// The time is taken when this many orders have arrived; at each one if 0.
static EXPECTED: AtomicU64 = AtomicU64::new(0);

fn mark(at: &Mutex<Option<Instant>>) {
    *at.lock().expect("no thread panics while holding it") = Some(Instant::now());
}

fn seconds(from: &Mutex<Option<Instant>>, to: &Mutex<Option<Instant>>) -> f64 {
    let at = |it: &Mutex<Option<Instant>>| it.lock().expect("no thread panics").expect("it was");
    at(to).duration_since(at(from)).as_secs_f64()
}

/// Emits orders to `out` as fast as they are accepted.
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
            // A source awaits the handle before it saves its position; this one has no position.
            drop(out.submit(&output, T::made(n, config.bytes)).await?);
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Counts the messages that arrive at `in`.
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

/// Result of a run.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// Number of received orders.
    pub arrived: u64,
    /// Seconds from the first one sent to the last one received.
    pub seconds: f64,
    /// Seconds from the first one received to the last one.
    pub arriving_seconds: f64,
    /// CPU time of this process in seconds.
    pub cpu_seconds: f64,
}

/// Runs an app of these services in a folder to its end. `app` are further lines of its table,
/// `expected` is the number of orders that arrive, if known.
///
/// # Panics
/// If the app can't run, or another number arrives.
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
