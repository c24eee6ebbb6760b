//! `run --watch`: for development, restarts the app when what it is made of has changed.
//!
//! It looks at files now and then, and believes a change when it lasts: editors and
//! linkers write in several steps. What has changed is checked by the program as it is
//! then, before the app that runs is touched.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::child_process::RespawnCommand;
use crate::process::ProcessGroup;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(200);
/// A change that has lasted for so many looks is done.
const LASTING_LOOKS: u32 = 2;
/// A check takes moments; a program that takes longer is not a good one.
const CHECK_WITHIN: Duration = Duration::from_secs(30);

/// Files, and how they were.
pub(super) struct Watch {
    files: Vec<(PathBuf, Stamp)>,
    /// The program: without it there is nothing to restart.
    program: PathBuf,
}

/// What changes when a file does; nothing if there is no such file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(Option<[i64; 4]>);

impl Stamp {
    fn of(file: &Path) -> Self {
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
            .extend(files.map(|file| (file.clone(), Stamp::of(file))));
    }

    /// Resolves with what has changed, once that stays as it is.
    async fn changed(&mut self) -> Vec<String> {
        let mut last: Vec<Stamp> = self.files.iter().map(|(_, stamp)| *stamp).collect();
        let mut lasting = 0;
        loop {
            sleep(EVERY).await;
            let now: Vec<Stamp> = self.files.iter().map(|(file, _)| Stamp::of(file)).collect();
            lasting = if now == last { lasting + 1 } else { 0 };
            last = now;
            if lasting < LASTING_LOOKS || Stamp::of(&self.program) == Stamp(None) {
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

/// Resolves when something has changed and is right, so that the app is to restart; never
/// if nothing is watched. What is wrong is said, and waited for until it changes again.
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
                eprintln!("changed: {changed}; the app restarts");
                return;
            }
            Ok(false) => eprintln!("changed: {changed}; wrong, so the app goes on as it was"),
            Err(error) => eprintln!(
                "changed: {changed}; {} can't be run: {error}; the app goes on as it was",
                program.path().display()
            ),
        }
    }
}

/// Has the program, as it is now, check the manifest. It says itself what is wrong.
async fn check(program: &RespawnCommand, only: &[String]) -> io::Result<bool> {
    let mut command = program.command("check");
    if !only.is_empty() {
        command.arg("--only").arg(only.join(","));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let process = ProcessGroup::spawn(command, "check")?;
    let checked = timeout(CHECK_WITHIN, process.exited()).await;
    Ok(checked.is_ok_and(|exit| exit.success))
}

/// Makes this process one of the program as it is now, with the same arguments. Returns
/// only if that fails.
pub(super) fn start_again(program: &Path) -> io::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).exec()
}
