//! What a manifest no longer names is reported by `check --connect` and removed by
//! `prune`, never silently, and nothing that somebody needs is removed: through the shipped
//! binary.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::process::{Process, until};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// What every manifest here has: numbers, and somebody who keeps them. `reads` are the
/// topics that `keep` reads, `more` are other tables.
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

/// A service that the next manifest doesn't have any more.
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

    /// Runs a manifest until there is nothing left to do; what it said.
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
        assert_eq!(code, Some(0), "leftovers are in nobody's way");
        left
    }

    /// What `prune` finds, and does with `--yes` among `more`.
    fn prune(&self, manifest: &str, more: &[&str]) -> Left {
        let (code, left) = self.leftovers("prune", manifest, more);
        assert_eq!(code, Some(0), "{left:?}");
        left
    }
}

/// What is left over: its fate, and why.
type Left = BTreeMap<String, (String, String)>;

fn fates(left: &Left) -> Vec<(&str, &str)> {
    let fates = left.iter().map(|(what, (fate, _))| (&**what, &**fate));
    fates.collect()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The queues of an app, and its bindings.
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

/// Somebody who works on the broker by hand.
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

    /// How many messages are ready in a queue, if it is there.
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

    /// Waits until so many messages are ready: what a process had in hand is given back a
    /// moment after it has gone.
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
fn what_a_manifest_no_longer_names_is_reported_and_removed_when_it_is_told_to() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("left", r#"["numbers", "extra"]"#, OLD));
    site.write("v2.toml", &manifest("left", r#""numbers""#, ""));
    // Before anything ran nothing is known, and that is said.
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
    // Running the next version removes nothing either.
    site.run("v2.toml", &[]);
    assert_eq!(fates(&site.check("v2.toml")), expected);

    let removed = site.prune("v2.toml", &["--yes"]);
    assert_eq!(fates(&removed), expected.map(|(what, _)| (what, "removed")));
    assert_eq!(site.check("v2.toml"), Left::new());
    assert_eq!(site.prune("v2.toml", &["--yes"]), Left::new());
    assert!(!has(broker, "left", "left.old"));
    assert!(!has(broker, "left", "extra"));
    // What the manifest names is all there.
    let before: Vec<_> = before
        .iter()
        .filter(|line| !line.contains("left.old"))
        .collect();
    let after = things(broker, "left");
    let after: Vec<_> = after.iter().collect();
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    assert_eq!(gone.len(), 1, "only the binding: {gone:?}");
    // The first version can come back: it makes again what it needs.
    site.run("v1.toml", &[]);
    assert_eq!(fates(&site.check("v2.toml")), expected);
}

#[test]
fn queues_that_hold_messages_are_kept_and_named_until_they_are_to_go_with_them() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let more = format!("{OLD}\n{}", OLD.replace("old", "older"));
    site.write("v1.toml", &manifest("full", r#""numbers""#, &more));
    site.write("v2.toml", &manifest("full", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    // One has something to do, the other one a dead letter.
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
    // What is kept fills no further.
    hand.publish("full", "numbers", "{}");
    hand.until_ready("full.old.in", 1);
    // An older version can take it out.
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
fn what_an_older_version_that_runs_still_uses_is_kept_and_goes_on_working() {
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
    // What comes now still gets there.
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
fn nothing_of_other_apps_is_touched() {
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

#[test]
fn foreign_messages_in_the_ledger_are_left_alone_and_break_nothing() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("odd", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("odd", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    let hand = Hand::on(broker);
    let foreign = [
        "garbage",
        "brickwork ledger 2\nqueue new.format",
        // It names what is another app's, and what is no queue's name.
        "brickwork ledger 1\nqueue old.in.more\nqueue ../x\nbind keep.in #\nqueue",
    ];
    for text in foreign {
        hand.publish("", "odd.ledger", text);
    }
    site.run("v2.toml", &[]);
    let removed = site.prune("v2.toml", &["--yes"]);
    assert_eq!(
        fates(&removed),
        [
            ("queue odd.old.dlq", "removed"),
            ("queue odd.old.in", "removed"),
            ("queue odd.old.suspect", "removed")
        ]
    );
    // Those that are none, and the one.
    hand.until_ready("odd.ledger", 3);

    // So many that ours isn't seen: the app runs, and says that it can't write.
    for _ in 0..100 {
        hand.publish("", "odd.ledger", "garbage");
    }
    let log = site.run("v1.toml", &[]);
    assert!(
        log.contains("declarations were not recorded in the ledger"),
        "{log}"
    );
    site.run("v1.toml", &[]);
    // It doesn't grow.
    hand.until_ready("odd.ledger", 103);
}

#[test]
fn a_ledger_that_was_deleted_is_written_again_at_the_next_start() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    site.write("v1.toml", &manifest("lost", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("lost", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    broker.ctl(&["delete_queue", "lost.ledger"]);
    site.run("v1.toml", &[]);
    assert_eq!(site.check("v2.toml").len(), 3);
}

#[test]
fn processes_that_start_at_the_same_time_leave_out_nothing() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let processes = 6;
    let versions = (0..processes).map(|number| {
        let more = OLD.replace("old", &format!("old-{number}"));
        let file = format!("v{number}.toml");
        site.write(&file, &manifest("crowd", r#""numbers""#, &more));
        let data = format!("data-{number}.toml");
        site.write(&data, &format!("app.data = \"data-{number}\""));
        let own = site.path().join(number.to_string());
        std::fs::create_dir(&own).expect("a folder can be made");
        let more = ["--until-idle", "--with", &*data];
        Process::start(site.command("run", &file, &more), &own, "it was just built")
    });
    for mut process in versions.collect::<Vec<_>>() {
        assert_eq!(process.exit_code(PATIENCE), Some(0));
        let log = process.stderr();
        assert!(!log.contains("ledger"), "{log}");
    }
    site.write("now.toml", &manifest("crowd", r#""numbers""#, ""));
    let left = site.check("now.toml");
    assert_eq!(left.len(), 3 * processes, "{left:?}");
    // However many messages that took, the next one makes them one.
    site.run("now.toml", &[]);
    Hand::on(broker).until_ready("crowd.ledger", 1);
    let again = site.check("now.toml");
    assert!(again.keys().eq(left.keys()), "{again:?}");
}

#[test]
fn a_prune_that_is_killed_in_the_middle_is_run_again() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let services = 40;
    let more: String = (0..services)
        .map(|number| OLD.replace("old", &format!("old-{number:02}")))
        .collect();
    site.write("v1.toml", &manifest("cut", r#""numbers""#, &more));
    site.write("v2.toml", &manifest("cut", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    assert_eq!(site.check("v2.toml").len(), 3 * services);
    let own = site.path().join("killed");
    std::fs::create_dir(&own).expect("a folder can be made");
    let prune = site.command("prune", "v2.toml", &["--yes"]);
    let mut prune = Process::start(prune, &own, "it was just built");
    let hand = Hand::on(broker);
    while hand.ready("cut.old-10.in").is_some() {}
    let mut kill = Command::new("kill");
    kill.args(["-KILL", &prune.id().to_string()]);
    assert!(kill.status().expect("kill runs").success());
    assert_eq!(prune.exit_code(PATIENCE), None, "it was not done yet");
    // The broker gives the ledger back when it has noticed.
    let left = until("the ledger is there again", PATIENCE, || {
        let left = site.check("v2.toml");
        (!left.is_empty()).then_some(left).ok_or_else(String::new)
    });
    assert!(left.len() < 3 * services, "some are gone: {}", left.len());
    println!("killed with {} of {} left", left.len(), 3 * services);
    let removed = site.prune("v2.toml", &["--yes"]);
    assert_eq!(removed.len(), left.len());
    assert!(
        removed.values().all(|(fate, _)| fate == "removed"),
        "{removed:?}"
    );
    assert_eq!(site.check("v2.toml"), Left::new());
    assert!(!has(broker, "cut", "cut.old"));
    hand.until_ready("cut.ledger", 1);
}

#[test]
fn rights_that_are_missing_are_named_and_the_rest_is_done() {
    let broker = Broker::start();
    let mut site = Site::new(&broker);
    site.write("v1.toml", &manifest("rights", r#""numbers""#, OLD));
    site.write("v2.toml", &manifest("rights", r#""numbers""#, ""));
    site.run("v1.toml", &[]);
    broker.ctl(&["add_user", "clerk", "hunter2"]);
    let allow = |configure: &str, write: &str, read: &str| {
        broker.ctl(&["set_permissions", "clerk", configure, write, read])
    };
    site.url = format!("amqp://clerk:hunter2@127.0.0.1:{}", broker.port());
    // May not delete one of the queues.
    allow(r"^(?!rights\.old\.in).*$", ".*", ".*");
    let (code, left) = site.leftovers("prune", "v2.toml", &["--yes"]);
    assert_eq!(code, Some(1));
    let expected = [
        ("queue rights.old.dlq", "kept"),
        ("queue rights.old.in", "failed"),
        ("queue rights.old.suspect", "kept"),
    ];
    assert_eq!(fates(&left), expected, "{left:?}");
    assert!(
        left["queue rights.old.in"].1.contains("rights.old.in"),
        "{left:?}"
    );
    // May not even read the ledger: looking says so, an app runs all the same.
    allow(".*", ".*", r"^(?!rights\.ledger).*$");
    let check = site
        .command("check", "v2.toml", &["--connect"])
        .output()
        .expect("it runs");
    assert!(check.status.success(), "{}", said(&check));
    assert!(
        said(&check).contains("may not read the ledger"),
        "{}",
        said(&check)
    );
    let prune = site
        .command("prune", "v2.toml", &["--yes"])
        .output()
        .expect("it runs");
    assert_eq!(prune.status.code(), Some(1), "{}", said(&prune));
    assert!(said(&prune).contains("rights.ledger"), "{}", said(&prune));
    assert!(!said(&prune).contains("hunter2"), "{}", said(&prune));
    let log = site.run("v2.toml", &[]);
    assert!(
        log.contains("declarations were not recorded in the ledger"),
        "{log}"
    );
    // With all rights it is done.
    allow(".*", ".*", ".*");
    let removed = site.prune("v2.toml", &["--yes"]);
    assert!(
        removed.values().all(|(fate, _)| fate == "removed"),
        "{removed:?}"
    );
    assert_eq!(site.check("v2.toml"), Left::new());
}

#[test]
fn a_transport_that_keeps_nothing_has_nothing_left_over() {
    let site = Site {
        url: "memory:".into(),
        folder: tempfile::tempdir().expect("a folder can be made"),
    };
    site.write("app.toml", &manifest("memory", r#""numbers""#, ""));
    assert_eq!(site.prune("app.toml", &["--yes"]), Left::new());
    let text = site
        .command("prune", "app.toml", &[])
        .output()
        .expect("it runs");
    assert!(
        said(&text).contains("leaves nothing over"),
        "{}",
        said(&text)
    );
}

#[test]
fn a_binding_to_an_exchange_of_somebody_else_is_left_over_when_nothing_is_fed_from_there() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let fed = "[topics.\"extra\"]\nexternal = \"in\"\n\
               from = { exchange = \"amq.topic\", key = \"their.#\" }\n";
    let reads = manifest("feeds", r#"["numbers", "extra"]"#, "");
    let own = "[topics.\"extra\"]\nexternal = \"both\"";
    assert!(reads.contains(own));
    site.write("v1.toml", &reads.replace(own, fed));
    site.write("v2.toml", &reads);
    site.run("v1.toml", &[]);
    assert_eq!(site.check("v1.toml"), Left::new());
    let what = "binding of their.# from exchange amq.topic to queue feeds.keep.in";
    assert_eq!(fates(&site.check("v2.toml")), [(what, "removable")]);
    assert!(has(broker, "feeds", "amq.topic\ttheir.#"));
    assert_eq!(
        fates(&site.prune("v2.toml", &["--yes"])),
        [(what, "removed")]
    );
    assert!(!has(broker, "feeds", "amq.topic"));
    assert_eq!(site.check("v2.toml"), Left::new());
}

#[test]
fn a_changed_key_leaves_its_old_binding_over_and_an_exchange_that_is_gone_is_no_obstacle() {
    let broker = Broker::shared();
    let site = Site::new(broker);
    let hand = Hand::on(broker);
    let exchange = |name: &'static str, delete: bool| {
        hand.runtime.block_on(async {
            let channel = hand.connection.create_channel().await.expect("a channel");
            let done = match delete {
                false => {
                    let (kind, options) = (lapin::ExchangeKind::Topic, Default::default());
                    let none = FieldTable::default();
                    channel
                        .exchange_declare(name.into(), kind, options, none)
                        .await
                }
                true => {
                    channel
                        .exchange_delete(name.into(), Default::default())
                        .await
                }
            };
            done.expect("the broker does it");
            channel.close(200, "done".into()).await.expect("it closes");
        });
    };
    exchange("legacy.one", false);
    exchange("legacy.two", false);
    let reads = manifest("rekeyed", r#"["numbers", "extra"]"#, "");
    let own = "[topics.\"extra\"]\nexternal = \"both\"";
    let fed = |from: &str, key: &str| {
        let fed = format!(
            "[topics.\"extra\"]\nexternal = \"in\"\n\
             from = {{ exchange = \"{from}\", key = \"{key}\" }}\n"
        );
        reads.replace(own, &fed)
    };
    site.write("v1.toml", &fed("legacy.one", "order.*"));
    site.write("v2.toml", &fed("legacy.one", "order.new"));
    site.write("v3.toml", &fed("legacy.two", "#"));
    site.run("v1.toml", &[]);
    site.run("v2.toml", &[]);
    let first = "binding of order.* from exchange legacy.one to queue rekeyed.keep.in";
    assert_eq!(fates(&site.check("v2.toml")), [(first, "removable")]);
    assert_eq!(
        fates(&site.prune("v2.toml", &["--yes"])),
        [(first, "removed")]
    );
    assert!(!has(broker, "rekeyed", "legacy.one\torder.*"));
    assert!(has(broker, "rekeyed", "legacy.one\torder.new"));
    // What is written down is all that is left of the second.
    site.run("v3.toml", &[]);
    exchange("legacy.one", true);
    let second = "binding of order.new from exchange legacy.one to queue rekeyed.keep.in";
    assert_eq!(
        fates(&site.prune("v3.toml", &["--yes"])),
        [(second, "removed")]
    );
    assert_eq!(site.check("v3.toml"), Left::new());
    assert!(has(broker, "rekeyed", "legacy.two\t#"));
    exchange("legacy.two", true);
}
