//! What a process asks of the system, told by `strace`: what it wrote, synced and said.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One thing that a traced process did, in the order in which it did them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// It wrote to a write-ahead log.
    Wrote,
    /// It had a write-ahead log brought to the disk.
    Synced,
    /// It told somebody something: this.
    Said(String),
}

/// What `strace` is told to look at, and how.
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
/// There is no `strace`, or the command fails.
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

/// A command that runs another one and traces it; and the log that it writes, in `folder`.
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

/// Reads what `strace -f -y` wrote. A call that another one interrupts counts where it ends
/// if it syncs, and where it begins if it writes. Said is what goes to stdout, and the first
/// line of what is an answer by HTTP.
pub fn calls(log: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    // Who is in the middle of bringing a log to the disk.
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

/// Says what was told before it was on the disk: each that follows a write that nothing
/// synced in between.
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
