//! A child process that runs: its end, and ending it with everything that it started.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::watch;
use tracing::warn;

/// A process that leads a group of its own. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct Process {
    id: u32,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<ProcessExit>>,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub(crate) struct ProcessExit {
    /// Whether its exit code was 0.
    pub(crate) well: bool,
    how: String,
}

impl std::fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.how)
    }
}

impl From<io::Error> for ProcessExit {
    fn from(error: io::Error) -> Self {
        Self {
            well: false,
            how: error.to_string(),
        }
    }
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    /// Held while it is signalled, and while its number is given back: so no signal goes
    /// to another process that got the number since.
    gone: Mutex<bool>,
}

impl Process {
    /// Starts a command, in a group of its own.
    ///
    /// # Errors
    /// It can't be started, or there is no thread that waits for it.
    pub(crate) fn start(mut command: Command, label: &str) -> io::Result<Self> {
        // So that a signal reaches all that it starts, and Ctrl-C only the parent, which
        // ends it in order.
        command.process_group(0);
        let mut child = command.spawn()?;
        let (sender, ended) = watch::channel(None);
        let shared = Arc::new(Shared {
            pid: Pid::from_child(&child),
            gone: Mutex::new(false),
        });
        let id = child.id();
        let (waiting, name) = (shared.clone(), format!("child-{label}"));
        let waiter = std::thread::Builder::new().name(name).spawn(move || {
            let end = waiting.wait(&mut child);
            // Nobody may want to know.
            sender.send_replace(Some(end));
        });
        let process = Self { id, shared, ended };
        // Without a waiter, dropping the process kills it.
        waiter.map(|_detached| process)
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Resolves when it has ended, with how.
    pub(crate) fn ended(&self) -> impl Future<Output = ProcessExit> + use<> {
        let mut ended = self.ended.clone();
        async move {
            let end = match ended.wait_for(Option::is_some).await {
                Ok(end) => end.clone(),
                Err(_) => None,
            };
            end.unwrap_or_else(|| io::Error::other("nobody waits for it").into())
        }
    }

    /// Kills it and everything in its group.
    pub(crate) fn kill(&self) {
        self.shared.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn kill(&self) {
        let gone = self.gone.lock();
        if !*gone {
            kill_group(self.pid);
        }
    }

    /// Waits for its end, then ends what it left behind, and only then gives its number
    /// back.
    fn wait(&self, child: &mut Child) -> ProcessExit {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let waited = loop {
            match waitid(WaitId::Pid(self.pid), options) {
                Err(rustix::io::Errno::INTR) => {}
                waited => break waited,
            }
        };
        if let Err(error) = waited {
            warn!(%error, process = child.id(), "can't wait for a child process");
        }
        let mut gone = self.gone.lock();
        kill_group(self.pid);
        let status = child.wait();
        *gone = true;
        match status {
            Ok(status) => ProcessExit {
                well: status.success(),
                how: status.to_string(),
            },
            Err(error) => error.into(),
        }
    }
}

fn kill_group(leader: Pid) {
    match kill_process_group(leader, Signal::KILL) {
        // There may be nobody left.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        // Elsewhere than on Linux, that is what a group of one dead process says.
        Err(rustix::io::Errno::PERM) => {}
        Err(error) => warn!(%error, "can't kill the group of a child process"),
    }
}
