//! Messages a second through a Node child, by the service type `process` on the memory
//! transport: a source emits, the child answers each with what it was told, a sink counts.
//! Beside it the same lines to the same program over a bare pipe, with the same window,
//! by a loop that does nothing else: no host, no transport, no parsing of answers.
//!
//! `cargo bench -p brickwork-bench --bench process`

#![allow(missing_docs, reason = "a program")]

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use actix::System;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::rounds::{Rounds, machine};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

const MESSAGES: u64 = 100_000;
const ROUNDS: usize = 7;
const WINDOW: usize = 64;

const CHILD: &str = r#"
const lines = require('readline').createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const { id, msg } = JSON.parse(line);
  process.stdout.write(JSON.stringify({ id, emit: [{ port: 'out', msg }] }) + '\n');
});
"#;

/// 113 bytes as JSON.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Order {
    order: u64,
    sku: String,
    quantity: u32,
    customer: String,
    note: String,
}

fn order(n: u64) -> Order {
    Order {
        order: 1_000_000 + n,
        sku: "brick-red-2x4".into(),
        quantity: 12,
        customer: "a-customer-of-ours".into(),
        note: "leave at the door".into(),
    }
}

const OUT: Output<Order> = Output::new("out");
const IN: Input<Raw> = Input::new("in");

thread_local! {
    static RATE: Cell<f64> = const { Cell::new(0.0) };
}

/// From the first answer to the last: the start of Node doesn't count.
struct Watch {
    started: Instant,
    answers: u64,
}

impl Watch {
    /// Messages a second, in thousands, when the last answer is there.
    fn answer(this: &mut Option<Self>) -> Option<f64> {
        let watch = this.get_or_insert_with(|| Self {
            started: Instant::now(),
            answers: 0,
        });
        watch.answers += 1;
        let done = watch.answers == MESSAGES;
        done.then(|| (MESSAGES - 1) as f64 / watch.started.elapsed().as_secs_f64() / 1e3)
    }
}

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
        for n in 0..MESSAGES {
            drop(out.submit(&OUT, order(n)).await?);
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

struct Sink(Option<Watch>);

impl Service for Sink {
    const NAME: &'static str = "sink";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self(None))
    }
}

impl Handle<Raw> for Sink {
    async fn handle(&mut self, _: Raw, _: &mut Context) -> Result<(), Failure> {
        if let Some(rate) = Watch::answer(&mut self.0) {
            RATE.set(rate);
        }
        Ok(())
    }
}

fn script() -> PathBuf {
    let file = std::env::temp_dir().join(format!("brickwork-bench-{}.js", std::process::id()));
    std::fs::write(&file, CHILD).expect("the program can be written");
    file
}

fn by_process() -> f64 {
    let script = script();
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n\
         [services.orders]\nout = \"orders\"\n\
         [services.child]\nuse = \"process\"\nin = \"orders\"\nout = \"answers\"\n\
         config.command = [\"node\", \"{}\"]\nconfig.in_flight = {WINDOW}\n\
         [services.sink]\nin = \"answers\"\n",
        script.display()
    );
    let file = script.with_extension("toml");
    std::fs::write(&file, text).expect("the manifest can be written");
    let catalog = brickwork_actors::catalog()
        .with_source::<Orders>()
        .with::<Sink>();
    let transports = Transports::new();
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    std::fs::remove_file(&file).expect("it was there");
    System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        app.idle().await;
        app.stop().await;
    });
    RATE.get()
}

fn by_pipe() -> f64 {
    let script = script();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        let mut child = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let mut stdin = child.stdin.take().expect("it is piped");
        let mut stdout =
            BufReader::with_capacity(64 * 1024, child.stdout.take().expect("it is piped"));
        let mut sent = 0;
        let mut tell = |lines: &mut Vec<u8>| {
            if sent < MESSAGES {
                let msg = serde_json::to_string(&order(sent)).expect("an order is JSON");
                let line = format!(
                    "{{\"id\":\"01936e5a-0000-7000-8000-{sent:012}\",\"topic\":\"orders\",\
                     \"type\":\"Order\",\"attempt\":1,\"headers\":{{}},\"msg\":{msg}}}\n"
                );
                lines.extend_from_slice(line.as_bytes());
                sent += 1;
            }
        };
        let mut lines = Vec::new();
        for _ in 0..WINDOW {
            tell(&mut lines);
        }
        let mut watch = None;
        let mut answer = Vec::new();
        loop {
            stdin.write_all(&lines).await.expect("it reads");
            lines.clear();
            // What was answered meanwhile is made up for by one write.
            loop {
                answer.clear();
                let read = stdout.read_until(b'\n', &mut answer).await;
                assert!(read.expect("it can be read") > 0, "it answers");
                if let Some(rate) = Watch::answer(&mut watch) {
                    drop(stdin);
                    child.wait().await.expect("it ends");
                    return rate;
                }
                tell(&mut lines);
                if !stdout.buffer().contains(&b'\n') {
                    break;
                }
            }
        }
    })
}

fn main() {
    println!("{}\n", machine());
    let bytes = serde_json::to_vec(&order(0))
        .expect("an order is JSON")
        .len();
    let title = format!("{bytes} bytes of JSON to a Node child, {WINDOW} in its hand");
    let medians = Rounds::new(title, "k/s")
        .with("process", by_process)
        .with("a bare pipe", by_pipe)
        .run(ROUNDS);
    if let [ours, bare] = medians[..] {
        println!(
            "process has {:.2} times the messages of the bare pipe",
            ours / bare
        );
    }
    std::fs::remove_file(script()).expect("it was there");
}
