//! `kill -9` and orderly stops at random moments: no message of a key is overtaken, and none is lost.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{Keyed, Overflow, QueueSpec, Topology};
use brickwork::{KeyRule, QueueId};
use brickwork_bridges::all;
use brickwork_tests::key_checker::{KeyChecker, entries, feed};
use brickwork_tests::process::{Process, until};
use brickwork_tests::seed::Seed;

/// Time limit for an event that must happen; far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// Milliseconds from a start of the app to its kill.
const LIVES_MS: std::ops::Range<u64> = 100..1_500;

#[test]
fn killed_at_any_moment_on_embedded_no_message_of_a_key_is_overtaken() {
    let size = match std::env::var_os("BRICKWORK_FULL") {
        Some(_) => (100_000, 1_000, 20),
        None => (8_000, 40, 6),
    };
    println!("{}", survive("key-witness", size, Seed::or(31)).unwrap());
}

/// Counter-check: without a key the test above fails.
#[test]
fn without_a_key_messages_on_embedded_are_overtaken() {
    let problems = survive("blind-witness", (4_000, 40, 1), Seed::or(32)).unwrap_err();
    assert!(problems.contains("overtakes"), "{problems}");
}

/// Runs an app with `count` messages of `keys` keys, kills it some times, and returns the verdict.
fn survive(
    service: &str,
    (count, keys, kills): (u32, u32, u32),
    seed: Seed,
) -> Result<String, String> {
    let mut random = seed.random();
    let entries = entries(count, keys, &mut random);
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), service);
    let url = format!("embedded:{}/data/queues", folder.path().display());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(feed(&all(), &url, &topology(), "entries", &entries));
    let mut checker = KeyChecker::new(&folder.path().join("ledger"));
    for life in 0..kills {
        let app = start(folder.path(), life);
        let process = app.id();
        // The moment of the end.
        std::thread::sleep(Duration::from_millis(random.u64(LIVES_MS)));
        match life % 3 {
            1 => stop_in_order(app),
            _ => app.stop(),
        }
        checker.killed(process);
        checker.follow();
    }
    let before = checker.follow();
    let app = start(folder.path(), kills);
    until("all are handled", PATIENCE, || {
        match checker.follow() >= u64::from(count) || !checker.problems().is_empty() {
            true => Ok(()),
            false => Err(format!("{} are; {}", checker.follow(), app.stderr())),
        }
    });
    let verdict = checker.verdict(&entries);
    verdict.map(|account| format!("{account}; {before} before the last life"))
}

/// Asks the process to end, and waits until it has.
fn stop_in_order(mut app: Process) {
    let told = Command::new("kill")
        .args(["-TERM", &app.id().to_string()])
        .status();
    assert!(told.expect("kill runs").success());
    app.exit_code(PATIENCE);
}

/// The queue of the app below.
fn topology() -> Topology {
    Topology {
        app: "keys".into(),
        queues: vec![QueueSpec {
            id: QueueId::new("witness", "in"),
            topics: vec![Arc::from("entries")],
            high_water: 1_000_000,
            limit: None,
            overflow: Overflow::default(),
            single_active: false,
            keyed: Some(Keyed {
                rule: KeyRule::field("key"),
                partitions: 16,
            }),
            feeds: Vec::new(),
        }],
        ..Topology::default()
    }
}

fn prepare(folder: &Path, service: &str) {
    let manifest = format!(
        r#"
        [app]
        name = "keys"
        transport = "embedded:data/queues"
        [admin]
        listen = "off"
        [topics.entries]
        external = "in"
        [services.witness]
        use = "{service}"
        in = "entries"
        out = "done"
        instances = 8
        retry = {{ attempts = 12, backoff = {{ min = "1ms", max = "20ms" }} }}
        config.ledger = "ledger"
        config.attempts = 12
        config.trouble = true
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "out.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

fn start(folder: &Path, life: u32) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command.args(["run", "app.toml"]).current_dir(folder);
    let logs = folder.join(format!("life-{life}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    Process::start(command, &logs, "it was just built")
}
