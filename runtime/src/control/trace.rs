//! A message's way over the socket: the app that has the trails looks, and says now and then
//! that it is at it.

use std::io;
use std::path::Path;
use std::pin::pin;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::bench::{SAY_EVERY, connect, end_of};
use super::client::{ControlError, explain, not_running};
use super::{ANSWER_BYTES_MAX, Request, TIMEOUT, Verb};
use crate::trail::{Question, Trace, Tracer};

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
    tracer: &Tracer,
    question: &Question,
) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    let mut work = pin!(tracer.trace(question, None));
    let mut gone = pin!(end_of(&mut from));
    let mut says = interval(SAY_EVERY);
    says.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    timeout(TIMEOUT, to.write_all(&text)).await?
}

/// Has the app with this data folder follow a message.
///
/// # Errors
/// Nothing runs there, it doesn't answer, or it can't.
pub(crate) async fn trace(data: &Path, question: &Question) -> Result<Trace, ControlError> {
    let wrong = |error: io::Error| explain(data, error);
    let request = Request {
        verb: Verb::Trace(question.clone()),
    };
    let mut request = serde_json::to_vec(&request).map_err(|error| wrong(error.into()))?;
    request.push(b'\n');
    let (from, mut to) = connect(data).await?.into_split();
    let written = timeout(TIMEOUT, to.write_all(&request)).await;
    written
        .map_err(|elapsed| wrong(elapsed.into()))?
        .map_err(wrong)?;
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        let mut limited = (&mut lines).take(ANSWER_BYTES_MAX);
        let read = timeout(TIMEOUT, limited.read_until(b'\n', &mut line)).await;
        read.map_err(|elapsed| wrong(elapsed.into()))?
            .map_err(wrong)?;
        if line.last() != Some(&b'\n') {
            return Err(not_running(data, "was closed before it was done"));
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Working) => line.clear(),
            Ok(Line::Done(trace)) => return Ok(*trace),
            Ok(Line::Error(text)) => return Err(ControlError::Failed(text)),
            // Such as an app of an older version, which doesn't know the verb.
            Err(error) => return Err(ControlError::Answer(error)),
        }
    }
}
