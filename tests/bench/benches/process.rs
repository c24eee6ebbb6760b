//! Messages per second through a Node child, by the service type `process` on the memory
//! transport: a source emits, the child echoes, a sink counts. Beside it the same lines to the
//! same program over a bare pipe, with the same window, by a loop without host, transport or
//! parsing of answers.
//!
//! `cargo bench -p brickwork-bench --bench process`

#![allow(missing_docs, reason = "a program")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use brickwork::Workers;
use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork_bench::flow::{self, Made, Order, Orders, Sink};
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

/// Measures from the first answer to the last: the start of Node does not count.
struct Watch {
    started: Instant,
    answers: u64,
}

impl Watch {
    /// Counts an answer. After the last one, returns thousand messages per second.
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

fn script() -> PathBuf {
    let file = std::env::temp_dir().join(format!("brickwork-bench-{}.js", std::process::id()));
    std::fs::write(&file, CHILD).expect("the program can be written");
    file
}

fn by_process() -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let services = format!(
        "[services.orders]\nout = \"orders\"\nconfig.count = {MESSAGES}\n\
         [services.child]\nuse = \"process\"\nin = \"orders\"\nout = \"answers\"\n\
         config.command = [\"node\", \"{}\"]\nconfig.in_flight = {WINDOW}\n\
         [services.sink]\nin = \"answers\"\n",
        script().display()
    );
    let catalog = brickwork_actors::catalog()
        .with_source::<Orders<Order>>()
        .with::<Sink<Raw>>();
    let ran = flow::run(
        folder.path(),
        "transport = \"memory:\"",
        &services,
        &catalog,
        &Transports::new(),
        Workers::Here,
        Some(MESSAGES),
    );
    (MESSAGES - 1) as f64 / ran.arriving_seconds / 1e3
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
                let msg = serde_json::to_string(&Order::made(sent, 0)).expect("an order is JSON");
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
            // One write refills the window for all answers that came meanwhile.
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
    let bytes = serde_json::to_vec(&Order::made(0, 0))
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
