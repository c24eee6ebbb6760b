//! `kill -9` of the shipped binary at random moments: each message that passes `dedup` is in
//! exactly one group of `aggregate`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork::sqlite::rusqlite::Connection;
use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::process::{Process, until};
use brickwork_tests::seed::Seed;
use fastrand::Rng;
use serde_json::Value;

/// Time limit for an event that must happen; far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// Milliseconds from a start of the app to its kill.
const LIVES_MS: std::ops::Range<u64> = 100..2_500;
/// A folder inside the app's folder.
const EMBEDDED: &str = "embedded:data/queues";
/// Number of keys.
const KEYS: u64 = 37;

#[test]
fn killed_at_any_moment_over_rabbitmq_each_message_is_in_one_group() {
    let broker = Broker::start();
    let account = survive(&broker.url(), Seed::or(11));
    println!("{account}");
}

#[test]
fn killed_at_any_moment_on_embedded_each_message_is_in_one_group() {
    let account = survive(EMBEDDED, Seed::or(12));
    println!("{account}");
}

/// Counter-check: without the inbox the tests above fail.
#[test]
fn without_its_inbox_messages_are_in_several_groups() {
    /// Maximum kills; a few are enough.
    const KILLS_MAX: u32 = 60;
    let seed = Seed::or(13);
    let mut random = seed.random();
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), EMBEDDED, 100_000);
    brickwork();
    let twice = (0..KILLS_MAX).find(|life| {
        live(folder.path(), *life, &mut random);
        forget(folder.path(), "collect");
        let groups = emitted(folder.path()).into_iter();
        let mut numbers: Vec<u64> = groups.flat_map(|(_, numbers)| numbers).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len() < all
    });
    let kills = twice.expect("something is in two groups") + 1;
    println!("something was in two groups after {kills} kills");
}

/// Empties the inbox of a service.
fn forget(folder: &Path, service: &str) {
    let file = folder.join("data/stores").join(format!("{service}.sqlite"));
    if let Ok(store) = Connection::open(file) {
        // The store may not exist yet after the first kills.
        let _missing = store.execute("DELETE FROM brickwork_inbox", []);
    }
}

/// Starts the app and kills it after a random time.
fn live(folder: &Path, life: u32, random: &mut Rng) {
    let app = start(folder, life);
    // The moment of the kill.
    std::thread::sleep(Duration::from_millis(random.u64(LIVES_MS)));
    app.stop();
}

/// Runs an app over a transport, kills it repeatedly, and checks its output.
fn survive(transport: &str, seed: Seed) -> String {
    let mut random = seed.random();
    let (count, kills) = match std::env::var_os("BRICKWORK_FULL") {
        Some(_) => (100_000, 80),
        None => (6_000, 5),
    };
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), transport, count);
    // Builds the binary before the clock starts.
    brickwork();
    let began = Instant::now();
    (0..kills).for_each(|life| live(folder.path(), life, &mut random));
    let before = numbers(&groups(folder.path())).len() as u64;
    let mut app = start(folder.path(), kills);
    until("all came out", PATIENCE, || {
        let out = numbers(&groups(folder.path())).len() as u64;
        match out >= count {
            true => Ok(()),
            false => Err(format!("{out} came out; {}", app.stderr())),
        }
    });
    // Duplicates may come last.
    let told = Command::new("kill")
        .args(["-TERM", &app.id().to_string()])
        .status();
    assert!(told.expect("kill runs").success());
    let code = app.exit_code(PATIENCE);
    assert_eq!(code, Some(0), "{}", app.stderr());

    let groups = groups(folder.path());
    let numbers = numbers(&groups);
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    let expected: Vec<u64> = (0..count).collect();
    assert!(sorted == expected, "{}", difference(&numbers, count));
    format!(
        "{count} in {} groups, {kills} kills, {before} came out before the last, {:?}",
        groups.len(),
        began.elapsed()
    )
}

/// Describes the differences briefly.
fn difference(numbers: &[u64], count: u64) -> String {
    let seen: BTreeSet<u64> = numbers.iter().copied().collect();
    let lost: Vec<u64> = (0..count).filter(|n| !seen.contains(n)).take(10).collect();
    let twice = numbers.len() - seen.len();
    format!("lost such as {lost:?}, {twice} in more than one group")
}

/// Returns the numbers of the messages by the id of their group.
fn groups(folder: &Path) -> BTreeMap<String, Vec<u64>> {
    let mut groups = BTreeMap::new();
    for (id, numbers) in emitted(folder) {
        // A group may be emitted repeatedly, but always with the same content.
        let before = groups.insert(id.clone(), numbers.clone());
        assert!(before.is_none_or(|before| before == numbers), "{id}");
    }
    groups
}

/// Returns the distinct groups with their ids and numbers.
fn emitted(folder: &Path) -> BTreeSet<(String, Vec<u64>)> {
    let mut text = std::fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
    // The last line may be incomplete.
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    let groups = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("whole lines only");
        let id = line["id"].as_str().expect("an id").to_owned();
        let messages = line["group"]["messages"].as_array().expect("a list");
        let numbers = messages.iter().map(|n| n.as_u64().expect("a number"));
        let numbers: Vec<u64> = numbers.collect();
        let key = line["group"]["key"].as_u64().expect("a number");
        assert!(numbers.iter().all(|n| n % KEYS == key), "{line}");
        (id, numbers)
    });
    groups.collect()
}

fn numbers(groups: &BTreeMap<String, Vec<u64>>) -> Vec<u64> {
    groups.values().flatten().copied().collect()
}

/// Writes each number into the file twice, some lines apart.
fn prepare(folder: &Path, transport: &str, count: u64) {
    const APART: u64 = 500;
    let mut lines = String::new();
    for line in 0..count + APART {
        for n in [Some(line), line.checked_sub(APART)].into_iter().flatten() {
            if n < count {
                writeln!(lines, "{{\"n\":{n}}}").expect("a string takes all");
            }
        }
    }
    std::fs::write(folder.join("in.jsonl"), lines).expect("it can be written");
    let manifest = format!(
        r#"
        [app]
        name = "stages"
        transport = "{transport}"
        [admin]
        listen = "off"
        [services.read]
        use = "file-in"
        out = "lines"
        config.path = "in.jsonl"
        config.rate = 2500
        [services.once]
        use = "dedup"
        store = true
        in = "lines"
        out = "numbers"
        retry.backoff.min = "100ms"
        config.key = "msg.n"
        [services.collect]
        use = "aggregate"
        store = true
        in = "numbers"
        out = "groups"
        retry.backoff.min = "100ms"
        [services.collect.config]
        key = "msg.n % {KEYS}"
        each = "msg.n"
        count = 10
        within = "1s"
        [services.mark]
        use = "map"
        in = "groups"
        out = "marked"
        config.to = {{ id = "meta.id", group = "msg" }}
        [services.keep]
        use = "file-out"
        in = "marked"
        config.path = "out.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

fn start(folder: &Path, life: u32) -> Process {
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder);
    let logs = folder.join(format!("life-{life}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    Process::start(command, &logs, "it was just built")
}
