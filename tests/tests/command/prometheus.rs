//! A real Prometheus scrapes a real app, finds every metric with its type and bounded labels, and
//! evaluates the alert rules of the examples.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;

const INSTALL: &str = "apt-get install prometheus";
const LONG: Duration = Duration::from_secs(60);

const MANIFEST: &str = r#"
[app]
name = "watched"
transport = "memory:"

[admin]
listen = "ADMIN"

[services.intake]
use = "file-in"
out = "numbers"
config.path = "numbers.jsonl"

[services.big]
use = "filter"
in = "numbers"
out = "numbers.big"
instances = 2
config.when = "msg.n > 2"

[services.keep]
use = "file-out"
in = "numbers.big"
store = true
config.path = "big.jsonl"

[groups.numbers]
services = ["big", "keep"]
"#;

const SERVICES: &[&str] = &["intake", "big", "keep"];
const NUMBERS: u32 = 5;

/// Every metric on `memory:`, with its type and its labels.
const METRICS: &[(&str, &str, &[&str])] = &[
    (
        "messages_handled_total",
        "counter",
        &["service", "input", "outcome"],
    ),
    (
        "handle_duration_seconds",
        "histogram",
        &["service", "input"],
    ),
    ("wait_duration_seconds", "histogram", &["service", "input"]),
    ("messages_anonymous_total", "counter", &["service"]),
    ("queue_high_water_messages", "gauge", &["service", "input"]),
    ("outbox_messages", "gauge", &["service"]),
    ("messages_repeated_total", "counter", &["service"]),
    ("messages_emitted_total", "counter", &["service", "output"]),
    ("mailbox_messages", "gauge", &["service"]),
    ("instances", "gauge", &["service"]),
    ("restarts_total", "counter", &["service", "reason"]),
    ("group_restarts_total", "counter", &["group"]),
    ("service_up", "gauge", &["service"]),
    ("breaker_state", "gauge", &["service"]),
    ("keys_held", "gauge", &["service"]),
    ("messages_behind_keys", "gauge", &["service"]),
    ("dead_letters_total", "counter", &["service", "reason"]),
    ("queue_messages", "gauge", &["service", "input"]),
    ("sources_paused", "gauge", &[]),
    ("transport_up", "gauge", &["transport"]),
    ("transport_reconnects_total", "counter", &["transport"]),
    ("settlements_failed_total", "counter", &["transport"]),
    ("delays_overdue", "gauge", &["transport"]),
    ("clock_skew_seconds", "gauge", &["transport"]),
    ("stranded_messages", "gauge", &["transport"]),
    ("asks_total", "counter", &["service", "outcome"]),
    ("requests_expired_total", "counter", &["service", "asker"]),
    ("worker_lag_seconds", "gauge", &["worker"]),
    ("log_lines_dropped_total", "counter", &[]),
    ("events_dropped_total", "counter", &[]),
    ("build_info", "gauge", &["version"]),
];

/// Allowed values of labels; `version` and `worker` are checked by number.
const VALUES: &[(&str, &[&str])] = &[
    ("service", SERVICES),
    ("input", &["in", "dlq"]),
    ("output", &["out"]),
    (
        "outcome",
        &[
            "ok", "retry", "reject", "panic", "timeout", "defer", "expired", "failed",
        ],
    ),
    (
        "reason",
        &[
            "error",
            "reject",
            "panic",
            "timeout",
            "crash",
            "overflow",
            "start",
            "tick",
            "source",
            "bridge",
            "supervisor",
            "process",
            "relay",
            "requested",
        ],
    ),
    ("transport", &["memory"]),
    ("group", &["numbers"]),
    ("asker", &["other"]),
];

#[test]
fn prometheus_scrapes_every_metric_of_a_running_app() {
    let folder = tempfile::tempdir().unwrap();
    let admin = free_address();
    let _app = start_app(folder.path(), admin);
    let scraped = until("the app has handled its file", LONG, || {
        let text = http::get(admin, "/metrics")
            .map_err(|error| error.to_string())?
            .body;
        let series =
            "brickwork_messages_handled_total{service=\"big\",input=\"in\",outcome=\"ok\"} ";
        let done = text
            .lines()
            .any(|line| *line == format!("{series}{NUMBERS}"));
        if done { Ok(text) } else { Err(text) }
    });
    promtool_lints(&scraped);

    let (_prometheus, api) = start_prometheus(folder.path(), admin);
    until("the target is up", LONG, || {
        let targets = query(api, "/api/v1/targets")?;
        let target = &targets["activeTargets"][0];
        let good = target["health"] == "up" && target["lastError"] == "";
        if good {
            Ok(())
        } else {
            Err(targets.to_string())
        }
    });
    assert_types(api);
    assert_labels(api);
    assert_eq!(
        value(
            api,
            "sum(brickwork_messages_handled_total{service=\"big\",outcome=\"ok\"})"
        ),
        Some(f64::from(NUMBERS))
    );
    assert_eq!(value(api, "min(brickwork_service_up)"), Some(1.0));
    assert_rules_are_evaluated(api);
}

#[test]
fn promtool_accepts_the_examples_and_every_alert_fires_when_it_should() {
    let folder = workspace().join("examples/prometheus");
    for arguments in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"],
        &["test", "rules", "alerts_test.yml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(&folder)
            .output()
            .unwrap_or_else(|error| panic!("can't start promtool: {error}; {INSTALL}"));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
}

/// Runs the shipped binary on the manifest and waits until it is ready.
fn start_app(folder: &Path, admin: SocketAddr) -> Process {
    let manifest = folder.join("app.toml");
    std::fs::write(&manifest, MANIFEST.replace("ADMIN", &admin.to_string())).unwrap();
    let numbers: String = (0..NUMBERS).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    std::fs::write(folder.join("numbers.jsonl"), numbers).unwrap();
    let mut command = Command::new(brickwork());
    command.arg("run").arg(&manifest).current_dir(folder);
    let app = Process::start(command, folder, "");
    let expected = format!("http://{admin}/");
    app.line(LONG, |line| line.contains(&expected).then_some(()));
    until("the app is ready", LONG, || {
        let ready = http::get(admin, "/health/ready").map_err(|error| error.to_string())?;
        if ready.code == 200 {
            Ok(())
        } else {
            Err(ready.body)
        }
    });
    app
}

/// Runs Prometheus on the example's configuration, with a shorter interval and this app as
/// target.
fn start_prometheus(folder: &Path, admin: SocketAddr) -> (Process, SocketAddr) {
    let example = workspace().join("examples/prometheus");
    let text = std::fs::read_to_string(example.join("prometheus.yml")).unwrap();
    let rules = example.join("alerts.yml").display().to_string();
    let text = text
        .replace("127.0.0.1:9464", &admin.to_string())
        .replace("15s", "1s")
        .replace("- alerts.yml", &format!("- {rules}"));
    assert!(text.contains(&rules) && text.contains(&admin.to_string()));
    let config = folder.join("prometheus.yml");
    std::fs::write(&config, text).unwrap();
    let api = free_address();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={api}"))
        .current_dir(folder);
    let prometheus = Process::start(command, folder, INSTALL);
    until("Prometheus is ready", LONG, || {
        let ready = http::get(api, "/-/ready").map_err(|error| error.to_string())?;
        if ready.code == 200 {
            Ok(())
        } else {
            Err(ready.body)
        }
    });
    (prometheus, api)
}

/// Returns `data` of an answer of Prometheus's API.
fn query(api: SocketAddr, path: &str) -> Result<Value, String> {
    let response = http::get(api, path).map_err(|error| error.to_string())?;
    let mut json = response.json();
    if json["status"] == "success" {
        Ok(json["data"].take())
    } else {
        Err(json.to_string())
    }
}

fn value(api: SocketAddr, expression: &str) -> Option<f64> {
    let data = query(api, &format!("/api/v1/query?query={}", encoded(expression))).unwrap();
    data["result"][0]["value"][1].as_str()?.parse().ok()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn assert_types(api: SocketAddr) {
    let metadata = query(api, "/api/v1/metadata").unwrap();
    let process = ("process_resident_memory_bytes".to_owned(), "gauge");
    let own = METRICS
        .iter()
        .map(|(name, kind, _)| (format!("brickwork_{name}"), *kind));
    for (name, kind) in own.clone().chain([process]) {
        let known = &metadata[&name][0];
        assert_eq!(known["type"], kind, "{name}: {known}");
        assert!(
            known["help"].as_str().is_some_and(|help| !help.is_empty()),
            "{name}"
        );
    }
    let expected: BTreeSet<String> = own.map(|(name, _)| name).collect();
    let found = metadata.as_object().unwrap().keys();
    let unexpected: Vec<_> = found
        .filter(|name| name.starts_with("brickwork_") && !expected.contains(*name))
        .collect();
    assert!(unexpected.is_empty(), "not in the list: {unexpected:?}");
}

fn assert_labels(api: SocketAddr) {
    let selector = encoded("{__name__=~\"brickwork_.+\"}");
    let series = query(api, &format!("/api/v1/series?match[]={selector}")).unwrap();
    let series: Vec<BTreeMap<String, String>> = serde_json::from_value(series).unwrap();
    let mut seen = BTreeSet::new();
    for labels in &series {
        let (metric, kind, own) = METRICS
            .iter()
            .find(|(name, kind, _)| is_of(&labels["__name__"], name, kind))
            .unwrap_or_else(|| panic!("no such metric: {labels:?}"));
        seen.insert(*metric);
        let mut expected: BTreeSet<&str> = own.iter().copied().collect();
        expected.extend(["__name__", "instance", "job"]);
        if *kind == "histogram" && labels["__name__"].ends_with("_bucket") {
            expected.insert("le");
        }
        let found: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{labels:?}");
        for (label, values) in VALUES {
            if let Some(value) = labels.get(*label) {
                assert!(values.contains(&value.as_str()), "{labels:?}");
            }
        }
    }
    let all: BTreeSet<_> = METRICS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(seen, all);
    let bound = SERVICES.len() * 100;
    assert!(series.len() < bound, "{} series", series.len());
}

/// Whether a series belongs to a metric: a histogram has three kinds of series.
fn is_of(series: &str, metric: &str, kind: &str) -> bool {
    let Some(rest) = series
        .strip_prefix("brickwork_")
        .and_then(|series| series.strip_prefix(metric))
    else {
        return false;
    };
    match kind {
        "histogram" => matches!(rest, "_bucket" | "_sum" | "_count"),
        _ => rest.is_empty(),
    }
}

fn assert_rules_are_evaluated(api: SocketAddr) {
    until(
        "every alert rule has been evaluated without an error",
        LONG,
        || {
            let data = query(api, "/api/v1/rules")?;
            let rules = data["groups"][0]["rules"].as_array();
            let good = |rule: &Value| rule["health"] == "ok" && rule["state"] == "inactive";
            match rules {
                Some(rules) if rules.len() >= 10 && rules.iter().all(good) => Ok(()),
                _ => Err(data.to_string()),
            }
        },
    );
}

fn promtool_lints(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start promtool: {error}; {INSTALL}"));
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(metrics.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
