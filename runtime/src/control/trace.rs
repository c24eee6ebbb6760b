//! Message traces over the control socket: the app that has the histories makes the trace.

use std::io;
use std::path::Path;

use tokio::net::UnixStream;

use super::Verb;
use super::client::{Connection, ControlError};
use super::streaming::{Line, send, work_for};
use crate::message_trace::{Trace, TraceCollector, TraceQuery};

/// Traces a message for a client.
pub(super) async fn serve(
    mut stream: UnixStream,
    collector: &TraceCollector,
    query: &TraceQuery,
) -> io::Result<()> {
    match work_for(&mut stream, collector.trace(query, None), None).await {
        Some(trace) => send(&mut stream, &Line::Done(trace)).await,
        None => Ok(()),
    }
}

/// Has the app with this data folder trace a message.
///
/// # Errors
/// No app runs there, it does not answer, or it fails.
pub(crate) async fn trace(data: &Path, query: &TraceQuery) -> Result<Trace, ControlError> {
    let mut connection = Connection::ask(data, Verb::Trace(query.clone())).await?;
    loop {
        match connection.next().await? {
            Line::Done(trace) => return Ok(trace),
            Line::Error(text) => return Err(ControlError::Failed(text)),
            Line::Working | Line::Letter(_) | Line::Missing(_) => {}
        }
    }
}
