//! The hop with Brickwork. With `MESSAGES=0` it only declares the queues.

use std::cell::Cell;
use std::time::Duration;

use actix::System;
use brickwork::prelude::*;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench_peers::{Stopwatch, messages, setting};

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Order {
    order: u64,
    sku: String,
    quantity: u32,
    note: String,
}

const OUT: Output<Order> = Output::new("out");
const IN: Input<Order> = Input::new("in");

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
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
    async fn handle(&mut self, mut order: Order, cx: &mut Context) -> Result<(), Failure> {
        LEFT.set(LEFT.get().saturating_sub(1));
        order.quantity += 1;
        cx.emit(&OUT, order)
    }
}

/// Reads the output of the hop, so that it has a destination. The sink never runs.
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

fn main() {
    LEFT.set(messages());
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"{}\"\nlog.level = \"error\"\n\
         [admin]\nlisten = \"off\"\n\
         [topics.todo]\nexternal = \"in\"\n\
         [services.hop]\nin = \"todo\"\nout = \"done\"\nmailbox = 255\n\
         [services.sink]\nin = \"done\"\n",
        setting("AMQP_URL")
    );
    let file = std::env::temp_dir().join(format!("brickwork-peers-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the manifest can be written");
    let stopwatch = Stopwatch::start();
    let options = manifest::Options {
        only: vec!["hop".into()],
        ..Default::default()
    };
    let catalog = Catalog::new().with::<Hop>().with::<Sink>();
    let plan = manifest::load(&file, &options, &catalog, &brickwork_bridges::all())
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    std::fs::remove_file(&file).expect("it was there");
    System::new().block_on(async {
        let transports = brickwork_bridges::all();
        let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        while LEFT.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Messages in flight are published, confirmed and acked before the stop ends. `idle`
        // would add half a second of quiet on a shared transport.
        app.stop().await;
    });
    stopwatch.tell();
}
