//! The client side of the control socket, for the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::{
    ANSWER_BYTES_MAX, Answer, Evict, REQUEST_BYTES_MAX, Request, TIMEOUT, Verb, end_of, socket_path,
};
use crate::names::QueueId;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// No process listens on the socket.
    #[error("no app is running with the data folder {}: its control.sock {why}", data.display())]
    NotRunning {
        /// The app's data folder.
        data: PathBuf,
        /// The state of the socket.
        why: &'static str,
    },
    /// Another user owns the socket.
    #[error("only the owner of {} may send commands: run this as the user who runs the app", .0.display())]
    NotAllowed(PathBuf),
    /// No answer came in time.
    #[error("the app does not answer on {}: it may be stuck, see its log", .0.display())]
    Timeout(PathBuf),
    /// The app refused the request.
    #[error("the app refused: {0}")]
    Refused(String),
    /// The answer is not in the expected form.
    #[error("the app's answer can't be read, it may be another version: {0}")]
    Answer(serde_json::Error),
    /// The request is too long.
    #[error("the command is too long for the app's control socket: name fewer ids at once")]
    TooLong,
    /// The app has no such queue.
    #[error("the app has no queue {0}: does it run another version of the manifest?")]
    NoQueue(QueueId),
    /// The app tried, and failed.
    #[error("{0}")]
    Failed(String),
    /// The socket failed otherwise.
    #[error("can't use {}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// A connection that has sent its request. When it closes, the app learns that nothing waits
/// for the answer any more.
pub(super) struct Connection<'a> {
    data: &'a Path,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: Vec<u8>,
}

impl<'a> Connection<'a> {
    /// Connects to the app with this data folder and sends a request.
    ///
    /// # Errors
    /// No app runs there, or it does not read the request.
    pub(super) async fn ask(data: &'a Path, verb: Verb) -> Result<Self, ControlError> {
        let mut request =
            serde_json::to_vec(&Request { verb }).map_err(|error| explain(data, error.into()))?;
        request.push(b'\n');
        if request.len() as u64 > REQUEST_BYTES_MAX {
            return Err(ControlError::TooLong);
        }
        let (reader, mut writer) = connect(data).await?.into_split();
        in_time(data, writer.write_all(&request)).await?;
        Ok(Self {
            data,
            reader: BufReader::new(reader),
            writer,
            line: Vec::new(),
        })
    }

    /// Reads the next line of the answer. May be dropped and called again: a part that was
    /// read is kept.
    ///
    /// # Errors
    /// The connection ended, or the line is not in the expected form.
    pub(super) async fn next<L: DeserializeOwned>(&mut self) -> Result<L, ControlError> {
        let room = ANSWER_BYTES_MAX - self.line.len() as u64;
        let mut limited = (&mut self.reader).take(room);
        in_time(self.data, limited.read_until(b'\n', &mut self.line)).await?;
        if self.line.last() != Some(&b'\n') {
            return Err(not_running(self.data, "was closed before it answered"));
        }
        let line = serde_json::from_slice(&self.line).map_err(ControlError::Answer);
        self.line.clear();
        line
    }

    /// Closes this side: asks the app to stop the work in order. The answer can still be read.
    pub(super) async fn close(&mut self) {
        // An app that is gone closes the other side, too.
        let _closed = self.writer.shutdown().await;
    }
}

/// Stops the app with this data folder. Returns whether it has stopped within `within`.
///
/// # Errors
/// No app runs there, it does not answer, or it refuses.
pub(crate) async fn stop(data: &Path, within: Duration) -> Result<bool, ControlError> {
    let mut connection = Connection::ask(data, Verb::Stop).await?;
    if let Answer::Error(text) = connection.next().await? {
        return Err(ControlError::Refused(text));
    }
    // The app closes the connection at its end.
    Ok(timeout(within, end_of(&mut connection.reader))
        .await
        .is_ok())
}

/// Has the app with this data folder remove the state of an entity. Returns whether there was one.
///
/// # Errors
/// No app runs there, it does not answer, or it refuses.
pub(crate) async fn evict(data: &Path, entity: Evict) -> Result<bool, ControlError> {
    let mut connection = Connection::ask(data, Verb::Evict(entity)).await?;
    match connection.next().await? {
        Answer::Ok(evicted) => Ok(evicted == true),
        Answer::Error(text) => Err(ControlError::Refused(text)),
    }
}

/// Returns whether an app with this data folder listens.
///
/// # Errors
/// The socket is there, but can't be used.
pub(crate) async fn is_running(data: &Path) -> Result<bool, ControlError> {
    match connect(data).await {
        Ok(_) => Ok(true),
        Err(ControlError::NotRunning { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn connect(data: &Path) -> Result<UnixStream, ControlError> {
    in_time(data, UnixStream::connect(socket_path(data))).await
}

async fn in_time<T>(
    data: &Path,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, ControlError> {
    let done = timeout(TIMEOUT, work).await;
    let done = done.unwrap_or_else(|elapsed| Err(elapsed.into()));
    done.map_err(|error| explain(data, error))
}

fn explain(data: &Path, error: io::Error) -> ControlError {
    let path = socket_path(data);
    match error.kind() {
        io::ErrorKind::NotFound => not_running(data, "does not exist"),
        io::ErrorKind::ConnectionRefused => not_running(data, "was left by a process that is gone"),
        io::ErrorKind::PermissionDenied => ControlError::NotAllowed(path),
        io::ErrorKind::TimedOut => ControlError::Timeout(path),
        _ => ControlError::Io { path, error },
    }
}

fn not_running(data: &Path, why: &'static str) -> ControlError {
    ControlError::NotRunning {
        data: data.to_owned(),
        why,
    }
}
