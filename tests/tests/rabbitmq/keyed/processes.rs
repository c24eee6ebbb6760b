//! Whole processes with a keyed service: they join, leave by SIGTERM, and die by `kill -9`.

use std::path::Path;
use std::process::Command;

use brickwork_bridges::all;
use brickwork_tests::key_checker::{KeyChecker, entries, feed};
use brickwork_tests::process::{Process, until};
use brickwork_tests::seed::Seed;

use super::*;

/// Time limit for an event that must happen; far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn no_message_of_a_key_is_overtaken_over_processes_that_join_leave_and_die() {
    let verdict = survive("key-witness", "keyed-processes", 6_000, Seed::or(41));
    println!("{}", verdict.unwrap());
}

/// Counter-check: without a key the test above fails.
#[test]
fn without_a_key_messages_are_overtaken_by_other_processes() {
    let problems = survive("blind-witness", "blind-processes", 2_000, Seed::or(42));
    let problems = problems.unwrap_err();
    assert!(problems.contains("overtakes"), "{problems}");
}

/// Handles `count` messages in several processes and returns the verdict.
fn survive(service: &str, app: &str, count: u32, seed: Seed) -> Result<String, String> {
    let broker = Broker::start();
    let entries = entries(count, 40, &mut seed.random());
    let folder = tempfile::tempdir().expect("a folder can be made");
    let ledger = folder.path().join("ledger");
    let mut checker = KeyChecker::new(&ledger);
    let start = |number: u32| start(folder.path(), number, service, app, &broker);
    let wait = |checker: &mut KeyChecker, part: u32| {
        until("some are handled", PATIENCE, || {
            let done = checker.follow() >= u64::from(count * part / 100);
            match done || !checker.problems().is_empty() {
                true => Ok(()),
                false => Err(format!("{} are", checker.follow())),
            }
        });
    };
    let mut one = start(1);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let keyed = service == "key-witness";
    let topology = witness_topology(app, keyed);
    runtime.block_on(feed(&all(), &broker.url(), &topology, "entries", &entries));
    wait(&mut checker, 10);
    let two = start(2);
    wait(&mut checker, 25);
    let _three = start(3);
    wait(&mut checker, 40);
    // Stopped first, so that it writes no line after that of its death.
    signal(&two, "-STOP");
    checker.killed(two.id());
    two.stop();
    let _four = start(4);
    wait(&mut checker, 60);
    signal(&one, "-TERM");
    assert_eq!(one.exit_code(PATIENCE), Some(0), "{}", one.stderr());
    wait(&mut checker, 100);
    checker.verdict(&entries)
}

fn signal(process: &Process, signal: &str) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status();
    assert!(sent.expect("kill is there").success());
}

fn witness_topology(app: &str, is_keyed: bool) -> Topology {
    let spec = |id, topic: &str, keyed| QueueSpec {
        id,
        topics: vec![topic.into()],
        high_water: 1_000_000,
        limit: None,
        overflow: Overflow::DeadLetter,
        feeds: Vec::new(),
        single_active: false,
        keyed,
    };
    let keyed = is_keyed.then(|| Keyed {
        rule: KeyRule::field("key"),
        partitions: 16,
    });
    Topology {
        app: app.into(),
        queues: vec![
            spec(QueueId::new("witness", "in"), "entries", keyed),
            spec(QueueId::new("keep", "in"), "done", None),
        ],
        ..Topology::default()
    }
}

fn start(folder: &Path, number: u32, service: &str, app: &str, broker: &Broker) -> Process {
    let own = folder.join(format!("process-{number}"));
    std::fs::create_dir(&own).expect("a folder can be made");
    let (url, ledger) = (broker.url(), folder.join("ledger"));
    let manifest = format!(
        r#"
        [app]
        name = "{app}"
        transport = "{url}"
        [admin]
        listen = "off"
        [topics.entries]
        external = "in"
        [services.witness]
        use = "{service}"
        in = "entries"
        out = "done"
        instances = 4
        retry = {{ attempts = 12, backoff = {{ min = "1ms", max = "20ms" }} }}
        config.ledger = "{}"
        config.attempts = 12
        config.trouble = true
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "out.jsonl"
        "#,
        ledger.display()
    );
    std::fs::write(own.join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command
        .args(["run", "app.toml", "--only", "witness"])
        .current_dir(&own);
    Process::start(command, &own, "it was just built")
}
