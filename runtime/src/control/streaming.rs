//! What verbs share that take a while: a request, and lines of JSON in answer.
//!
//! While the app works, it says so again and again, so that silence means that it is stuck.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::client::{ControlError, explain, not_running};
use super::{ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, Request, TIMEOUT, Verb, socket_path};

/// How often the app says that it still works on it: well within [`TIMEOUT`].
const SAY_EVERY: Duration = Duration::from_secs(1);

/// When the app says that it is at it.
pub(super) fn says() -> Interval {
    let mut says = interval(SAY_EVERY);
    says.set_missed_tick_behavior(MissedTickBehavior::Delay);
    says
}

/// Says a line; one that is too long for the other side becomes what `too_long` makes of its
/// length.
pub(super) async fn say<L: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    line: &L,
    too_long: impl FnOnce(String) -> L,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    if text.len() as u64 >= ANSWER_BYTES_MAX {
        let why = format!(
            "it has {} bytes, the control socket carries {ANSWER_BYTES_MAX} at once",
            text.len()
        );
        text = serde_json::to_vec(&too_long(why))?;
    }
    text.push(b'\n');
    timeout(TIMEOUT, to.write_all(&text)).await?
}

/// Resolves when nothing comes any more.
pub(super) async fn end_of(from: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = [0; 64];
    while from.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

/// Connects to the app with this data folder.
///
/// # Errors
/// Nothing runs there, or it can't be reached.
pub(super) async fn connect(data: &Path) -> Result<UnixStream, ControlError> {
    let connected = timeout(TIMEOUT, UnixStream::connect(socket_path(data))).await;
    let connected = connected.unwrap_or_else(|elapsed| Err(elapsed.into()));
    connected.map_err(|error| explain(data, error))
}

/// The lines that an app answers.
pub(super) struct Lines<'a> {
    data: &'a Path,
    from: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

/// Asks the app with this data folder.
///
/// # Errors
/// Nothing runs there, or it doesn't take the request.
pub(super) async fn ask(
    data: &Path,
    verb: Verb,
) -> Result<(Lines<'_>, OwnedWriteHalf), ControlError> {
    let wrong = |error: io::Error| explain(data, error);
    let mut request = serde_json::to_vec(&Request { verb }).map_err(|error| wrong(error.into()))?;
    request.push(b'\n');
    if request.len() as u64 > REQUEST_BYTES_MAX {
        return Err(ControlError::TooLong);
    }
    let (from, mut to) = connect(data).await?.into_split();
    let written = timeout(TIMEOUT, to.write_all(&request)).await;
    written
        .map_err(|elapsed| wrong(elapsed.into()))?
        .map_err(wrong)?;
    let lines = Lines {
        data,
        from: BufReader::new(from),
        line: Vec::new(),
    };
    Ok((lines, to))
}

impl Lines<'_> {
    /// The next one. What was read of it is kept when this is dropped before its end.
    ///
    /// # Errors
    /// There is none, or it isn't what was expected: such as of an app of an older version,
    /// which doesn't know the verb.
    pub(super) async fn next<L: DeserializeOwned>(&mut self) -> Result<L, ControlError> {
        let wrong = |error: io::Error| explain(self.data, error);
        let room = ANSWER_BYTES_MAX - self.line.len() as u64;
        let mut limited = (&mut self.from).take(room);
        let read = timeout(TIMEOUT, limited.read_until(b'\n', &mut self.line)).await;
        read.map_err(|elapsed| wrong(elapsed.into()))?
            .map_err(wrong)?;
        if self.line.last() != Some(&b'\n') {
            return Err(not_running(self.data, "was closed before it was done"));
        }
        let line = serde_json::from_slice(&self.line).map_err(ControlError::Answer);
        self.line.clear();
        line
    }
}
