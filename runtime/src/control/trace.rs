//! A message's way over the socket: the app that has the trails looks, and says now and then
//! that it is at it.

use std::io;
use std::path::Path;
use std::pin::pin;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::net::UnixStream;

use super::Verb;
use super::client::ControlError;
use super::streaming::{self, end_of, says};
use crate::message_trace::{Trace, TraceCollector, TraceQuery};

/// What the app says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// It is at it.
    Working,
    /// The last line: what is known.
    Done(Box<Trace>),
    /// The last line: it can't be done.
    Error(String),
}

/// Follows a message for the client at the other end.
pub(super) async fn serve(
    mut stream: UnixStream,
    tracer: &TraceCollector,
    question: &TraceQuery,
) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    let mut work = pin!(tracer.trace(question, None));
    let mut gone = pin!(end_of(&mut from));
    let mut says = says();
    let trace = loop {
        tokio::select! {
            trace = &mut work => break trace,
            // Dead letters that it holds go back.
            () = &mut gone => return Ok(()),
            _ = says.tick() => say(&mut to, &Line::Working).await?,
        }
    };
    say(&mut to, &Line::Done(Box::new(trace))).await
}

/// Tells the client that nothing is begun.
pub(super) async fn refuse(mut stream: UnixStream, why: &str) -> io::Result<()> {
    say(&mut stream, &Line::Error(why.to_owned())).await
}

async fn say(to: &mut (impl AsyncWrite + Unpin), line: &Line) -> io::Result<()> {
    streaming::say(to, line, |why| Line::Error(format!("the answer: {why}"))).await
}

/// Has the app with this data folder follow a message.
///
/// # Errors
/// Nothing runs there, it doesn't answer, or it can't.
pub(crate) async fn trace(data: &Path, question: &TraceQuery) -> Result<Trace, ControlError> {
    // What the client would say stays open: its end tells the app that nobody waits.
    let (mut lines, _open) = streaming::ask(data, Verb::Trace(question.clone())).await?;
    loop {
        match lines.next().await? {
            Line::Working => {}
            Line::Done(trace) => return Ok(*trace),
            Line::Error(text) => return Err(ControlError::Failed(text)),
        }
    }
}
