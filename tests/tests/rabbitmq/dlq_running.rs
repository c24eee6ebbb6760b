//! The `dlq` commands beside a running app: the same commands and answers on a transport that
//! several processes can reach, where the command works itself, and on one that only the app can
//! reach, where the app works for the command over its control socket.

use brickwork::dead_letters::{Expected, TestCases};
use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::broker::Broker;
use brickwork_tests::process::{Process, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

mod interrupted;

const PATIENCE: Duration = Duration::from_secs(60);

/// A secret of the manifest that also occurs in messages.
const SECRET: &str = "hunter2-is-secret";

/// A running app: lines of a file, prices computed from them (some fail), a sink, and a service
/// that always fails.
struct Shop {
    folder: TempDir,
    app: Process,
}

impl Shop {
    /// Starts to replay all letters of `price` slowly, and waits until some are replayed.
    fn during_a_replay(&self) -> Process {
        let slow = "replay --service price --all --to again.in --rate 20";
        let slow: Vec<&str> = slow.split(' ').collect();
        let client = Process::start(self.command(&slow), self.path(), "it was just built");
        until("it is in the middle", PATIENCE, || {
            match self.letters("again") {
                letters if letters > 5 => Ok(()),
                letters => Err(format!("{letters} are replayed")),
            }
        });
        client
    }

    fn start(name: &str, transport: &str, lines: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let manifest = format!(
            r#"
            [app]
            name = "{name}"
            transport = "{transport}"
            log.level = "error"
            [admin]
            listen = "off"
            [topics."never.sent"]
            external = "in"
            [services.lines]
            use = "file-in"
            out = "lines"
            config.path = "lines.jsonl"
            [services.price]
            use = "map"
            in = "lines"
            out = "priced"
            instances = 8
            mailbox = 256
            config.value = "has(msg.bad) ? msg.order.sku : {{'total': 10 / msg.n}}"
            [services.keep]
            use = "file-out"
            in = "priced"
            config.path = "out.jsonl"
            [services.again]
            use = "chaos"
            in = "never.sent"
            out = "priced"
            instances = 8
            mailbox = 256
            config.fail = 1.0
            retry.attempts = 1
            breaker = "off"
            [services.door]
            use = "http-in"
            out = "priced"
            config.listen = "127.0.0.1:0"
            config.path = "/"
            config.secret = "{SECRET}"
            "#
        );
        for (file, text) in [("app.toml", &*manifest), ("lines.jsonl", lines)] {
            std::fs::write(folder.path().join(file), text).expect("it can be written");
        }
        let mut run = Command::new(brickwork());
        run.args(["run", "app.toml"]).current_dir(folder.path());
        let app = Process::start(run, folder.path(), "it was just built");
        app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        Self { folder, app }
    }

    /// Starts an app whose service `price` has dead-lettered `bad` messages without a field and
    /// `zeros` with a division by zero.
    fn failing(name: &str, transport: &str, bad: usize, zeros: usize) -> Self {
        let bad_line = |n| format!("{{\"bad\":{n},\"key\":\"{SECRET}\"}}\n");
        let zero_line = |_| "{\"n\":0}\n".to_owned();
        let lines: String = (0..bad).map(bad_line).collect();
        let zeros_lines: String = (0..zeros).map(zero_line).collect();
        let shop = Self::start(name, transport, &(lines + &zeros_lines));
        shop.wait_for("price", bad + zeros);
        shop
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let mut command = Command::new(brickwork());
        command.args(["dlq", verb, "app.toml"]).args(rest);
        command.current_dir(self.path());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("it runs");
        for said in [&output.stdout, &output.stderr] {
            assert!(!text(said).contains("hunter2"), "{}", text(said));
        }
        output
    }

    /// Returns the output of a command that must succeed.
    fn dlq(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let code = output.status.code();
        assert_eq!(code, Some(0), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.dlq(&[arguments, &["--json"]].concat());
        serde_json::from_str(&printed).expect("it is JSON")
    }

    /// Expects that a command fails with this exit code and text.
    fn says(&self, arguments: &[&str], code: i32, part: &str) {
        let output = self.output(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }

    fn letters(&self, service: &str) -> usize {
        let listed = self.json(&["list", "--service", service]);
        let letters = listed["services"][0]["letters"].as_u64();
        letters.map_or(0, |letters| letters as usize)
    }

    fn wait_for(&self, service: &str, letters: usize) {
        until("the letters are there", PATIENCE, || {
            match self.letters(service) {
                there if there == letters => Ok(()),
                there => Err(format!("{service} has {there}")),
            }
        });
    }

    /// Returns the groups of `price` with their sizes, by a word that identifies each.
    fn groups(&self) -> BTreeMap<&'static str, (String, u64)> {
        let grouped = self.json(&["groups", "--service", "price"]);
        let groups = grouped["services"][0]["groups"].as_array().expect("a list");
        let named = groups.iter().map(|group| {
            let error = group["error"].as_str().expect("it has one");
            let name = match error.contains("order") && !error.contains("zero") {
                true => "bad",
                false => "zero",
            };
            let fingerprint = group["fingerprint"].as_str().expect("a text").to_owned();
            (
                name,
                (fingerprint, group["letters"].as_u64().expect("a number")),
            )
        });
        named.collect()
    }

    /// Returns the id and the number of replays of every letter of a service.
    fn exported(&self, service: &str) -> Vec<(String, u64)> {
        let lines = self.dlq(&["export", "--service", service]);
        let letters = lines.lines().map(|line| {
            let letter: Value = serde_json::from_str(line).expect("a line is JSON");
            let id = letter["id"].as_str().expect("a text").to_owned();
            (id, letter["replays"].as_u64().expect("a number"))
        });
        letters.collect()
    }

    fn out(&self) -> Vec<Value> {
        let out = std::fs::read_to_string(self.path().join("out.jsonl")).unwrap_or_default();
        let lines = out.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("whole lines only")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn send(signal: &str, process: &Process) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status();
    assert!(sent.expect("kill runs").success());
}

fn ids(letters: &[(String, u64)]) -> BTreeSet<&str> {
    letters.iter().map(|(id, _)| &**id).collect()
}

/// Letters are grouped, and groups are listed, replayed to their input and to another one, and
/// discarded.
fn check_groups(name: &str, transport: &str) {
    let shop = Shop::failing(name, transport, 12, 20);
    let groups = shop.groups();
    let (bad, zero) = (&groups["bad"], &groups["zero"]);
    assert_eq!((bad.1, zero.1), (12, 20));
    let all = shop.json(&["groups"]);
    let services = all["services"].as_array().expect("a list");
    let named: BTreeSet<_> = services.iter().map(|it| it["service"].as_str()).collect();
    assert_eq!(named, [Some("again"), Some("keep"), Some("price")].into());
    let price = services.iter().find(|it| it["service"] == "price");
    let price = price.expect("it is there");
    assert_eq!(
        (&price["letters"], &price["complete"]),
        (&json!(32), &json!(true))
    );
    // The largest group first, each with its first letter, its last one and an example.
    let first = &price["groups"][0];
    assert_eq!(first["fingerprint"], *zero.0);
    assert_eq!(
        (&first["reason"], &first["service"]),
        (&json!("reject"), &json!("price"))
    );
    let times = ["first_failed_at", "last_failed_at"].map(|time| first[time].as_str());
    assert!(times[0].is_some() && times[0] <= times[1], "{first}");
    let example = first["example"].as_str().expect("a text");
    assert!(shop.exported("price").iter().any(|(id, _)| id == example));
    let people = shop.dlq(&["groups"]);
    for part in [&*bad.0, &zero.0, "reject", "      20", example] {
        assert!(people.contains(part), "{part}\n{people}");
    }

    let shown = shop.json(&["show", "--group", &bad.0, "--limit", "100"]);
    let shown = shown["letters"].as_array().expect("a list");
    assert_eq!(shown.len(), 12);
    assert!(shown.iter().all(|letter| letter["fingerprint"] == *bad.0));
    assert_eq!(shown[0]["payload"]["key"], "[redacted]");
    let rejected = shop.json(&["show", "--reason", "reject", "--limit", "100"]);
    assert_eq!(rejected["letters"].as_array().map(Vec::len), Some(32));

    // Without a service: the group determines it.
    let dry = ["replay", "--group", &bad.0, "--limit", "5", "--dry-run"];
    let outcome = shop.json(&dry);
    assert_eq!(
        (&outcome["removed"], &outcome["letters"]),
        (&json!(5), &json!(32))
    );
    assert_eq!(outcome["ids"].as_array().map(Vec::len), Some(5));
    assert_eq!(shop.letters("price"), 32);

    let began = Instant::now();
    let elsewhere = ["replay", "--group", &bad.0, "--to", "keep.in"];
    let outcome = shop.json(&[&elsewhere[..], &["--limit", "8", "--rate", "20/s"]].concat());
    assert_eq!(
        (&outcome["removed"], &outcome["selected"]),
        (&json!(8), &json!(8))
    );
    assert!(
        began.elapsed() >= Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );
    until("they are kept", PATIENCE, || match shop.out() {
        out if out.len() == 8 => Ok(()),
        out => Err(format!("{} are", out.len())),
    });
    let kept: BTreeSet<u64> = shop
        .out()
        .iter()
        .filter_map(|it| it["bad"].as_u64())
        .collect();
    assert_eq!(kept.len(), 8);
    let groups = shop.groups();
    assert_eq!((groups["bad"].1, groups["zero"].1), (4, 20));

    // Replayed to their input: they fail again, with the same ids, in the same group.
    let before = shop.exported("price");
    let outcome = shop.json(&["replay", "--group", &zero.0, "--limit", "6"]);
    assert_eq!(outcome["removed"], 6);
    until("they fail again", PATIENCE, || {
        let after = shop.exported("price");
        let replayed = after.iter().filter(|(_, replays)| *replays == 1).count();
        match ids(&after) == ids(&before) && replayed == 6 {
            true => Ok(()),
            false => Err(format!("{replayed} of {}", after.len())),
        }
    });
    assert_eq!(shop.groups()["zero"], (zero.0.clone(), 20));

    let said = shop.dlq(&["discard", "--group", &bad.0]);
    assert_eq!(said, "price: 4 of 24 letters discarded\n");
    assert_eq!(shop.letters("price"), 20);
    assert!(!shop.groups().contains_key("bad"));
    shop.says(
        &["discard", "--group", &bad.0],
        1,
        "no letter of this group",
    );
    shop.says(&["show", "--group", "12"], 2, "16 hexadecimal digits");
    shop.says(&["replay", "--all"], 2, "--service");
    let to = ["replay", "--all", "--service", "price", "--to"];
    shop.says(
        &[&to[..], &["keep.on"]].concat(),
        2,
        "did you mean `keep.in`?",
    );
    shop.says(&[&to[..], &["keep"]].concat(), 2, "such as stock.requests");
}

#[test]
fn groups_are_listed_and_replayed_by_the_app_itself() {
    check_groups("groups-memory", "memory:");
}

#[test]
fn groups_are_listed_and_replayed_beside_the_app() {
    check_groups("groups-amqp", &Broker::shared().url());
}

/// Letters are exported, as lines and as test cases, and stay in the queue.
fn check_exports(name: &str, transport: &str) {
    let shop = Shop::failing(name, transport, 7, 3);
    let lines = shop.dlq(&["export"]);
    let letters: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    assert_eq!(letters.len(), 10);
    for letter in &letters {
        for (field, value) in [
            ("service", json!("price")),
            ("input", json!("in")),
            ("reason", json!("reject")),
            ("attempts", json!(1)),
            ("topic", json!("lines")),
            ("encoding", json!("json")),
            ("truncated", json!(false)),
        ] {
            assert_eq!(letter[field], value, "{field}");
        }
    }
    let path = shop.path().join("letters.jsonl");
    shop.dlq(&["export", "--out", "letters.jsonl"]);
    let file = std::fs::read_to_string(&path).expect("it is there");
    assert_eq!(file.lines().count(), 10);
    assert!(!file.contains("hunter2"));
    let mode = std::fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);

    // A file that was perhaps edited isn't overwritten without being asked to.
    let bad = &shop.groups()["bad"].0;
    let cases = ["export", "--as-test", "--group", bad, "--out", "cases.toml"];
    shop.dlq(&[&cases[..], &["--limit", "2"]].concat());
    shop.says(&cases, 1, "exists already");
    let read = || -> TestCases {
        let text = std::fs::read_to_string(shop.path().join("cases.toml"));
        text.expect("it is there").parse().expect("it is read")
    };
    assert_eq!(read().cases.len(), 2);
    shop.dlq(&[&cases[..], &["--force"]].concat());
    let cases = read().cases;
    assert_eq!(cases.len(), 7);
    let by_id = |id: &str| letters.iter().find(|letter| letter["id"] == id);
    for case in &cases {
        assert_eq!((&*case.service, &*case.input), ("price", "in"));
        assert_eq!(case.expect, Expected::Ok);
        let message = case.message.message().expect("it is one");
        let letter = by_id(&message.id.to_string()).expect("it is a letter's");
        let payload: Value = serde_json::from_slice(&message.payload).expect("JSON");
        assert_eq!(payload, letter["payload"]);
        assert_eq!(&*message.topic, "lines");
        let happened = case.happened.as_ref().expect("it is told");
        assert_eq!(happened.error, letter["error"]);
        assert_eq!(happened.fingerprint, *bad);
    }
    let shown = shop.dlq(&["export", "--as-test", "--limit", "1"]);
    assert!(shown.contains("expect = \"ok\""), "{shown}");

    // An incomplete export is reported as a failure.
    shop.says(&["export", "--scan", "4"], 1, "not all letters were read");
    shop.says(
        &["export", "--scan-bytes", "1B"],
        1,
        "not all letters were read",
    );
    shop.says(
        &["export", "--id", "nobody"],
        1,
        "no letter of this message",
    );
    let nowhere = ["export", "--out", "nowhere/letters.jsonl"];
    shop.says(&nowhere, 1, "can't write nowhere/letters.jsonl");
    assert_eq!(shop.letters("price"), 10);
}

#[test]
fn letters_are_exported_by_the_app_itself() {
    check_exports("export-memory", "memory:");
}

#[test]
fn letters_are_exported_beside_the_app() {
    check_exports("export-amqp", &Broker::shared().url());
}
