//! A child process and its process group: start, exit, stop, kill.
//!
//! Invariant: no signal reaches an unrelated process. The waiter thread learns of the exit
//! without reaping the child (`WNOWAIT`), kills the rest of the group while the child's
//! number is still taken, and reaps the child last. [`Shared::reaped`] is locked for both
//! steps, and for every signal from elsewhere.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

/// How long [`ProcessGroup::kill_and_wait`] waits for a process that the kernel keeps in an
/// uninterruptible system call.
const EXIT_AFTER_KILL: Duration = Duration::from_secs(3);

/// A child process that leads a process group of its own.
///
/// The group holds the child and every process that it started, except those that left the
/// group. When the child exits, the rest of the group is killed. Dropping this value kills
/// the whole group.
///
/// ```
/// use std::process::Command;
/// use std::time::Duration;
/// use brickwork::process::ProcessGroup;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut command = Command::new("sleep");
/// command.arg("600");
/// let sleeper = ProcessGroup::spawn(command, "sleeper")?;
/// assert!(sleeper.stop(Some(Duration::ZERO), Duration::from_secs(5)).await);
/// assert!(!sleeper.exited().await.success);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ProcessGroup {
    id: u32,
    label: String,
    shared: Arc<Shared>,
    exit: watch::Receiver<Option<ProcessExit>>,
}

/// The standard streams of a child.
#[derive(Debug)]
pub struct ChildPipes {
    /// Writes to the child's standard input.
    pub stdin: pipe::Sender,
    /// Reads the child's standard output.
    pub stdout: pipe::Receiver,
    /// Reads the child's standard error.
    pub stderr: pipe::Receiver,
}

/// How a process exited; displays the exit status or the signal.
#[derive(Debug, Clone)]
pub struct ProcessExit {
    /// Whether the exit code was 0.
    pub success: bool,
    status: String,
}

impl std::fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.status)
    }
}

impl From<io::Error> for ProcessExit {
    fn from(error: io::Error) -> Self {
        Self {
            success: false,
            status: error.to_string(),
        }
    }
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    /// Whether the child was reaped: from then on another process may get its number.
    reaped: Mutex<bool>,
}

impl ProcessGroup {
    /// Starts a command as the leader of a new process group. `label` names the process in
    /// log lines and its waiter thread.
    ///
    /// Signals of the terminal, such as Ctrl-C, do not reach the new group.
    ///
    /// # Errors
    /// The command can't be started, or the waiter thread can't be started.
    pub fn spawn(mut command: Command, label: &str) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        Self::watch(child, label)
    }

    /// Starts a command as [`spawn`](Self::spawn) does, with a pipe for each of its
    /// standard streams.
    ///
    /// # Errors
    /// The command, the waiter thread or the pipes can't be set up.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub fn spawn_piped(mut command: Command, label: &str) -> io::Result<(Self, ChildPipes)> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn()?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // From here on the group is killed if a pipe can't be set up.
        let group = Self::watch(child, label)?;
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
            return Err(io::Error::other("the child has no pipes"));
        };
        let pipes = ChildPipes {
            stdin: pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?,
            stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
            stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
        };
        Ok((group, pipes))
    }

    fn watch(mut child: Child, label: &str) -> io::Result<Self> {
        let (sender, exit) = watch::channel(None);
        let shared = Arc::new(Shared {
            pid: Pid::from_child(&child),
            reaped: Mutex::new(false),
        });
        let id = child.id();
        let (waiting, name) = (shared.clone(), format!("child-{label}"));
        let waiter = std::thread::Builder::new().name(name).spawn(move || {
            let exit = waiting.wait(&mut child);
            sender.send_replace(Some(exit));
        });
        let label = label.to_owned();
        let group = Self {
            id,
            label,
            shared,
            exit,
        };
        // Without a waiter thread, the drop of `group` kills the child.
        waiter.map(|_detached| group)
    }

    /// The process id of the child.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Resolves with the exit of the child, after the rest of its group was killed.
    pub fn exited(&self) -> impl Future<Output = ProcessExit> + use<> {
        let mut exit = self.exit.clone();
        async move {
            let exit = match exit.wait_for(Option::is_some).await {
                Ok(exit) => exit.clone(),
                Err(_) => None,
            };
            exit.unwrap_or_else(|| io::Error::other("its waiter thread panicked").into())
        }
    }

    /// Waits for the exit of the child, after the caller's protocol has asked it to stop.
    ///
    /// Sends SIGTERM to the group after `term_after`, if given, and SIGKILL after
    /// `kill_after`; both count from this call. Returns whether the child exited before the
    /// SIGKILL.
    pub async fn stop(&self, term_after: Option<Duration>, kill_after: Duration) -> bool {
        let (service, process) = (&self.label, self.id);
        let mut remaining = kill_after;
        if let Some(term_after) = term_after {
            let term_after = term_after.min(kill_after);
            if timeout(term_after, self.exited()).await.is_ok() {
                return true;
            }
            warn!(%service, process, "child process did not stop when asked to, sending SIGTERM");
            self.signal(Signal::TERM);
            remaining = kill_after - term_after;
        }
        if timeout(remaining, self.exited()).await.is_ok() {
            return true;
        }
        warn!(%service, process, "child process did not stop in time and is killed");
        self.kill_and_wait().await;
        false
    }

    /// Kills the group and waits for the exit of the child, for at most three seconds: the
    /// kernel may keep a process in a system call.
    pub async fn kill_and_wait(&self) {
        self.kill();
        let _uninterruptible = timeout(EXIT_AFTER_KILL, self.exited()).await;
    }

    /// Kills every process of the group. Does nothing after the exit.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let reaped = self.shared.reaped.lock();
        if !*reaped {
            signal_group(self.shared.pid, signal);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    /// Waits for the exit, kills the rest of the group, and reaps the child.
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
        let mut reaped = self.reaped.lock();
        signal_group(self.pid, Signal::KILL);
        let status = child.wait();
        *reaped = true;
        match status {
            Ok(status) => ProcessExit {
                success: status.success(),
                status: status.to_string(),
            },
            Err(error) => error.into(),
        }
    }
}

fn signal_group(leader: Pid, signal: Signal) {
    match kill_process_group(leader, signal) {
        // Every process of the group may have exited already.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        // Systems other than Linux say this of a group with nothing but a zombie.
        Err(rustix::io::Errno::PERM) => {}
        Err(error) => warn!(%error, "can't signal the group of a child process"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn every_process_of_the_group_ends_with_the_child() {
        let folder = tempfile::tempdir().unwrap();
        let id_file = folder.path().join("id");
        let mut command = Command::new("sh");
        // The child starts a grandchild, waits until it wrote its process id, and exits.
        let script = "sh -c 'echo $$ >\"$1.new\"; mv \"$1.new\" \"$1\"; exec sleep 600' sh \"$1\" &
            until [ -e \"$1\" ]; do sleep 0.01; done; exit 3";
        command.args(["-c", script, "sh"]).arg(&id_file);
        let group = ProcessGroup::spawn(command, "test").unwrap();
        let exit = timeout(PATIENCE, group.exited()).await.unwrap();
        assert_eq!(
            (exit.to_string(), exit.success),
            ("exit status: 3".to_owned(), false)
        );
        let grandchild = std::fs::read_to_string(&id_file).unwrap();
        let grandchild = Pid::from_raw(grandchild.trim().parse().unwrap()).unwrap();
        // The process that adopted the grandchild may take a moment to reap it.
        let gone = async {
            while rustix::process::test_kill_process(grandchild).is_ok() && !is_zombie(grandchild) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.unwrap();
        group.kill();
    }

    fn is_zombie(process: Pid) -> bool {
        let path = format!("/proc/{}/stat", process.as_raw_nonzero());
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    }

    #[tokio::test]
    async fn a_child_that_ignores_sigterm_is_killed() {
        let mut command = Command::new("sh");
        let script = "trap '' TERM; echo ready; while :; do sleep 600; done";
        command.args(["-c", script]);
        let (group, pipes) = ProcessGroup::spawn_piped(command, "test").unwrap();
        let mut lines = super::super::BoundedLines::new(pipes.stdout, 100);
        lines.next().await.unwrap();
        let moment = Duration::from_millis(50);
        assert!(!group.stop(Some(moment), 2 * moment).await);
        assert_eq!(group.exited().await.to_string(), "signal: 9 (SIGKILL)");
    }
}
