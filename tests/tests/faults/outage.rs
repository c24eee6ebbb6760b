//! The broker is away for a while: askers get an error, ticks wait, and a service in a child
//! process resumes with the others.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::{Value, json};

use super::load::{IS_LOST, Load, PATIENCE, SOON, Shape, is_full, until_ready_says};

/// Sleeps for the duration of the outage.
fn stay_away() {
    std::thread::sleep(Duration::from_secs(if is_full() { 65 } else { 3 }));
}

/// Starts an app with the test services.
fn start(folder: &Path, broker: &Broker, name: &str, services: &str) -> (Process, SocketAddr) {
    let (admin, url) = (free_address(), broker.url());
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
        transport = "{url}"
        [admin]
        listen = "{admin}"
        {services}
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command.args(["run", "app.toml"]).current_dir(folder);
    let app = Process::start(command, folder, "it was just built");
    app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    until_ready_says(admin, true, "");
    broker.write_queues_down();
    (app, admin)
}

#[test]
fn an_asker_gets_an_error_when_the_broker_dies_and_the_next_one_gets_its_reply() {
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let door = free_address();
    let services = format!(
        r#"
        [services.front]
        use = "http-in"
        out = "questions"
        config = {{ listen = "{door}", reply = true, reply_timeout = "60s" }}
        [services.answerer]
        in = "questions"
        instances = 4
        handler_timeout = "60s"
        "#
    );
    let (app, admin) = start(folder.path(), &broker, "asks", &services);
    let ask = move |n: u64, ms: u64| {
        let body = json!({"n": n, "ms": ms}).to_string();
        let json = [("Content-Type", "application/json")];
        http::post(door, "/", &json, body.as_bytes()).expect("the app answers")
    };
    assert_eq!(ask(1, 0).json(), json!({"n": 1}));
    // The answer would take far longer than the error after the broker's death.
    let asking = std::thread::spawn(move || (ask(2, 50_000), Instant::now()));
    until("the question is being handled", PATIENCE, || {
        match app.stderr() {
            log if log.contains("asked 2") => Ok(()),
            log => Err(log),
        }
    });
    let killed = Instant::now();
    broker.kill();
    let (answer, at) = asking.join().expect("there is an answer");
    let told = at.saturating_duration_since(killed);
    assert_eq!(answer.code, 503, "{}", answer.body);
    assert!(told < SOON, "told after {told:?}");
    // During the outage, callers get their error at once, too.
    let began = Instant::now();
    let answer = ask(3, 0);
    assert_eq!(answer.code, 503, "{}", answer.body);
    let refused = began.elapsed();
    assert!(refused < SOON, "refused after {refused:?}");

    broker.start_again();
    until_ready_says(admin, true, "");
    assert_eq!(ask(4, 0).json(), json!({"n": 4}));
    println!("told {told:?} after the broker died; refused after {refused:?} while it is away");
}

#[test]
fn ticks_wait_during_an_outage_and_resume() {
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let services = r#"
        [topics.orders]
        external = "in"
        [services.beat]
        use = "puppet"
        in = "orders"
        out = "beats"
        config.tick_ms = 50
        [services.name]
        use = "map"
        in = "beats"
        out = "named"
        config.to.id = "meta.id"
        [services.keep]
        use = "file-out"
        in = "named"
        config.path = "beats.jsonl"
        "#;
    let (mut app, admin) = start(folder.path(), &broker, "ticks", services);
    let beats = || {
        let text = std::fs::read_to_string(folder.path().join("beats.jsonl"));
        let text = text.unwrap_or_default();
        text.matches('\n').count()
    };
    let until_more = |than: usize| {
        until("it beats", PATIENCE, || match beats() {
            count if count > than => Ok(()),
            count => Err(format!("{count} beats")),
        });
    };
    until_more(20);
    broker.stop();
    until_ready_says(admin, false, IS_LOST);
    stay_away();
    let before = beats();
    broker.start_again();
    let back = Instant::now();
    until_more(before);
    let deaf = back.elapsed();
    until_more(before + 20);
    until_ready_says(admin, true, "");
    assert!(deaf < SOON, "no beat for {deaf:?} with a broker that works");

    let sent = Command::new("kill")
        .args(["-TERM", &app.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());
    let log = app.stderr();
    for word in ["isolated", "given up"] {
        assert!(!log.contains(word), "{log}");
    }
    let complaints = log.lines().filter(|line| line.contains(" WARN ")).count();
    // One line for the loss, and one for each input that notices it first.
    assert!(complaints <= 6, "{complaints} lines of complaint:\n{log}");
    let text = std::fs::read_to_string(folder.path().join("beats.jsonl")).expect("it is there");
    let ids: HashSet<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("it is JSON")["id"].to_string())
        .collect();
    let again = text.lines().count() - ids.len();
    println!("the next beat {deaf:?} after the broker accepts; {again} were handled again");
}

#[test]
fn a_service_in_a_child_process_resumes_when_the_broker_is_back() {
    let broker = Broker::start();
    let url = broker.url();
    let shape = Shape {
        name: "apart",
        count: if is_full() { 20_000 } else { 8_000 },
        per_second: 2_000,
        second: "isolation = \"process\"",
        more: "",
    };
    let mut load = Load::start(broker, &url, shape);
    load.broker.kill();
    load.until_ready_says(false, IS_LOST);
    stay_away();
    load.broker.start_again();
    let back = Instant::now();
    load.until_ready_says(true, "");
    let ready = back.elapsed();
    assert!(ready < 2 * SOON, "not ready before {ready:?}");
    let account = load.check();
    let deaf = account.seen.quiet(back);
    assert!(
        deaf < 2 * SOON,
        "deaf for {deaf:?} with a broker that works"
    );
    let losses = account
        .log
        .matches("the connection to the broker is lost, ");
    // Each process logs the loss once.
    assert_eq!(losses.count(), 2, "{}", account.log);
    println!("{account}; ready {ready:?} after the broker accepts, then quiet for {deaf:?}");
}
