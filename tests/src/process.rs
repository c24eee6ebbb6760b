//! Processes of a test, which do not outlive it, and waiting for them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A process that is killed by its process id when this is dropped. Its stderr goes to a file,
/// which is printed if the test fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Receiver<String>,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with its stderr in `folder`.
    ///
    /// # Panics
    /// If the process can't be started; `hint` names a possible cause.
    pub fn start(mut command: Command, folder: &Path, hint: &str) -> Self {
        let program = PathBuf::from(command.get_program());
        let name = program.file_name().expect("a program has a name");
        let stderr = folder.join(name).with_extension("stderr");
        let log = File::create(&stderr).expect("the folder can be written to");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {}: {error}; {hint}", program.display()));
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, stdout) = channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                // Without a receiver, the pipe is still drained.
                let _gone = sender.send(line);
            }
        });
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has ended.
    ///
    /// # Panics
    /// If the operating system does not answer.
    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("a child process can be polled").is_some()
    }

    /// Waits for the end and returns the exit code, or `None` if a signal ended the process.
    ///
    /// # Panics
    /// If the process does not end in time.
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let child = &mut self.child;
        let status = until("the process ends", within, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        status.code()
    }

    /// Asks the process to stop, by SIGTERM.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn terminate(&self) {
        let mut kill = Command::new("kill");
        kill.args(["-TERM", &self.id().to_string()]);
        assert!(kill.status().expect("kill runs").success());
    }

    /// Kills the process and waits for its end.
    pub fn stop(mut self) {
        // A process that has ended by itself can't be killed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }

    /// Returns all further lines of stdout, to its end.
    pub fn rest(&self) -> Vec<String> {
        self.stdout.iter().collect()
    }

    /// Returns the stderr so far.
    ///
    /// # Panics
    /// If the file can't be read.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("stderr is kept")
    }

    /// Waits for a line on stdout for which `wanted` returns a value.
    ///
    /// # Panics
    /// If no such line comes in time, or the process ends before.
    pub fn line<T>(&self, within: Duration, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(line) => match wanted(&line) {
                    Some(found) => return found,
                    None => seen.push(line),
                },
                Err(RecvTimeoutError::Timeout) => panic!("the line didn't come: {seen:#?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the process ended: {seen:#?}"),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended by itself can't be killed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.stderr).unwrap_or_default();
            eprintln!("--- {} ---\n{log}", self.stderr.display());
        }
    }
}

/// Returns a free address on loopback.
///
/// # Panics
/// If there is none.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ports");
    listener.local_addr().expect("a listener has an address")
}

/// Calls `done` repeatedly until it returns `Ok`; its error describes the current state.
///
/// # Panics
/// If the time is over; prints the last state.
pub fn until<T>(event: &str, within: Duration, mut done: impl FnMut() -> Result<T, String>) -> T {
    /// Poll interval: other processes do not announce that they are ready.
    const EVERY: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + within;
    loop {
        match done() {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => {
                panic!("{event}: not within {within:?}, but {seen}")
            }
            Err(_) => std::thread::sleep(EVERY),
        }
    }
}
