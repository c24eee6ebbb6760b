//! Apps end to end, through the shipped binary.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the binary to its end, for a minute or two at most.
fn run(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new("timeout");
    command
        .arg("120")
        .arg(brickwork())
        .args(arguments)
        .current_dir(folder);
    command
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the output is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("the log is text")
}

/// Runs a copy of the example to its end, so that runs don't share their files; every
/// alert is there, once, whatever failed on the way.
fn run_alerts(more: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let example = workspace().join("examples/2-github-alerts");
    for file in ["app.toml", "github-webhooks.jsonl"] {
        std::fs::copy(example.join(file), folder.path().join(file)).expect("it can be copied");
    }
    // The admin's port may be taken by another test.
    let overlay = "[admin]\nlisten = \"off\"\n";
    std::fs::write(folder.path().join("test.toml"), overlay).expect("it can be written");
    let arguments = ["run", "app.toml", "--with", "test.toml", "--until-idle"];
    let output = run(&[&arguments, more].concat(), folder.path());
    assert!(output.status.success(), "{}", stderr(&output));
    for file in ["issues.jsonl", "checks.jsonl", "security.jsonl"] {
        let got = sorted_lines(&folder.path().join("out").join(file));
        let expected = sorted_lines(&example.join("expected").join(file));
        assert_eq!(got, expected, "{file}");
    }
    output
}

fn sorted_lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn an_app_that_names_no_transport_keeps_its_messages_and_does_nothing_twice() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let manifest = r#"
        [app]
        name = "small"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.keep]
        use = "file-out"
        in = "lines"
        config.path = "kept.jsonl"
    "#;
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    std::fs::write(folder.path().join("lines.jsonl"), "1\n2\n3\n").expect("it can be written");
    for round in 0..2 {
        let output = run(&["run", "app.toml", "--until-idle"], folder.path());
        assert!(output.status.success(), "{}", stderr(&output));
        let kept = sorted_lines(&folder.path().join("kept.jsonl"));
        assert_eq!(kept, ["1", "2", "3"], "run {round}");
        assert!(stdout(&output).contains("on the transport embedded"));
        assert!(folder.path().join("data/queues/queues.sqlite").is_file());
        let said = stderr(&output).contains("file was read to its end before");
        assert_eq!(said, round == 1, "{}", stderr(&output));
    }
}

#[test]
fn the_alerts_are_exactly_what_the_rules_select_though_services_panic_and_fail() {
    let output = run_alerts(&["--json"]);
    let summary: Value = serde_json::from_str(&stdout(&output)).expect("--json prints JSON");
    let row = |label: &str| {
        let rows = summary["services"].as_array().expect("rows");
        rows.iter()
            .find(|row| row["service"] == label)
            .expect("a row for each service")
            .clone()
    };
    let weather = row("weather");
    // Every delivery is accounted for.
    assert_eq!(row("intake")["emitted"], 329);
    assert_eq!(
        (&weather["ok"], &weather["emitted"]),
        (&329.into(), &329.into())
    );
    let count = |name: &str| weather[name].as_u64().expect("a count");
    assert!(
        count("retry") > 0 && count("panic") > 0 && count("timeout") > 0,
        "{weather}"
    );
    assert_eq!(
        count("attempts"),
        count("ok") + count("retry") + count("panic") + count("timeout")
    );
    assert_eq!(count("restarts"), count("panic") + count("timeout"));
    assert_eq!(row("sort")["ok"], 329);
    for row in summary["services"].as_array().expect("rows") {
        assert_eq!(row["dead_letters"], 0, "{row}");
    }
}

#[test]
fn the_same_manifest_gives_the_same_alerts_over_rabbitmq() {
    let broker = brickwork_tests::broker::Broker::shared();
    run_alerts(&["--fail-on-dlq", "--transport", &broker.url()]);
}

#[test]
fn a_source_goes_on_where_it_was_left_on_a_durable_transport() {
    let url = brickwork_tests::broker::Broker::shared().url();
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(folder.path(), "off", "");
    let file = folder.path().join("app.toml");
    let manifest = std::fs::read_to_string(&file).expect("it was written");
    let manifest = manifest.replace("name = \"small\"", "name = \"small-position\"");
    std::fs::write(&file, manifest).expect("it can be written");
    let emitted = || {
        let output = run(
            &[
                "run",
                "app.toml",
                "--until-idle",
                "--json",
                "--transport",
                &url,
            ],
            folder.path(),
        );
        assert!(output.status.success(), "{}", stderr(&output));
        let summary: Value = serde_json::from_str(&stdout(&output)).expect("--json prints JSON");
        summary["services"][0]["emitted"].as_u64().expect("a count")
    };
    assert_eq!(emitted(), 5);
    assert_eq!(emitted(), 0, "everything was taken over before");
    let numbers = folder.path().join("numbers.jsonl");
    let text = std::fs::read_to_string(&numbers).expect("it was written");
    std::fs::write(&numbers, text + "{\"n\":5}\n").expect("it can be written");
    assert_eq!(emitted(), 1, "only the line that is new");
    let kept = sorted_lines(&folder.path().join("large.jsonl"));
    assert_eq!(kept, ["{\"n\":3}", "{\"n\":4}", "{\"n\":5}"]);
}

#[test]
fn an_app_whose_broker_goes_waits_for_it_and_stops_in_order_and_one_without_says_so() {
    let broker = brickwork_tests::broker::Broker::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(folder.path(), "off", "");
    let mut command = Command::new(brickwork());
    command
        .args(["run", "app.toml", "--transport", &broker.url()])
        .current_dir(folder.path());
    let mut process = Process::start(command, folder.path(), "it was just built");
    process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    let url = broker.url();
    drop(broker);
    until("it is noticed", PATIENCE, || match process.stderr() {
        log if log.contains("connection to the broker is lost") => Ok(()),
        log => Err(log),
    });
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(process.exit_code(PATIENCE), Some(0), "{}", process.stderr());
    // Where it can't even start, there is nothing to wait for.
    let output = run(&["run", "app.toml", "--transport", &url], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("error: can't connect to amqp://"));
}

/// An app that runs on: a file that is read, a filter, a file that is written.
fn small_app(folder: &Path, admin: &str, more: &str) {
    let manifest = format!(
        r#"
        [app]
        name = "small"
        transport = "memory:"
        [admin]
        listen = "{admin}"
        [services.numbers]
        use = "file-in"
        out = "numbers"
        config.path = "numbers.jsonl"
        [services.large]
        use = "filter"
        in = "numbers"
        out = "large"
        config.when = "msg.n > 2"
        [services.keep]
        use = "file-out"
        in = "large"
        config.path = "large.jsonl"
        {more}
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    let numbers: String = (0..5).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    std::fs::write(folder.join("numbers.jsonl"), numbers).expect("it can be written");
}

fn started(folder: &Path) -> Process {
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder);
    let process = Process::start(command, folder, "it was just built");
    process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    process
}

#[test]
fn two_processes_each_run_their_part_of_an_app() {
    let url = brickwork_tests::broker::Broker::shared().url();
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder can be made"));
    for folder in &folders {
        small_app(folder.path(), "off", "");
        let file = folder.path().join("app.toml");
        let manifest = std::fs::read_to_string(&file).expect("it was written");
        let manifest = manifest.replace("name = \"small\"", "name = \"small-parts\"");
        std::fs::write(&file, manifest).expect("it can be written");
    }
    let [readers, feeder] = folders.each_ref().map(tempfile::TempDir::path);
    let part = |only: &'static str| ["run", "app.toml", "--transport", &url, "--only", only];
    let mut command = Command::new(brickwork());
    command.args(part("large,keep")).current_dir(readers);
    let mut process = Process::start(command, readers, "it was just built");
    process.line(PATIENCE, |line| {
        line.contains("runs: 2 services").then_some(())
    });
    // Idle is what runs here: the queues of the others don't hold it up.
    let output = run(
        &[&part("numbers")[..], &["--until-idle", "--json"]].concat(),
        feeder,
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let summary: Value = serde_json::from_str(&stdout(&output)).expect("--json prints JSON");
    assert_eq!(summary["services"][0]["emitted"], 5);
    assert_eq!(summary["services"].as_array().map(Vec::len), Some(1));
    until("the other part has done its work", PATIENCE, || {
        let lines = sorted_lines(&readers.join("large.jsonl"));
        match lines.len() {
            2 => Ok(()),
            _ => Err(format!("{lines:?}")),
        }
    });
    let mut kill = Command::new("kill");
    kill.arg("-TERM").arg(process.id().to_string());
    assert!(kill.status().expect("kill runs").success());
    assert_eq!(process.exit_code(PATIENCE), Some(0));
}

#[test]
fn a_part_that_cannot_be_run_alone_is_refused_with_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(folder.path(), "off", "");
    for (only, code) in [
        ("numbers,keep", "E022"),
        ("numbers,lrage", "E032"),
        ("", "E032"),
    ] {
        for verb in ["run", "check"] {
            let output = run(&[verb, "app.toml", "--only", only], folder.path());
            assert_eq!(output.status.code(), Some(2), "{verb} {only}");
            assert!(stderr(&output).contains(code), "{}", stderr(&output));
        }
    }
    let all = [
        "run",
        "app.toml",
        "--only",
        "keep,large,numbers",
        "--until-idle",
    ];
    let output = run(&all, folder.path());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(sorted_lines(&folder.path().join("large.jsonl")).len(), 2);
}

#[test]
fn a_signal_stops_the_app_in_order_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        small_app(folder.path(), "off", "");
        let mut process = started(folder.path());
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(process.id().to_string());
        assert!(kill.status().expect("kill runs").success());
        process.line(PATIENCE, |line| line.starts_with("keep").then_some(()));
        assert_eq!(process.exit_code(PATIENCE), Some(0), "SIG{signal}");
    }
}

#[test]
fn the_command_stop_stops_the_app_and_says_when_nothing_runs() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(folder.path(), "off", "");
    let mut process = started(folder.path());
    let second = run(&["run", "app.toml"], folder.path());
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("already running"),
        "{}",
        stderr(&second)
    );
    let output = run(&["stop", "app.toml"], folder.path());
    assert_eq!(
        stdout(&output),
        "small has stopped\n",
        "{}",
        stderr(&output)
    );
    assert_eq!(process.exit_code(PATIENCE), Some(0));
    let output = run(&["stop", "app.toml"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no app is running"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_running_app_shows_itself() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let address = free_address();
    small_app(folder.path(), &address.to_string(), "");
    let _process = started(folder.path());
    let ready = until("ready", PATIENCE, || {
        let response = http::get(address, "/health/ready").map_err(|error| error.to_string())?;
        if response.code == 200 {
            Ok(response)
        } else {
            Err(response.body)
        }
    });
    assert_eq!(ready.code, 200);
    let app = until("all handled", PATIENCE, || {
        let app = http::get(address, "/api/app")
            .map_err(|error| error.to_string())?
            .json();
        let text = app.to_string();
        let lines = sorted_lines(&folder.path().join("large.jsonl"));
        if lines.len() == 2 { Ok(app) } else { Err(text) }
    });
    assert_eq!(app["app"], "small");
    assert_eq!(app["services"].as_array().map(Vec::len), Some(3));
    let page = http::get(address, "/").expect("it answers");
    assert!(page.body.contains("small") && page.code == 200);
}

#[test]
fn a_wrong_manifest_exits_2_and_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(
        folder.path(),
        "off",
        "[services.extra]\nuse = \"fitler\"\nin = \"numbrs\"\n",
    );
    for verb in ["run", "check"] {
        let output = run(&[verb, "app.toml"], folder.path());
        assert_eq!(output.status.code(), Some(2));
        let report = stderr(&output);
        assert!(
            report.contains("filter") && report.contains("app.toml:"),
            "{report}"
        );
        assert!(
            !folder.path().join("large.jsonl").exists(),
            "nothing was started"
        );
        assert!(!folder.path().join("data").exists(), "nothing was started");
    }
    let output = run(&["run"], folder.path());
    assert_eq!(output.status.code(), Some(2), "wrong usage");
    let output = run(&["describe", "fliter"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean `filter`?"));
}

#[test]
fn an_expression_that_is_wrong_is_found_before_anything_runs() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    small_app(
        folder.path(),
        "off",
        "[services.bad]\nuse = \"filter\"\nin = \"numbers\"\nout = \"bad\"\n\
         config.when = \"msg.n >\"\n[topics.bad]\nexternal = \"out\"\n",
    );
    let output = run(&["check", "app.toml"], folder.path());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("config.when"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_slow_service_behind_a_fast_file_holds_memory_flat() {
    let full = std::env::var_os("BRICKWORK_FULL").is_some();
    let rounds = if full { 1_000 } else { 100 };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let address = free_address();
    // Slow: each message waits a millisecond, in 32 instances. The queue stays full.
    let manifest = format!(
        r#"
        [app]
        name = "flat"
        transport = "memory:"
        log.level = "error"
        [admin]
        listen = "{address}"
        [services.fast]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", repeat = {rounds} }}
        [services.slow]
        use = "chaos"
        in = "lines"
        out = "done"
        instances = 32
        config = {{ stall = 1.0, for = "1ms" }}
        [topics.done]
        external = "out"
        "#
    );
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(200));
    std::fs::write(folder.path().join("lines.jsonl"), line.repeat(1_000))
        .expect("it can be written");
    let mut command = Command::new(brickwork());
    command
        .args(["run", "app.toml", "--until-idle", "--json"])
        .current_dir(folder.path());
    let mut process = Process::start(command, folder.path(), "it was just built");
    let total = rounds * 1_000;
    let handled = |app: &Value| {
        let services = app["services"].as_array().cloned().unwrap_or_default();
        let slow = services.iter().find(|service| service["service"] == "slow");
        slow.and_then(|slow| slow["handled"]["ok"].as_u64())
            .unwrap_or(0)
    };
    let resident = |pid: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or("");
        line.split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse().ok())
            .unwrap_or(0)
    };
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let pid = process.id();
    until("most of it is handled", Duration::from_secs(900), || {
        let app = http::get(address, "/api/app")
            .map_err(|error| error.to_string())?
            .json();
        let done = handled(&app);
        seen.push((done, resident(pid)));
        if done > total * 8 / 10 {
            Ok(())
        } else {
            Err(format!("{done} handled"))
        }
    });
    let early = seen
        .iter()
        .find(|(done, _)| *done > total / 10)
        .expect("seen early")
        .1;
    let last = seen.last().expect("seen").1;
    assert!(
        last < early + 8 * 1024,
        "resident memory grew from {early} KiB to {last} KiB: {seen:?}"
    );
    assert_eq!(process.exit_code(Duration::from_secs(900)), Some(0));
}
