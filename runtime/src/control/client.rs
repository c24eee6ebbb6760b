//! The side of the command line: asks, and waits for the answer, but not for ever.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{ANSWER_BYTES_MAX, Answer, Request, TIMEOUT, Verb, socket_path};
use crate::names::QueueId;

/// Why a command didn't work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nobody listens.
    #[error("no app is running with the data folder {}: its control.sock {why}", data.display())]
    NotRunning {
        /// The app's data folder.
        data: PathBuf,
        /// What the socket says.
        why: &'static str,
    },
    /// It belongs to somebody else.
    #[error("only the owner of {} may send commands: run this as the user who runs the app", .0.display())]
    NotAllowed(PathBuf),
    /// No answer came.
    #[error("the app does not answer on {}; it may be stuck: see its log", .0.display())]
    Timeout(PathBuf),
    /// The app refused.
    #[error("the app refused: {0}")]
    Refused(String),
    /// The answer isn't one.
    #[error("the app's answer can't be read: {0}")]
    Answer(serde_json::Error),
    /// The request is too long.
    #[error("the command is too long for the app's control socket: name fewer ids at once")]
    TooLong,
    /// It has no such queue.
    #[error("the app has no queue {0}: does it run another version of the manifest?")]
    NoQueue(QueueId),
    /// It tried, and couldn't.
    #[error("{0}")]
    Failed(String),
    /// Something else is wrong with the socket.
    #[error("can't talk to {}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
}

/// Asks the app with this data folder, and gives its answer. Blocks, for some seconds
/// at most.
///
/// # Errors
/// Nothing runs there, it doesn't answer, or it refuses.
#[cfg(test)]
pub(crate) fn request(data: &Path, verb: Verb) -> Result<Value, ControlError> {
    ask(data, verb).map(|(value, _)| value)
}

/// Tells the app to stop and waits until it has; false if it still runs after `within`.
///
/// # Errors
/// As [`request`].
pub(crate) fn stop(data: &Path, within: Duration) -> Result<bool, ControlError> {
    let (_, mut connection) = ask(data, Verb::Stop)?;
    let deadline = Instant::now() + within;
    let mut rest = [0; 64];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let stream = connection.get_ref();
        let read = stream
            .set_read_timeout(Some(left))
            .and_then(|()| connection.read(&mut rest));
        match read {
            // The end of the connection is the end of the app.
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
            Err(error) => return Err(explain(data, error)),
        }
    }
}

fn ask(data: &Path, verb: Verb) -> Result<(Value, BufReader<UnixStream>), ControlError> {
    let line = exchange(data, verb).map_err(|error| explain(data, error));
    let (line, connection) = line?;
    if line.is_empty() {
        return Err(not_running(data, "was closed before it answered"));
    }
    match serde_json::from_slice(&line).map_err(ControlError::Answer)? {
        Answer::Ok(value) => Ok((value, connection)),
        Answer::Error(text) => Err(ControlError::Refused(text)),
    }
}

fn exchange(data: &Path, verb: Verb) -> io::Result<(Vec<u8>, BufReader<UnixStream>)> {
    let mut stream = UnixStream::connect(socket_path(data))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = serde_json::to_vec(&Request { verb })?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut connection = BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = connection.by_ref().take(ANSWER_BYTES_MAX);
    limited.read_until(b'\n', &mut line)?;
    Ok((line, connection))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

pub(super) fn explain(data: &Path, error: io::Error) -> ControlError {
    let path = socket_path(data);
    match error.kind() {
        io::ErrorKind::NotFound => not_running(data, "is not there"),
        io::ErrorKind::ConnectionRefused => not_running(data, "was left by a process that is gone"),
        io::ErrorKind::PermissionDenied => ControlError::NotAllowed(path),
        _ if is_timeout(&error) => ControlError::Timeout(path),
        _ => ControlError::Io { path, error },
    }
}

pub(super) fn not_running(data: &Path, why: &'static str) -> ControlError {
    ControlError::NotRunning {
        data: data.to_owned(),
        why,
    }
}
