//! Which queues an app has, and what they read.

use std::sync::Arc;

use crate::names::QueueId;

/// All queues of an app. Every process that runs a part of it declares the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// The app's name: the first part of every queue's name on a shared broker.
    pub app: Arc<str>,
    /// The queue of each input.
    pub queues: Vec<QueueSpec>,
    /// Sources of which one process at a time runs each ([`Transport::lease`]).
    ///
    /// [`Transport::lease`]: super::Transport::lease
    pub single: Vec<Arc<str>>,
    /// Topics that programs outside read: publishing there without a reader is fine.
    pub external: Vec<Arc<str>>,
}

/// The queue in front of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Whose it is.
    pub id: QueueId,
    /// The topics that it reads.
    pub topics: Vec<Arc<str>>,
    /// Above this many messages, sources pause until it has halved.
    pub high_water: u64,
    /// What it holds at most, in messages. A transport that doesn't keep limits
    /// ([`Guarantees::limits`]) refuses to declare such a queue.
    ///
    /// [`Guarantees::limits`]: super::Guarantees::limits
    pub limit: Option<u64>,
    /// What becomes of what comes beyond the limit.
    pub overflow: Overflow,
    /// One process at a time gets its messages; another one takes over when that is gone.
    /// For services whose state is on one machine.
    pub single_active: bool,
    /// Where some of its topics are also fed from, outside the app. A transport that has
    /// no such things ignores them: nothing comes from there.
    pub feeds: Vec<ExternalBinding>,
}

/// Something outside that feeds a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalBinding {
    /// The topic that its messages have here, whatever they had there.
    pub topic: Arc<str>,
    /// What feeds it.
    pub from: ExternalSource,
}

/// A part of a broker that isn't the app's: it is used, and never made, changed or
/// removed. If it isn't there, or may not be used, that is
/// [`TransportError::OwnedByAnother`](super::TransportError::Foreign), when the topology is
/// declared and when the queue is consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalSource {
    /// A queue, of this name. It is consumed beside the app's own, which keeps what is
    /// tried again.
    Queue(Arc<str>),
    /// An exchange. The app's own queue is bound to it.
    Exchange {
        /// Its name.
        name: Arc<str>,
        /// The routing key of the binding, which may have wildcards.
        key: Arc<str>,
    },
}

/// What becomes of a message that is published to a queue which is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It goes to the service's dead-letter queue; the publisher isn't troubled.
    #[default]
    DeadLetter,
    /// The publication fails.
    Reject,
}

impl Topology {
    /// The services that have queues, each once, in order.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let mut last = None;
        self.queues.iter().filter_map(move |queue| {
            let service = &*queue.id.service;
            (last.replace(service) != Some(service)).then_some(service)
        })
    }
}
