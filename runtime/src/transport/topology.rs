//! The topology of an app: its queues and the topics that they read.

use std::sync::Arc;

use crate::key::KeyRule;
use crate::names::QueueId;

/// All queues of an app. Every process that runs a part of the app declares all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// The app's name: the first part of every queue name on a shared broker.
    pub app: Arc<str>,
    /// The queue of each input.
    pub queues: Vec<QueueSpec>,
    /// Sources that only one process runs at a time ([`Transport::lease`]).
    ///
    /// [`Transport::lease`]: super::Transport::lease
    pub single: Vec<Arc<str>>,
    /// Topics that programs outside the app read. Publishing to them without a reader is no error.
    pub external: Vec<Arc<str>>,
}

/// The queue of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its service and input.
    pub id: QueueId,
    /// The topics that it reads.
    pub topics: Vec<Arc<str>>,
    /// Above this number of messages sources pause, until half of it is reached.
    pub high_water: u64,
    /// Maximum messages. A transport without [`Guarantees::limits`] refuses to declare a queue
    /// with a limit.
    ///
    /// [`Guarantees::limits`]: super::Guarantees::limits
    pub limit: Option<u64>,
    /// Policy for messages beyond the limit.
    pub overflow: Overflow,
    /// One process at a time consumes it; when that process is gone, another one does. For services
    /// whose state is on one machine.
    pub single_active: bool,
    /// Order by key. `None`: messages have no keys.
    pub keyed: Option<Keyed>,
    /// External queues and exchanges that feed its topics. A transport without such things ignores
    /// them.
    pub feeds: Vec<ExternalBinding>,
}

/// Order by key: messages of one key are handled one at a time, in order.
///
/// A transport hands the messages of a key to one consumer at a time, in the order in which they
/// were published; the host orders them among its instances, and holds the ones that wait for a
/// retry. A suspect is handed out before later messages of its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// How messages get their keys. A message that has none may go to any partition: the host
    /// dead-letters it.
    pub rule: KeyRule,
    /// Number of parts of the queue, at least 1, each consumed by one process at a time:
    /// [`Key::partition`](crate::Key::partition). A transport of one process needs no parts.
    pub partitions: u16,
}

/// An external resource that feeds a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalBinding {
    /// The topic that its messages get, whatever their routing keys.
    pub topic: Arc<str>,
    /// The queue or exchange.
    pub from: ExternalSource,
}

/// A queue or exchange of another program. The app uses it and never creates, changes or removes
/// it. If it is missing or access is refused, declaring the topology and consuming the queue fail
/// with [`TransportError::OwnedByAnother`](super::TransportError::OwnedByAnother).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalSource {
    /// A queue of this name. It is consumed beside the app's own queue, which holds the retries.
    Queue(Arc<str>),
    /// An exchange. The app's own queue is bound to it.
    Exchange {
        /// Its name.
        name: Arc<str>,
        /// The routing key of the binding, which may have wildcards.
        key: Arc<str>,
    },
}

/// Policy for a message that is published to a full queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The message goes to the dead-letter queue of the service. The publication succeeds.
    #[default]
    DeadLetter,
    /// The publication fails.
    Reject,
}

impl Topology {
    /// Returns the services that have queues, each once, in order.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let mut last = None;
        self.queues.iter().filter_map(move |queue| {
            let service = &*queue.id.service;
            (last.replace(service) != Some(service)).then_some(service)
        })
    }
}
