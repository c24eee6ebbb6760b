//! The transport contract: the interface of everything that moves messages.
//!
//! These comments are the specification. The conformance suite in `tests/` checks each law on
//! every transport that claims it. This module knows no broker.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, poll_fn};
use serde::{Deserialize, Serialize};

use crate::delivery::Delivery;
use crate::message::Message;
use crate::names::QueueId;

mod backpressure;
mod completion;
mod connector;
pub mod engine;
mod error;
mod inspection;
mod lease;
mod letters;
mod limit;
pub mod memory;
mod prune;
mod replies;
mod search;
mod topology;

pub(crate) use backpressure::SourcePressure;
pub use backpressure::{Backpressure, DepthGauge, OutageGauge, WaitReason};
pub use completion::Completion;
pub use connector::{Connector, RenewUrl, Transports, scheme_of};
pub use error::{AskError, TransportError};
pub use inspection::{Inspection, InspectionProblem};
pub use lease::{Lease, LeaseKeeper};
pub use letters::LetterReader;
pub use limit::Limit;
pub use prune::{
    Prune, PruneAction, Pruned, StaleQueue, StaleResource, StrandedQueue, judge, next_to_remove,
};
pub use replies::{Replies, Waiting};
pub use search::{FoundMessage, QueueSection, SearchBounds, SearchQuery, SearchResult};
pub use topology::{ExternalBinding, ExternalSource, Keyed, Overflow, QueueSpec, Topology};

/// Moves messages between services.
///
/// # Contract
/// - **Threading.** Every method may be called from any thread, at any time between connecting
///   and closing. No method blocks its caller: a transport runs its own work on its own threads
///   or tasks.
/// - **Cancellation.** A future returned here may be dropped at any point. Its operation is then
///   either complete or has not happened.
/// - **Ordering.** If [`Guarantees::ordered`]: messages of one publisher to one queue are
///   delivered in the order in which they were published, unless a message is delayed, requeued
///   or retried.
/// - **Copies.** Queues that read the same topic get a copy each. Consumers of one queue compete:
///   each message goes to one of them.
/// - **Confirmed.** A message whose publication was confirmed is in every queue that read its
///   topic at that time. It stays there until it is acked or dead-lettered. Without
///   [`Guarantees::durable`] it is lost when the process ends.
/// - **Limits.** If [`Guarantees::limits`]: a queue is full when it holds as many messages as its
///   [`QueueSpec::limit`] (ready, in flight, or waiting for a retry). A message that is published
///   by topic to a full queue is handled by its [`Overflow`] policy. Either the message goes to
///   the dead-letter queue of the service with the reason `overflow`, its asker gets an error,
///   and the publication succeeds; or the whole batch fails with [`TransportError::Refused`] and
///   nothing of it is published. A queue that rejects and is not full accepts a batch of any
///   size. Limits do not apply to messages that were confirmed before (retries, requeued and
///   scheduled messages), and not to messages to one queue.
/// - **Names.** Ids, types, sources, times, headers, payload bytes and the trace arrive as they
///   were sent.
pub trait Transport: Send + Sync + 'static {
    /// Returns the URL scheme, such as `memory`: the metric label `transport`.
    fn scheme(&self) -> &'static str;

    /// Returns the promises of this transport beyond the contract.
    fn guarantees(&self) -> Guarantees;

    /// Creates every queue of the app, with its dead-letter queues, and binds them.
    ///
    /// Declaring the same topology again changes nothing. Declare before publishing or consuming: a
    /// queue gets no messages that were published before it was declared.
    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>>;

    /// Registers the queues of an app without creating any, for tools that work with existing
    /// queues. Using a queue that does not exist fails with [`TransportError::NoQueue`]. On a
    /// transport that is not durable this is the same as [`declare`](Transport::declare).
    fn attach<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        self.declare(topology)
    }

    /// Publishes messages in order and completes `done` once for all of them.
    ///
    /// Returns at once: the caller bounds the number of publications in flight. `done` is called
    /// from any thread, perhaps before this returns. It gets `Ok` when every message is confirmed,
    /// and an error when any message may not be. Some may have been published nevertheless, so
    /// publish the batch again under the same ids. A delayed message is confirmed when its delay is
    /// stored.
    ///
    /// Publishing never waits for space in a queue, so a cycle of services can't deadlock.
    fn publish(&self, batch: Vec<Outgoing>, done: Completion);

    /// Starts to consume a queue, with at most `bound` unsettled deliveries.
    ///
    /// While the transport is down ([`Status::down`]) this waits until it works again.
    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>>;

    /// Waits for a [`Lease`]: the right to run a source that only one process runs at a time
    /// ([`Topology::single`]).
    ///
    /// The transport grants it to one of the waiting processes. When the holder releases it,
    /// crashes or loses the transport ([`Lease::lost`]), another process gets it. A holder that
    /// is cut off or frozen keeps the lease until it notices; its publications fail meanwhile. A
    /// transport that belongs to one process grants it at once and for good.
    ///
    /// Dropping the [`Lease`] ends the wait.
    fn lease<'a>(
        &'a self,
        source: &'a str,
        keeper: LeaseKeeper,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        let _ = source;
        keeper.grant_for_good();
        Box::pin(async { Ok(()) })
    }

    /// Publishes a request and waits for the first reply, at most `within`.
    ///
    /// The transport sets the reply address. A reply that comes later is dropped and counted in
    /// [`Transport::late_replies`].
    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>>;

    /// Returns the number of replies whose askers had stopped waiting.
    fn late_replies(&self) -> u64;

    /// Returns the number of messages that this transport dead-lettered because the queue was full.
    /// 0 without [`Guarantees::limits`].
    fn overflowed(&self, queue: &QueueId) -> u64 {
        let _ = queue;
        0
    }

    /// Counts the messages of a queue. If the broker can't count messages in flight or delayed,
    /// those of this process are counted.
    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>>;

    /// Finds the queues of the app that hold messages and that no service reads, neither of this
    /// topology nor of another version that runs now. Changes nothing.
    ///
    /// # Errors
    /// The queues can't be counted now.
    fn stranded<'a>(
        &'a self,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Vec<StrandedQueue>, TransportError>> {
        let _ = topology;
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Opens a reader of a dead-letter queue. `None` means that letters can be consumed and
    /// requeued without any limit.
    ///
    /// A broker that counts deliveries drops a letter that was requeued too often, so its reader
    /// does not requeue letters.
    fn letters<'a>(
        &'a self,
        queue: &'a QueueId,
    ) -> BoxFuture<'a, Result<Option<Box<dyn LetterReader>>, TransportError>> {
        let _ = queue;
        Box::pin(async { Ok(None) })
    }

    /// Searches the queues of the app for messages and changes nothing.
    ///
    /// If [`Guarantees::searches`]: the result has every message of the query that is ready,
    /// delayed or a dead letter, and none that was acked; or it says which part was not searched
    /// ([`SearchResult::missed`]). Messages in flight may be missing: their consumer knows them.
    /// A search ends within its bounds and delays no other work.
    ///
    /// # Errors
    /// [`TransportError::Unsupported`] if the queues can't be searched.
    fn find<'a>(
        &'a self,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        let _ = (wanted, bounds);
        Box::pin(async { Err(TransportError::Unsupported("searching queues")) })
    }

    /// Watches whether the transport works.
    ///
    /// A transport that is down tries by itself to work again. Until then publications and asks
    /// fail, and its [`Backpressure`] is high, so that sources wait. If it lost its broker,
    /// consumers end and earlier deliveries can't be settled: those messages are redelivered. A
    /// transport may hold a redelivery while this process still has the message, and ack it if the
    /// message is done. If its disk is full, consumers go on, and settlements are kept until they can
    /// be written.
    fn status(&self) -> tokio::sync::watch::Receiver<Status>;

    /// Waits until all publications and settlements made before are complete or have failed.
    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Flushes and closes the transport. Consumers end. Messages in flight are redelivered to the
    /// next consumer if the transport [`redelivers`](Guarantees::redelivers).
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Promises of a transport beyond the contract that holds for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarantees {
    /// Confirmed messages outlive the process.
    pub durable: bool,
    /// Deliveries that were not settled are redelivered, even after a crash.
    pub redelivers: bool,
    /// Messages of one publisher to one queue arrive in order.
    pub ordered: bool,
    /// Several processes may share the transport.
    pub crosses_processes: bool,
    /// Messages can be delivered later.
    pub delays: bool,
    /// Queues enforce their limits ([`QueueSpec::limit`]).
    pub limits: bool,
    /// Queues can be searched ([`Transport::find`]).
    pub searches: bool,
}

/// Consumes one queue.
pub trait Consumer: Send {
    /// Takes up to `max` deliveries and appends them to `into`. `Ready(Ok)` means at least one.
    ///
    /// A pending poll that is not repeated loses nothing.
    ///
    /// # Errors
    /// The consumer has ended, and stays so: consume again.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>>;

    /// Stops consuming. Prefetched messages are requeued. Deliveries that were taken can still be
    /// settled.
    fn stop(&mut self);
}

/// Waits for deliveries: the async form of [`Consumer::poll_take`].
///
/// # Errors
/// The same as [`Consumer::poll_take`].
pub async fn take(
    consumer: &mut dyn Consumer,
    into: &mut VecDeque<Delivery>,
    max: usize,
) -> Result<(), TransportError> {
    poll_fn(|cx| consumer.poll_take(cx, into, max)).await
}

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The message, with its topic.
    pub message: Message,
    /// Publishes to this queue only and not to the topic: for replayed dead letters.
    pub queue: Option<QueueId>,
    /// Delay before delivery. [`Duration::ZERO`] delivers at once.
    pub delay: Duration,
}

impl From<Message> for Outgoing {
    fn from(message: Message) -> Self {
        Self {
            message,
            queue: None,
            delay: Duration::ZERO,
        }
    }
}

/// Numbers of messages in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Ready to be delivered.
    pub ready: u64,
    /// Delivered and not settled.
    #[serde(alias = "in_hand")]
    pub in_flight: u64,
    /// Waiting for a retry or for a scheduled time.
    pub delayed: u64,
}

impl Depth {
    /// Returns the sum.
    pub fn total(self) -> u64 {
        self.ready + self.in_flight + self.delayed
    }
}

/// State of a transport.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The problem, while the transport is down.
    pub down: Option<String>,
    /// The reason why only services may publish and sources wait: disk space is low, and consuming
    /// the queues frees some.
    pub scarce: Option<String>,
    /// The time since which the transport is down or short of space.
    pub since: Option<SystemTime>,
    /// Problems of parts of a transport that is not down, by part. It tries by itself again.
    pub degraded: BTreeMap<&'static str, String>,
    /// Number of failed attempts to settle a delivery.
    pub failed_settlements: u64,
    /// Number of delays whose messages have not arrived in time.
    pub overdue_delays: u64,
    /// Milliseconds by which the broker's clock is ahead of this machine's.
    pub clock_skew_ms: i64,
    /// The transport was closed by this process and won't work again.
    pub ended: bool,
    /// Number of times it has reconnected.
    pub reconnects: u64,
}
