//! `run --watch`: for development, restarts the app when its manifest, a named file or the
//! program has changed.
//!
//! Polls the files. A change counts when the files then stay the same for a moment, since editors
//! and linkers write in several steps. The changed program checks the manifest before the running
//! app is stopped.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::child_process::RespawnCommand;
use crate::process::ProcessGroup;
use crate::stderr::{self, error_line};

/// Interval of polling.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Polls without a further change after which a change counts.
const STABLE_POLLS: u32 = 2;
/// Time for a check. A program that takes longer counts as wrong.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Watched files.
pub(super) struct Watch {
    files: Vec<(PathBuf, Stamp)>,
    /// The executable. While it is missing, as during a build, no change counts.
    program: PathBuf,
}

/// The identity of a file's content: inode, length and modification time; `None` without a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(Option<[i64; 4]>);

impl Stamp {
    fn read(file: &Path) -> Self {
        Self(std::fs::metadata(file).ok().map(|it| {
            let (inode, length) = (it.ino() as i64, it.len() as i64);
            [inode, length, it.mtime(), it.mtime_nsec()]
        }))
    }
}

impl Watch {
    pub(super) fn new(program: &RespawnCommand) -> Self {
        let mut watch = Self {
            files: Vec::new(),
            program: program.path().to_owned(),
        };
        watch.add(program.files());
        watch
    }

    /// Watches more files.
    pub(super) fn add<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) {
        let files = files.into_iter();
        self.files
            .extend(files.map(|file| (file.clone(), Stamp::read(file))));
    }

    /// Waits for a change, and returns the changed files.
    async fn changed(&mut self) -> Vec<String> {
        let mut last: Vec<Stamp> = self.files.iter().map(|(_, stamp)| *stamp).collect();
        let mut stable = 0;
        loop {
            sleep(POLL_INTERVAL).await;
            let now: Vec<Stamp> = self
                .files
                .iter()
                .map(|(file, _)| Stamp::read(file))
                .collect();
            stable = if now == last { stable + 1 } else { 0 };
            last = now;
            if stable < STABLE_POLLS || Stamp::read(&self.program) == Stamp(None) {
                continue;
            }
            let mut changed = Vec::new();
            for ((file, was), is) in self.files.iter_mut().zip(&last) {
                if std::mem::replace(was, *is) != *is {
                    changed.push(file.display().to_string());
                }
            }
            if !changed.is_empty() {
                return changed;
            }
        }
    }
}

/// Resolves when a file has changed and the manifest is valid; never if nothing is watched. If
/// the manifest is wrong, prints that and waits for the next change.
pub(super) async fn restart_needed(
    watch: Option<Watch>,
    program: &RespawnCommand,
    only: &[String],
) {
    let Some(mut watch) = watch else {
        return std::future::pending().await;
    };
    loop {
        let changed = watch.changed().await.join(", ");
        match check(program, only).await {
            Ok(true) => {
                error_line!("changed: {changed}; the app restarts");
                return;
            }
            Ok(false) => {
                error_line!("changed: {changed}; the manifest is wrong, the app goes on unchanged")
            }
            Err(error) => error_line!(
                "changed: {changed}; can't run {}: {error}; the app goes on unchanged",
                program.path().display()
            ),
        }
    }
}

/// Has the changed program check the manifest, and print its problems.
async fn check(program: &RespawnCommand, only: &[String]) -> io::Result<bool> {
    let mut command = program.command("check");
    if !only.is_empty() {
        command.arg("--only").arg(only.join(","));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let process = ProcessGroup::spawn(command, "check")?;
    let checked = timeout(CHECK_TIMEOUT, process.exited()).await;
    Ok(checked.is_ok_and(|exit| exit.success))
}

/// Replaces this process by the changed program, with the same arguments. Returns only on
/// failure.
pub(super) fn restart(program: &Path) -> io::Error {
    stderr::flush();
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).exec()
}
