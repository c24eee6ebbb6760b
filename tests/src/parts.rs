//! Parts of manifests that several tests share, and starting an app of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::binary::brickwork;
use crate::process::Process;

/// A source: each line of `lines.jsonl`.
pub const LINES: &str = r#"
    [services.lines]
    use = "file-in"
    out = "lines"
    config.path = "lines.jsonl"
"#;

/// Numbers from lines, marked twice with the ids of the messages that carried them, written to
/// `out.jsonl`.
pub const MARKED_TWICE: &str = r#"
    [services.first]
    use = "map"
    in = "lines"
    out = "marked.once"
    retry.backoff.min = "100ms"
    config.to = { n = "msg.n", first = "meta.id" }
    [services.second]
    use = "map"
    in = "marked.once"
    out = "marked.twice"
    retry.backoff.min = "100ms"
    config.to = { n = "msg.n", first = "msg.first", second = "meta.id" }
    [services.keep]
    use = "file-out"
    in = "marked.twice"
    retry.backoff.min = "100ms"
    config.path = "out.jsonl"
"#;

/// Returns an HTTP input; posted bodies are written to `posted.jsonl`.
pub fn door(listen: SocketAddr) -> String {
    format!(
        r#"
        [services.door]
        use = "http-in"
        out = "posted"
        config = {{ listen = "{listen}", path = "/" }}
        [services.posted]
        use = "file-out"
        in = "posted"
        config.path = "posted.jsonl"
        "#
    )
}

/// Writes a manifest and the lines that its source reads.
///
/// # Panics
/// If the folder can't be written.
pub fn write(folder: &Path, manifest: &str, lines: impl Iterator<Item = String>) {
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    let text: String = lines.map(|line| line + "\n").collect();
    std::fs::write(folder.join("lines.jsonl"), text).expect("it can be written");
}

/// Returns numbers as JSON lines.
pub fn numbers(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("{{\"n\":{n}}}"))
}

/// Runs the manifest of a folder with the shipped binary. The log goes to the folder `logs`.
///
/// # Panics
/// If the process can't be started.
pub fn run(folder: &Path, logs: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(brickwork());
    command
        .args(["run", "app.toml"])
        .args(arguments)
        .current_dir(folder);
    Process::start(command, logs, "it was just built")
}

/// Runs the manifest of a folder, as [`run`], and waits until its services have started.
///
/// # Panics
/// If they don't start in time.
pub fn running(folder: &Path) -> Process {
    let process = run(folder, folder, &[]);
    let started = |line: &str| line.contains("runs:").then_some(());
    process.line(Duration::from_secs(60), started);
    process
}

/// Returns the values of a file of JSON lines, without a last line that is still being written. No
/// file has no lines.
///
/// # Panics
/// If a line is not JSON.
pub fn whole_lines(file: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let values = lines.map(|line| serde_json::from_str(line).expect("the line is JSON"));
    values.collect()
}
