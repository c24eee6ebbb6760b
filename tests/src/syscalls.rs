//! What a process asks of the system, told by `strace`: what it wrote, synced and said.

use std::path::Path;
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

/// Traces a command to its end.
///
/// # Panics
/// There is no `strace`, or the command fails.
pub fn trace(program: &Path, arguments: &[&str], folder: &Path) -> Vec<Call> {
    let log = folder.join("calls");
    let status = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-s",
            "64",
            "-e",
            "trace=write,pwrite64,fdatasync,fsync",
        ])
        .arg("-o")
        .arg(&log)
        .arg(program)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("there is an strace: apt-get install strace");
    assert!(status.success(), "{status}");
    calls(&std::fs::read_to_string(log).expect("a log"))
}

/// Reads what `strace -f -y` wrote. A call that another one interrupts counts where it ends
/// if it syncs, and where it begins if it writes.
pub fn calls(log: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    for line in log.lines() {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let of_log = line.contains("-wal>");
        let unfinished = line.ends_with("<unfinished ...>");
        if line.starts_with("pwrite64(") && of_log {
            calls.push(Call::Wrote);
        } else if line.starts_with("fdatasync(") || line.starts_with("fsync(") {
            if of_log && !unfinished {
                calls.push(Call::Synced);
            }
        } else if line.starts_with("<... fdatasync resumed>") {
            calls.push(Call::Synced);
        } else if line.starts_with("write(1<") {
            let text = line.split('"').nth(1).unwrap_or_default();
            calls.push(Call::Said(text.to_owned()));
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
