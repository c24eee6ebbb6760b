//! Queries to a consumer task: its counts, and waiting for its settlements.

use brickwork::transport::TransportError;
use tokio::sync::{mpsc, oneshot};

/// A query to a consumer task.
pub(super) enum ConsumerQuery {
    /// Counts the messages of the queue, here and on the broker.
    Count(oneshot::Sender<Result<Count, TransportError>>),
    /// Answers when everything that was settled before is done.
    Flush(oneshot::Sender<()>),
}

/// The messages of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    /// Ready on the broker.
    pub(super) ready: u64,
    /// Buffered here.
    pub(super) fetched: u64,
    /// Handed to the service, unsettled.
    pub(super) in_flight: u64,
}

/// Sends a query to a consumer task. Returns `None` if the task has ended.
///
/// A query that arrives just as the task ends stays in the channel, with its answer's sender,
/// for as long as the channel has senders. So this also waits for the end of the task.
pub(super) async fn ask<T>(
    task: &mpsc::Sender<ConsumerQuery>,
    query: impl FnOnce(oneshot::Sender<T>) -> ConsumerQuery,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    task.send(query(answer)).await.ok()?;
    tokio::select! {
        biased;
        answer = answered => answer.ok(),
        () = task.closed() => None,
    }
}
