//! Where sources stopped belongs to their app: another one with the same data folder is told
//! so before it starts, and one that was renamed can take it over. Through the shipped binary.

use std::path::Path;
use std::process::{Command, Output};

use brickwork_tests::binary::brickwork;

/// An app with queues of its own, and the data folder that all have.
fn write(folder: &Path, app: &str) {
    let manifest = format!(
        r#"
        [app]
        name = "{app}"
        transport = "embedded:{app}-queues"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.keep]
        use = "file-out"
        in = "lines"
        config.path = "{app}.jsonl"
        "#
    );
    std::fs::write(folder.join(format!("{app}.toml")), manifest).expect("it can be written");
}

fn output(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(brickwork());
    let output = command.args(arguments).current_dir(folder).output();
    output.expect("it runs")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn run(folder: &Path, app: &str) {
    let output = output(folder, &["run", &format!("{app}.toml"), "--until-idle"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// What an app has handled.
fn handled(folder: &Path, app: &str) -> String {
    std::fs::read_to_string(folder.join(format!("{app}.jsonl"))).unwrap_or_default()
}

#[test]
fn another_app_does_not_go_on_from_where_the_first_one_stopped() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    for app in ["first", "second"] {
        write(folder, app);
    }
    let lines = "{\"n\":1}\n{\"n\":2}\n";
    std::fs::write(folder.join("lines.jsonl"), lines).expect("it can be written");
    run(folder, "first");
    assert_eq!(handled(folder, "first"), lines);
    for verb in [&["check"][..], &["run", "--until-idle"]] {
        let output = output(folder, &[verb, &["second.toml"]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let text = said(&output);
        for part in [
            "E050",
            "those of the app first",
            "app.data",
            "data/positions/owner",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert_eq!(handled(folder, "second"), "");
    assert!(!folder.join("second-queues").exists(), "nothing was made");
    // Who asks isn't in anybody's way; nor is who keeps no positions.
    let output = |arguments: &[&str]| output(folder, arguments);
    assert!(output(&["prune", "second.toml"]).status.success());
    let memory = [
        "run",
        "second.toml",
        "--until-idle",
        "--transport",
        "memory:",
    ];
    assert!(output(&memory).status.success());
    assert_eq!(handled(folder, "second"), lines);
    run(folder, "first");
    assert_eq!(handled(folder, "first"), lines, "it went on from the end");
}

#[test]
fn an_app_that_was_renamed_goes_on_once_the_mark_is_removed_and_so_does_one_from_before_marks() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    for app in ["old", "new"] {
        write(folder, app);
    }
    let append = |line: &str| {
        let lines = std::fs::read_to_string(folder.join("lines.jsonl")).unwrap_or_default();
        std::fs::write(folder.join("lines.jsonl"), lines + line).expect("it can be written");
    };
    append("{\"n\":1}\n");
    run(folder, "old");
    let mark = folder.join("data/positions/owner");
    assert_eq!(std::fs::read_to_string(&mark).expect("a mark"), "old\n");
    std::fs::remove_file(&mark).expect("it can be removed");
    append("{\"n\":2}\n");
    run(folder, "new");
    assert_eq!(
        handled(folder, "new"),
        "{\"n\":2}\n",
        "only what came since"
    );
    assert_eq!(std::fs::read_to_string(&mark).expect("a mark"), "new\n");
    let back = output(folder, &["check", "old.toml"]);
    assert!(
        said(&back).contains("those of the app new"),
        "{}",
        said(&back)
    );
}
