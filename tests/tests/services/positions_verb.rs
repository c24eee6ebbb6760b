//! `brickwork positions`: shows and sets the positions of sources while the app is stopped.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::process::{Process, until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn write(folder: &Path) {
    let manifest = r#"
        [app]
        name = "kept"
        transport = "embedded:data/queues"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.clock]
        use = "schedule"
        out = "lines"
        config.every = "1d"
        [services.keep]
        use = "file-out"
        in = "lines"
        config.path = "out.jsonl"
        "#;
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    std::fs::write(folder.join("lines.jsonl"), "{\"n\":1}\n{\"n\":2}\n")
        .expect("it can be written");
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(brickwork());
    command.args(arguments).current_dir(folder);
    command
}

fn positions(folder: &Path, arguments: &[&str]) -> Output {
    let arguments = [&["positions", "app.toml"], arguments].concat();
    command(folder, &arguments).output().expect("it runs")
}

fn shown(folder: &Path) -> Value {
    let output = positions(folder, &["--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Runs the app until it has written this many lines and saved both positions.
fn run(folder: &Path, lines: usize) -> Process {
    let app = Process::start(
        command(folder, &["run", "app.toml"]),
        folder,
        "it was just built",
    );
    until("lines", PATIENCE, || {
        let written = std::fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
        let positions = shown(folder);
        let all = written.lines().count() == lines
            && positions[0]["position"]["offset"] == 16
            && positions[1]["position"].is_object();
        if all {
            Ok(())
        } else {
            Err(format!("{written} {positions}"))
        }
    });
    app
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn positions_are_shown_and_are_set_only_while_the_app_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    write(folder);
    assert_eq!(
        shown(folder)[0],
        json!({ "service": "lines", "use": "file-in", "position": null })
    );
    let app = run(folder, 2);
    let saved = shown(folder)[0]["position"].to_string();
    for change in [&["lines", "--reset"][..], &["lines", "--set", &saved]] {
        let refused = positions(folder, change);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(
            stderr(&refused).contains("the app is running as process"),
            "{refused:?}"
        );
    }
    app.stop();
    // Set back to the start, the file is read once more.
    assert!(positions(folder, &["lines", "--reset"]).status.success());
    assert_eq!(shown(folder)[0]["position"], Value::Null);
    run(folder, 4).stop();
    // Set to the end, the file is not read.
    assert!(positions(folder, &["lines", "--reset"]).status.success());
    assert!(
        positions(folder, &["lines", "--set", &saved])
            .status
            .success()
    );
    assert_eq!(shown(folder)[0]["position"].to_string(), saved);
    run(folder, 4).stop();
    let text = positions(folder, &["clock"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.starts_with("clock (schedule): {\"schedules\":"),
        "{text}"
    );
}

#[test]
fn wrong_arguments_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    write(folder);
    for (arguments, code, part) in [
        (&["liness"][..], 2, "lines"),
        (&["keep"], 2, "no source"),
        (&["--reset"], 2, "SERVICE"),
        (&["lines", "--set", "{"], 1, "not JSON"),
    ] {
        let output = positions(folder, arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr(&output).contains(part), "{output:?}");
    }
    assert!(!folder.join("data/positions").exists(), "nothing was made");
}
