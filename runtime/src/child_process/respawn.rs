//! This program, to be started again for one service.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Link, Process};

/// The program that runs and what it was told.
#[derive(Debug)]
pub(crate) struct RespawnCommand {
    path: PathBuf,
    manifest: PathBuf,
    overlays: Vec<PathBuf>,
    transport: Option<String>,
}

impl RespawnCommand {
    /// The one that runs now, with its manifest and what lies over it.
    ///
    /// # Errors
    /// The system doesn't say which program runs.
    pub(crate) fn running(
        manifest: PathBuf,
        overlays: Vec<PathBuf>,
        transport: Option<String>,
    ) -> io::Result<Self> {
        Ok(Self {
            path: std::env::current_exe()?,
            manifest,
            overlays,
            transport,
        })
    }

    /// The path of the program.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files that say what it does, as far as its arguments name them.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.path, &self.manifest]
            .into_iter()
            .chain(&self.overlays)
    }

    /// A command with this manifest and what lies over it. The transport's URL may hold a
    /// password: it is not among the arguments, which everybody may read.
    pub(crate) fn command(&self, verb: &str) -> Command {
        self.command_of(&self.path, verb)
    }

    fn command_of(&self, path: &Path, verb: &str) -> Command {
        let mut command = Command::new(path);
        command.arg0(&self.path).arg(verb).arg(&self.manifest);
        for overlay in &self.overlays {
            command.arg("--with").arg(overlay);
        }
        if let Some(url) = &self.transport {
            command.env("BRICKWORK_TRANSPORT", url);
        }
        command
    }

    /// Starts it as a child process that runs one service.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start(&self, label: &str) -> io::Result<(Process, Link)> {
        // The very program that runs, also when there is another one by its name now.
        #[cfg(target_os = "linux")]
        let path = Path::new("/proc/self/exe");
        #[cfg(not(target_os = "linux"))]
        let path = &self.path;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = self.command_of(path, "run");
        command
            .args(["--only", label, "--supervised"])
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        let process = Process::start(command, label)?;
        Ok((process, Link::new(ours)?))
    }
}
