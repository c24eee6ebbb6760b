//! A hundred services with two inputs each, in one process, over two connections: after a restart
//! of the broker, all of them consume again.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::feeder::{Feed, Feeder, plain};
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;

use super::load::{IS_LOST, PATIENCE, until_ready_says};

const SERVICES: usize = 100;
/// The inputs of the pairs, that of `keep`, and the delayed messages.
const QUEUES: usize = 2 * SERVICES + 2;
/// Maximum time from the broker's first accepted connection to the last consumer.
const SOON: Duration = Duration::from_secs(15);

fn prepare(folder: &Path, url: &str, admin: SocketAddr) {
    let services: String = (0..SERVICES)
        .map(|number| {
            format!(
                r#"
                [services.pair-{number}]
                use = "pair"
                in = {{ left = "left", right = "right" }}
                out = "got"
                "#
            )
        })
        .collect();
    let manifest = format!(
        r#"
        [app]
        name = "hundred"
        transport = "{url}"
        [admin]
        listen = "{admin}"
        [topics.left]
        external = "in"
        [topics.right]
        external = "in"
        {services}
        [services.keep]
        use = "file-out"
        in = "got"
        config.path = "got.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

/// Publishes `count` messages to each side.
fn feed(broker: &Broker, count: u64) -> [Feeder; 2] {
    ["left", "right"].map(|topic| {
        Feeder::start(Feed {
            url: broker.url(),
            app: "hundred".to_owned(),
            topic: topic.to_owned(),
            count,
            payload: plain,
            per_second: 1_000,
        })
    })
}

/// Waits until each service has got `count` messages on each input.
fn until_all_got(folder: &Path, count: u64) {
    until("every service got every message", PATIENCE, || {
        let text = std::fs::read_to_string(folder.join("got.jsonl")).unwrap_or_default();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        let got: HashSet<(u64, String, String)> = whole
            .map(|line| {
                let line: Value = serde_json::from_str(line).expect("it is JSON");
                let text = |name: &str| line[name].as_str().expect("a text").to_owned();
                let number = line["n"].as_u64().expect("a number");
                (number, text("service"), text("topic"))
            })
            .filter(|(number, ..)| *number < count)
            .collect();
        match got.len() as u64 {
            all if all == count * 2 * SERVICES as u64 => Ok(()),
            part => Err(format!("{part} messages")),
        }
    });
}

/// Returns the number of the app's connections and of its consumed queues.
fn connections_and_consumed_queues(broker: &Broker) -> (usize, usize) {
    let connections = broker.ctl(&["list_connections", "user", "state", "--no-table-headers"]);
    let running = connections.lines().filter(|line| line.contains("running"));
    let consumers = broker.ctl(&["list_consumers", "queue_name", "--no-table-headers"]);
    let queues: HashSet<&str> = consumers.lines().filter(|l| l.contains('.')).collect();
    (running.count(), queues.len())
}

#[test]
fn a_hundred_services_consume_again_over_two_connections() {
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let admin = free_address();
    prepare(folder.path(), &broker.url(), admin);
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command.args(["run", "app.toml"]).current_dir(folder.path());
    let mut app = Process::start(command, folder.path(), "it was just built");
    until_ready_says(admin, true, "");
    println!("ready after {:?}, the first time", began.elapsed());
    assert_eq!(connections_and_consumed_queues(&broker), (2, QUEUES));
    let fed = feed(&broker, 5);
    until_all_got(folder.path(), 5);
    drop(fed);

    broker.write_queues_down();
    broker.stop();
    until_ready_says(admin, false, IS_LOST);
    broker.start_again();
    let back = Instant::now();
    until_ready_says(admin, true, "");
    let ready = back.elapsed();
    let fed = feed(&broker, 10);
    until_all_got(folder.path(), 10);
    let got = back.elapsed();
    drop(fed);
    assert_eq!(connections_and_consumed_queues(&broker), (2, QUEUES));
    println!("all consume {ready:?} after the broker accepts; each got more after {got:?}");
    assert!(ready < SOON, "not before {ready:?}");

    let sent = Command::new("kill")
        .args(["-TERM", &app.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());
    let log = app.stderr();
    let losses = log
        .lines()
        .filter(|l| l.contains("connection to the broker is lost"));
    assert_eq!(losses.count(), 1, "it is said once:\n{log}");
}
