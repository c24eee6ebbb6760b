//! Topics fed by an external queue or exchange. The app reads it, never declares, changes or
//! removes it, and names it in every problem.

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::polyglot::{PATIENCE, Stranger};
use brickwork_tests::process::{Process, free_address, until};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, Output};
use tempfile::TempDir;

mod missing;

/// An app in a folder of its own.
struct App {
    folder: TempDir,
    url: String,
}

impl App {
    /// Creates an app in which `weather` reads `orders`, fed by `from`, fails as `fault` says,
    /// and `keep` writes the results.
    fn new(broker: &Broker, name: &str, from: &str, fault: &str) -> Self {
        Self::of(
            broker.url(),
            &format!(
                r#"
                [app]
                name = "{name}"
                log.level = "error"
                [admin]
                listen = "off"
                [services.weather]
                use = "chaos"
                in = "orders"
                out = "through"
                mailbox = 4
                breaker = "off"
                retry = {{ attempts = 20, backoff = {{ min = "100ms", max = "200ms" }} }}
                config = {{ {fault} }}
                [services.keep]
                use = "map"
                in = "through"
                out = "kept"
                config.to = {{ n = "msg.n" }}
                [services.file]
                use = "file-out"
                in = "kept"
                config.path = "out.jsonl"
                [topics.orders]
                external = "in"
                from = {from}
                "#
            ),
        )
    }

    fn of(url: String, manifest: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("app.toml");
        std::fs::write(file, manifest).expect("it can be written");
        Self { folder, url }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(brickwork());
        command
            .args(arguments)
            .args(["--transport", &self.url])
            .current_dir(self.folder.path());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    fn runs_until_idle(&self) {
        let output = self.output(&["run", "app.toml", "--until-idle"]);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Returns the written lines with their counts.
    fn kept(&self) -> BTreeMap<String, u32> {
        let text = std::fs::read_to_string(self.folder.path().join("out.jsonl"));
        let mut kept = BTreeMap::new();
        for line in text.unwrap_or_default().lines() {
            *kept.entry(line.to_owned()).or_default() += 1;
        }
        kept
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.output(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Returns a list of `rabbitmqctl` without this app's resources.
fn of_others(broker: &Broker, list: &[&str], app: &str) -> Vec<String> {
    let rows = broker.ctl(list);
    let rows = rows.lines().filter(|row| !row.contains(app));
    rows.map(str::to_owned).collect()
}

fn messages(broker: &Broker, queue: &str) -> String {
    let rows = broker.ctl(&["list_queues", "name", "messages"]);
    let row = rows.lines().find_map(|row| row.strip_prefix(queue));
    row.unwrap_or_else(|| panic!("no {queue} in {rows}"))
        .trim()
        .to_owned()
}

async fn fill(stranger: &Stranger, exchange: &str, key: &str, count: usize) {
    for n in 0..count {
        let id = format!("{key}-{n}");
        let properties = BasicProperties::default()
            .with_message_id(id.as_str().into())
            .with_delivery_mode(2);
        let payload = json!({ "n": n }).to_string();
        stranger
            .publish(exchange, key, payload.as_bytes(), properties)
            .await;
    }
}

#[tokio::test]
async fn an_external_queue_is_read_and_nothing_is_published_to_it() {
    let broker = Broker::start();
    let stranger = Stranger::connect_to(&broker.url()).await;
    // The queue is bounded and transient: a message requeued too late would be lost.
    let mut arguments = FieldTable::default();
    for (name, value) in [("x-max-length", 300), ("x-message-ttl", 600_000)] {
        arguments.insert(name.into(), AMQPValue::LongInt(value));
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let queue = "legacy.orders";
    let declared = stranger
        .channel
        .queue_declare(queue.into(), options, arguments);
    declared.await.expect("it declares");
    fill(&stranger, "", queue, 300).await;
    until("all are there", PATIENCE, || {
        match &*messages(&broker, queue) {
            "300" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let lists: [&[&str]; 3] = [
        &["list_queues", "name", "durable", "arguments", "policy"],
        &["list_exchanges", "name", "type"],
        &["list_bindings", "source_name", "destination_name"],
    ];
    let before = lists.map(|list| of_others(&broker, list, "reader"));

    // All messages fail and are delayed for a long time; the test checks where.
    let from = r#"{ queue = "legacy.orders" }"#;
    let app = App::new(&broker, "reader", from, "fail = 1.0");
    let over = app.folder.path().join("slow.toml");
    let slow = r#"services.weather.retry.backoff = { min = "1h", max = "1h", jitter = 0.0 }"#;
    std::fs::write(&over, slow).expect("it can be written");
    let running = Process::start(
        app.command(&["run", "app.toml", "--with", "slow.toml"]),
        app.folder.path(),
        "it is built",
    );
    // An hour needs two delay queues: their delays double.
    let ladder = "reader.wait.6553600";
    until("all wait on the app's ladder", PATIENCE, || {
        let rows = broker.ctl(&["list_queues", "name", "messages"]);
        let waiting = rows
            .lines()
            .any(|row| row.split_whitespace().eq([ladder, "300"]));
        waiting.then_some(()).ok_or(rows)
    });
    assert_eq!(messages(&broker, queue), "0");
    running.stop();
    broker.ctl(&["purge_queue", ladder]);

    // The messages come again, fail sometimes, and are written once each.
    fill(&stranger, "", queue, 300).await;
    let app = App::new(&broker, "reader", from, "fail = 0.3, panic = 0.1");
    app.runs_until_idle();
    let kept = app.kept();
    assert_eq!(kept.len(), 300);
    assert!(kept.values().all(|times| *times == 1), "{kept:?}");
    assert_eq!(messages(&broker, queue), "0");
    let after = lists.map(|list| of_others(&broker, list, "reader"));
    assert_eq!(before, after);
}

#[tokio::test]
async fn dead_letters_from_an_external_queue_belong_to_the_app_and_are_replayed_to_it() {
    let broker = Broker::shared();
    let stranger = Stranger::connect().await;
    for kind in ["classic", "quorum"] {
        let (name, queue) = (format!("giver-{kind}"), format!("given.{kind}"));
        stranger.queue(&queue, kind).await;
        fill(&stranger, "", &queue, 10).await;
        let from = format!(r#"{{ queue = "{queue}" }}"#);
        let app = App::new(broker, &name, &from, "fail = 1.0");
        let over = app.folder.path().join("few.toml");
        std::fs::write(&over, "services.weather.retry.attempts = 2").expect("it can be written");
        let output = app.output(&["run", "app.toml", "--with", "few.toml", "--until-idle"]);
        assert!(output.status.success(), "{}", said(&output));
        let shown = app.json(&["dlq", "show", "app.toml", "--service", "weather", "--json"]);
        let letters = shown["letters"].as_array().expect("a list");
        assert_eq!(letters.len(), 10, "{shown}");
        let ids: Vec<String> = (0..10).map(|n| format!("{queue}-{n}")).collect();
        for letter in letters {
            // The dead letter has the app's topic, whatever its routing key was.
            assert_eq!(letter["topic"], "orders", "{letter}");
            assert_eq!(letter["attempts"], 2, "{letter}");
            let id = letter["id"].as_str().expect("a text");
            assert!(ids.iter().any(|known| known == id), "{letter}");
        }
        let replayed = app.output(&["dlq", "replay", "app.toml", "--service", "weather", "--all"]);
        assert!(replayed.status.success(), "{}", said(&replayed));
        assert_eq!(messages(broker, &queue), "0");
        let healed = App::new(broker, &name, &from, "fail = 0.0");
        healed.runs_until_idle();
        assert_eq!(healed.kept().len(), 10);
    }
}

#[tokio::test]
async fn prefetch_from_an_external_queue_is_bounded_by_the_service() {
    let broker = Broker::shared();
    let stranger = Stranger::connect().await;
    stranger.queue("much.orders", "classic").await;
    fill(&stranger, "", "much.orders", 100).await;
    let from = r#"{ queue = "much.orders" }"#;
    let app = App::new(broker, "patient", from, r#"stall = 1.0, for = "1h""#);
    let running = Process::start(
        app.command(&["run", "app.toml"]),
        app.folder.path(),
        "it is built",
    );
    let held = || {
        let rows = broker.ctl(&["list_queues", "name", "messages_unacknowledged"]);
        let row = rows.lines().find_map(|row| row.strip_prefix("much.orders"));
        row.expect("it is there").trim().to_owned()
    };
    // A mailbox of 4, one message in the handler, and one reserved for redelivery.
    until("as much as may be is fetched", PATIENCE, || {
        match &*held() {
            "4" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    assert_eq!(held(), "4");
    running.stop();
}

#[tokio::test]
async fn an_external_exchange_feeds_topics_by_routing_key() {
    let broker = Broker::shared();
    let stranger = Stranger::connect().await;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    for (name, kind) in [
        ("Legacy.Events", ExchangeKind::Topic),
        ("legacy fanout", ExchangeKind::Fanout),
    ] {
        let arguments = FieldTable::default();
        let declared = stranger
            .channel
            .exchange_declare(name.into(), kind, options, arguments);
        declared.await.expect("it declares");
    }
    let app = App::of(
        broker.url(),
        r#"
        [app]
        name = "bound"
        log.level = "error"
        [admin]
        listen = "off"
        [services.weather]
        use = "map"
        in = ["orders.created", "orders.gone", "alarms", "by-hand"]
        out = "kept"
        config.to = { topic = "meta.topic", n = "msg.n" }
        [services.file]
        use = "file-out"
        in = "kept"
        config.path = "out.jsonl"
        [topics]
        "orders.created" = { external = "in", from = { exchange = "Legacy.Events", key = "Order.New.#" } }
        "orders.gone" = { external = "in", from = { exchange = "Legacy.Events", key = "Order.Gone" } }
        alarms = { external = "in", from = { exchange = "legacy fanout", key = "" } }
        by-hand.external = "in"
        "#,
    );
    // Declares its queue and binds it.
    app.runs_until_idle();
    for (exchange, key) in [
        ("Legacy.Events", "Order.New.eu"),
        ("Legacy.Events", "Order.New"),
        ("Legacy.Events", "Order.Gone"),
        ("Legacy.Events", "Order.Changed"),
        ("legacy fanout", "whatever"),
        ("bound", "by-hand"),
    ] {
        fill(&stranger, exchange, key, 2).await;
    }
    app.runs_until_idle();
    let mut expected = BTreeMap::new();
    for (topic, times) in [
        ("orders.created", 2),
        ("orders.gone", 1),
        ("alarms", 1),
        ("by-hand", 1),
    ] {
        for n in 0..2 {
            expected.insert(json!({ "topic": topic, "n": n }).to_string(), times);
        }
    }
    assert_eq!(app.kept(), expected);
}

#[tokio::test]
async fn several_processes_share_an_external_queue_and_each_message_is_handled_once() {
    let broker = Broker::shared();
    let stranger = Stranger::connect().await;
    stranger.queue("shared.orders", "classic").await;
    let from = r#"{ queue = "shared.orders" }"#;
    let apps = [(); 2].map(|()| App::new(broker, "sharers", from, "fail = 0.2"));
    let _running = apps.each_ref().map(|app| {
        let command = app.command(&["run", "app.toml"]);
        Process::start(command, app.folder.path(), "it is built")
    });
    until("both consume", PATIENCE, || {
        let rows = broker.ctl(&["list_queues", "name", "consumers"]);
        let row = rows
            .lines()
            .find_map(|row| row.strip_prefix("shared.orders"));
        match row.map(str::trim) {
            Some("2") => Ok(()),
            _ => Err(rows),
        }
    });
    fill(&stranger, "", "shared.orders", 200).await;
    until("all are kept", PATIENCE, || {
        let kept: Vec<usize> = apps.iter().map(|app| app.kept().len()).collect();
        match kept[0] > 0 && kept[1] > 0 && kept[0] + kept[1] == 200 {
            true => Ok(()),
            false => Err(format!("{kept:?}")),
        }
    });
}
