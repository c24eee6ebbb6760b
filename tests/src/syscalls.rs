//! The system calls of a process, recorded by `strace`: writes, syncs and answers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An event of a traced process, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A write to a write-ahead log.
    Wrote,
    /// A sync of a write-ahead log.
    Synced,
    /// A message to the outside, with its text.
    Said(String),
}

/// Options that select the recorded calls.
const LOOK: [&str; 6] = [
    "-f",
    "-y",
    "-s",
    "64",
    "-e",
    "trace=write,writev,sendto,sendmsg,pwrite64,fdatasync,fsync",
];

/// Traces a command to its end.
///
/// # Panics
/// If there is no `strace`, or the command fails.
pub fn trace(program: &Path, arguments: &[&str], folder: &Path) -> Vec<Call> {
    let mut command = Command::new(program);
    command.args(arguments);
    let (mut strace, log) = traced(&command, folder);
    let status = strace
        .stdout(std::process::Stdio::null())
        .status()
        .expect("there is an strace: apt-get install strace");
    assert!(status.success(), "{status}");
    calls(&std::fs::read_to_string(log).expect("a log"))
}

/// Returns a command that runs another one under `strace`, and the path of the trace in `folder`.
pub fn traced(command: &Command, folder: &Path) -> (Command, PathBuf) {
    let log = folder.join("calls");
    let mut strace = Command::new("strace");
    strace.args(LOOK).arg("-o").arg(&log);
    strace.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        strace.current_dir(folder);
    }
    (strace, log)
}

/// Reads the output of `strace -f -y`. An interrupted sync counts at its end, an interrupted
/// write at its start. A message is a line to stdout, or the first line of an HTTP answer.
pub fn calls(log: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    // Threads in the middle of a sync.
    let mut syncing = HashSet::new();
    for line in log.lines() {
        let (thread, line) = line.split_once(' ').unwrap_or_default();
        let line = line.trim_start();
        let of_log = line.contains("-wal>");
        let unfinished = line.ends_with("<unfinished ...>");
        let text = line.split('"').nth(1).unwrap_or_default();
        if line.starts_with("pwrite64(") && of_log {
            calls.push(Call::Wrote);
        } else if line.starts_with("fdatasync(") || line.starts_with("fsync(") {
            match (of_log, unfinished) {
                (true, true) => drop(syncing.insert(thread.to_owned())),
                (true, false) => calls.push(Call::Synced),
                (false, _) => {}
            }
        } else if line.starts_with("<... fdatasync resumed>")
            || line.starts_with("<... fsync resumed>")
        {
            if syncing.remove(thread) {
                calls.push(Call::Synced);
            }
        } else if line.starts_with("write(1<") {
            calls.push(Call::Said(text.to_owned()));
        } else if text.starts_with("HTTP/") {
            let first = text.split("\\r\\n").next().unwrap_or_default();
            calls.push(Call::Said(first.to_owned()));
        }
    }
    calls
}

/// Returns the messages that were sent before the preceding write was synced.
pub fn told_too_early(calls: &[Call]) -> Vec<&str> {
    let mut early = Vec::new();
    let mut dirty = false;
    for call in calls {
        match call {
            Call::Wrote => dirty = true,
            Call::Synced => dirty = false,
            Call::Said(text) if dirty => early.push(text.as_str()),
            Call::Said(_) => {}
        }
    }
    early
}
