//! Random messages of another program, as bytes on the wire: the app stays up, and every message
//! is handled or becomes a dead letter.
//!
//! `BRICKWORK_SEED` repeats a run, `BRICKWORK_FULL` makes it ten minutes long.

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::polyglot::PATIENCE;
use brickwork_tests::process::{Process, free_address, until};
use brickwork_tests::raw::{Raw, nested_header};
use brickwork_tests::seed::Seed;
use fastrand::Rng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CLIENTS: u64 = 4;
/// Random messages between two harmless ones.
const EVERY: u64 = 20;
const APP: &str = "fuzzed";

/// Names of headers and of properties that mean something to the app or to the broker.
const NAMES: [&str; 26] = [
    "cloudEvents_id",
    "cloudEvents:id",
    "cloudEvents_time",
    "cloudEvents_type",
    "cloudEvents_source",
    "cloudEvents_subject",
    "cloudEvents_specversion",
    "traceparent",
    "brickwork-attempt",
    "brickwork-deadline",
    "brickwork-error",
    "brickwork-failed-at",
    "brickwork-input",
    "brickwork-parent",
    "brickwork-reason",
    "brickwork-replays",
    "brickwork-service",
    "brickwork-suspect",
    "brickwork-suspect-crashes",
    "brickwork-tenant",
    "brickwork-suspect-deaths",
    "brickwork-topic",
    "content-encoding",
    "x-death",
    "x-delivery-count",
    "x-acquired-count",
];
const VALUES: [&str; 12] = [
    "",
    "0",
    "1",
    "-1",
    "18446744073709551615",
    "99999999999999999999",
    "1.0",
    "true",
    "2026-11-30T12:00:00Z",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "a b",
    "application/json; charset=utf-8",
];

/// A running app whose service `work` reads foreign messages of the topic `raw`.
struct App {
    folder: TempDir,
    admin: SocketAddr,
    process: Process,
}

impl App {
    fn start(broker: &Broker) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let admin = free_address();
        let manifest = format!(
            r#"
            [app]
            name = "{APP}"
            transport = "{}"
            log.level = "error"
            [admin]
            listen = "{admin}"
            [services.work]
            use = "map"
            in = "raw"
            out = "worked"
            breaker = "off"
            [services.work.config.to]
            n = "msg.n"
            id = "meta.id"
            type = "meta.type"
            source = "meta.source"
            time = "meta.time"
            headers = "meta.headers"
            [services.keep]
            use = "file-out"
            in = "worked"
            config.path = "kept.jsonl"
            [topics.raw]
            external = "in"
            "#,
            broker.url()
        );
        std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
        let mut command = Command::new(brickwork());
        command.args(["run", "app.toml"]).current_dir(folder.path());
        let process = Process::start(command, folder.path(), "it was just built");
        until("it is ready", PATIENCE, || {
            match http::get(admin, "/health/ready") {
                Ok(answer) if answer.code == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        Self {
            folder,
            admin,
            process,
        }
    }

    /// The numbers of the messages in the file.
    fn kept(&self) -> BTreeSet<u64> {
        let text = std::fs::read_to_string(self.folder.path().join("kept.jsonl"));
        let text = text.unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.filter_map(|line: Value| line["n"].as_u64()).collect()
    }

    /// Messages of `work` that are done: handled, given up or expired.
    fn settled(&self) -> u64 {
        let text = http::get(self.admin, "/metrics").expect("it answers").body;
        let of = |name: &str| -> u64 {
            let series = format!("{name}{{");
            let lines = text.lines().filter(|line| line.starts_with(&series));
            let work = lines.filter(|line| line.contains("service=\"work\""));
            let values = work.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.map(|value| value as u64).sum()
        };
        of("brickwork_messages_handled_total")
    }
}

fn pick<'a>(random: &mut Rng, list: &[&'a str]) -> &'a str {
    list[random.usize(..list.len())]
}

fn noise(random: &mut Rng, max: usize) -> Vec<u8> {
    let length = random.usize(..=max);
    let any = random.bool();
    (0..length)
        .map(|_| {
            if any {
                random.u8(..)
            } else {
                random.u8(b' '..=b'~')
            }
        })
        .collect()
}

fn text(random: &mut Rng, max: usize) -> Vec<u8> {
    match random.u8(..4) {
        0 => noise(random, max),
        1 => "é€😀".repeat(random.usize(..20)).into_bytes(),
        _ => pick(random, &VALUES).into(),
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(255)];
    [&[text.len() as u8], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// A value of a header with its type.
fn value(random: &mut Rng, depth: usize) -> Vec<u8> {
    let number = random.u64(..).to_be_bytes();
    let kinds = if depth > 0 {
        b"tbBsuIilfdDSSSSxTVFA".as_slice()
    } else {
        b"tbBsuIilfdDSSSSxTV"
    };
    let kind = kinds[random.usize(..kinds.len())];
    let content = match kind {
        b't' => vec![random.u8(..3)],
        b'b' | b'B' => number[..1].to_vec(),
        b's' | b'u' => number[..2].to_vec(),
        b'I' | b'i' | b'f' => number[..4].to_vec(),
        b'D' => number[..5].to_vec(),
        b'l' | b'd' | b'T' => number.to_vec(),
        b'S' | b'x' => {
            let max = if random.u8(..50) == 0 { 60_000 } else { 40 };
            long(&text(random, max))
        }
        b'F' => long(&table(random, depth - 1)),
        b'A' => {
            let values: Vec<u8> = (0..random.usize(..4))
                .flat_map(|_| value(random, depth - 1))
                .collect();
            long(&values)
        }
        _ => Vec::new(),
    };
    [&[kind], &content[..]].concat()
}

fn table(random: &mut Rng, depth: usize) -> Vec<u8> {
    let fields = if random.u8(..50) == 0 {
        300
    } else {
        random.usize(..6)
    };
    let mut table = Vec::new();
    for _ in 0..fields {
        let name = match random.u8(..3) {
            0 => noise(random, 30),
            _ => pick(random, &NAMES).into(),
        };
        table.extend(short(&name));
        table.extend(value(random, depth));
    }
    table
}

/// Flags and encoded properties, in the order of the specification.
fn properties(random: &mut Rng) -> (u16, Vec<u8>) {
    let (mut flags, mut bytes) = (0, Vec::new());
    for bit in (2..=15).rev() {
        if random.bool() {
            continue;
        }
        let value = match bit {
            13 if random.u8(..20) == 0 => {
                let depth = random.usize(..20_000);
                long(&nested_header("deep", depth))
            }
            13 => long(&table(random, 4)),
            // The broker closes the connection at another delivery mode.
            12 => vec![random.u8(1..=2)],
            11 => vec![random.u8(..)],
            6 => random.u64(..).to_be_bytes().to_vec(),
            // The broker refuses other users and texts that are no numbers.
            4 if random.u8(..) > 0 => short(b"guest"),
            8 if random.u8(..) > 0 => short(b"600000"),
            _ => short(&text(random, 255)),
        };
        flags |= 1 << bit;
        bytes.extend(value);
    }
    (flags, bytes)
}

fn payload(random: &mut Rng) -> Vec<u8> {
    match random.u8(..8) {
        0 => noise(random, 300),
        1 => Vec::new(),
        2 => {
            let levels = random.usize(..300);
            format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into()
        }
        // Up to twice app.max_message.
        3 if random.u8(..10) == 0 => vec![b' '; random.usize(..2 << 20)],
        _ => br#"{"n": -1, "text": "random"}"#.to_vec(),
    }
}

/// The messages of a client.
#[derive(Default)]
struct Sent {
    tried: u64,
    confirmed: u64,
    harmless: u64,
    /// The number of messages that the broker refused, by reason.
    refused: BTreeMap<String, u32>,
}

impl Sent {
    /// Publishes a random message, to the exchange or to the queue.
    fn random(&mut self, raw: &mut Raw, port: u16, random: &mut Rng) {
        let (flags, properties) = properties(random);
        let payload = payload(random);
        let input = format!("{APP}.work.in");
        let (exchange, key) = match random.u8(..4) {
            0 => ("", input.as_str()),
            _ => (APP, "raw"),
        };
        self.tried += 1;
        match raw.try_publish(exchange, key, flags, &properties, &payload) {
            Ok(()) => self.confirmed += 1,
            Err(reason) => {
                let start = reason.chars().filter(|it| it.is_ascii_graphic()).take(40);
                *self.refused.entry(start.collect()).or_default() += 1;
                *raw = Raw::connect(port);
            }
        }
    }
}

#[test]
fn random_messages_of_other_programs_are_handled_or_become_dead_letters() {
    let full = std::env::var_os("BRICKWORK_FULL").is_some();
    let time = Duration::from_secs(if full { 600 } else { 20 });
    let seed = Seed::or(fastrand::u64(..));
    println!("{seed:?}");
    let mut random = seed.random();
    let broker = Broker::start();
    let app = App::start(&broker);
    let started = Instant::now();
    let port = broker.port();
    let client = |number: u64, mut random: Rng| {
        let mut raw = Raw::connect(port);
        let mut sent = Sent::default();
        while started.elapsed() < time {
            sent.random(&mut raw, port, &mut random);
            if sent.tried.is_multiple_of(EVERY) {
                let payload = format!("{{\"n\": {}}}", sent.harmless * CLIENTS + number);
                let published = raw.try_publish(APP, "raw", 0, &[], payload.as_bytes());
                published.expect("the broker takes it");
                sent.harmless += 1;
                sent.confirmed += 1;
            }
        }
        sent
    };
    let sent: Vec<Sent> = std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|number| {
            let random = random.fork();
            scope.spawn(move || client(number, random))
        });
        let clients: Vec<_> = clients.collect();
        let sent = clients.into_iter().map(|client| client.join());
        sent.map(|sent| sent.expect("no panic")).collect()
    });
    let sum = |part: fn(&Sent) -> u64| sent.iter().map(part).sum::<u64>();
    let (tried, confirmed) = (sum(|it| it.tried), sum(|it| it.confirmed));
    let numbers = sent
        .iter()
        .zip(0..)
        .flat_map(|(sent, number)| (0..sent.harmless).map(move |nth| nth * CLIENTS + number));
    let harmless: BTreeSet<u64> = numbers.collect();
    println!(
        "{tried} random messages, {confirmed} confirmed, {} harmless",
        harmless.len()
    );
    for sent in &sent {
        println!("refused by the broker: {:#?}", sent.refused);
    }
    assert!(harmless.len() > 20, "{harmless:?}");
    until("every harmless message is kept", PATIENCE, || {
        let kept = app.kept();
        let missing: Vec<&u64> = harmless.difference(&kept).take(3).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("missing: {missing:?}")),
        }
    });
    until("every message is settled", PATIENCE, || {
        let settled = app.settled();
        match settled >= confirmed {
            true => Ok(()),
            false => Err(format!("{settled} of {confirmed}")),
        }
    });
    until("the queues are empty", PATIENCE, || {
        let queues = broker.ctl(&["list_queues", "--no-table-headers", "name", "messages"]);
        let stays = [".dlq", ".ledger"];
        let waits =
            |line: &&str| !stays.iter().any(|it| line.contains(it)) && !line.ends_with("\t0");
        match queues.lines().find(waits) {
            None => Ok(()),
            Some(line) => Err(line.to_owned()),
        }
    });
    // The dead letters can be listed.
    let mut list = Command::new(brickwork());
    list.args(["dlq", "list", "app.toml", "--json"])
        .current_dir(app.folder.path());
    let listed = list.output().expect("the binary runs");
    let error = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "{error}");
    let mut process = app.process;
    assert!(!process.has_ended());
    let log = process.stderr();
    assert!(!log.contains("panicked"), "{log}");
    drop(seed);
}
