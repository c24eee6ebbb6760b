//! Work on dead letters over the control socket: the app that reaches the letters performs the
//! request, as it would in the client's process.
//!
//! A client that closes its side stops a request that removes letters in order: publications
//! that have started are finished, the other letters stay. Both sides hold a limited number of
//! letters, by the bounds of the request.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::pin::pin;

use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::Verb;
use super::client::{Connection, ControlError};
use super::streaming::{Line, send, work_for};
use crate::dead_letters::{DeadLetters, DlqReport, DlqRequest};
use crate::transport::TransportError;

/// Performs a request for a client.
pub(super) async fn serve(
    mut stream: UnixStream,
    letters: &DeadLetters,
    request: &DlqRequest,
) -> io::Result<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let work = letters.perform(request, async {
        let _stopped = stopped.await;
    });
    let stop = request.removes().then_some(stop);
    let Some(report) = work_for(&mut stream, work, stop).await else {
        return Ok(());
    };
    let last = match report {
        Ok(DlqReport::Found(mut found)) => {
            while let Some(letter) = found.letters.pop_front() {
                send(&mut stream, &Line::<()>::Letter(Box::new(letter))).await?;
            }
            Line::Done(DlqReport::Found(found))
        }
        Ok(report) => Line::Done(report),
        Err(TransportError::NoQueue(queue)) => Line::Missing(queue),
        Err(error) => Line::Error(letters.clean(&error.to_string())),
    };
    send(&mut stream, &last).await
}

/// Has the app with this data folder perform a request. When `stop` resolves, asks the app to
/// end early; the report says what was done until then.
///
/// # Errors
/// No app runs there, it does not answer, or it fails.
pub(crate) async fn perform(
    data: &Path,
    request: &DlqRequest,
    stop: impl Future<Output = ()>,
) -> Result<DlqReport, ControlError> {
    let mut connection = Connection::ask(data, Verb::Dlq(request.clone())).await?;
    let mut letters = VecDeque::new();
    let mut stop = pin!(stop);
    let mut is_closed = false;
    loop {
        let line = tokio::select! {
            () = &mut stop, if !is_closed => {
                is_closed = true;
                connection.close().await;
                continue;
            }
            line = connection.next() => line?,
        };
        match line {
            Line::Working => {}
            Line::Letter(letter) => letters.push_back(*letter),
            Line::Done(DlqReport::Found(mut found)) => {
                found.letters = letters;
                return Ok(DlqReport::Found(found));
            }
            Line::Done(report) => return Ok(report),
            Line::Missing(queue) => return Err(ControlError::NoQueue(queue)),
            Line::Error(text) => return Err(ControlError::Failed(text)),
        }
    }
}

#[cfg(test)]
mod tests;
