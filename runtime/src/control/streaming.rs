//! Requests that take time: the app answers in several lines of JSON, the last of which holds
//! the result. Meanwhile it sends `working` lines, so a silent app is a stuck one.

use std::io;
use std::pin::pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::{ANSWER_BYTES_MAX, TIMEOUT, end_of};
use crate::dead_letters::LetterView;
use crate::names::QueueId;

/// Interval of `working` lines, well below [`TIMEOUT`].
const WORKING_INTERVAL: Duration = Duration::from_secs(1);

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line<T> {
    /// The app works on the request.
    Working,
    /// One of the letters that were found.
    Letter(Box<LetterView>),
    /// The last line: the result.
    Done(T),
    /// The last line: the queue does not exist.
    Missing(QueueId),
    /// The last line: the request failed.
    Error(String),
}

/// Does some work for the client. When the client closes its side, the work ends: in order if it
/// has a `stop` signal, otherwise it is dropped, and the result is `None`.
pub(super) async fn work_for<T>(
    stream: &mut UnixStream,
    work: impl Future<Output = T>,
    mut stop: Option<oneshot::Sender<()>>,
) -> Option<T> {
    let (mut from, mut to) = stream.split();
    let mut work = pin!(work);
    let mut is_closed = false;
    let mut ticks = interval(WORKING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            result = &mut work => return Some(result),
            () = end_of(&mut from), if !is_closed => {
                is_closed = true;
                debug!("the client closed its side: its work ends");
                // The work may have ended already.
                let _stopped = stop.take()?.send(());
            }
            _ = ticks.tick() => {
                // A client that is gone is noticed by its closed side.
                let _sent = send(&mut to, &Line::<()>::Working).await;
            }
        }
    }
}

/// Sends a line. One that is too long for the client is replaced by an error.
pub(super) async fn send<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    line: &Line<T>,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    if text.len() as u64 >= ANSWER_BYTES_MAX {
        let error = format!(
            "the answer has a line of {} bytes, the control socket carries {ANSWER_BYTES_MAX}: \
             ask for less",
            text.len()
        );
        text = serde_json::to_vec(&Line::<()>::Error(error))?;
    }
    text.push(b'\n');
    timeout(TIMEOUT, to.write_all(&text)).await?
}
