//! The command that starts this program again, for one service.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Link;
use crate::process::ProcessGroup;

/// The running program and its arguments.
#[derive(Debug)]
pub(crate) struct RespawnCommand {
    path: PathBuf,
    manifest: PathBuf,
    overlays: Vec<PathBuf>,
    transport: Option<String>,
}

impl RespawnCommand {
    /// The program of this process, with the given manifest and overlays.
    ///
    /// # Errors
    /// The system does not tell the path of the running program.
    pub(crate) fn current(
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

    /// The files that determine the behaviour of the program: itself, manifest, overlays.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.path, &self.manifest]
            .into_iter()
            .chain(&self.overlays)
    }

    /// A command with this verb, manifest and overlays. The transport's URL may hold a
    /// password, so it is passed as a variable: every user can read the arguments.
    pub(crate) fn command(&self, verb: &str) -> Command {
        self.command_at(&self.path, verb)
    }

    fn command_at(&self, path: &Path, verb: &str) -> Command {
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

    /// Starts a child process that runs one service.
    ///
    /// # Errors
    /// The process can't be started.
    pub(crate) fn spawn(&self, label: &str) -> io::Result<(ProcessGroup, Link)> {
        // The program of this process, even if its file was replaced since.
        #[cfg(target_os = "linux")]
        let path = Path::new("/proc/self/exe");
        #[cfg(not(target_os = "linux"))]
        let path = &self.path;
        let (parent_end, child_end) = UnixStream::pair()?;
        parent_end.set_nonblocking(true)?;
        let mut command = self.command_at(path, "run");
        command
            .args(["--only", label, "--supervised"])
            .stdin(Stdio::from(OwnedFd::from(child_end)));
        let process = ProcessGroup::spawn(command, label)?;
        Ok((process, Link::new(parent_end)?))
    }
}
