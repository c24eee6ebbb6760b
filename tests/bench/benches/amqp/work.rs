//! The measured services, and running them.

use std::cell::Cell;
use std::time::{Duration, Instant};

use actix::System;
use brickwork::prelude::*;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::raw;
use brickwork_bench::rounds::cpu_seconds;
use brickwork_tests::broker::Broker;

/// The payload: JSON whose padding determines its size.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Order {
    order: u64,
    sku: String,
    quantity: u32,
    note: String,
}

pub(crate) fn order(n: usize, bytes: usize) -> Order {
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

pub(crate) fn handled(mut order: Order) -> Order {
    order.quantity += 1;
    order
}

pub(crate) const OUT: Output<Order> = Output::new("out");
pub(crate) const IN: Input<Order> = Input::new("in");

thread_local! {
    /// Messages left to handle. Asking the broker whether the load is done would be measured,
    /// too.
    pub(crate) static LEFT: Cell<usize> = const { Cell::new(0) };
}

thread_local! {
    /// Time and CPU time at the first and the last message: start and stop are not measured.
    pub(crate) static FIRST: Cell<Option<(Instant, f64)>> = const { Cell::new(None) };
    pub(crate) static LAST: Cell<Option<(Instant, f64)>> = const { Cell::new(None) };
}

/// Counts a handled message.
pub(crate) fn mark() {
    if FIRST.get().is_none() {
        FIRST.set(Some((Instant::now(), cpu_seconds())));
    }
    LEFT.set(LEFT.get().saturating_sub(1));
    if LEFT.get() == 0 {
        LAST.set(Some((Instant::now(), cpu_seconds())));
    }
}

/// A service that emits each message.
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
        mark();
        cx.emit(&OUT, handled(order))
    }
}

/// Reads the output of the others, so that it has a destination. The sink never runs.
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

/// A broker, and a runtime for the work by hand.
pub(crate) struct Bench {
    pub(crate) broker: Broker,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            broker: Broker::start(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    /// Publishes `count` orders to the topics in turn, and empties the sink.
    pub(crate) fn fill(&self, topics: &[String], count: usize, bytes: usize) {
        let url = self.broker.url();
        self.runtime.block_on(async {
            let connection = raw::connect(&url).await;
            let channel = raw::confirming(&connection).await;
            let messages = (0..count).map(|n| {
                let payload = serde_json::to_vec(&order(n, bytes)).expect("it is JSON");
                (topics[n % topics.len()].clone(), payload)
            });
            raw::fill(&channel, "bench", messages).await;
            let purged = channel.queue_purge("bench.sink.in".into(), Default::default());
            purged.await.expect("it is emptied");
            let _closed = connection.close(200, "done".into()).await;
        });
    }

    /// Counts the ready messages of a queue.
    pub(crate) fn ready(&self, queue: &str) -> usize {
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
            count as usize
        })
    }

    /// Runs services of an app until `count` orders are handled and no message is left. Without
    /// orders, declares the queues only.
    pub(crate) fn run(&self, services: &str, only: &[String], count: usize) {
        LEFT.set(count);
        let catalog = Catalog::new().with::<Hop>().with::<Sink>();
        let plan = plan(&self.broker.url(), services, only, &catalog);
        System::new().block_on(async {
            let transports = brickwork_bridges::all();
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

/// Returns the plan of the app `bench`.
pub(crate) fn plan(
    url: &str,
    services: &str,
    only: &[String],
    catalog: &Catalog,
) -> brickwork::Plan {
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"{url}\"\nlog.level = \"error\"\n\
         [admin]\nlisten = \"off\"\n{services}"
    );
    let file = std::env::temp_dir().join(format!("brickwork-bench-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the manifest can be written");
    let options = manifest::Options {
        only: only.to_vec(),
        ..Default::default()
    };
    let plan = manifest::load(&file, &options, catalog, &brickwork_bridges::all())
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    std::fs::remove_file(&file).expect("it was there");
    plan
}
