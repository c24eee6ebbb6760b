//! The command `check --connect`: its report on a broker before an app runs there. The check
//! changes nothing.

use std::process::{Command, Output};

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use tempfile::TempDir;

/// Writes an app with two services that have queues.
fn app(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
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
        [services.keep]
        use = "file-out"
        in = "through"
        config.path = "out.jsonl"
        "#
    );
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    std::fs::write(folder.path().join("lines.jsonl"), "{}\n").expect("it can be written");
    folder
}

fn check(folder: &TempDir, url: &str, json: bool) -> Output {
    let mut command = Command::new(brickwork());
    command
        .args(["check", "app.toml", "--connect", "--transport", url])
        .args(json.then_some("--json"))
        .current_dir(folder.path());
    command.output().expect("it runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Lists the broker's resources, on a shared broker those of one app: tests that run beside have
/// others. Without message counts, which RabbitMQ updates late.
fn things(broker: &Broker, app: Option<&str>) -> Vec<String> {
    let lists = [
        &["list_queues", "name"][..],
        &["list_exchanges"],
        &["list_bindings"],
    ];
    let listed = lists.map(|list| broker.ctl(list));
    let lines = listed.iter().flat_map(|list| list.lines());
    lines
        .filter(|line| app.is_none_or(|app| line.split(['\t', '.']).any(|name| name == app)))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_fresh_broker_is_described_and_stays_unchanged() {
    let broker = Broker::shared();
    let folder = app("fresh");
    let before = things(broker, Some("fresh"));
    let output = check(&folder, &broker.url(), true);
    assert!(output.status.success(), "{}", said(&output));
    let value = json(&output);
    let transport = &value["transport"];
    assert_eq!(transport["product"], "RabbitMQ");
    let version = transport["version"].as_str().expect("a text");
    assert_eq!(version, broker.ctl(&["version"]).trim());
    let notes = transport["notes"].to_string();
    assert!(notes.contains("delivery limit"), "{notes}");
    assert!(notes.contains("AMQP can't list queues"), "{notes}");
    let missing = serde_json::json!([
        "exchange fresh",
        "queue fresh.weather.dlq",
        "queue fresh.weather.suspect",
        "queue fresh.keep.dlq",
        "queue fresh.keep.suspect",
        "queue fresh.weather.in",
        "queue fresh.keep.in",
        "queue fresh.lines.lease",
        "queue fresh.unroutable",
        "queue fresh.due"
    ]);
    assert_eq!(transport["missing"], missing);
    assert_eq!(transport["there"], serde_json::json!([]));
    assert_eq!(transport["problems"], serde_json::json!([]));
    assert_eq!(things(broker, Some("fresh")), before);

    // After a run, every resource exists.
    let mut run = Command::new(brickwork());
    run.args([
        "run",
        "app.toml",
        "--until-idle",
        "--transport",
        &broker.url(),
    ])
    .current_dir(folder.path());
    assert!(run.output().expect("it runs").status.success());
    let output = check(&folder, &broker.url(), false);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("10 queues and exchanges are there"), "{text}");
    assert!(!text.contains("not there yet"), "{text}");
    assert!(text.contains(&format!("RabbitMQ {version}")), "{text}");
    assert!(!text.contains("guest@"), "{text}");
}

#[tokio::test]
async fn a_queue_with_another_declaration_is_named_with_the_difference() {
    let broker = Broker::shared();
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&broker.url(), properties).await;
    let connection = connection.expect("it connects");
    let channel = connection.create_channel().await.expect("a channel");
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(3));
    for (name, arguments) in [
        ("other.weather.dlq", arguments),
        ("other.weather.in", FieldTable::default()),
    ] {
        let declared = channel.queue_declare(name.into(), options, arguments).await;
        declared.expect("it declares");
    }
    let folder = app("other");
    let before = things(broker, Some("other"));
    let output = check(&folder, &broker.url(), true);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let value = json(&output);
    let problems = value["transport"]["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 2, "{problems:?}");
    for (problem, what, argument, theirs, ours) in [
        (
            &problems[0],
            "queue other.weather.dlq",
            "x-delivery-limit",
            "3",
            "1000000",
        ),
        (
            &problems[1],
            "queue other.weather.in",
            "x-",
            "none",
            "the value",
        ),
    ] {
        assert_eq!(problem["what"], what);
        let has = |field: &str, part: &str| {
            let text = problem[field].as_str().unwrap_or_default();
            assert!(text.contains(part), "{field}: {problem}");
        };
        has("why", argument);
        has("theirs", theirs);
        has("ours", ours);
        has("help", "delete it");
    }
    assert_eq!(things(broker, Some("other")), before);
    let text = said(&check(&folder, &broker.url(), false));
    assert!(text.contains("2 problems"), "{text}");
}

#[test]
fn missing_permissions_are_named_one_by_one() {
    let broker = Broker::start();
    let folder = app("rights");
    let address = format!("127.0.0.1:{}", broker.port());
    broker.ctl(&["add_user", "visitor", "hunter2"]);
    let url = format!("amqp://visitor:hunter2@{address}");
    // Not even the virtual host exists.
    let output = check(&folder, &url, false);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("can't connect to amqp://visitor:"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");

    let lacks = |rights: [&str; 3]| -> Vec<(String, String)> {
        let [configure, write, read] = rights;
        broker.ctl(&["set_permissions", "visitor", configure, write, read]);
        let value = json(&check(&folder, &url, true));
        let problems = value["transport"]["problems"].as_array().cloned();
        let mut lacks: Vec<_> = problems
            .unwrap_or_else(|| panic!("{value}"))
            .iter()
            .map(|problem| {
                let why = problem["why"].as_str().expect("a text");
                let right = why.split("the right to ").nth(1).expect("a right");
                let right = right.split(' ').next().expect("a word");
                (
                    right.to_owned(),
                    problem["what"].as_str().expect("a text").to_owned(),
                )
            })
            .collect();
        lacks.sort();
        lacks
    };
    let before = things(&broker, None);
    let nothing = lacks(["^$", "^$", "^$"]);
    for right in ["configure", "write", "read"] {
        assert!(nothing.iter().any(|(it, _)| it == right), "{nothing:?}");
    }
    assert_eq!(lacks([".*", ".*", ".*"]), []);
    let one = |right: &str, what: &str| vec![(right.to_owned(), what.to_owned())];
    let but = |name: &str| format!("^(?!{name}$).*$");
    for (rights, expected) in [
        (
            [&*but(r"rights\.keep\.in"), ".*", ".*"],
            one("configure", "queue rights.keep.in"),
        ),
        (
            [&but("rights"), ".*", ".*"],
            one("configure", "exchange rights"),
        ),
        (
            [".*", &but("rights"), ".*"],
            one("write", "exchange rights"),
        ),
        (
            [".*", &but(r"amq\.default"), ".*"],
            one("write", "exchange amq.default"),
        ),
        (
            [".*", &but(r"rights\.keep\.in"), ".*"],
            one("write", "queue rights.keep.in"),
        ),
        (
            [".*", ".*", &but(r"rights\.weather\.dlq")],
            one("read", "queue rights.weather.dlq"),
        ),
        ([".*", ".*", &but("rights")], one("read", "exchange rights")),
    ] {
        assert_eq!(lacks(rights), expected, "{rights:?}");
    }
    assert_eq!(things(&broker, None), before);
    // The same report once every resource exists.
    let mut run = Command::new(brickwork());
    run.args([
        "run",
        "app.toml",
        "--until-idle",
        "--transport",
        &broker.url(),
    ])
    .current_dir(folder.path());
    assert!(run.output().expect("it runs").status.success());
    let before = things(&broker, None);
    assert_eq!(lacks([".*", ".*", ".*"]), []);
    for (rights, expected) in [
        (
            [&*but(r"rights\.keep\.in"), ".*", ".*"],
            one("configure", "queue rights.keep.in"),
        ),
        (
            [".*", &but("rights"), ".*"],
            one("write", "exchange rights"),
        ),
        (
            [".*", ".*", &but(r"rights\.keep\.in")],
            one("read", "queue rights.keep.in"),
        ),
    ] {
        assert_eq!(lacks(rights), expected, "{rights:?}");
    }
    assert_eq!(things(&broker, None), before);
}

#[test]
fn a_policys_delivery_limit_is_reported() {
    let broker = Broker::shared();
    let folder = app("limited");
    let notes = || json(&check(&folder, &broker.url(), true))["transport"]["notes"].to_string();
    let before = things(broker, Some("limited"));
    assert!(!notes().contains("a policy sets"), "{}", notes());
    assert!(
        notes().contains("AMQP doesn't show policies"),
        "{}",
        notes()
    );
    for limit in [0, 5] {
        let policy = format!(r#"{{"delivery-limit":{limit}}}"#);
        broker.ctl(&["set_policy", "limited", r"^limited\.", &policy]);
        let said = format!("a policy sets a delivery limit of {limit} ");
        assert!(notes().contains(&said), "{}", notes());
    }
    assert_eq!(things(broker, Some("limited")), before);
}

#[test]
fn a_refused_user_learns_why_without_the_password() {
    let broker = Broker::shared();
    let folder = app("no-entry");
    let port = broker.port();
    for (url, part) in [
        (format!("amqp://guest:hunter2@127.0.0.1:{port}"), "refused"),
        (
            format!("amqp://guest:guest@127.0.0.1:{port}/nowhere"),
            "vhost",
        ),
        ("amqp://guest:hunter2@127.0.0.1:1".into(), "refused"),
    ] {
        for json in [false, true] {
            let output = check(&folder, &url, json);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.to_lowercase().contains(part), "{text}");
            assert!(text.contains("can't connect to amqp://"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    let output = check(&folder, "memory:", false);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("nothing to inspect"),
        "{}",
        said(&output)
    );
}
