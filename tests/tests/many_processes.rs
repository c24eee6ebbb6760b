//! One app in many processes: `run --only` on each, over RabbitMQ, through the shipped
//! binary. Who joins, leaves or dies disturbs nobody, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn is_full() -> bool {
    std::env::var_os("BRICKWORK_FULL").is_some()
}

/// A folder with a manifest, of which processes run parts.
struct Site {
    folder: TempDir,
    url: String,
}

/// A process that runs a part.
struct Part {
    process: Process,
    admin: SocketAddr,
}

impl Site {
    fn new(url: &str) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder can be made"),
            url: url.to_owned(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("it can be written");
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap_or_default()
    }

    /// The command that runs a part of a manifest, with a data folder and an admin endpoint
    /// of its own, as every process has.
    fn command(&self, part: &str, manifest: &str, only: &str, admin: SocketAddr) -> Command {
        let own = self.path().join(part);
        std::fs::create_dir_all(&own).expect("a folder can be made");
        let overlay = format!("app.data = \"{part}\"\nadmin.listen = \"{admin}\"\n");
        self.write(&format!("{part}.toml"), &overlay);
        let mut command = Command::new(brickwork());
        command
            .args(["run", manifest, "--with", &format!("{part}.toml")])
            .args(["--transport", &self.url]);
        if !only.is_empty() {
            command.args(["--only", only]);
        }
        command.current_dir(self.path());
        command
    }

    /// Starts a part and waits until it runs.
    fn start(&self, part: &str, manifest: &str, only: &str) -> Part {
        let admin = free_address();
        let command = self.command(part, manifest, only, admin);
        let process = Process::start(command, &self.path().join(part), "it was just built");
        process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        Part { process, admin }
    }

    /// Runs a part until it has nothing left to do.
    fn finish(&self, part: &str, manifest: &str, only: &str) {
        let mut command = self.command(part, manifest, only, free_address());
        command.args(["--until-idle", "--fail-on-dlq"]);
        let own = self.path().join(part);
        let mut process = Process::start(command, &own, "it was just built");
        assert_eq!(process.exit_code(2 * PATIENCE), Some(0), "{part}");
    }

    fn lines(&self, file: &str) -> Vec<Value> {
        let text = self.read(file);
        // The last one may be on its way.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let value = |line: &str| serde_json::from_str(line).expect("whole lines of JSON");
        text[..whole].lines().map(value).collect()
    }

    fn until_lines(&self, file: &str, count: usize) {
        until("lines are written", PATIENCE, || {
            let written = self.read(file).lines().count();
            (written >= count)
                .then_some(())
                .ok_or_else(|| format!("{written} of {count} in {file}"))
        });
    }
}

impl Part {
    fn service(&self, label: &str) -> Value {
        let app = http::get(self.admin, "/api/app").expect("it lives").json();
        let services = app["services"].as_array().expect("services").iter();
        let mut found = services.filter(|row| row["service"] == label);
        found.next().expect("it runs here").clone()
    }

    fn handled(&self, label: &str) -> u64 {
        let ok = &self.service(label)["handled"]["ok"];
        ok.as_u64().expect("a count")
    }

    fn kill(self) {
        signal("-KILL", self.process.id());
    }

    /// Stops it in order.
    fn stop(mut self) {
        signal("-TERM", self.process.id());
        assert_eq!(self.process.exit_code(PATIENCE), Some(0));
    }
}

fn signal(name: &str, process: u32) {
    let mut kill = Command::new("kill");
    let sent = kill.args([name, &process.to_string()]).status();
    assert!(sent.expect("kill runs").success(), "kill {name} {process}");
}

const ALERTS: [&str; 3] = ["issues.jsonl", "checks.jsonl", "security.jsonl"];

/// The example, as an app of another name.
fn example(name: &str, broker: &Broker) -> Site {
    let site = Site::new(&broker.url());
    let example = workspace().join("examples/2-github-alerts");
    let text = std::fs::read_to_string(example.join("app.toml")).expect("it is there");
    let named = text.replacen("name = \"github-alerts\"", &format!("name = \"{name}\""), 1);
    assert_ne!(named, text);
    site.write("app.toml", &named);
    let deliveries = "github-webhooks.jsonl";
    std::fs::copy(example.join(deliveries), site.path().join(deliveries)).expect("it is copied");
    site
}

fn alerts(folder: &Path) -> BTreeMap<&'static str, Vec<String>> {
    let sorted = |file: &str| {
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    ALERTS
        .into_iter()
        .map(|file| (file, sorted(file)))
        .collect()
}

/// A source and what fails; what decides; what keeps.
const THIRDS: [(&str, &str); 3] = [
    ("first", "intake,weather"),
    ("second", "sort,issue-alert,check-alert,security-alert"),
    ("third", "keep-issues,keep-checks,keep-security"),
];

#[test]
fn the_example_gives_the_same_alerts_in_one_process_and_split_over_three() {
    let broker = Broker::shared();
    let whole = example("alerts-whole", broker);
    whole.finish("whole", "app.toml", "");
    let one = alerts(&whole.path().join("out"));
    let expected = workspace().join("examples/2-github-alerts/expected");
    assert_eq!(one, alerts(&expected));

    // All at once, those who read last of all.
    let split = example("alerts-split", broker);
    let parts = THIRDS.map(|(part, only)| split.start(part, "app.toml", only));
    let all: usize = one.values().map(Vec::len).sum();
    until("every alert is kept", PATIENCE, || {
        let kept: usize = alerts(&split.path().join("out"))
            .values()
            .map(Vec::len)
            .sum();
        (kept >= all)
            .then_some(())
            .ok_or_else(|| format!("{kept} of {all}"))
    });
    // In the order of the flow, so that each has everything that it will get.
    parts.into_iter().for_each(Part::stop);
    assert_eq!(alerts(&split.path().join("out")), one);
}

#[test]
fn every_process_declares_the_whole_app_so_that_those_who_come_later_miss_nothing() {
    let broker = Broker::shared();
    let site = example("alerts-in-turn", broker);
    for (part, only) in THIRDS {
        // One is gone before the next one comes.
        site.finish(part, "app.toml", only);
        let queues = broker.ctl(&["list_queues", "name", "messages"]);
        let of_the_app = queues
            .lines()
            .filter(|line| line.starts_with("alerts-in-turn."));
        let queues: BTreeSet<&str> = of_the_app
            .filter_map(|line| line.split('\t').next())
            .collect();
        for queue in [
            "weather.in",
            "sort.in",
            "check-alert.in",
            "keep-security.in",
            "sort.dlq",
        ] {
            let name = format!("alerts-in-turn.{queue}");
            assert!(
                queues.contains(&*name),
                "{part} has not made {name}: {queues:?}"
            );
        }
    }
    let expected = workspace().join("examples/2-github-alerts/expected");
    assert_eq!(alerts(&site.path().join("out")), alerts(&expected));
}

/// Numbers from a file, through `work`, into a file. What `work` does is marked with the
/// ids of what it got and gave.
fn numbers(name: &str, broker: &Broker, count: usize, rate: usize) -> Site {
    let site = Site::new(&broker.url());
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
        [services.lines]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", rate = {rate} }}
        [services.work]
        use = "map"
        in = "lines"
        out = "worked"
        retry.backoff.min = "100ms"
        config.to = {{ n = "msg.n", first = "meta.id" }}
        [services.keep]
        use = "map"
        in = "worked"
        out = "kept"
        retry.backoff.min = "100ms"
        config.to = {{ n = "msg.n", first = "msg.first", second = "meta.id" }}
        [services.write]
        use = "file-out"
        in = "kept"
        retry.backoff.min = "100ms"
        config.path = "out.jsonl"
        "#
    );
    site.write("app.toml", &manifest);
    let text: String = (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    site.write("lines.jsonl", &text);
    site
}

/// Nothing is lost, nothing is there that nobody sent, and what is there more than once has
/// the ids that it had at first. How many that are.
fn check_ids(kept: &[Value], count: usize) -> usize {
    let mut copies: HashMap<u64, Vec<(&str, &str)>> = HashMap::new();
    for line in kept {
        let id = |name: &str| line[name].as_str().expect("an id");
        let ids = (id("first"), id("second"));
        copies
            .entry(line["n"].as_u64().expect("a number"))
            .or_default()
            .push(ids);
    }
    let sent = 0..count as u64;
    let lost: Vec<u64> = sent.clone().filter(|n| !copies.contains_key(n)).collect();
    assert_eq!(lost, Vec::<u64>::new(), "lost");
    assert!(copies.keys().all(|n| sent.contains(n)), "nobody sent these");
    for (n, ids) in &copies {
        let different: HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), 1, "{n} under several ids: {different:?}");
    }
    kept.len() - copies.len()
}

/// What a service of one instance may have taken and not acked: its mailbox and its hand.
const UNSETTLED_MAX: usize = 64 + 1;

#[test]
fn a_process_that_joins_leaves_or_is_killed_under_load_disturbs_nobody() {
    let (count, rate) = if is_full() {
        (20_000, 1_500)
    } else {
        (6_000, 1_000)
    };
    let broker = Broker::shared();
    let site = numbers("competing", broker, count, rate);
    let ends = site.start("ends", "app.toml", "lines,keep,write");
    let steady = site.start("steady", "app.toml", "work");
    site.until_lines("out.jsonl", count / 20);

    let mut shares = Vec::new();
    let kills = 3;
    for turn in 0..kills {
        let joined = site.start(&format!("joined-{turn}"), "app.toml", "work");
        let until_handled = |wanted: u64| {
            until("it takes its share", PATIENCE, || {
                match joined.handled("work") {
                    handled if handled >= wanted => Ok(handled),
                    handled => Err(format!("{handled} of {wanted}")),
                }
            })
        };
        let (joined_at, steady_at) = (until_handled(50), steady.handled("work"));
        let share = until_handled(joined_at + 200) - joined_at;
        shares.push((share, steady.handled("work") - steady_at));
        // In the middle of it.
        joined.kill();
    }
    // One joins and leaves in order: that makes no copies.
    let guest = site.start("guest", "app.toml", "work");
    until("it takes its share", PATIENCE, || {
        match guest.handled("work") {
            handled if handled >= 100 => Ok(()),
            handled => Err(format!("{handled}")),
        }
    });
    guest.stop();
    assert!(
        site.read("out.jsonl").lines().count() < count,
        "the faults came after the load"
    );

    until_all_written(&site, count);
    until("the one that stayed has nothing left", PATIENCE, || {
        let queue = steady.service("work")["inputs"][0]["queue"].clone();
        let ready = queue["ready"].as_u64() == Some(0) && queue["in_hand"].as_u64() == Some(0);
        ready.then_some(()).ok_or_else(|| queue.to_string())
    });
    for part in [&ends, &steady] {
        let ready = http::get(part.admin, "/health/ready").expect("it lives");
        assert_eq!(ready.code, 200, "{}", ready.body);
        let log = part.process.stderr();
        assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    }
    ends.stop();
    steady.stop();
    let again = check_ids(&site.lines("out.jsonl"), count);
    assert!(again <= kills * UNSETTLED_MAX, "{again} copies");
    println!(
        "{count} lines, {kills} kills: lost 0, {again} handled again; shares of who joined and who stayed: {shares:?}"
    );
    for (joined, stayed) in shares {
        let fair = 0.1..10.0;
        let ratio = joined as f64 / stayed.max(1) as f64;
        assert!(fair.contains(&ratio), "{joined} to {stayed}");
    }
}

impl Part {
    fn state(&self, label: &str) -> String {
        let state = &self.service(label)["state"];
        state.as_str().expect("a text").to_owned()
    }

    fn until_state(&self, label: &str, wanted: &str, within: Duration) {
        until("the source is as it should be", within, || {
            match self.state(label) {
                state if state == wanted => Ok(()),
                state => Err(format!("{state}, not {wanted}")),
            }
        });
    }

    fn emitted(&self, label: &str) -> u64 {
        let emitted = &self.service(label)["outputs"][0]["emitted"];
        emitted.as_u64().expect("a count")
    }

    fn until_emitted(&self, label: &str, more_than: u64, within: Duration) {
        until("the source works", within, || match self.emitted(label) {
            emitted if emitted > more_than => Ok(()),
            emitted => Err(format!("{emitted}")),
        });
    }

    fn is_ready(&self) -> bool {
        http::get(self.admin, "/health/ready")
            .expect("it lives")
            .code
            == 200
    }
}

/// Every number is there, however often, under one id each.
fn until_all_written(site: &Site, count: usize) {
    until("every number is written", PATIENCE, || {
        let lines = site.lines("out.jsonl");
        let numbers: HashSet<_> = lines.iter().filter_map(|line| line["n"].as_u64()).collect();
        let all = numbers.len() >= count;
        all.then_some(())
            .ok_or_else(|| format!("{} of {count}", numbers.len()))
    });
}

#[test]
fn a_source_that_must_be_single_runs_once_and_another_process_takes_over_when_its_own_dies() {
    let count = 3_000;
    let site = numbers("single", Broker::shared(), count, 300);
    let rest = site.start("rest", "app.toml", "work,keep,write");
    let first = site.start("first", "app.toml", "lines");
    first.until_emitted("lines", 0, PATIENCE);
    let second = site.start("second", "app.toml", "lines");
    let third = site.start("third", "app.toml", "lines");
    for waiting in [&second, &third] {
        waiting.until_state("lines", "standing by", PATIENCE);
        assert!(waiting.is_ready());
    }
    first.until_emitted("lines", 300, PATIENCE);
    assert_eq!((second.emitted("lines"), third.emitted("lines")), (0, 0));
    assert_eq!(first.state("lines"), "up");

    // Without a warning.
    first.kill();
    let died = Instant::now();
    until("one of the others takes over", PATIENCE, || {
        let states = (second.state("lines"), third.state("lines"));
        let one = [&states.0, &states.1]
            .iter()
            .filter(|state| **state == "up")
            .count();
        (one == 1)
            .then_some(())
            .ok_or_else(|| format!("{states:?}"))
    });
    let killed = died.elapsed();
    assert!(killed < Duration::from_secs(5), "{killed:?}");
    let (now, next) = match second.state("lines") == "up" {
        true => (second, third),
        false => (third, second),
    };
    now.until_emitted("lines", 100, PATIENCE);
    assert_eq!(next.emitted("lines"), 0);
    // In order: its successor has it as soon as it has stopped.
    now.stop();
    let stopped = Instant::now();
    next.until_state("lines", "up", Duration::from_secs(5));
    println!(
        "taken over {killed:?} after a kill, {:?} after a stop",
        stopped.elapsed()
    );
    next.until_state("lines", "ended", PATIENCE);
    // What has ended isn't begun again by somebody else who comes.
    let late = site.start("late", "app.toml", "lines");
    late.until_state("lines", "standing by", PATIENCE);
    until_all_written(&site, count);
    for part in [late, next, rest] {
        part.stop();
    }
    // Each process has a position of its own: those that took over began at the start.
    let again = check_ids(&site.lines("out.jsonl"), count);
    println!("{count} lines: lost 0, {again} again, under the same ids");
}

#[test]
fn a_process_that_is_frozen_past_its_heartbeat_loses_its_source_to_another_one() {
    let count = 4_000;
    let mut site = numbers("frozen", Broker::shared(), count, 200);
    let rest = site.start("rest", "app.toml", "work,keep,write");
    site.url += "?heartbeat=2";
    let first = site.start("first", "app.toml", "lines");
    first.until_emitted("lines", 100, PATIENCE);
    let second = site.start("second", "app.toml", "lines");
    second.until_state("lines", "standing by", PATIENCE);
    signal("-STOP", first.process.id());
    let frozen = Instant::now();
    // The broker waits for two beats, and looks now and then.
    second.until_state("lines", "up", Duration::from_secs(12));
    let taken = frozen.elapsed();
    second.until_emitted("lines", 20, PATIENCE);
    signal("-CONT", first.process.id());
    // It learns that it has lost it, and waits for its turn.
    first.until_state("lines", "standing by", PATIENCE);
    until("it is connected again", PATIENCE, || {
        first.is_ready().then_some(()).ok_or_else(String::new)
    });
    let stays = first.emitted("lines");
    second.until_emitted("lines", 200, PATIENCE);
    assert_eq!(first.emitted("lines"), stays, "two at once");
    assert_eq!(second.state("lines"), "up");
    println!("taken over {taken:?} after it froze");
    until_all_written(&site, count);
    for part in [first, second, rest] {
        part.stop();
    }
    check_ids(&site.lines("out.jsonl"), count);
}
