//! An HTTP client gets its 202 after the message is on the disk, judged by the order of the
//! binary's system calls. A killed process leaves its page cache behind, so a kill can't show it.

use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::http;
use brickwork_tests::kept::Queues;
use brickwork_tests::process::{Process, free_address, until};
use brickwork_tests::syscalls::{Call, calls, told_too_early, traced};

const PATIENCE: Duration = Duration::from_secs(60);
const COUNT: usize = 30;
const ACCEPTED: &str = "HTTP/1.1 202 Accepted";

#[test]
fn a_message_that_http_accepted_is_on_the_disk() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let door = free_address();
    // No service consumes the posted messages, so the queue file has no other writes.
    let manifest = format!(
        r#"
        [app]
        name = "accepted"
        transport = "embedded:data/queues"
        [admin]
        listen = "off"
        [services.door]
        use = "http-in"
        out = "posted"
        config = {{ listen = "{door}", path = "/" }}
        [services.keep]
        use = "file-out"
        in = "posted"
        config.path = "app.toml/out.jsonl"
        "#
    );
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    let mut run = Command::new(brickwork());
    run.args(["run", "app.toml"]).current_dir(folder.path());
    let (strace, log) = traced(&run, folder.path());
    let mut app = Process::start(strace, folder.path(), "apt-get install strace");
    app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    for number in 0..COUNT {
        let body = format!("{{\"n\":{number}}}");
        let json = [("Content-Type", "application/json")];
        let answer = until("the server listens", PATIENCE, || {
            let answer = http::post(door, "/", &json, body.as_bytes());
            answer.map_err(|error| error.to_string())
        });
        assert_eq!(answer.code, 202, "{answer:?}");
    }
    // Counts the app alone, not `strace`.
    let lock = folder.path().join("data/queues/lock");
    let id = std::fs::read_to_string(lock).expect("it names its owner");
    let told = Command::new("kill").args(["-TERM", id.trim()]).status();
    assert!(told.expect("kill runs").success());
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());

    let calls = calls(&std::fs::read_to_string(log).expect("a log"));
    let accepted = |call: &Call| matches!(call, Call::Said(text) if text == ACCEPTED);
    let first = calls.iter().position(accepted).expect("it was accepted");
    let last = calls.iter().rposition(accepted).expect("it was accepted");
    assert_eq!(calls.iter().filter(|call| accepted(call)).count(), COUNT);
    let between = &calls[first..=last];
    let writes = between.iter().filter(|call| **call == Call::Wrote).count();
    assert!(writes >= COUNT - 1, "{writes} writes");
    let early = told_too_early(&calls);
    let early: Vec<_> = early.iter().filter(|text| **text == ACCEPTED).collect();
    assert!(early.is_empty(), "{early:?}");
    // Counter-check: without the syncs, every answer would be too early.
    let unsynced: Vec<Call> = calls
        .iter()
        .filter(|call| **call != Call::Synced)
        .cloned()
        .collect();
    assert!(told_too_early(&unsynced).len() >= COUNT);
    let queues = Queues::open(&folder.path().join("data/queues")).expect("they are there");
    assert_eq!(queues.left(), COUNT as i64);
}
