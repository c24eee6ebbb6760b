//! `memory:`: queues in this process.
//!
//! Complete but for one thing: messages don't outlive the process. Publishing is done,
//! and confirmed, before [`Transport::publish`] returns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    AskError, Backpressure, BoundedQueue, CapacityReservation, Completion, Connector, Consumer,
    Depth, Guarantees, Limit, Outgoing, Replies, SearchBounds, SearchQuery, SearchResult, Status,
    Topology, Transport, TransportError,
};
use crate::message::Message;
use crate::names::QueueId;

mod delays;
mod find;
mod queue;

use delays::{Delay, Delays};
use queue::{Queue, QueueConsumer};

/// Dead letters are kept until somebody takes them. So many in one service are a sign
/// that the app needs help: then sources pause.
const DEAD_LETTERS_HIGH_WATER: u64 = 100_000;

const GUARANTEES: Guarantees = Guarantees {
    durable: false,
    redelivers: true,
    ordered: true,
    crosses_processes: false,
    delays: true,
    limits: true,
    searches: true,
};

/// Makes memory transports: `memory:`.
pub struct MemoryConnector;

impl Connector for MemoryConnector {
    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        GUARANTEES
    }

    fn check(&self, url: &str) -> Result<(), String> {
        if url == "memory:" {
            Ok(())
        } else {
            Err("memory: takes nothing after the colon".into())
        }
    }

    fn connect<'a>(
        &'a self,
        url: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async move {
            self.check(url).map_err(|why| TransportError::Connect {
                url: url.to_owned(),
                why,
            })?;
            Ok(Arc::new(Memory::new(pressure)) as Arc<dyn Transport>)
        })
    }
}

/// Queues in this process.
pub struct Memory {
    wires: RwLock<Wires>,
    delays: Arc<Delays>,
    replies: Arc<Replies>,
    pressure: Arc<Backpressure>,
    status: watch::Sender<Status>,
}

#[derive(Default)]
struct Wires {
    queues: HashMap<QueueId, Arc<Queue>>,
    topics: HashMap<Arc<str>, Vec<Arc<Queue>>>,
    /// Whether any queue rejects what is too much.
    rejecting: bool,
    closed: bool,
}

impl Memory {
    /// A memory transport; its timers run on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(pressure: Arc<Backpressure>) -> Self {
        Self {
            wires: RwLock::default(),
            delays: Delays::start(),
            replies: Arc::new(Replies::new("memory")),
            pressure,
            status: watch::Sender::default(),
        }
    }

    fn queue(&self, id: &QueueId) -> Result<Arc<Queue>, TransportError> {
        let wires = self.wires.read();
        if wires.closed {
            return Err(TransportError::Closed);
        }
        wires
            .queues
            .get(id)
            .cloned()
            .ok_or_else(|| TransportError::NoQueue(id.clone()))
    }

    /// Puts a batch: all of it, or nothing if a queue rejects it.
    fn put(&self, batch: Vec<Outgoing>) -> Result<(), TransportError> {
        // Held to the end: what a queue was asked is so until the last message is put.
        let wires = self.wires.read();
        let mut places = match wires.rejecting {
            true => CapacityReservation::ask(
                batch.iter().flat_map(|outgoing| wires.arrivals(outgoing)),
            )?,
            false => CapacityReservation::none(),
        };
        for outgoing in batch {
            wires.put(outgoing, &mut places, &self.delays)?;
        }
        Ok(())
    }
}

impl Wires {
    /// Who gets what is published by topic now; what is scheduled comes later, and what
    /// is for one queue alone is never too much.
    fn arrivals(&self, outgoing: &Outgoing) -> &[Arc<Queue>] {
        if self.closed || outgoing.queue.is_some() || !outgoing.delay.is_zero() {
            return &[];
        }
        self.readers(&outgoing.message.topic)
    }

    fn readers(&self, topic: &str) -> &[Arc<Queue>] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    fn put(
        &self,
        outgoing: Outgoing,
        places: &mut CapacityReservation<Queue>,
        delays: &Delays,
    ) -> Result<(), TransportError> {
        let Outgoing {
            message,
            queue,
            delay,
        } = outgoing;
        if self.closed {
            return Err(TransportError::Closed);
        }
        let mut put = |queue: &Arc<Queue>, message: Message, by_topic: bool| {
            if !delay.is_zero() {
                delays.add(queue, message, 1, delay, Delay::PendingWork);
            } else if by_topic && places.take(queue) {
                queue.push_into_place(message);
            } else if by_topic {
                queue.push_by_topic(message);
            } else {
                queue.push(message, 1);
            }
        };
        if let Some(id) = queue {
            let queue = self.queues.get(&id).ok_or(TransportError::NoQueue(id))?;
            put(queue, message, false);
        } else if let Some((last, others)) = self.readers(&message.topic).split_last() {
            for queue in others {
                put(queue, message.clone(), true);
            }
            put(last, message, true);
        }
        // A topic that nobody reads takes everything.
        Ok(())
    }
}

impl Transport for Memory {
    fn scheme(&self) -> &'static str {
        "memory"
    }

    fn guarantees(&self) -> Guarantees {
        GUARANTEES
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            let mut wires = self.wires.write();
            if wires.closed {
                return Err(TransportError::Closed);
            }
            for service in topology.services() {
                let id = QueueId::dead_letters(service);
                wires.queues.entry(id.clone()).or_insert_with(|| {
                    let gauge = self.pressure.gauge(DEAD_LETTERS_HIGH_WATER);
                    Queue::new(
                        id,
                        gauge,
                        None,
                        None,
                        self.delays.clone(),
                        self.replies.clone(),
                    )
                });
            }
            for spec in &topology.queues {
                if !wires.queues.contains_key(&spec.id) {
                    let letters = wires.queues[&QueueId::dead_letters(&spec.id.service)].clone();
                    let queue = Queue::new(
                        spec.id.clone(),
                        self.pressure.gauge(spec.high_water),
                        Limit::of(spec),
                        Some(letters),
                        self.delays.clone(),
                        self.replies.clone(),
                    );
                    wires.rejecting |= queue.limit().is_some_and(|limit| limit.rejects());
                    wires.queues.insert(spec.id.clone(), queue);
                }
                let queue = wires.queues[&spec.id].clone();
                for topic in &spec.topics {
                    let readers = wires.topics.entry(topic.clone()).or_default();
                    if !readers.iter().any(|reader| Arc::ptr_eq(reader, &queue)) {
                        readers.push(queue.clone());
                    }
                }
            }
            Ok(())
        })
    }

    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        done.complete(self.put(batch));
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(async move {
            let queue = self.queue(queue)?;
            Ok(Box::new(QueueConsumer::new(queue, bound)) as Box<dyn Consumer>)
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        if !self.wires.read().topics.contains_key(&request.topic) {
            let text = format!("nobody reads the topic {}", request.topic);
            return Box::pin(async move { Err(AskError::Failed(text)) });
        }
        let (request, waiting) = match self.replies.expect(request) {
            Ok(expected) => expected,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let sent = self.put(vec![request.into()]);
        Box::pin(async move {
            sent?;
            match tokio::time::timeout(within, waiting).await {
                Ok(reply) => reply,
                Err(_) => Err(AskError::Timeout(within)),
            }
        })
    }

    fn late_replies(&self) -> u64 {
        self.replies.late()
    }

    fn overflowed(&self, queue: &QueueId) -> u64 {
        let wires = self.wires.read();
        wires
            .queues
            .get(queue)
            .map_or(0, |queue| queue.overflowed())
    }

    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async move { Ok(self.queue(queue)?.depth()) })
    }

    fn find<'a>(
        &'a self,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        Box::pin(async move {
            let queues: Vec<_> = self.wires.read().queues.values().cloned().collect();
            find::find(&queues, &self.delays, wanted, bounds).await
        })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        // Everything is done when the call that asked for it returns.
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut wires = self.wires.write();
            wires.closed = true;
            self.delays.stop();
            self.replies.close();
            for queue in wires.queues.values() {
                queue.close();
            }
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.delays.stop();
    }
}
