//! The transport contract: what moves messages, and what it promises.
//!
//! These comments are the specification. The conformance suite (`tests/`) checks each
//! law on every transport that claims it. Knows no broker.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, poll_fn};
use serde::{Deserialize, Serialize};

use crate::delivery::Delivery;
use crate::message::Message;
use crate::names::QueueId;

mod backpressure;
mod capacity;
mod completion;
mod connector;
pub mod engine;
mod error;
mod inspection;
mod lease;
mod limit;
pub mod memory;
mod prune;
mod replies;
mod search;
mod topology;

pub use backpressure::{Backpressure, DepthGauge, OutageGauge};
pub use capacity::{BoundedQueue, CapacityReservation};
pub use completion::Completion;
pub use connector::{Connector, Transports, scheme_of};
pub use error::{AskError, TransportError};
pub use inspection::{Inspection, InspectionProblem};
pub use lease::{Lease, LeaseKeeper};
pub use limit::Limit;
pub use prune::{Prune, PruneAction, Pruned, StaleQueue, StaleResource, judge};
pub use replies::{Replies, Waiting};
pub use search::{FoundMessage, QueueSection, SearchBounds, SearchQuery, SearchResult};
pub use topology::{ExternalBinding, ExternalSource, Overflow, QueueSpec, Topology};

/// What moves messages between services.
///
/// # Contract
/// - **Threading.** Every method may be called from any thread, at any time between
///   connecting and closing. None blocks its caller; a transport with work of its own
///   does it on threads or tasks of its own.
/// - **Cancellation.** A future returned here may be dropped at any point: either
///   nothing happened, or it happened completely.
/// - **Ordering.** If [`Guarantees::ordered`]: messages of one publisher to one queue
///   are delivered in the order in which they were published, as long as none is
///   delayed, given back or retried.
/// - **Copies.** Queues that read the same topic each get a copy. Consumers of one
///   queue compete: each message goes to one of them.
/// - **Taken over.** A message whose publication was confirmed is in every queue that
///   read its topic at that time, and stays until it is acked, dead-lettered or, for a
///   transport that isn't [`Guarantees::durable`], the process ends.
/// - **Limits.** If [`Guarantees::limits`]: a queue that holds as many messages as its
///   [`QueueSpec::limit`] (ready, in hand, or waiting for another attempt) is full. What is
///   published by topic is then dealt with as its [`Overflow`] says: the message goes to the
///   service's dead-letter queue with the reason `overflow`, its asker is told, and the
///   publisher isn't troubled; or the whole batch fails with [`TransportError::Refused`]
///   and nothing of it was published. A batch is let in whole by a queue that isn't full
///   and rejects, however large it is. What was taken over before is never too much (a
///   retry, what is given back, what was scheduled), nor is a message to one queue alone.
/// - **Names.** Ids, types, sources, times, headers, payload bytes and the trace
///   arrive as they were sent.
pub trait Transport: Send + Sync + 'static {
    /// Its URL scheme, such as `memory`: the label `transport` of metrics.
    fn scheme(&self) -> &'static str;

    /// What it promises.
    fn guarantees(&self) -> Guarantees;

    /// Makes every queue of the app, with its dead-letter queues, and binds them.
    ///
    /// Declaring the same again changes nothing. Must be done before anything is
    /// published or consumed; a queue gets no messages from before it was declared.
    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>>;

    /// Knows every queue of an app without making any: for tools that work with what is
    /// there. A queue that isn't there is [`TransportError::NoQueue`] when it is used.
    /// Where nothing outlives the process, there is no difference to
    /// [`declare`](Transport::declare).
    fn attach<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        self.declare(topology)
    }

    /// Publishes messages, in order, and reports once on all of them.
    ///
    /// Returns at once; the caller bounds how much it has under way. `done` is called
    /// from any thread, perhaps before this returns: with `Ok` when every message was
    /// taken over, with an error when any may not have been (some may have been
    /// nevertheless: publishing again under the same ids is right). A delayed message
    /// counts as taken over when its wait is.
    ///
    /// Never waits for room in a queue: a cycle of services can't deadlock.
    fn publish(&self, batch: Vec<Outgoing>, done: Completion);

    /// Starts taking messages from a queue, at most `bound` unsettled at a time.
    ///
    /// While the transport is down ([`Status::down`]) this waits until it works again.
    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>>;

    /// Waits to have a [`Lease`]: to be the one that runs a source of which one process at a
    /// time runs one ([`Topology::single`]).
    ///
    /// It is granted to one of those who wait, anew when the one who has it lets it go, dies,
    /// or loses the transport, which it learns by [`Lease::lost`]. A process that is cut off,
    /// or frozen, may have it for as long as it hasn't noticed: what it publishes then fails.
    /// Granted at once, for good, by a transport that processes don't share.
    ///
    /// Who drops its [`Lease`], or lets it go, doesn't wait any more either.
    fn lease<'a>(
        &'a self,
        source: &'a str,
        keeper: LeaseKeeper,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        let _ = source;
        keeper.for_good();
        Box::pin(async { Ok(()) })
    }

    /// Publishes a request and waits for the first reply, at most `within`.
    ///
    /// The transport fills in where the reply goes. A reply that comes later is
    /// dropped, and counted in [`Transport::late_replies`].
    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>>;

    /// How many replies came for askers that had stopped waiting.
    fn late_replies(&self) -> u64;

    /// How many messages this transport has put with the dead letters because this queue
    /// was full. Nothing, where limits aren't kept.
    fn overflowed(&self, queue: &QueueId) -> u64 {
        let _ = queue;
        0
    }

    /// How much is in a queue. Where the broker can't tell what is in hand or waiting
    /// for its time, those are what this process knows of.
    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>>;

    /// Looks for messages in the queues of the app, where they are, and changes nothing.
    ///
    /// If [`Guarantees::searches`]: of what is wanted it finds every message that is ready,
    /// waits for its time, or is a dead letter, and none that has been acked for good; or it
    /// says what it didn't look at ([`SearchResult::missed`]). What is in hand it need not find:
    /// whoever has it knows. It takes no longer than the bounds say, and holds up nobody.
    ///
    /// # Errors
    /// It can't be done: [`TransportError::Unsupported`] where queues can't be searched.
    fn find<'a>(
        &'a self,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        let _ = (wanted, bounds);
        Box::pin(async { Err(TransportError::Unsupported("searching queues")) })
    }

    /// Whether it works now; changes are seen by whoever holds the receiver.
    ///
    /// A transport that is down tries by itself to work again. Until it does, publications
    /// and asks fail, and its [`Backpressure`] is high, so that sources wait. One that has lost
    /// its broker can't consume either: consumers have ended, and settlements of what was
    /// taken before are dropped (it is delivered again). One that has no room for more goes
    /// on with what it has: consumers stay, and what is settled is kept until it can be
    /// written.
    fn status(&self) -> tokio::sync::watch::Receiver<Status>;

    /// Waits until everything that was handed over before (publications, settlements)
    /// is done or has failed.
    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Flushes, then lets go of everything. Consumers end; what was in hand is
    /// delivered again, to whoever consumes next, if the transport can.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What a transport promises, beyond the contract that holds for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarantees {
    /// What was confirmed outlives this process.
    pub durable: bool,
    /// What was taken and not settled is delivered again, also after a crash.
    pub redelivers: bool,
    /// One publisher's messages to one queue arrive in order.
    pub ordered: bool,
    /// Processes may share it.
    pub crosses_processes: bool,
    /// Messages can be delivered later.
    pub delays: bool,
    /// Queues keep their limits ([`QueueSpec::limit`]).
    pub limits: bool,
    /// Queues can be searched ([`Transport::find`]).
    pub searches: bool,
}

/// The consuming end of one queue.
pub trait Consumer: Send {
    /// Takes up to `max` deliveries and appends them to `into`; `Ready(Ok)` means that
    /// there was at least one.
    ///
    /// Nothing is lost when the poll is pending or is not repeated.
    ///
    /// # Errors
    /// The consumer has ended, and what is wrong. It stays so: consume again.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>>;

    /// Stops taking. What was fetched ahead and not yet handed out is given back; what
    /// was handed out can still be settled.
    fn stop(&mut self);
}

/// Waits for deliveries: the async form of [`Consumer::poll_take`].
///
/// # Errors
/// As [`Consumer::poll_take`].
pub async fn take(
    consumer: &mut dyn Consumer,
    into: &mut VecDeque<Delivery>,
    max: usize,
) -> Result<(), TransportError> {
    poll_fn(|cx| consumer.poll_take(cx, into, max)).await
}

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The message; its topic says where it goes.
    pub message: Message,
    /// To this queue alone, past all topics (a replayed dead letter).
    pub queue: Option<QueueId>,
    /// To be delivered after this time; [`Duration::ZERO`] means now.
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

/// How much is in a queue, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Ready to be taken.
    pub ready: u64,
    /// Taken and not settled.
    pub in_flight: u64,
    /// Waiting for its time.
    pub delayed: u64,
}

impl Depth {
    /// All of it.
    pub fn total(self) -> u64 {
        self.ready + self.in_flight + self.delayed
    }
}

/// Whether a transport works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// What is wrong, while something is.
    pub down: Option<String>,
    /// Why it takes over only what services publish, while sources wait: there is little
    /// room, and working off what is there makes more.
    pub scarce: Option<String>,
    /// Since when it is down, or short of room.
    pub since: Option<SystemTime>,
    /// It was closed, by this side: it won't work again.
    pub ended: bool,
    /// How often it has connected again.
    pub reconnects: u64,
}
