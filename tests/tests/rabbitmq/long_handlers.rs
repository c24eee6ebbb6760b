//! Handlers and mailboxes that take longer than the broker waits for an ack
//! (`consumer_timeout`): no message runs twice in one process, and none is blamed for a crash.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::parts;
use brickwork_tests::process::{Process, until};

const PATIENCE: Duration = Duration::from_secs(90);

/// Starts a broker that waits this long for an ack. It looks every half second.
fn impatient(consumer_timeout: Duration) -> Broker {
    let broker = Broker::start();
    let timeout = consumer_timeout.as_millis();
    broker.ctl(&[
        "eval",
        &format!(
            "application:set_env(rabbit, channel_tick_interval, 500), \
             application:set_env(rabbit, consumer_timeout, {timeout})."
        ),
    ]);
    broker
}

/// Writes an app whose child process logs the start of each message and then works.
fn prepare(folder: &Path, url: &str, lines: u64, work: &str, settings: &str) {
    let manifest = format!(
        r#"
        [app]
        name = "long"
        transport = "{url}"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "jobs"
        config = {{ path = "lines.jsonl", id = "/n" }}
        [services.work]
        use = "process"
        in = "jobs"
        out = "done"
        handler_timeout = "60s"
        config.command = ["python3", "work.py"]
        config.in_flight = 1
        {settings}
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "out.jsonl"
        "#
    );
    parts::write(folder, &manifest, parts::numbers(lines));
    let program = format!(
        "import json, sys, time\n\
         runs = open('runs.txt', 'a', buffering=1)\n\
         for line in sys.stdin:\n    \
             m = json.loads(line)\n    \
             n = m['msg']['n']\n    \
             runs.write(f'{{n}}\\n')\n    \
             {work}\n    \
             print(json.dumps({{'id': m['id'], 'emit': [{{'port': 'out', 'msg': m['msg']}}]}}), flush=True)\n"
    );
    std::fs::write(folder.join("work.py"), program).expect("it can be written");
}

fn numbers(folder: &Path, file: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let number = |line: &str| match line.strip_prefix("{\"n\":") {
        Some(rest) => rest.trim_end_matches('}').parse().expect("a number"),
        None => line.parse().expect("a number"),
    };
    text.lines().map(number).collect()
}

/// Waits until so many messages are done, and then for the redeliveries.
fn until_done(folder: &Path, process: &Process, count: usize, quiet: Duration) {
    until("every message is done", PATIENCE, || {
        let done = numbers(folder, "out.jsonl");
        (done.len() >= count)
            .then_some(())
            .ok_or_else(|| format!("{done:?}; {}", process.stderr()))
    });
    std::thread::sleep(quiet);
}

fn letters(broker: &Broker) -> String {
    let queues = broker.ctl(&["list_queues", "name", "messages"]);
    let of_interest = queues
        .lines()
        .filter(|line| ["dlq", "suspect"].iter().any(|end| line.contains(end)));
    let filled = of_interest.filter(|line| !line.ends_with("\t0"));
    filled.collect::<Vec<_>>().join(", ")
}

fn check_once(folder: &Path, broker: &Broker, count: usize) {
    let mut runs = numbers(folder, "runs.txt");
    let mut done = numbers(folder, "out.jsonl");
    runs.sort_unstable();
    done.sort_unstable();
    let once: Vec<u64> = (0..count as u64).collect();
    assert_eq!(done, once, "results");
    assert_eq!(runs, once, "runs");
    assert_eq!(letters(broker), "", "no message is blamed");
}

#[test]
fn a_handler_longer_than_the_brokers_consumer_timeout_runs_once() {
    let broker = impatient(Duration::from_secs(3));
    let folder = tempfile::tempdir().expect("a folder can be made");
    // The app assumes the default of 30 minutes: the broker closes the channel.
    prepare(
        folder.path(),
        &broker.url(),
        3,
        "time.sleep(8 if n == 0 else 0.1)",
        "",
    );
    let process = parts::running(folder.path());
    until_done(folder.path(), &process, 3, Duration::from_secs(2));
    assert!(broker.log().contains("timed out"), "{}", broker.log());
    check_once(folder.path(), &broker, 3);
}

#[test]
fn messages_that_wait_in_a_mailbox_are_requeued_before_the_brokers_consumer_timeout() {
    let broker = impatient(Duration::from_secs(4));
    let folder = tempfile::tempdir().expect("a folder can be made");
    let url = format!("{}?consumer_timeout=4000", broker.url());
    // 40 messages of 300 ms wait for 12 s.
    prepare(folder.path(), &url, 40, "time.sleep(0.3)", "");
    let began = Instant::now();
    let process = parts::running(folder.path());
    until_done(folder.path(), &process, 40, Duration::from_secs(1));
    assert!(began.elapsed() > Duration::from_secs(8));
    assert!(!broker.log().contains("timed out"), "{}", broker.log());
    check_once(folder.path(), &broker, 40);
}

#[test]
fn check_notes_handlers_and_mailboxes_that_outlast_the_brokers_consumer_timeout() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let notes = |url: &str, settings: &str| {
        prepare(folder.path(), url, 0, "pass", settings);
        let mut command = Command::new(brickwork());
        command
            .args(["check", "app.toml"])
            .current_dir(folder.path());
        let output = command.output().expect("the binary runs");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("text");
        let notes = text.lines().filter(|line| line.starts_with("note: "));
        notes.map(str::to_owned).collect::<Vec<_>>()
    };
    let url = "amqp://localhost";
    assert_eq!(notes(url, "mailbox = 8"), [""; 0]);
    let waits = notes(url, "");
    assert!(
        matches!(&waits[..], [note] if note.contains("64 messages may wait")),
        "{waits:?}"
    );
    let long = notes(&format!("{url}?consumer_timeout=30000"), "mailbox = 1");
    assert!(
        matches!(&long[..], [note] if note.contains("a handler may take 1m (handler_timeout)")
            && note.contains("after 30s (consumer_timeout)")),
        "{long:?}"
    );
    assert_eq!(notes("memory:", ""), [""; 0]);
}
