//! Queues by name and by number, and which topics they read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use brickwork::transport::{
    Backpressure, BoundedQueue, CapacityReservation, Limit, Outgoing, Topology, TransportError,
};
use brickwork::{Message, QueueId};

use super::delays::due_ms;
use super::queue::{InitialCounts, Queue};
use super::write_op::PendingMessage;

/// Dead letters are kept until somebody takes them. So many in one service are a sign
/// that the app needs help: then sources pause.
const DEAD_LETTERS_HIGH_WATER: u64 = 100_000;

#[derive(Default)]
pub(super) struct RoutingTable {
    pub(super) queues: HashMap<QueueId, Arc<Queue>>,
    pub(super) by_number: HashMap<u32, Arc<Queue>>,
    pub(super) topics: HashMap<Arc<str>, Vec<Arc<Queue>>>,
    /// The services that have inputs.
    handlers: HashSet<Box<str>>,
    /// Whether any queue rejects what is too much.
    rejecting: bool,
    pub(super) closed: bool,
}

impl RoutingTable {
    /// Knows the queues of a topology, as far as they are there: `known` tells a queue's
    /// number and what is in it.
    pub(super) fn declare(
        &mut self,
        topology: &Topology,
        pressure: &Arc<Backpressure>,
        known: impl Fn(&QueueId) -> Option<(u32, InitialCounts)>,
    ) {
        for service in topology.services() {
            let id = QueueId::dead_letters(service);
            if !self.queues.contains_key(&id)
                && let Some((number, start)) = known(&id)
            {
                let gauge = pressure.gauge(DEAD_LETTERS_HIGH_WATER);
                self.add(Queue::new(id, number, start, gauge, None, None));
            }
        }
        for spec in &topology.queues {
            let letters = self.queues.get(&QueueId::dead_letters(&spec.id.service));
            if !self.queues.contains_key(&spec.id)
                && let (Some((number, start)), Some(letters)) = (known(&spec.id), letters)
            {
                self.add(Queue::new(
                    spec.id.clone(),
                    number,
                    start,
                    pressure.gauge(spec.high_water),
                    Limit::of(spec),
                    Some(letters.clone()),
                ));
            }
            let Some(queue) = self.queues.get(&spec.id).cloned() else {
                continue;
            };
            for topic in &spec.topics {
                let readers = self.topics.entry(topic.clone()).or_default();
                if !readers.iter().any(|reader| Arc::ptr_eq(reader, &queue)) {
                    readers.push(queue.clone());
                }
            }
        }
    }

    fn add(&mut self, queue: Arc<Queue>) {
        self.rejecting |= queue.limit().is_some_and(|limit| limit.rejects());
        if queue.letters.is_some() {
            self.handlers.insert(queue.id.service.clone());
        }
        self.by_number.insert(queue.number, queue.clone());
        self.queues.insert(queue.id.clone(), queue);
    }

    /// # Errors
    /// There is no such queue, or no queue any more.
    pub(super) fn queue(&self, id: &QueueId) -> Result<Arc<Queue>, TransportError> {
        if self.closed {
            return Err(TransportError::Closed);
        }
        let queue = self.queues.get(id).cloned();
        queue.ok_or_else(|| TransportError::NoQueue(id.clone()))
    }

    /// Whether anything of a batch goes anywhere.
    pub(super) fn is_read(&self, batch: &[Outgoing]) -> bool {
        let mut batch = batch.iter();
        batch.any(|it| it.queue.is_some() || !self.readers(&it.message.topic).is_empty())
    }

    /// The rows that a batch becomes: for all of it, or none if a queue rejects it. `told`
    /// is told of each message that went to the dead letters instead.
    ///
    /// # Errors
    /// It can't be published.
    pub(super) fn route(
        &self,
        batch: Vec<Outgoing>,
        told: impl Fn(&Message, String),
    ) -> Result<Vec<PendingMessage>, TransportError> {
        if self.closed {
            return Err(TransportError::Closed);
        }
        // Before anything is done: the names must be known.
        for id in batch.iter().filter_map(|outgoing| outgoing.queue.as_ref()) {
            self.queue(id)?;
        }
        let mut places = match self.rejecting {
            true => {
                CapacityReservation::ask(batch.iter().flat_map(|outgoing| self.arrivals(outgoing)))?
            }
            false => CapacityReservation::none(),
        };
        let mut rows = Vec::with_capacity(batch.len());
        for outgoing in batch {
            self.put(outgoing, &mut places, &mut rows, &told);
        }
        Ok(rows)
    }

    /// Who gets what is published by topic now; what is scheduled comes later, and what
    /// is for one queue alone is never too much.
    fn arrivals(&self, outgoing: &Outgoing) -> &[Arc<Queue>] {
        if outgoing.queue.is_some() || !outgoing.delay.is_zero() {
            return &[];
        }
        self.readers(&outgoing.message.topic)
    }

    fn readers(&self, topic: &str) -> &[Arc<Queue>] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Where somebody in hand waits for this request to be handled; nowhere if it comes from a
    /// service that has no inputs, and so nothing in hand.
    pub(super) fn asked(&self, request: &Message) -> Vec<Arc<Queue>> {
        let asker = request.source.rsplit('/').next();
        match asker.is_some_and(|asker| self.handlers.contains(asker)) {
            true => self.readers(&request.topic).to_vec(),
            false => Vec::new(),
        }
    }

    fn put(
        &self,
        outgoing: Outgoing,
        places: &mut CapacityReservation<Queue>,
        rows: &mut Vec<PendingMessage>,
        told: &impl Fn(&Message, String),
    ) {
        let Outgoing {
            message,
            queue,
            delay,
        } = outgoing;
        let due_ms = (!delay.is_zero()).then(|| due_ms(delay));
        let by_topic = queue.is_none() && due_ms.is_none();
        let alone = queue.and_then(|id| self.queues.get(&id));
        let readers = match alone {
            Some(queue) => std::slice::from_ref(queue),
            None => self.readers(&message.topic),
        };
        // Encoded once, whoever reads it.
        let mut written = None;
        for (left, queue) in (0..readers.len()).rev().zip(readers) {
            let limit = queue.limit().filter(|_| by_topic);
            // Until it is on the disk.
            let placed = limit.is_some() && (places.take(queue) || queue.keep_places(1));
            if let (false, Some(limit), Some(letters)) = (placed, limit, &queue.letters) {
                let letter = limit.letter(&queue.id);
                queue.count_overflow();
                rows.push(PendingMessage::new(
                    letters.clone(),
                    letter.letter(&message),
                ));
                told(&message, letter.error);
                continue;
            }
            let encoded = written
                .take()
                .unwrap_or_else(|| super::record::EncodedRecord::of(&message));
            if left > 0 {
                written = Some(encoded.clone());
            }
            let mut row = PendingMessage::copy(queue.clone(), message.clone(), encoded);
            row.due_ms = due_ms;
            row.placed = placed;
            rows.push(row);
        }
    }
}
