//! Routing table: queues by name and by number, and the topics that they read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::journal::InitialCounts;
use super::queue::Queue;
use super::reservation::Reservation;
use super::shared::Shared;
use crate::message::Message;
use crate::names::QueueId;
use crate::transport::{Backpressure, Limit, Outgoing, Topology, TransportError};

/// Sources wait while a service has more dead letters than this: the app needs help.
const DEAD_LETTERS_HIGH_WATER: u64 = 100_000;

#[derive(Default)]
pub(super) struct RoutingTable {
    queues: HashMap<QueueId, Arc<Queue>>,
    by_number: HashMap<u32, Arc<Queue>>,
    topics: HashMap<Arc<str>, Vec<Arc<Queue>>>,
    /// Names of the services that have inputs.
    handlers: HashSet<Box<str>>,
    /// Whether a queue rejects messages beyond its limit.
    rejecting: bool,
    pub(super) closed: bool,
}

/// How a message enters a queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arrival {
    /// Published by topic: the limit of the queue applies.
    ByTopic,
    /// Published by topic, with reserved capacity.
    Reserved,
    /// Published to this queue alone: never beyond the limit.
    Direct,
    /// Published for later: never beyond the limit.
    Delayed(Duration),
}

impl RoutingTable {
    /// Adds the queues of a topology for which `known` returns a number and counts.
    pub(super) fn declare(
        &mut self,
        topology: &Topology,
        pressure: &Arc<Backpressure>,
        shared: &Arc<Shared>,
        mut known: impl FnMut(&QueueId) -> Option<(u32, InitialCounts)>,
    ) {
        for service in topology.services() {
            let id = QueueId::dead_letters(service);
            if !self.queues.contains_key(&id)
                && let Some((number, start)) = known(&id)
            {
                let gauge = pressure.gauge(&id, DEAD_LETTERS_HIGH_WATER);
                let queue = Queue::new(id, number, start, gauge, None, None, shared.clone());
                self.add(queue);
            }
        }
        for spec in &topology.queues {
            let dead_letters = self.queues.get(&QueueId::dead_letters(&spec.id.service));
            if !self.queues.contains_key(&spec.id)
                && let Some(dead_letters) = dead_letters
                && let Some((number, start)) = known(&spec.id)
            {
                self.add(Queue::new(
                    spec.id.clone(),
                    number,
                    start,
                    pressure.gauge(&spec.id, spec.high_water),
                    Limit::of(spec),
                    Some(dead_letters.clone()),
                    shared.clone(),
                ));
            }
            let Some(queue) = self.queues.get(&spec.id) else {
                continue;
            };
            queue.lock().keyed = spec.keyed.is_some();
            for topic in &spec.topics {
                let readers = self.topics.entry(topic.clone()).or_default();
                if !readers.iter().any(|reader| Arc::ptr_eq(reader, queue)) {
                    readers.push(queue.clone());
                }
            }
        }
    }

    fn add(&mut self, queue: Arc<Queue>) {
        self.rejecting |= queue.limit().is_some_and(|limit| limit.rejects());
        if queue.dead_letters().is_some() {
            self.handlers.insert(queue.id().service.clone());
        }
        self.by_number.insert(queue.number(), queue.clone());
        self.queues.insert(queue.id().clone(), queue);
    }

    /// Returns a queue by its name.
    ///
    /// # Errors
    /// The queue is unknown, or the transport is closed.
    pub(super) fn queue(&self, id: &QueueId) -> Result<&Arc<Queue>, TransportError> {
        if self.closed {
            return Err(TransportError::Closed);
        }
        let queue = self.queues.get(id);
        queue.ok_or_else(|| TransportError::NoQueue(id.clone()))
    }

    pub(super) fn by_number(&self, number: u32) -> Option<&Arc<Queue>> {
        self.by_number.get(&number)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn overflowed(&self, id: &QueueId) -> u64 {
        self.queues.get(id).map_or(0, |queue| queue.overflowed())
    }

    /// Returns the queues that read a topic.
    pub(super) fn readers(&self, topic: &str) -> &[Arc<Queue>] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_topic(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Whether any message of a batch goes anywhere.
    pub(super) fn is_read(&self, batch: &[Outgoing]) -> bool {
        let mut batch = batch.iter();
        batch.any(|it| it.queue.is_some() || !self.readers(&it.message.topic).is_empty())
    }

    /// See [`Engine::queues_asked`](super::Engine::queues_asked).
    pub(super) fn queues_asked(&self, request: &Message) -> &[Arc<Queue>] {
        let asker = request.source.rsplit('/').next();
        match asker.is_some_and(|asker| self.handlers.contains(asker)) {
            true => self.readers(&request.topic),
            false => &[],
        }
    }

    /// Calls `deliver` for each queue that a message of the batch enters: for all, or for
    /// none if the batch cannot be published. A topic without readers accepts everything.
    ///
    /// # Errors
    /// The transport is closed, a queue is unknown, or a full queue rejects the batch.
    pub(super) fn route(
        &self,
        batch: Vec<Outgoing>,
        mut deliver: impl FnMut(&Arc<Queue>, Message, Arrival),
    ) -> Result<(), TransportError> {
        if self.closed {
            return Err(TransportError::Closed);
        }
        for id in batch.iter().filter_map(|outgoing| outgoing.queue.as_ref()) {
            self.queue(id)?;
        }
        let mut reservation = match self.rejecting {
            true => Reservation::new(batch.iter().flat_map(|it| self.arrivals(it)))?,
            false => Reservation::default(),
        };
        for outgoing in batch {
            let Outgoing {
                message,
                queue,
                delay,
            } = outgoing;
            let direct = queue.and_then(|id| self.queues.get(&id));
            let mut deliver = |queue: &Arc<Queue>, message: Message| {
                let arrival = if !delay.is_zero() {
                    Arrival::Delayed(delay)
                } else if direct.is_some() {
                    Arrival::Direct
                } else if reservation.take(queue) {
                    Arrival::Reserved
                } else {
                    Arrival::ByTopic
                };
                deliver(queue, message, arrival);
            };
            let readers = match direct {
                Some(queue) => std::slice::from_ref(queue),
                None => self.readers(&message.topic),
            };
            if let Some((last, others)) = readers.split_last() {
                for queue in others {
                    deliver(queue, message.clone());
                }
                deliver(last, message);
            }
        }
        Ok(())
    }

    /// Returns the queues whose limits apply to a message.
    fn arrivals(&self, outgoing: &Outgoing) -> &[Arc<Queue>] {
        if outgoing.queue.is_some() || !outgoing.delay.is_zero() {
            return &[];
        }
        self.readers(&outgoing.message.topic)
    }
}
