//! The shipped binary on `embedded:` is killed by `kill -9` at random moments under load, also
//! during its start. Every confirmed message is handled or dead-lettered afterwards, no message
//! appears from nowhere, and no message is blamed.
//!
//! A killed process leaves its page cache behind: whether a confirm waited for the disk is tested
//! in `accepted`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brickwork_tests::checker::Kept;
use brickwork_tests::http;
use brickwork_tests::kept::Queues;
use brickwork_tests::parts;
use brickwork_tests::process::{Process, free_address};
use brickwork_tests::seed::Seed;

/// Maximum time to finish after the last kill.
const PATIENCE: Duration = Duration::from_secs(240);
/// Milliseconds from a start to its kill.
const LIFE_MS: std::ops::Range<u64> = 60..900;
const PER_SECOND: u64 = 2_000;
/// Every so many lines, one line is rejected.
const REJECTED: u64 = 97;
/// Pause between requests.
const EVERY: Duration = Duration::from_millis(5);

fn prepare(folder: &Path, door: SocketAddr, lines: u64) {
    let manifest = format!(
        r#"
        [app]
        name = "killed"
        transport = "embedded:data/queues"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", rate = {PER_SECOND} }}
        [services.shaken]
        use = "chaos"
        in = "lines"
        out = "shaken"
        instances = 4
        retry = {{ attempts = 50, backoff = {{ min = "20ms", max = "200ms" }} }}
        config = {{ fail = 0.1, panic = 0.02 }}
        [services.marked]
        use = "map"
        in = "shaken"
        out = "marked"
        instances = 4
        retry = {{ attempts = 50, backoff = {{ min = "20ms", max = "200ms" }} }}
        config.to = {{ n = "msg.n", v = "msg.v", id = "meta.id" }}
        [services.keep]
        use = "file-out"
        in = "marked"
        config.path = "out.jsonl"
        {}
        "#,
        parts::door(door)
    );
    let line = |n: u64| match n % REJECTED {
        0 => format!("{{\"n\":{n}}}"),
        _ => format!("{{\"n\":{n},\"v\":\"{n:0>500}\"}}"),
    };
    parts::write(folder, &manifest, (0..lines).map(line));
}

fn start(folder: &Path, life: u64, more: &[&str]) -> Process {
    let logs = folder.join(format!("life-{life}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    parts::run(folder, &logs, more)
}

/// Posts numbers one after the other. Returns how many were attempted, and which were accepted.
fn post(door: SocketAddr, stop: &AtomicBool) -> (u64, HashSet<u64>) {
    let mut accepted = HashSet::new();
    let mut attempted = 0;
    while !stop.load(Relaxed) {
        let body = format!("{{\"n\":{attempted}}}");
        let json = [("Content-Type", "application/json")];
        if let Ok(answer) = http::post(door, "/", &json, body.as_bytes())
            && answer.code == 202
        {
            accepted.insert(attempted);
        }
        attempted += 1;
        std::thread::sleep(EVERY);
    }
    (attempted, accepted)
}

type Posted = (u64, HashSet<u64>);

/// Kills an app `kills` times, lets it finish, and checks that no message is missing.
fn run(seed: &Seed, kills: u64) {
    let mut random = seed.random();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (door, lines) = (free_address(), kills * 400);
    prepare(folder.path(), door, lines);
    let stop = Arc::<AtomicBool>::default();
    let posting: JoinHandle<Posted> = std::thread::spawn({
        let stop = stop.clone();
        move || post(door, &stop)
    });
    let mut in_flight = 0;
    for life in 0..kills {
        let app = start(folder.path(), life, &[]);
        // The moment of the kill.
        std::thread::sleep(Duration::from_millis(random.u64(LIFE_MS)));
        app.stop();
        let queues = Queues::open(&folder.path().join("data/queues"));
        in_flight += queues.map_or(0, |queues| queues.left());
    }
    stop.store(true, Relaxed);
    let (attempted, accepted) = posting.join().expect("it posts");
    let before = Kept::count_so_far(&folder.path().join("out.jsonl"));
    let began = Instant::now();
    let mut app = start(folder.path(), kills, &["--until-idle"]);
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());
    let took = began.elapsed();

    let kept = Kept::read(&folder.path().join("out.jsonl"));
    let rejected: Vec<u64> = (0..lines).filter(|n| n % REJECTED == 0).collect();
    assert_eq!(kept.missing(0..lines), rejected, "lost");
    assert_eq!(kept.unexpected(&(0..lines)), Vec::<u64>::new());
    let again = kept.again(&["id"]);
    let posted = Kept::read(&folder.path().join("posted.jsonl"));
    let missing: Vec<u64> = accepted
        .iter()
        .copied()
        .filter(|number| !posted.has(*number))
        .collect();
    assert_eq!(missing, Vec::<u64>::new(), "accepted at the door and lost");
    assert_eq!(posted.unexpected(&(0..attempted)), Vec::<u64>::new());

    let queues = Queues::open(&folder.path().join("data/queues")).expect("they are there");
    queues.check();
    assert_eq!(queues.left(), 0, "something is left");
    let letters = queues.dead_letters();
    let blamed: Vec<_> = letters
        .iter()
        .filter(|letter| letter.reason != "reject")
        .collect();
    assert!(blamed.is_empty(), "{blamed:?}");
    let mut given_up: Vec<u64> = letters.iter().map(|letter| letter.n).collect();
    given_up.sort_unstable();
    given_up.dedup();
    assert_eq!(given_up, rejected);
    assert!(in_flight > 0, "nothing was in the queues at any kill");
    println!(
        "{kills} kills, {in_flight} messages in queues at them; {before} of {lines} lines were \
         written before the last start, the rest within {took:?}, {again} again; of {attempted} \
         posted {} accepted; {} letters",
        accepted.len(),
        letters.len(),
    );
}

#[test]
fn an_app_that_is_killed_repeatedly_loses_nothing_and_blames_no_message() {
    let kills = match std::env::var_os("BRICKWORK_FULL") {
        Some(_) => 300,
        None => 20,
    };
    run(&Seed::or(17), kills);
}
