//! The queue engine of transports in one process.
//!
//! `memory:` is this engine without a journal; `embedded:` is this engine with one in SQLite.
//!
//! | file | content |
//! | --- | --- |
//! | `mod` | [`Engine`]: publish, consume, ask, search |
//! | `routing`, `reservation` | which queues get a message, and limits for whole batches |
//! | `queue`, `window` | one queue: the window on its front, counts, limit, backpressure |
//! | `consumer` | taking and settling |
//! | `delays`, `shared` | messages that wait in memory; parts that all queues use |
//! | `search` | search without a journal |
//! | `journal` | the contract with a journal: commands and events |
//!
//! # Invariants
//! - A publication is confirmed after all its messages are in their queues: in memory, or
//!   committed by the journal and then applied to the queues.
//! - A message counts in exactly one place of its queue (see `window`).
//! - Without a journal, no call waits: publish and settle take effect before they return.
//! - With a journal, a delivery is settled in memory at once, and its command follows. After
//!   a crash the journal redelivers a message whose command was not committed.
//!
//! # Locks
//! The routing table is locked before a queue, and a queue before the journal. At most one
//! queue is locked at a time. Wakers and drops of deliveries run without locks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::RwLock;

use super::{
    AskError, Backpressure, Completion, Depth, Outgoing, Replies, SearchBounds, SearchQuery,
    SearchResult, Topology, TransportError,
};
use crate::message::Message;
use crate::names::QueueId;

mod consumer;
mod delays;
mod journal;
mod queue;
mod reservation;
mod routing;
mod search;
mod shared;
mod window;

#[cfg(test)]
mod tests;

use delays::{Delays, Wait};
use routing::{Arrival, RoutingTable};
use shared::Shared;

pub use consumer::QueueConsumer;
pub use journal::{
    Append, Change, Entry, EntryId, InitialCounts, Journal, JournalEvents, LoadRequest, Loaded,
    NO_SLOT,
};
pub use queue::{Queue, SuspectOutcome};
pub use window::{WINDOW, WINDOW_BYTES};

/// Queues of one transport. See the module.
pub struct Engine {
    routing: RwLock<RoutingTable>,
    shared: Arc<Shared>,
    pressure: Arc<Backpressure>,
}

impl Engine {
    /// Makes an engine without queues. `address` is put on requests; if requests outlive the
    /// process it must be different in each. Its timer runs on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(
        pressure: Arc<Backpressure>,
        address: impl Into<Arc<str>>,
        journal: Option<Arc<dyn Journal>>,
    ) -> Self {
        Self {
            routing: RwLock::default(),
            shared: Arc::new(Shared {
                journal,
                delays: Delays::start(),
                replies: Arc::new(Replies::new(address)),
            }),
            pressure,
        }
    }

    /// Adds the queues of a topology for which `known` returns their number in the journal
    /// and their contents. With a journal, call it between two commits.
    ///
    /// # Errors
    /// The engine is closed.
    pub fn declare(
        &self,
        topology: &Topology,
        known: impl FnMut(&QueueId) -> Option<(u32, InitialCounts)>,
    ) -> Result<(), TransportError> {
        let mut routing = self.routing.write();
        if routing.closed {
            return Err(TransportError::Closed);
        }
        routing.declare(topology, &self.pressure, &self.shared, known);
        Ok(())
    }

    /// As [`declare`](Self::declare), for an engine without a journal.
    ///
    /// # Errors
    /// The engine is closed.
    pub fn declare_all(&self, topology: &Topology) -> Result<(), TransportError> {
        let mut routing = self.routing.write();
        if routing.closed {
            return Err(TransportError::Closed);
        }
        let mut next = routing.len() as u32;
        routing.declare(topology, &self.pressure, &self.shared, |_| {
            next += 1;
            Some((next, InitialCounts::default()))
        });
        Ok(())
    }

    /// Publishes a batch: all of it, or nothing if a queue rejects it.
    pub fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        match &self.shared.journal {
            None => done.complete(self.put(batch)),
            Some(journal) => self.append(&**journal, batch, done),
        }
    }

    /// Publishes a batch without a journal.
    fn put(&self, batch: Vec<Outgoing>) -> Result<(), TransportError> {
        // Locked to the end: the answers of full queues hold until the last message is in.
        let routing = self.routing.read();
        routing.route(batch, |queue, message, arrival| match arrival {
            Arrival::ByTopic => queue.push_by_topic(message),
            Arrival::Reserved => queue.push_reserved(message),
            Arrival::Direct => queue.push(message, 1),
            Arrival::Delayed(delay) => {
                queue.count_scheduled();
                let entry = Entry {
                    sequence: 0,
                    message,
                    attempt: 1,
                };
                let delays = &self.shared.delays;
                delays.add(queue.clone(), entry, delay, Wait::Scheduled);
            }
        })
    }

    /// Publishes a batch through the journal. Capacity stays reserved until the messages are
    /// committed.
    fn append(&self, journal: &dyn Journal, batch: Vec<Outgoing>, done: Completion) {
        let routing = self.routing.read();
        if let Some(error) = journal.error()
            && routing.is_read(&batch)
        {
            drop(routing);
            return done.complete(Err(error));
        }
        let mut messages = Vec::with_capacity(batch.len());
        let mut reserved = Vec::new();
        let routed = routing.route(batch, |queue, message, arrival| {
            let (delay, is_reserved) = match (arrival, queue.limit(), queue.dead_letters()) {
                (Arrival::Delayed(delay), ..) => (delay, false),
                (Arrival::Reserved, ..) => (Duration::ZERO, true),
                (Arrival::ByTopic, Some(limit), Some(dead_letters)) if !queue.reserve(1) => {
                    let letter = limit.letter(queue.id());
                    queue.count_overflow();
                    messages.push(Append {
                        queue: dead_letters.number(),
                        message: letter.letter(&message),
                        delay: Duration::ZERO,
                        reserved: false,
                    });
                    let replies = &self.shared.replies;
                    return replies.answer(&message, Err(letter.error));
                }
                (Arrival::ByTopic, Some(_), Some(_)) => (Duration::ZERO, true),
                (Arrival::ByTopic | Arrival::Direct, ..) => (Duration::ZERO, false),
            };
            if is_reserved {
                reserved.push(queue.clone());
            }
            messages.push(Append {
                queue: queue.number(),
                message,
                delay,
                reserved: is_reserved,
            });
        });
        drop(routing);
        match routed {
            // No queue reads the topics.
            Ok(()) if messages.is_empty() => done.complete(Ok(())),
            Ok(()) => journal.append(messages, release_on_failure(reserved, done)),
            Err(error) => done.complete(Err(error)),
        }
    }

    /// Starts to consume a queue.
    ///
    /// # Errors
    /// The queue is unknown, or the engine is closed.
    pub fn consume(&self, id: &QueueId, bound: usize) -> Result<QueueConsumer, TransportError> {
        let queue = self.queue(id)?;
        Ok(QueueConsumer::new(queue, bound))
    }

    /// Publishes a request and waits for its reply, at most `within`. Calls `start` with the
    /// queues in which a handler's request waits, before the request is published, and keeps
    /// the result until the end of the wait.
    pub fn ask<G: Send + 'static>(
        &self,
        request: Message,
        within: Duration,
        start: impl FnOnce(&[Arc<Queue>]) -> G,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        let failed = |error: AskError| Box::pin(async move { Err::<Message, _>(error) });
        if !self.routing.read().is_topic(&request.topic) {
            let text = format!("no service reads the topic {}", request.topic);
            return failed(AskError::Failed(text));
        }
        let (request, reply) = match self.shared.replies.expect(request) {
            Ok(expected) => expected,
            Err(error) => return failed(error),
        };
        let guard = start(self.routing.read().queues_asked(&request));
        let batch = vec![request.into()];
        let (sent, outcome) = match &self.shared.journal {
            None => (self.put(batch), None),
            Some(journal) => {
                let (done, outcome) = Completion::channel();
                self.append(&**journal, batch, done);
                (Ok(()), Some(outcome))
            }
        };
        Box::pin(async move {
            let _guard = guard;
            sent?;
            let answer = async {
                if let Some(outcome) = outcome {
                    outcome.await?;
                }
                reply.await
            };
            match tokio::time::timeout(within, answer).await {
                Ok(reply) => reply,
                Err(_) => Err(AskError::Timeout(within)),
            }
        })
    }

    /// Replies to requests of this engine.
    pub fn replies(&self) -> &Arc<Replies> {
        &self.shared.replies
    }

    /// Number of messages that became dead letters because the queue was full.
    pub fn overflowed(&self, id: &QueueId) -> u64 {
        self.routing.read().overflowed(id)
    }

    /// Depth of a queue.
    ///
    /// # Errors
    /// The queue is unknown, or the engine is closed.
    pub fn depth(&self, id: &QueueId) -> Result<Depth, TransportError> {
        Ok(self.queue(id)?.depth())
    }

    fn queue(&self, id: &QueueId) -> Result<Arc<Queue>, TransportError> {
        self.routing.read().queue(id).cloned()
    }

    /// Returns all queues.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        self.routing.read().all().cloned().collect()
    }

    /// Searches the queues of an engine without a journal.
    pub async fn find(&self, query: &SearchQuery, bounds: SearchBounds) -> SearchResult {
        let queues = self.queues();
        search::find(&queues, &self.shared.delays, query, bounds).await
    }

    /// Wakes all consumers that wait.
    pub fn wake_all(&self) {
        for queue in self.routing.read().all() {
            queue.wake_all();
        }
    }

    /// Refuses publications and asks from now on, and ends all consumers. Returns whether it
    /// was open.
    pub fn close(&self) -> bool {
        let was_open = !std::mem::replace(&mut self.routing.write().closed, true);
        self.shared.delays.stop();
        self.shared.replies.close();
        for queue in self.queues() {
            queue.close();
        }
        was_open
    }
}

impl JournalEvents for Engine {
    fn changed(&self, queue: u32, change: Change) {
        let dead_lettered = change.dead_lettered > 0;
        let queue = self.routing.read().by_number(queue).cloned();
        if let Some(queue) = queue {
            queue.apply(change);
        }
        if dead_lettered && let Some(journal) = &self.shared.journal {
            journal.on_settled();
        }
    }

    fn resumed(&self) {
        self.wake_all();
    }

    fn is_draining(&self) -> bool {
        self.shared.delays.are_due_soon()
            || self.routing.read().all().any(|queue| queue.is_draining())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.delays.stop();
    }
}

/// Wraps a completion: a failed publication releases the capacity that it reserved.
fn release_on_failure(reserved: Vec<Arc<Queue>>, done: Completion) -> Completion {
    if reserved.is_empty() {
        return done;
    }
    Completion::new(move |outcome| {
        if outcome.is_err() {
            for queue in reserved {
                queue.release(1);
            }
        }
        done.complete(outcome);
    })
}
