//! Dead letters over the socket: a task goes to the app that has the letters, and what
//! comes of it comes back in lines, as it would be had in the app's own process.
//!
//! The end of the client's side, asked for or because it died, stops a task that
//! removes letters in order: what is under way is finished, the other letters stay. Both
//! sides hold a bounded number of letters: as many as the task's bounds say.

use std::io;
use std::path::Path;
use std::pin::pin;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tracing::debug;

use super::Verb;
use super::client::ControlError;
use super::streaming::{self, connect, end_of, says};
use crate::dead_letters::{DeadLetters, LetterView, Report, Task};
use crate::names::QueueId;
use crate::transport::TransportError;

/// What the app says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// It is at it.
    Working,
    /// One of the letters that were to be found.
    Letter(Box<LetterView>),
    /// The last line: what came of it.
    Done(Report),
    /// The last line: there is no such queue.
    Missing(QueueId),
    /// The last line: it can't be done.
    Error(String),
}

/// Does a task for the client at the other end.
pub(super) async fn serve(
    mut stream: UnixStream,
    letters: &DeadLetters,
    task: &Task,
) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    let (tell, told) = oneshot::channel::<()>();
    let mut tell = Some(tell);
    let mut work = pin!(letters.perform(task, async {
        // It isn't dropped unused.
        let _told = told.await;
    }));
    let mut gone = pin!(end_of(&mut from));
    let mut says = says();
    let report = loop {
        tokio::select! {
            report = &mut work => break report,
            () = &mut gone, if tell.is_some() => {
                if !task.removes() {
                    // What it holds goes back.
                    return Ok(());
                }
                debug!("a client went away: its task ends in order");
                let _ended = tell.take().map(|tell| tell.send(()));
            }
            _ = says.tick() => {
                // Whether it reads is seen at its end.
                let _gone = say(&mut to, &Line::Working).await;
            }
        }
    };
    match report {
        Ok(Report::Found(mut views)) => {
            while let Some(letter) = views.letters.pop_front() {
                say(&mut to, &Line::Letter(Box::new(letter))).await?;
            }
            say(&mut to, &Line::Done(Report::Found(views))).await
        }
        Ok(report) => say(&mut to, &Line::Done(report)).await,
        Err(TransportError::NoQueue(queue)) => say(&mut to, &Line::Missing(queue)).await,
        Err(error) => say(&mut to, &Line::Error(letters.clean(&error.to_string()))).await,
    }
}

/// Tells the client that its task isn't begun.
pub(super) async fn refuse(mut stream: UnixStream, why: &str) -> io::Result<()> {
    say(&mut stream, &Line::Error(why.to_owned())).await
}

async fn say(to: &mut (impl AsyncWrite + Unpin), line: &Line) -> io::Result<()> {
    streaming::say(to, line, |why| Line::Error(format!("a letter: {why}"))).await
}

/// Whether an app with this data folder listens.
///
/// # Errors
/// One does, and can't be talked to.
pub(crate) async fn is_running(data: &Path) -> Result<bool, ControlError> {
    match connect(data).await {
        Ok(_) => Ok(true),
        Err(ControlError::NotRunning { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has the app with this data folder do a task. When `stop` resolves, it is told to end
/// early, and what was done until then is the answer.
///
/// # Errors
/// Nothing runs there, it doesn't answer, or it can't.
pub(crate) async fn perform(
    data: &Path,
    task: &Task,
    stop: impl Future<Output = ()>,
) -> Result<Report, ControlError> {
    let (mut lines, mut to) = streaming::ask(data, Verb::Dlq(task.clone())).await?;
    let mut letters = std::collections::VecDeque::new();
    let mut stop = pin!(stop);
    let mut told = false;
    loop {
        let line = tokio::select! {
            () = &mut stop, if !told => {
                told = true;
                // One that is gone says so itself.
                let _gone = to.shutdown().await;
                continue;
            }
            line = lines.next() => line?,
        };
        match line {
            Line::Working => {}
            Line::Letter(letter) => letters.push_back(*letter),
            Line::Done(Report::Found(mut views)) => {
                views.letters = letters;
                return Ok(Report::Found(views));
            }
            Line::Done(report) => return Ok(report),
            Line::Missing(queue) => return Err(ControlError::NoQueue(queue)),
            Line::Error(text) => return Err(ControlError::Failed(text)),
        }
    }
}

#[cfg(test)]
mod tests;
