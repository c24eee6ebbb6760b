//! `file-in` on files that are written or replaced between two runs, and on pipes.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::parts::{self, LINES};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Copies each line once to `out.jsonl`, whatever its id.
const ONCE: &str = r#"
    [services.once]
    use = "dedup"
    in = "lines"
    out = "new"
    store = true
    config.key = "meta.id"
    [services.keep]
    use = "file-out"
    in = "new"
    config.path = "out.jsonl"
"#;

fn folder(lines: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder can be made");
    let manifest = format!("[app]\nname = \"files\"\n[admin]\nlisten = \"off\"\n{lines}\n{ONCE}");
    parts::write(folder.path(), &manifest, parts::numbers(0));
    folder
}

/// Runs the app until it is idle and returns the lines that were kept so far.
fn run(folder: &Path) -> Vec<String> {
    let mut app = parts::run(folder, folder, &["--until-idle"]);
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());
    kept(folder)
}

fn kept(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_last_line_that_is_still_being_written_waits_for_its_end() {
    let folder = folder(LINES);
    let file = folder.path().join("lines.jsonl");
    fs::write(&file, "12\n34").expect("it can be written");
    assert_eq!(run(folder.path()), ["12"]);
    let mut open = File::options().append(true).open(&file).expect("it opens");
    open.write_all(b"56\n78\n").expect("it can be written");
    assert_eq!(run(folder.path()), ["12", "3456", "78"]);

    // A file that is said to be complete ends its last line.
    let emitting = LINES.replace(
        "config.path = \"lines.jsonl\"",
        "config = { path = \"lines.jsonl\", unterminated = \"emit\" }",
    );
    let folder = self::folder(&emitting);
    fs::write(folder.path().join("lines.jsonl"), "12\n34").expect("it can be written");
    assert_eq!(run(folder.path()), ["12", "34"]);
}

#[test]
fn every_line_of_a_replaced_file_is_new() {
    let header = format!("{{\"schema\":\"{}\"}}", "x".repeat(1100));
    for (first, then) in [
        (
            "{\"n\":1}\n{\"n\":2}\n".to_owned(),
            "{\"n\":3}\n{\"n\":4}\n".to_owned(),
        ),
        // The same beginning, the same lengths.
        (format!("{header}\n1\n2\n"), format!("{header}\n3\n4\n5\n")),
        // The position lies within a line of the new file.
        (format!("{header}\n1\n"), format!("{header}\n345\n6\n")),
    ] {
        let folder = folder(LINES);
        let file = folder.path().join("lines.jsonl");
        fs::write(&file, &first).expect("it can be written");
        let before = run(folder.path()).len();
        assert_eq!(before, first.lines().count());
        fs::rename(&file, folder.path().join("lines.jsonl.1")).expect("it is there");
        fs::write(&file, &then).expect("it can be written");
        let kept = run(folder.path());
        assert_eq!(kept[before..].join("\n") + "\n", then);
        // Nothing is read twice.
        assert_eq!(run(folder.path()).len(), kept.len());
    }
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let folder = folder(&LINES.replace("lines.jsonl", "/dev/stdin"));
    let mut app = Command::new(brickwork())
        .args(["run", "app.toml", "--until-idle"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it was just built");
    let mut stdin = app.stdin.take().expect("it is piped");
    stdin.write_all(b"1\n2\n3").expect("the app reads");
    drop(stdin);
    let status = app.wait().expect("it ends");
    assert_eq!((status.code(), kept(folder.path()).len()), (Some(0), 3));
}

#[test]
fn a_manifest_may_be_a_pipe_and_one_that_nothing_writes_to_does_not_hang_check() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let check = |pipe: &str| {
        let mut command = Command::new("timeout");
        let command = command.args(["60"]).arg(brickwork()).args(["check", pipe]);
        let output = command
            .current_dir(folder.path())
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let pipe = |name: &str| {
        let path = folder.path().join(name);
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        path
    };
    pipe("silent.toml");
    let (code, text) = check("silent.toml");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("nothing writes to it"), "{text}");
    let path = pipe("app.toml");
    let writer = std::thread::spawn(move || std::fs::write(path, "[app]\nname = \"a b\"\n"));
    let (code, text) = check("app.toml");
    writer.join().expect("no panic").expect("it can be written");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("a b") && !text.contains("E001"), "{text}");
}
