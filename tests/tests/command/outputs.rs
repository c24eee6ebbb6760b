//! Standard output and standard error that can't be written: messages go on, exit codes stay
//! true.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, pipe};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use brickwork_tests::binary::brickwork;
use brickwork_tests::http;
use brickwork_tests::parts::{self, LINES};
use brickwork_tests::process::{free_address, until};

const PATIENCE: Duration = Duration::from_secs(60);

const COPY: &str = r#"
    [services.keep]
    use = "file-out"
    in = "lines"
    config.path = "out.jsonl"
"#;

/// A child process that does not outlive the test.
struct Running(Child);

impl Running {
    fn start(folder: &Path, arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Self {
        let mut command = Command::new(brickwork());
        command.args(arguments).current_dir(folder);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        Self(command.spawn().expect("it was just built"))
    }

    fn exit_code(&mut self) -> Option<i32> {
        let status = until("the process ends", PATIENCE, || {
            let status = self.0.try_wait().map_err(|error| error.to_string())?;
            status.ok_or_else(|| "it runs".to_owned())
        });
        status.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that has ended by itself can't be killed.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Returns the writing end of a pipe whose reader is gone.
fn closed() -> PipeWriter {
    let (_, writer) = pipe().expect("a pipe can be made");
    writer
}

/// Returns a pipe that nothing reads.
fn unread() -> (PipeReader, PipeWriter) {
    pipe().expect("a pipe can be made")
}

fn full_disk() -> File {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it")
}

fn lines(folder: &Path) -> usize {
    let text = fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn an_app_runs_to_its_end_without_a_standard_output() {
    // `… | head -1` closes the pipe early on purpose, a full disk loses a part of the output.
    for (stdout, code) in [(closed().into(), 0), (Stdio::from(full_disk()), 1)] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let app = "[app]\nname = \"outputs\"\n[admin]\nlisten = \"off\"\n";
        let manifest = format!("{app}{LINES}\n{COPY}");
        parts::write(folder.path(), &manifest, parts::numbers(10));
        let arguments = ["run", "app.toml", "--until-idle"];
        let mut app = Running::start(folder.path(), &arguments, stdout, Stdio::null());
        assert_eq!(app.exit_code(), Some(code));
        assert_eq!(lines(folder.path()), 10);
    }
}

#[test]
fn a_failure_keeps_its_exit_code_without_a_standard_output_or_error() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    parts::write(folder.path(), "[app]\n", parts::numbers(0));
    let wrong = ["check", "app.toml", "--json"];
    let outputs: [fn() -> Stdio; 3] = [|| closed().into(), || full_disk().into(), Stdio::null];
    for output in outputs {
        let mut check = Running::start(folder.path(), &wrong, output(), output());
        assert_eq!(check.exit_code(), Some(2));
        let mut check = Running::start(folder.path(), &wrong[..2], output(), output());
        assert_eq!(check.exit_code(), Some(2));
    }
}

/// Returns the value of the metric of dropped log lines.
fn dropped(admin: SocketAddr) -> Result<u64, String> {
    let metrics = http::get(admin, "/metrics").map_err(|error| error.to_string())?;
    let name = "brickwork_log_lines_dropped_total ";
    let line = metrics
        .body
        .lines()
        .find_map(|line| line.strip_prefix(name));
    let value = line.ok_or("the metric is missing")?.parse::<f64>();
    value.map(|it| it as u64).map_err(|error| error.to_string())
}

#[test]
fn a_standard_error_that_is_not_read_delays_neither_messages_nor_the_stop() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let admin = free_address();
    let manifest = format!(
        r#"
        [app]
        name = "outputs"
        [admin]
        listen = "{admin}"
        {LINES}
        [services.say]
        use = "log"
        in = "lines"
        handler_timeout = "3s"
        {COPY}
        "#
    );
    let line = |n: u64| format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(900));
    parts::write(folder.path(), &manifest, (0..4000).map(line));
    let (_reader, writer) = unread();
    let arguments = ["run", "app.toml"];
    let mut app = Running::start(folder.path(), &arguments, Stdio::null(), writer.into());
    until("every message is handled", PATIENCE, || {
        let handled = lines(folder.path());
        if handled == 4000 {
            Ok(())
        } else {
            Err(format!("{handled} of 4000"))
        }
    });
    until("dropped lines are counted", PATIENCE, || {
        let dropped = dropped(admin)?;
        if dropped > 0 {
            Ok(())
        } else {
            Err(dropped.to_string())
        }
    });
    let id = app.0.id().to_string();
    let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(app.exit_code(), Some(0));
}
