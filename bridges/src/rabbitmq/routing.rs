//! The routing table, and the declarations that every new session repeats.
//!
//! Owns which queues exist and which queues read each topic. Outlives connections.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use brickwork::transport::{ExternalBinding, QueueSpec, Topology, TransportError};
use brickwork::{Key, KeyRule, Message, QueueId};
use lapin::types::ShortString;
use parking_lot::{Mutex, RwLock};

use super::delay_count::DelayCount;
use super::delay_flow::DelayFlow;
use super::topology::{
    Declaration, declarations, partition_id, partition_key, partition_suspects, partitions,
    processes_id, queue_name, with_feeds,
};

/// High-water mark of a dead-letter queue. Dead letters stay until a user removes them; this
/// many in one service call for help, so sources pause.
const DEAD_LETTERS_HIGH_WATER: u64 = 100_000;
/// High-water mark of a quarantine queue. Suspects are tried one by one: this many take
/// minutes.
const SUSPECTS_HIGH_WATER: u64 = 100_000;

/// Everything that was declared since the transport was created.
#[derive(Default)]
pub(super) struct DeclaredTopology {
    routing: RwLock<Arc<RoutingTable>>,
    topologies: RwLock<Vec<Topology>>,
    /// The delay steps with messages whose arrival is not proven.
    pub(super) delay_flow: DelayFlow,
    /// Every queue that a process of the app ever declared, as far as it is known.
    pub(super) recorded: Mutex<BTreeSet<QueueId>>,
}

/// The queues and readers of an app.
#[derive(Default, Clone)]
pub(super) struct RoutingTable {
    pub(super) app: Arc<str>,
    pub(super) queues: HashMap<QueueId, Arc<Queue>>,
    /// The queues that read each topic.
    pub(super) readers: HashMap<Arc<str>, Vec<Arc<Queue>>>,
    pub(super) external: HashSet<Arc<str>>,
    /// The services with inputs.
    handlers: HashSet<Box<str>>,
    /// The first queue of each service.
    first: HashSet<QueueId>,
}

/// One of the app's queues.
pub(super) struct Queue {
    pub(super) id: QueueId,
    pub(super) name: ShortString,
    pub(super) delayed: Arc<DelayCount>,
    pub(super) high_water: u64,
    /// The broker delivers to one process at a time.
    pub(super) single_active: bool,
    /// Its external sources.
    pub(super) feeds: Vec<ExternalBinding>,
    /// The parts of a keyed input. The queue itself takes the messages of other programs, and those
    /// that arrive again.
    pub(super) parts: Option<Parts>,
    /// The queue of which this one is a part.
    pub(super) part_of: Option<PartOf>,
}

/// The parts of a keyed input.
pub(super) struct Parts {
    rule: KeyRule,
    /// Their queues, by number.
    pub(super) queues: Vec<Arc<Queue>>,
    /// Their routing keys.
    keys: Vec<ShortString>,
}

/// The input that a part belongs to.
pub(super) struct PartOf {
    /// Name of the input's queue.
    pub(super) input: ShortString,
    /// The queue of suspects of the part.
    pub(super) suspects: QueueId,
    /// The queue of suspects exists.
    pub(super) has_suspects: AtomicBool,
}

impl Parts {
    /// Returns the routing key of the part of a message, or `None` if the message has no key.
    pub(super) fn routing_key(&self, message: &Message) -> Option<&ShortString> {
        let key = self.rule.key(message).ok()?;
        self.keys.get(usize::from(key.partition(self.count())))
    }

    /// Returns the queue of the part of a message, and the key. A message without a key is in the
    /// first part.
    pub(super) fn queue_of(&self, message: &Message) -> (&Arc<Queue>, Option<Key>) {
        let key = self.rule.key(message).ok();
        let number = key.as_ref().map_or(0, |key| key.partition(self.count()));
        (&self.queues[usize::from(number)], key)
    }

    fn count(&self) -> u16 {
        self.queues.len() as u16
    }
}

impl Queue {
    /// Returns the name of the queue that gets retries: that of the input.
    pub(super) fn input_name(&self) -> &ShortString {
        let part_of = self.part_of.as_ref();
        part_of.map_or(&self.name, |part_of| &part_of.input)
    }

    /// Returns the queue of the suspects of this queue.
    pub(super) fn suspects(&self) -> QueueId {
        match &self.part_of {
            Some(part_of) => part_of.suspects.clone(),
            None => QueueId::suspects(&self.id.service),
        }
    }

    /// Returns this queue and its parts.
    pub(super) fn with_parts(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        let parts = self.parts.iter().flat_map(|parts| &parts.queues);
        std::iter::once(self).chain(parts)
    }
}

impl DeclaredTopology {
    pub(super) fn routing_table(&self) -> Arc<RoutingTable> {
        self.routing.read().clone()
    }

    pub(super) fn queue(&self, id: &QueueId) -> Result<Arc<Queue>, TransportError> {
        let queue = self.routing.read().queues.get(id).cloned();
        queue.ok_or_else(|| TransportError::NoQueue(id.clone()))
    }

    /// Adds a topology that was declared. Returns the new queues.
    pub(super) fn add(&self, topology: &Topology) -> Result<Vec<Arc<Queue>>, TransportError> {
        let new = self.attach(topology)?;
        let mut topologies = self.topologies.write();
        if !topologies.contains(topology) {
            topologies.push(topology.clone());
        }
        Ok(new)
    }

    /// Adds a topology that another process declares. Returns the new queues.
    pub(super) fn attach(&self, topology: &Topology) -> Result<Vec<Arc<Queue>>, TransportError> {
        let mut routing = self.routing.write();
        let mut changed = RoutingTable::clone(&routing);
        let new = changed.add(topology)?;
        *routing = Arc::new(changed);
        Ok(new)
    }

    /// Returns every declaration except those of external sources.
    pub(super) fn declarations(&self) -> Result<Vec<Declaration>, TransportError> {
        let mut all = Vec::new();
        for topology in &*self.topologies.read() {
            all.extend(declarations(topology)?);
        }
        Ok(all)
    }

    /// Returns every declaration, with those of external sources.
    pub(super) fn declarations_with_feeds(&self) -> Result<Vec<Declaration>, TransportError> {
        let mut all = Vec::new();
        for topology in &*self.topologies.read() {
            all.extend(with_feeds(topology)?);
        }
        Ok(all)
    }
}

impl RoutingTable {
    /// Adds a topology. Returns the new queues.
    fn add(&mut self, topology: &Topology) -> Result<Vec<Arc<Queue>>, TransportError> {
        self.app = topology.app.clone();
        self.external.extend(topology.external.iter().cloned());
        let mut new = Vec::new();
        let mut last = None;
        for spec in &topology.queues {
            if last.replace(&spec.id.service) != Some(&spec.id.service) {
                self.first.insert(spec.id.clone());
            }
        }
        for service in topology.services() {
            for (id, high_water) in [
                (QueueId::dead_letters(service), DEAD_LETTERS_HIGH_WATER),
                (QueueId::suspects(service), SUSPECTS_HIGH_WATER),
            ] {
                self.queue(id, high_water, None, &mut new)?;
            }
        }
        for spec in &topology.queues {
            self.handlers.insert(spec.id.service.clone());
            let id = spec.id.clone();
            let queue = self.queue(id, spec.high_water, Some(spec), &mut new)?;
            let topics = &spec.topics;
            for topic in topics {
                let readers = self.readers.entry(topic.clone()).or_default();
                if !readers.iter().any(|reader| Arc::ptr_eq(reader, &queue)) {
                    readers.push(queue.clone());
                }
            }
        }
        Ok(new)
    }

    /// Returns the queues in which a handler waits for this request to be handled. There are none
    /// if the request comes from a service without inputs, which has nothing in flight.
    pub(super) fn queues_asked(&self, request: &Message) -> Vec<QueueId> {
        let asker = request.source.rsplit('/').next();
        if !asker.is_some_and(|asker| self.handlers.contains(asker)) {
            return Vec::new();
        }
        let readers = self.readers.get(&request.topic).into_iter().flatten();
        let queues = readers.flat_map(Queue::with_parts);
        queues.map(|queue| queue.id.clone()).collect()
    }

    /// Returns the queue of this id and creates it if needed.
    fn queue(
        &mut self,
        id: QueueId,
        high_water: u64,
        spec: Option<&QueueSpec>,
        new: &mut Vec<Arc<Queue>>,
    ) -> Result<Arc<Queue>, TransportError> {
        if let Some(queue) = self.queues.get(&id) {
            return Ok(queue.clone());
        }
        let mut queue = Queue {
            name: queue_name(&self.app, &id)?,
            delayed: Arc::new(DelayCount::new()),
            high_water,
            single_active: spec.is_some_and(|spec| spec.single_active),
            feeds: spec.map_or_else(Vec::new, |spec| spec.feeds.clone()),
            parts: None,
            part_of: None,
            id: id.clone(),
        };
        if let Some(spec) = spec {
            queue.parts = self.parts(&queue, spec)?;
        }
        let queue = Arc::new(queue);
        self.queues.insert(id, queue.clone());
        new.push(queue.clone());
        Ok(queue)
    }

    /// Creates the parts of a keyed input.
    fn parts(&mut self, input: &Queue, spec: &QueueSpec) -> Result<Option<Parts>, TransportError> {
        let (Some(keyed), Some(count)) = (&spec.keyed, partitions(spec)) else {
            return Ok(None);
        };
        let mut parts = Parts {
            rule: keyed.rule.clone(),
            queues: Vec::new(),
            keys: Vec::new(),
        };
        let queue = |id: &QueueId, part_of| -> Result<_, TransportError> {
            Ok(Arc::new(Queue {
                name: queue_name(&self.app, id)?,
                delayed: input.delayed.clone(),
                high_water: input.high_water,
                single_active: true,
                feeds: Vec::new(),
                parts: None,
                part_of,
                id: id.clone(),
            }))
        };
        let mut made = vec![queue(&processes_id(&spec.id), None)?];
        for number in 0..count {
            let id = partition_id(&spec.id, number);
            let suspects = partition_suspects(&id);
            made.push(queue(&suspects, None)?);
            let part_of = PartOf {
                input: input.name.clone(),
                suspects,
                has_suspects: AtomicBool::new(false),
            };
            let part = queue(&id, Some(part_of))?;
            parts.keys.push(partition_key(&spec.id, number, count)?);
            parts.queues.push(part.clone());
            made.push(part);
        }
        let made = made.into_iter().map(|queue| (queue.id.clone(), queue));
        self.queues.extend(made);
        Ok(Some(parts))
    }

    /// Returns the service's quarantine queue if this is the service's first queue: suspects
    /// are counted with it.
    pub(super) fn suspects_counted_with(&self, id: &QueueId) -> Option<Arc<Queue>> {
        let suspects = QueueId::suspects(&id.service);
        let is_first = self.first.contains(id);
        is_first
            .then(|| self.queues.get(&suspects).cloned())
            .flatten()
    }
}
