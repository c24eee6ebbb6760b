//! Stale resources: `check --connect` reports them and `prune` removes them, never silently, and
//! never a resource that is still used.

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::process::{Process, until};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

mod limits;
mod registry;
mod waiting;

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the common part of all manifests here: a source of numbers and a sink. `reads` are the
/// topics of `keep`, `more` are further tables.
fn manifest(name: &str, reads: &str, more: &str) -> String {
    let extra = match reads.contains("extra") {
        true => "[topics.\"extra\"]\nexternal = \"both\"",
        false => "",
    };
    format!(
        r#"
        [app]
        name = "{name}"
        [admin]
        listen = "off"
        [topics."numbers"]
        external = "both"
        {extra}
        [services.numbers]
        use = "file-in"
        out = "numbers"
        config.path = "numbers.jsonl"
        [services.keep]
        use = "file-out"
        in = {reads}
        config.path = "out.jsonl"
        {more}
        "#
    )
}

/// A service that the next manifest no longer has.
const OLD: &str = r#"
    [services.old]
    use = "file-out"
    in = "numbers"
    config.path = "old.jsonl"
"#;

struct Site {
    folder: TempDir,
    url: String,
}

impl Site {
    fn new(broker: &Broker) -> Self {
        let site = Self {
            folder: tempfile::tempdir().expect("a folder can be made"),
            url: broker.url(),
        };
        site.write("numbers.jsonl", "{\"n\":1}\n{\"n\":2}\n");
        site
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).expect("it can be written");
    }

    fn command(&self, verb: &str, manifest: &str, more: &[&str]) -> Command {
        let mut command = Command::new(brickwork());
        command
            .args([verb, manifest, "--transport", &self.url])
            .args(more)
            .current_dir(self.path());
        command
    }

    /// Runs a manifest until it is idle, and returns its output.
    fn run(&self, manifest: &str, more: &[&str]) -> String {
        let mut command = self.command("run", manifest, &["--until-idle"]);
        let output = command.args(more).output().expect("it runs");
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    fn leftovers(&self, verb: &str, manifest: &str, more: &[&str]) -> (Option<i32>, Left) {
        let mut command = self.command(verb, manifest, &["--json"]);
        let output = command.args(more).output().expect("it runs");
        let value: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("not JSON: {}", said(&output)));
        let found = match verb {
            "check" => &value["transport"]["leftovers"],
            _ => &value["leftovers"],
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = found.as_array().unwrap_or_else(|| panic!("{value}")).iter();
        let left = all.map(|one| (text(&one["what"]), (text(&one["fate"]), text(&one["why"]))));
        (output.status.code(), left.collect())
    }

    fn check(&self, manifest: &str) -> Left {
        let (code, left) = self.leftovers("check", manifest, &["--connect"]);
        assert_eq!(code, Some(0), "stale resources are no problem");
        left
    }

    /// Returns the findings of `prune`. With `--yes` in `more`, prune also removes them.
    fn prune(&self, manifest: &str, more: &[&str]) -> Left {
        let (code, left) = self.leftovers("prune", manifest, more);
        assert_eq!(code, Some(0), "{left:?}");
        left
    }
}

/// Stale resources with the planned action and the reason.
type Left = BTreeMap<String, (String, String)>;

fn fates(left: &Left) -> Vec<(&str, &str)> {
    let fates = left.iter().map(|(what, (fate, _))| (&**what, &**fate));
    fates.collect()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Returns the queues of an app and its bindings.
fn things(broker: &Broker, app: &str) -> Vec<String> {
    let of_app = |text: String, column: usize| -> Vec<String> {
        let names = format!("{app}.");
        let lines = text.lines().filter(|line| {
            let name = line.split('\t').nth(column).unwrap_or_default();
            name.starts_with(&names)
        });
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let queues = broker.ctl(&["list_queues", "name"]);
    let bindings = [
        "list_bindings",
        "destination_name",
        "source_name",
        "routing_key",
    ];
    let mut all = of_app(queues, 0);
    all.extend(of_app(broker.ctl(&bindings), 0));
    all
}

fn has(broker: &Broker, app: &str, thing: &str) -> bool {
    things(broker, app).iter().any(|line| line.contains(thing))
}

/// An AMQP client that works on the broker by hand.
struct Hand {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

impl Hand {
    fn on(broker: &Broker) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let properties = ConnectionProperties::default();
        let connection = runtime.block_on(Connection::connect(&broker.url(), properties));
        Self {
            runtime,
            connection: connection.expect("it connects"),
        }
    }

    fn publish(&self, exchange: &str, key: &str, text: &str) {
        self.runtime.block_on(async {
            let channel = self.connection.create_channel().await.expect("a channel");
            let confirms = channel.confirm_select(Default::default()).await;
            confirms.expect("confirms");
            let sent = channel
                .basic_publish(
                    exchange.into(),
                    key.into(),
                    BasicPublishOptions::default(),
                    text.as_bytes(),
                    BasicProperties::default().with_delivery_mode(2),
                )
                .await;
            sent.expect("it is sent").await.expect("it is confirmed");
            channel.close(200, "done".into()).await.expect("it closes");
        });
    }

    /// Counts the ready messages of a queue, or returns `None` if it is missing.
    fn ready(&self, queue: &str) -> Option<u32> {
        self.runtime.block_on(async {
            let channel = self.connection.create_channel().await.expect("a channel");
            let options = QueueDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
            let declared = declared.await.ok()?;
            channel.close(200, "done".into()).await.expect("it closes");
            Some(declared.message_count())
        })
    }

    /// Waits until `count` messages are ready: the broker requeues a dead process's messages with
    /// a short delay.
    fn until_ready(&self, queue: &str, count: u32) {
        until(
            "the queue is as deep as it should be",
            PATIENCE,
            || match self.ready(queue) {
                Some(ready) if ready == count => Ok(()),
                ready => Err(format!("{ready:?} in {queue}, not {count}")),
            },
        );
    }
}

#[test]
fn stale_queues_are_reported_and_removed_when_prune_is_told_to() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("left", r#"["numbers", "extra"]"#, OLD));
    site.write("v2.toml", &manifest("left", r#""numbers""#, ""));
    // Before the first run nothing is recorded, and the report says so.
    let fresh = site
        .command("prune", "v2.toml", &[])
        .output()
        .expect("it runs");
    assert!(
        said(&fresh).contains("no ledger left.ledger yet"),
        "{}",
        said(&fresh)
    );

    site.run("v1.toml", &[]);
    assert_eq!(site.check("v1.toml"), Left::new(), "everything is named");
    let before = things(broker, "left");
    let expected = [
        ("binding of extra to queue left.keep.in", "removable"),
        ("queue left.old.dlq", "removable"),
        ("queue left.old.in", "removable"),
        ("queue left.old.suspect", "removable"),
    ];
    assert_eq!(fates(&site.check("v2.toml")), expected);
    assert_eq!(fates(&site.prune("v2.toml", &[])), expected);
    let text = site
        .command("check", "v2.toml", &["--connect"])
        .output()
        .expect("it runs");
    assert!(
        said(&text).contains("4 are left over from earlier manifests"),
        "{}",
        said(&text)
    );
    let text = site
        .command("prune", "v2.toml", &[])
        .output()
        .expect("it runs");
    assert!(
        said(&text).contains("nothing was changed: --yes"),
        "{}",
        said(&text)
    );
    assert_eq!(things(broker, "left"), before, "looking changes nothing");
    // Running the next version removes nothing, either.
    site.run("v2.toml", &[]);
    assert_eq!(fates(&site.check("v2.toml")), expected);

    let removed = site.prune("v2.toml", &["--yes"]);
    assert_eq!(fates(&removed), expected.map(|(what, _)| (what, "removed")));
    assert_eq!(site.check("v2.toml"), Left::new());
    assert_eq!(site.prune("v2.toml", &["--yes"]), Left::new());
    assert!(!has(broker, "left", "left.old"));
    assert!(!has(broker, "left", "extra"));
    // Every resource of the manifest exists.
    let before: Vec<_> = before
        .iter()
        .filter(|line| !line.contains("left.old"))
        .collect();
    let after = things(broker, "left");
    let after: Vec<_> = after.iter().collect();
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    assert_eq!(gone.len(), 1, "only the binding: {gone:?}");
    // The first version can return: it declares its resources again.
    site.run("v1.toml", &[]);
    assert_eq!(fates(&site.check("v2.toml")), expected);
}

#[test]
fn queues_with_messages_are_kept_and_named_unless_told_otherwise() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let more = format!("{OLD}\n{}", OLD.replace("old", "older"));
    site.write("v1.toml", &manifest("full", r#""numbers""#, &more));
    site.write("v2.toml", &manifest("full", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    // One queue has a message, the other one a dead letter.
    let hand = Hand::on(broker);
    hand.publish("", "full.old.in", "{}");
    hand.publish("", "full.older.dlq", "{}");
    let why = |left: &Left, what: &str| left[what].1.clone();

    let left = site.prune("v2.toml", &["--yes"]);
    let expected = [
        ("queue full.old.dlq", "kept"),
        ("queue full.old.in", "kept"),
        ("queue full.old.suspect", "kept"),
        ("queue full.older.dlq", "kept"),
        ("queue full.older.in", "removed"),
        ("queue full.older.suspect", "removed"),
    ];
    assert_eq!(fates(&left), expected, "{left:?}");
    assert!(
        why(&left, "queue full.old.in").contains("1 messages"),
        "{left:?}"
    );
    assert!(
        why(&left, "queue full.old.dlq").contains("old.in"),
        "{left:?}"
    );
    hand.until_ready("full.old.in", 1);
    // A queue that is kept gets no further messages.
    hand.publish("full", "numbers", "{}");
    hand.until_ready("full.old.in", 1);
    // An older version can consume them.
    site.run("v1.toml", &["--only", "old"]);
    hand.until_ready("full.old.in", 0);
    site.run("v2.toml", &[]);
    let expected = [
        ("queue full.old.dlq", "removed"),
        ("queue full.old.in", "removed"),
        ("queue full.old.suspect", "removed"),
        ("queue full.older.dlq", "kept"),
        ("queue full.older.in", "removed"),
        ("queue full.older.suspect", "removed"),
    ];
    assert_eq!(fates(&site.prune("v2.toml", &["--yes"])), expected);
    let expected = [("queue full.older.dlq", "removable")];
    assert_eq!(
        fates(&site.prune("v2.toml", &["--with-messages"])),
        expected
    );
    let expected = [("queue full.older.dlq", "removed")];
    let left = site.prune("v2.toml", &["--yes", "--with-messages"]);
    assert_eq!(fates(&left), expected);
    assert!(!has(broker, "full", "older"));
}

#[test]
fn resources_of_a_running_older_version_are_kept_and_still_work() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let second = manifest("used", r#""numbers""#, "");
    site.write("v1.toml", &manifest("used", r#""numbers""#, OLD));
    site.write(
        "v2.toml",
        &second.replace("services.numbers]", "services.digits]"),
    );
    let old = site.command("run", "v1.toml", &["--only", "old"]);
    let mut old = Process::start(old, site.path(), "it was just built");
    old.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    let left = site.prune("v2.toml", &["--yes", "--with-messages"]);
    assert_eq!(
        fates(&left),
        [
            ("queue used.numbers.lease", "removed"),
            ("queue used.old.dlq", "kept"),
            ("queue used.old.in", "kept"),
            ("queue used.old.suspect", "kept")
        ]
    );
    assert!(
        left["queue used.old.dlq"].1.contains("an older version"),
        "{left:?}"
    );
    // New messages still arrive there.
    let data = "app.data = \"data-2\"";
    site.write("data.toml", data);
    site.run("v2.toml", &["--with", "data.toml"]);
    until("the older version works", PATIENCE, || {
        let text = std::fs::read_to_string(site.path().join("old.jsonl")).unwrap_or_default();
        (text.lines().count() == 2).then_some(()).ok_or(text)
    });
    let mut kill = Command::new("kill");
    kill.args(["-TERM", &old.id().to_string()]);
    assert!(kill.status().expect("kill runs").success());
    assert_eq!(old.exit_code(PATIENCE), Some(0));
    let removed = site.prune("v2.toml", &["--yes"]);
    assert_eq!(
        fates(&removed),
        [
            ("queue used.old.dlq", "removed"),
            ("queue used.old.in", "removed"),
            ("queue used.old.suspect", "removed")
        ]
    );
}

#[test]
fn resources_of_other_apps_are_untouched() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    for app in ["shop", "shop-eu", "sho"] {
        site.write(&format!("{app}.toml"), &manifest(app, r#""numbers""#, OLD));
        let data = format!("app.data = \"data-{app}\"");
        site.write("data.toml", &data);
        site.run(&format!("{app}.toml"), &["--with", "data.toml"]);
    }
    let others = || [things(broker, "shop-eu"), things(broker, "sho")];
    let before = others();
    site.write("shop.toml", &manifest("shop", r#""numbers""#, ""));
    let left = site.prune("shop.toml", &["--yes", "--with-messages"]);
    assert_eq!(
        fates(&left),
        [
            ("queue shop.old.dlq", "removed"),
            ("queue shop.old.in", "removed"),
            ("queue shop.old.suspect", "removed")
        ]
    );
    assert_eq!(others(), before);
    assert!(!has(broker, "shop", "shop.old"));
}
