//! Child programs as services, with real children and in real time: a child that misbehaves harms
//! only its own messages.

use brickwork::{Envelope, Message};
use brickwork_tests::app::{Probe, TestApp, really};
use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::process::{Process, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

mod asks;
mod example;
mod lifecycle;
mod poison;
mod source;

const PATIENCE: Duration = Duration::from_secs(60);

fn script() -> PathBuf {
    workspace().join("tests/tests/command/process/child.js")
}

/// Returns a manifest with one child; `more` is for the service, `config` for its type.
fn manifest(more: &str, config: &str) -> String {
    let script = script();
    let script = script.display();
    format!(
        r#"
        [app]
        name = "children"
        transport = "memory:"
        shutdown_timeout = "5s"
        [admin]
        listen = "off"
        [topics."acts"]
        external = "in"
        [topics."done"]
        external = "out"
        [services.child]
        use = "process"
        in = "acts"
        out.out = "done"
        out.other = "done"
        retry = {{ attempts = 3, backoff = {{ min = "10ms", max = "10ms" }} }}
        {more}
        [services.child.config]
        command = ["node", "{script}"]
        outputs = ["out", "other"]
        {config}
        "#
    )
}

async fn start(more: &str, config: &str) -> (TestApp, Probe) {
    let catalog = brickwork_actors::catalog();
    let app = TestApp::start(&manifest(more, config), &catalog).await;
    let done = app.probe("done").await;
    (app, done)
}

async fn next(probe: &mut Probe) -> Message {
    probe.within(PATIENCE).await.expect("a message comes")
}

async fn next_json(probe: &mut Probe) -> Value {
    serde_json::from_slice(&next(probe).await.payload).expect("it is JSON")
}

/// Takes messages until each `n` below `count` has come.
async fn all(probe: &mut Probe, count: u64) {
    let mut missing: BTreeSet<u64> = (0..count).collect();
    while !missing.is_empty() {
        let Some(message) = probe.within(PATIENCE).await else {
            panic!("missing: {missing:?}");
        };
        let value: Value = serde_json::from_slice(&message.payload).expect("it is JSON");
        missing.remove(&value["n"].as_u64().expect("a number"));
    }
}

fn signal(name: &str, pid: u64) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

/// Whether a process is alive; a zombie isn't.
fn lives(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn is_gone(pid: u64) {
    until("the process is gone", PATIENCE, || match lives(pid) {
        true => Err("it lives".to_owned()),
        false => Ok(()),
    });
}

/// Waits for an outside event without blocking the thread, which serves the app.
async fn eventually(event: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "not in time: {event}");
}

async fn pid_of(app: &TestApp, done: &mut Probe) -> u64 {
    app.send("acts", json!({"act": "pid", "n": 0})).await;
    next_json(done).await["pid"].as_u64().expect("a pid")
}

#[test]
fn a_child_receives_messages_and_answers_in_any_order() {
    really(async {
        let (app, mut done) = start("", "").await;
        for n in 0..4 {
            let act = json!({"act": "wait", "ms": 600 - 200 * n, "n": n});
            app.send("acts", act).await;
        }
        for n in (0..4).rev() {
            assert_eq!(next_json(&mut done).await["n"], n);
        }
        let mut envelope = Envelope::new("greeting", r#"{"act":"tell", "n":1.0}"#);
        envelope.topic = "acts".into();
        envelope.headers.insert("k".into(), "v".into());
        let sent = Message::from(envelope);
        app.publish(sent.clone()).await;
        let told = next(&mut done).await;
        assert_eq!((&*told.kind, &*told.headers["k"]), ("greeting", "v"));
        assert_eq!(told.parent.as_ref(), Some(&sent.id));
        let told: Value = serde_json::from_slice(&told.payload).expect("it is JSON");
        let expected = json!({
            "topic": "acts", "type": "greeting", "attempt": 1, "headers": {"k": "v"}, "n": 1
        });
        assert_eq!(told, expected);
        app.send("acts", json!({"act": "none"})).await;
        app.send("acts", json!({"act": "many"})).await;
        let (one, two) = (next(&mut done).await, next(&mut done).await);
        assert_eq!((&*one.kind, &*one.payload), ("test", &b"1"[..]));
        assert_eq!((&*two.kind, &*two.payload), ("new", &b"2"[..]));
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn an_error_is_retried_or_rejected_as_the_child_says() {
    really(async {
        let (app, mut done) = start("", "").await;
        let mut letters = app.dead_letters("child").await;
        app.send("acts", json!({"act": "fail"})).await;
        assert_eq!(next_json(&mut done).await["attempt"], 3);
        for (payload, text) in [(r#"{"act":"reject"}"#, "never"), ("nonsense", "not JSON")] {
            let sent = app.send_bytes("acts", payload).await;
            let letter = next(&mut letters).await;
            assert_eq!(letter.id, sent.id);
            assert_eq!(&*letter.headers["brickwork-reason"], "reject");
            let error = &letter.headers["brickwork-error"];
            assert!(error.contains(text), "{error}");
        }
        app.stop().await;
    });
}

#[test]
fn killing_the_child_under_load_loses_nothing_and_blames_no_message() {
    const MESSAGES: u64 = 400;
    really(async {
        let (app, mut done) = start("mailbox = 8", "").await;
        let mut letters = app.dead_letters("child").await;
        for n in 0..MESSAGES {
            app.send("acts", json!({"act": "wait", "ms": 5, "n": n}))
                .await;
        }
        let mut missing: BTreeSet<u64> = (0..MESSAGES).collect();
        let mut killed = BTreeSet::new();
        let mut blamed = 0;
        while !missing.is_empty() {
            let value = next_json(&mut done).await;
            if missing.remove(&value["n"].as_u64().expect("a number")) {
                blamed += value["attempt"].as_u64().expect("a number") - 1;
            }
            let pid = value["pid"].as_u64().expect("a pid");
            if killed.len() < 3 && missing.len() < 380 - 100 * killed.len() && killed.insert(pid) {
                signal("KILL", pid);
            }
        }
        assert_eq!(killed.len(), 3, "in the middle of its work");
        // A suspect may have been alone with the child, so its crash counts against it.
        assert!(blamed <= 3, "{blamed} attempts were spent on 3 kills");
        assert!(letters.rest().await.is_empty());
        assert_eq!(app.summary("child").dead_letters, 0);
        app.stop().await;
    });
}

/// Writes an app for the shipped binary: messages from a file to a child to a file.
fn write_app(folder: &Path, acts: &[Value], more: &str) {
    let lines: String = acts.iter().map(|act| format!("{act}\n")).collect();
    fs::write(folder.join("acts.jsonl"), lines).expect("it can be written");
    // The child runs in the manifest's folder.
    fs::copy(script(), folder.join("child.js")).expect("it can be copied");
    let manifest = format!(
        r#"
        [app]
        name = "children"
        transport = "memory:"
        [admin]
        listen = "off"
        [services.intake]
        use = "file-in"
        out = "acts"
        config.path = "acts.jsonl"
        [services.child]
        use = "process"
        in = "acts"
        out = "done"
        config.command = ["node", "child.js"]
        {more}
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "done.jsonl"
        "#
    );
    fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

#[test]
fn a_child_has_the_configured_environment_and_its_stderr_is_logged() {
    const SECRET: &str = "hunter2-is-secret";
    let folder = tempfile::tempdir().expect("a folder can be made");
    let long = "#".repeat(10_000);
    let acts = [
        json!({"act": "env"}),
        json!({"act": "log", "text": format!("the token is {SECRET}\nand \u{1b}[31mred")}),
        json!({"act": "log", "text": long}),
        json!({"act": "reject"}),
    ];
    write_app(
        folder.path(),
        &acts,
        "config.env = { TOKEN = \"${TOKEN_OF_TEST}\" }\nconfig.inherit_env = ['PATH', 'SHOWN']",
    );
    let output = Command::new("timeout")
        .arg("60")
        .arg(brickwork())
        .args(["run", "app.toml", "--until-idle"])
        .current_dir(folder.path())
        .env("TOKEN_OF_TEST", SECRET)
        .env("SHOWN", "yes")
        .env("HIDDEN", "no")
        .output()
        .expect("the binary runs");
    let log = String::from_utf8(output.stderr).expect("the log is text");
    assert!(output.status.success(), "{log}");
    assert!(!log.contains(SECRET), "{log}");
    let line = |text: &str| log.lines().find(|line| line.contains(text));
    let token = line("the token is [redacted]").unwrap_or_else(|| panic!("{log}"));
    assert!(
        token.contains("INFO") && token.contains("service=child"),
        "{token}"
    );
    assert!(
        line("red").is_some_and(|line| !line.contains('\u{1b}')),
        "{log}"
    );
    assert!(
        log.lines().all(|line| line.len() < 5000),
        "lines are bounded"
    );
    assert_eq!(log.matches('#').count(), 10_000, "and nothing is left out");
    let done = fs::read_to_string(folder.path().join("done.jsonl")).expect("it was written");
    let env: Value = serde_json::from_str(done.lines().next().expect("a line")).expect("JSON");
    let names: BTreeSet<&str> = env
        .as_object()
        .expect("all of it")
        .keys()
        .map(|k| &**k)
        .collect();
    assert_eq!(names, ["PATH", "SHOWN", "TOKEN"].into());
    assert_eq!(env["TOKEN"], SECRET);
}

#[test]
fn a_child_ends_when_the_app_is_killed() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    write_app(folder.path(), &[json!({"act": "pid"})], "");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder.path());
    let process = Process::start(command, folder.path(), "it was just built");
    let done = folder.path().join("done.jsonl");
    let pid = until("the child has answered", PATIENCE, || {
        let text = fs::read_to_string(&done).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        value["pid"].as_u64().ok_or(text)
    });
    assert!(lives(pid));
    signal("KILL", process.id().into());
    is_gone(pid);
}

#[test]
fn the_module_of_the_example_sorts_every_alert() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let example = workspace().join("examples/2-github-alerts");
    for file in [
        "app.toml",
        "node.toml",
        "triage.js",
        "github-webhooks.jsonl",
    ] {
        fs::copy(example.join(file), folder.path().join(file)).expect("it can be copied");
    }
    let overlay = "[admin]\nlisten = \"off\"\n";
    fs::write(folder.path().join("test.toml"), overlay).expect("it can be written");
    // Runs from another folder: the module is found beside the manifest.
    let elsewhere = tempfile::tempdir().expect("a folder can be made");
    let file = |name: &str| folder.path().join(name);
    let output = Command::new("timeout")
        .args(["120".as_ref(), brickwork().as_os_str(), "run".as_ref()])
        .arg(file("app.toml"))
        .args(["--with".as_ref(), file("node.toml").as_os_str()])
        .args(["--with".as_ref(), file("test.toml").as_os_str()])
        .args(["--until-idle", "--fail-on-dlq"])
        .current_dir(elsewhere.path())
        .output()
        .expect("the binary runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let sorted_lines = |file: PathBuf| {
        let text = fs::read_to_string(file).expect("it was written");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for file in ["urgent", "later", "issues", "checks", "security"] {
        let file = format!("{file}.jsonl");
        let got = sorted_lines(folder.path().join("out").join(&file));
        assert_eq!(
            got,
            sorted_lines(example.join("expected").join(&file)),
            "{file}"
        );
    }
}
