//! The `dlq` commands over a broker: listing changes nothing, a replayed message is handled, and
//! no letter is lost.

use brickwork::dead_letters::REPLAYS;
use brickwork::transport::{Backpressure, Overflow, QueueSpec, Topology, Transport, take};
use brickwork::{DeadLetter, Envelope, Message, QueueId, Reason};
use brickwork_bridges::all;
use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::process::{Process, until};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::timeout;

mod of_the_broker;
mod policies;
mod replay;

const PATIENCE: Duration = Duration::from_secs(60);

/// An app with a source, a service that fails at every line, and a sink. An overlay heals the
/// service.
struct Shop {
    folder: TempDir,
    name: &'static str,
    url: String,
}

impl Shop {
    fn new(name: &'static str, lines: usize, fault: &str) -> Self {
        Self::on(Broker::shared(), name, lines, fault)
    }

    fn on(broker: &Broker, name: &'static str, lines: usize, fault: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let transport = broker.url();
        let manifest = format!(
            r#"
            [app]
            name = "{name}"
            transport = "{transport}"
            log.level = "error"
            [admin]
            listen = "off"
            [services.lines]
            use = "file-in"
            out = "lines"
            config.path = "lines.jsonl"
            [services.weather]
            use = "chaos"
            in = "lines"
            out = "through"
            instances = 8
            mailbox = 256
            config = {{ {fault} = 1.0 }}
            retry.attempts = 1
            breaker = "off"
            [services.keep]
            use = "file-out"
            in = "through"
            config.path = "out.jsonl"
            "#
        );
        let healed = "[services.weather.config]\nfail = 0.0\npanic = 0.0\n";
        let text: String = (0..lines).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        for (file, text) in [
            ("app.toml", &*manifest),
            ("healed.toml", healed),
            ("lines.jsonl", &text),
        ] {
            std::fs::write(folder.path().join(file), text).expect("it can be written");
        }
        Self {
            folder,
            name,
            url: transport,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(brickwork());
        command.args(arguments).current_dir(self.path());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// Runs the app until it is idle, optionally with an overlay.
    fn run(&self, more: &[&str]) {
        let output = self.output(&[&["run", "app.toml", "--until-idle"], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Runs a `dlq` command that must succeed, and returns its JSON.
    fn dlq(&self, arguments: &[&str]) -> Value {
        let (code, value) = self.dlq_code(arguments);
        assert_eq!(code, 0, "{value}");
        value
    }

    fn dlq_code(&self, arguments: &[&str]) -> (i32, Value) {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let output = self.output(&[&["dlq", verb, "app.toml", "--json"], rest].concat());
        let code = output.status.code().expect("it ends by itself");
        let json = serde_json::from_slice(&output.stdout);
        (code, json.unwrap_or_else(|_| text(&output.stderr).into()))
    }

    fn letters(&self) -> u64 {
        let listed = self.dlq(&["list", "--service", "weather"]);
        let census = &listed["services"][0];
        assert_eq!(census["complete"], true, "{listed}");
        assert_eq!(census["read"], census["letters"], "{listed}");
        census["letters"].as_u64().expect("a number")
    }

    /// Counts how often each line came through, by number.
    fn through(&self) -> HashMap<u64, u32> {
        let out = std::fs::read_to_string(self.path().join("out.jsonl")).unwrap_or_default();
        let mut counts = HashMap::new();
        for line in out.lines() {
            let line: Value = serde_json::from_str(line).expect("whole lines only");
            *counts
                .entry(line["n"].as_u64().expect("a number"))
                .or_default() += 1;
        }
        counts
    }

    /// Connects the test to the queues.
    async fn transport(&self) -> Arc<dyn Transport> {
        let transports = all();
        let connector = transports.for_url(&self.url).expect("amqp: is there");
        let connecting = connector.connect(&self.url, Arc::<Backpressure>::default());
        let transport = timeout(PATIENCE, connecting).await.expect("in time");
        let transport = transport.expect("it connects");
        let topology = Topology {
            app: self.name.into(),
            queues: vec![QueueSpec {
                id: input(),
                topics: vec!["lines".into()],
                high_water: 1_000_000,
                limit: None,
                overflow: Overflow::DeadLetter,
                feeds: Vec::new(),
                single_active: false,
                keyed: None,
            }],
            ..Topology::default()
        };
        let attached = transport.attach(&topology).await;
        attached.expect("it knows the queues");
        transport
    }
}

fn input() -> QueueId {
    QueueId::new("weather", "in")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns all messages of a queue in order, and leaves them there.
async fn peek(transport: &dyn Transport, queue: &QueueId) -> Vec<Message> {
    let depth = transport.depth(queue).await.expect("there is a queue");
    let mut consumer = transport.consume(queue, 10_000).await.expect("it consumes");
    let mut taken = VecDeque::new();
    while (taken.len() as u64) < depth.ready {
        let took = timeout(PATIENCE, take(&mut *consumer, &mut taken, 10_000)).await;
        took.expect("they come").expect("it goes on");
    }
    consumer.stop();
    let messages = taken.iter().map(|it| it.message().clone()).collect();
    taken
        .into_iter()
        .for_each(|delivery| delivery.nack_requeue());
    transport.flush().await.expect("they go back");
    messages
}

#[tokio::test]
async fn listing_shows_all_letters_and_changes_nothing() {
    let shop = Shop::new("dlq-look", 40, "fail");
    let missing = shop.dlq(&["list"]);
    assert_eq!(
        missing["without_queue"],
        serde_json::json!(["weather", "keep"])
    );
    shop.run(&[]);
    let transport = shop.transport().await;
    let letters = QueueId::dead_letters("weather");
    let before: Vec<String> = ids(&peek(&*transport, &letters).await);
    assert_eq!(before.len(), 40);

    for _ in 0..3 {
        let listed = shop.dlq(&["list"]);
        assert_eq!(listed["without_queue"], serde_json::json!([]));
        let services = listed["services"].as_array().expect("a list");
        assert_eq!(services.len(), 2, "{listed}");
        let weather = services.iter().find(|it| it["service"] == "weather");
        let weather = weather.expect("it is there");
        assert_eq!(weather["letters"], 40);
        let reasons = serde_json::json!([{ "reason": "error", "letters": 40 }]);
        assert_eq!(weather["reasons"], reasons);
        let times = ["first_failed_at", "last_failed_at"].map(|name| weather[name].as_str());
        assert!(times[0].is_some() && times[0] <= times[1], "{weather}");

        let shown = shop.dlq(&["show", "--limit", "3"]);
        assert_eq!(shown["letters"].as_array().map(Vec::len), Some(3));
        assert_eq!(shown["more"], serde_json::json!(["weather"]));
        let one = shop.dlq(&["show", "--id", &before[20]]);
        let one = &one["letters"][0];
        assert_eq!(one["id"], before[20]);
        assert_eq!(one["payload"], serde_json::json!({ "n": 20 }));
        for (field, value) in [
            ("service", "weather"),
            ("input", "in"),
            ("reason", "error"),
            ("error", "chaos: failed on purpose"),
            ("topic", "lines"),
        ] {
            assert_eq!(one[field], value, "{field}");
        }
        assert_eq!((&one["attempts"], &one["replays"]), (&1.into(), &0.into()));
        assert_eq!(one["trace_id"].as_str().map(str::len), Some(32));
    }
    // A reached limit is reported together with the letters that were read.
    let some = shop.dlq(&["list", "--service", "weather", "--scan", "7"]);
    let some = &some["services"][0];
    assert_eq!((&some["letters"], &some["read"]), (&40.into(), &7.into()));
    assert_eq!(some["complete"], false);
    let dry = ["--service", "weather", "--all", "--dry-run"];
    for verb in ["replay", "discard"] {
        let outcome = shop.dlq(&[&[verb], &dry[..]].concat());
        assert_eq!(outcome["removed"], 40);
        assert_eq!(outcome["ids"].as_array().map(Vec::len), Some(40));
    }
    let after = ids(&peek(&*transport, &letters).await);
    assert_eq!(sorted(&after), sorted(&before));
    assert_eq!(peek(&*transport, &input()).await.len(), 0);
    transport.close().await;
}

fn ids(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|it| it.id.to_string()).collect()
}

fn sorted(ids: &[String]) -> BTreeSet<&String> {
    ids.iter().collect()
}

#[test]
fn the_text_output_shows_the_same_as_the_json_output() {
    let shop = Shop::new("dlq-people", 2, "panic");
    shop.run(&[]);
    let listed = shop.output(&["dlq", "list", "app.toml"]);
    let listed = text(&listed.stdout);
    assert!(listed.contains("weather         2"), "{listed}");
    assert!(listed.contains("panic 2"), "{listed}");
    let shown = shop.output(&["dlq", "show", "app.toml", "--service", "weather"]);
    let shown = text(&shown.stdout);
    for part in [
        "given up by  weather.in",
        "reason       panic",
        "error        panicked: chaos: panicked on purpose",
        "attempts     1",
        "replays      0",
        "{\"n\":1}",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let replayed = ["dlq", "replay", "app.toml", "--service", "weather", "--all"];
    let replayed = text(&shop.output(&replayed).stdout);
    assert_eq!(replayed, "weather: 2 of 2 letters replayed\n");
}

#[test]
fn only_selected_letters_are_discarded() {
    let shop = Shop::new("dlq-discard", 10, "fail");
    shop.run(&[]);
    let weather = ["--service", "weather"];
    let discard = |more: &[&str]| shop.dlq_code(&[&["discard"], &weather[..], more].concat());
    let shown = shop.dlq(&["show"]);
    let id = shown["letters"][4]["id"].as_str().expect("a text");
    assert_eq!(discard(&[]).0, 2, "without a selection nothing goes");
    assert_eq!(discard(&["--all", "--reason", "error"]).0, 2);
    assert_eq!(discard(&["--reason", "bad-luck"]).0, 2);
    assert_eq!(discard(&["--id", "nobody"]).0, 1);
    assert_eq!(shop.letters(), 10);
    let (code, outcome) = discard(&["--id", id]);
    assert_eq!((code, &outcome["removed"]), (0, &1.into()), "{outcome}");
    assert_eq!(shop.letters(), 9);
    assert_eq!(shop.dlq_code(&["show", "--id", id]).0, 1);
    let (code, outcome) = discard(&["--all"]);
    assert_eq!((code, &outcome["removed"]), (0, &9.into()));
    assert_eq!(shop.letters(), 0);
}

#[test]
fn contradictory_arguments_are_refused_before_connecting() {
    let shop = Shop::new("dlq-wrong", 1, "fail");
    let says = |arguments: &[&str], expected: i32, part: &str| {
        let output = shop.output(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{said}");
        assert!(said.contains(part), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    };
    let list = ["dlq", "list", "app.toml", "--service"];
    says(
        &[&list[..], &["wether"]].concat(),
        2,
        "did you mean `weather`?",
    );
    says(&[&list[..], &["lines"]].concat(), 2, "has no inputs");
    let memory = ["dlq", "list", "app.toml", "--transport", "memory:"];
    says(&memory, 1, "no app is running");
    let gone = [
        "dlq",
        "list",
        "app.toml",
        "--transport",
        "amqp://u:hunter2@127.0.0.1:1",
    ];
    says(&gone, 1, "can't connect to amqp://");
    let replay = ["dlq", "replay", "app.toml", "--service", "weather", "--all"];
    says(&replay, 1, "has the app run there?");
    says(
        &[&replay[..], &["--rate", "0"]].concat(),
        2,
        "not a positive number",
    );
}
