//! Processes that a test starts, and that don't outlive it; and waiting for them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A process, killed by its number when this is dropped. Its stderr is kept in a file
/// and shown if the test fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Receiver<String>,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`, with its stderr in `folder`.
    ///
    /// # Panics
    /// It can't be started; `hint` says what may be missing.
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
                // When nobody listens any more, the pipe is emptied nevertheless.
                let _gone = sender.send(line);
            }
        });
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// The operating system doesn't say.
    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("one's own child can be asked").is_some()
    }

    /// Waits for its end and gives its exit code; `None` if a signal ended it.
    ///
    /// # Panics
    /// It doesn't end in time.
    pub fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let child = &mut self.child;
        let status = until("the process ends", within, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        status.code()
    }

    /// Ends it, and waits until it has.
    pub fn stop(mut self) {
        // One that has ended by itself can't be killed, and needn't be.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }

    /// What it printed since, to its end.
    pub fn rest(&self) -> Vec<String> {
        self.stdout.iter().collect()
    }

    /// What it wrote to stderr so far.
    ///
    /// # Panics
    /// It can't be read.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("stderr is kept")
    }

    /// Waits for a line on stdout for which `wanted` gives something.
    ///
    /// # Panics
    /// It doesn't come in time, or the process ends before.
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
        // One that has ended by itself can't be killed, and needn't be.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.stderr).unwrap_or_default();
            eprintln!("--- {} ---\n{log}", self.stderr.display());
        }
    }
}

/// An address on loopback where nobody listens now.
///
/// # Panics
/// There is none.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ports");
    listener.local_addr().expect("a listener has an address")
}

/// Asks another process again and again until `done` gives something; `done` says what
/// it saw when it doesn't.
///
/// # Panics
/// Not within `within`; with what was seen last.
pub fn until<T>(what: &str, within: Duration, mut done: impl FnMut() -> Result<T, String>) -> T {
    /// Other processes don't say when they are ready: this is how often they are asked.
    const EVERY: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + within;
    loop {
        match done() {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}, but {seen}")
            }
            Err(_) => std::thread::sleep(EVERY),
        }
    }
}
