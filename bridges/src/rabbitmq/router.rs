//! Routes messages: from the app's terms (topics, queues, delays, replies) to the broker's
//! (exchanges, routing keys, delay queues).
//!
//! A message to a queue, or to a topic that a queue of the app reads, is mandatory: without a
//! receiving queue the publication fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use brickwork::supervision::quarantine::CrashRecord;
use brickwork::transport::{Completion, Outgoing, Topology, TransportError};
use brickwork::{Envelope, Message, QueueId, Reply};
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::codec::{self, Route};
use super::declared_registry::DeclaredRegistry;
use super::declared_steps::DeclaredSteps;
use super::declarer::Declarer;
use super::partition_change;
use super::publisher::{Publication, Publisher};
use super::routing::{DeclaredTopology, Queue, RoutingTable};
use super::session_state::SessionState;
use super::topology::{Step, external_declarations, partition_suspects_declaration, with_feeds};

/// Sends the messages of one session.
pub(super) struct Router {
    pub(super) publisher: Publisher,
    pub(super) declarer: Declarer,
    pub(super) properties_bytes_max: usize,
    registry: DeclaredRegistry,
    handle: Handle,
    pub(super) declared: Arc<DeclaredTopology>,
    pub(super) session_state: Arc<SessionState>,
    pub(super) delay_steps: DeclaredSteps,
}

/// A routed batch.
struct RoutedBatch {
    publications: Vec<Publication>,
    delayed: Vec<(Arc<Queue>, Step)>,
}

impl Router {
    pub(super) fn new(
        publisher: Publisher,
        declarer: Declarer,
        registry: DeclaredRegistry,
        declared: Arc<DeclaredTopology>,
        session_state: Arc<SessionState>,
        properties_bytes_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            publisher,
            declarer,
            registry,
            properties_bytes_max,
            handle: Handle::current(),
            declared,
            session_state,
            delay_steps: DeclaredSteps::default(),
        })
    }

    /// Returns every queue that a process of the app ever declared, as far as it is known.
    pub(super) fn recorded(&self) -> &Mutex<BTreeSet<QueueId>> {
        &self.declared.recorded
    }

    pub(super) fn routing_table(&self) -> Arc<RoutingTable> {
        self.declared.routing_table()
    }

    pub(super) fn queue(&self, id: &QueueId) -> Result<Arc<Queue>, TransportError> {
        self.declared.queue(id)
    }

    /// Returns the queue of this name on the broker, if the app has it.
    pub(super) fn queue_named(&self, name: &ShortString) -> Option<Arc<Queue>> {
        let routing = self.routing_table();
        let mut queues = routing.queues.values();
        queues.find(|queue| queue.name == *name).cloned()
    }

    /// Declares a topology on the broker and adds it to the routing table. Returns the new
    /// queues.
    pub(super) async fn declare(
        &self,
        topology: &Topology,
    ) -> Result<Vec<Arc<Queue>>, TransportError> {
        self.check_app(topology)?;
        // Recorded first, so that no queue exists without a record.
        let all = with_feeds(topology)?;
        partition_change::settle(&self.declarer, topology).await?;
        let recorded = self.registry.record(&topology.app, &all).await;
        self.declared.recorded.lock().extend(recorded);
        self.declarer.declare(all).await?;
        self.declared.add(topology)
    }

    /// Checks that the external sources of a queue exist and binds the queue to them.
    pub(super) async fn ensure_feeds(&self, queue: &Queue) -> Result<(), TransportError> {
        if queue.feeds.is_empty() {
            return Ok(());
        }
        let needed = external_declarations(&queue.name, &queue.feeds)?;
        self.declarer.declare(needed).await
    }

    /// Adds a topology to the routing table and declares nothing on the broker.
    pub(super) fn attach(&self, topology: &Topology) -> Result<(), TransportError> {
        self.check_app(topology)?;
        self.declared.attach(topology).map(drop)
    }

    fn check_app(&self, topology: &Topology) -> Result<(), TransportError> {
        let known = self.routing_table().app.clone();
        if !known.is_empty() && known != topology.app {
            return Err(TransportError::Declare {
                what: format!("the app {}", topology.app),
                why: format!("this transport is the app {known}'s: connect again"),
            });
        }
        Ok(())
    }

    /// Declares everything again: on a new or restarted broker, or after a queue was deleted.
    pub(super) async fn redeclare(&self) -> Result<(), TransportError> {
        let all = self.declared.declarations()?;
        if all.is_empty() {
            return Ok(());
        }
        self.declarer.declare(all).await?;
        // Recording runs in the background: working again comes first.
        let (registry, app) = (self.registry.clone(), self.routing_table().app.clone());
        let all = self.declared.declarations_with_feeds()?;
        let declared = self.declared.clone();
        self.handle.spawn(async move {
            let recorded = registry.record(&app, &all).await;
            declared.recorded.lock().extend(recorded);
        });
        Ok(())
    }

    /// Publishes a batch and reports the outcome of all once.
    pub(super) fn publish(self: &Arc<Self>, batch: Vec<Outgoing>, done: Completion) {
        let RoutedBatch {
            publications,
            delayed,
        } = match self.route(batch) {
            Ok(routed) => routed,
            Err(error) => return done.complete(Err(error)),
        };
        if delayed.is_empty() {
            return self.publisher.publish(publications, done);
        }
        let mut steps: Vec<Step> = delayed.iter().map(|(_, step)| *step).collect();
        steps.retain(|step| !self.delay_steps.is_declared(*step));
        let router = self.clone();
        let done = Completion::new(move |outcome| {
            for (queue, step) in delayed {
                router.delayed(&queue, step, &outcome);
            }
            done.complete(outcome);
        });
        if steps.is_empty() {
            return self.publisher.publish(publications, done);
        }
        let router = self.clone();
        self.handle.spawn(async move {
            for step in steps {
                if let Err(error) = router.ensure_delay_step(step).await {
                    return done.complete(Err(error));
                }
            }
            router.publisher.publish(publications, done);
        });
    }

    fn route(&self, batch: Vec<Outgoing>) -> Result<RoutedBatch, TransportError> {
        let routing = self.routing_table();
        if routing.app.is_empty() {
            let why = "nothing is declared yet: declare the topology first";
            return Err(TransportError::Refused(why.into()));
        }
        let mut routed = RoutedBatch {
            publications: Vec::with_capacity(batch.len()),
            delayed: Vec::new(),
        };
        for outgoing in batch {
            let Outgoing {
                message,
                queue,
                delay,
            } = outgoing;
            let queue = match &queue {
                Some(id) => Some(self.queue(id)?),
                None => None,
            };
            if delay.is_zero() {
                match queue {
                    None => routed.publications.push(self.to_topic(&routing, &message)?),
                    Some(queue) => {
                        routed
                            .publications
                            .push(self.to_queue(&queue.name, &message, 1)?)
                    }
                }
                continue;
            }
            let step = Step::at_least(delay)
                .ok_or(TransportError::Unsupported("a delay of more than a day"))?;
            if queue.is_none() && routing.external.contains(&message.topic) {
                // A delayed message goes to one queue, and external readers' queues are
                // unknown.
                return Err(TransportError::Unsupported(
                    "a delay on a topic that programs outside read",
                ));
            }
            let readers = match &queue {
                Some(queue) => std::slice::from_ref(queue),
                None => routing.readers.get(&message.topic).map_or(&[][..], |r| r),
            };
            for queue in readers {
                let waiting = self.to_delay_queue(&routing, step, &queue.name, &message, 1)?;
                routed.publications.push(waiting);
                routed.delayed.push((queue.clone(), step));
            }
        }
        Ok(routed)
    }

    /// Publishes a message to one queue.
    pub(super) async fn send_to_queue(
        &self,
        queue: &ShortString,
        message: &Message,
        attempt: u32,
    ) -> Result<(), TransportError> {
        let publication = self.to_queue(queue, message, attempt)?;
        self.publisher.send(publication).await
    }

    /// Moves a message to the quarantine queue of its service, or of its part of a keyed input.
    pub(super) async fn to_suspects(
        &self,
        source: &QueueId,
        message: &Message,
        record: CrashRecord,
    ) -> Result<(), TransportError> {
        let queue = self.queue(source)?;
        let suspects = self.queue(&queue.suspects())?;
        if let Some(part_of) = &queue.part_of {
            // Parts rarely have suspects.
            let needed = partition_suspects_declaration(suspects.name.clone());
            self.declarer.declare(vec![needed]).await?;
            part_of.has_suspects.store(true, Relaxed);
        }
        self.send_suspect(&suspects, source, message, record).await
    }

    /// Publishes a suspect of the queue `source` to the queue `to`, with its crashes.
    pub(super) async fn send_suspect(
        &self,
        to: &Queue,
        source: &QueueId,
        message: &Message,
        record: CrashRecord,
    ) -> Result<(), TransportError> {
        let route = Route {
            attempt: record.attempt,
            past_topics: true,
            suspect: Some((&source.input, record)),
            target: None,
            clock_skew_ms: self.session_state.clock_skew().get(),
            properties_bytes_max: self.properties_bytes_max,
        };
        let publication = Publication {
            exchange: "".into(),
            key: to.name.clone(),
            properties: codec::encode(message, route)?,
            payload: message.payload.clone(),
            mandatory: true,
        };
        self.publisher.send(publication).await
    }

    /// Publishes a reply. The requester may have stopped waiting.
    pub(super) async fn reply(
        &self,
        request: &Message,
        reply: Reply,
    ) -> Result<(), TransportError> {
        let Some(reply_to) = &request.reply_to else {
            return Ok(());
        };
        let mut answer = match reply {
            Ok(payload) => Envelope::new("reply", payload),
            Err(error) => {
                let mut answer = Envelope::new("reply", "");
                answer.headers.insert(codec::ERROR.into(), error.into());
                answer
            }
        };
        answer.parent = Some(request.id.clone());
        answer.tenant = request.tenant.clone();
        answer.topic = request.topic.clone();
        let correlation = match &reply_to.correlation {
            Some(correlation) => correlation.to_string(),
            None => request.id.to_string(),
        };
        let too_long = |_| TransportError::Unpublishable("its reply address is too long".into());
        let address = ShortString::try_new(&*reply_to.address).map_err(too_long)?;
        let mut publication = self.to_queue(&address, &answer.into(), 1)?;
        // A requester that is gone is no failure.
        publication.mandatory = false;
        publication.properties = publication
            .properties
            .with_correlation_id(ShortString::try_new(correlation).map_err(too_long)?);
        self.publisher.send(publication).await
    }

    /// Returns the publication of a message to its topic.
    pub(super) fn to_topic(
        &self,
        routing: &RoutingTable,
        message: &Message,
    ) -> Result<Publication, TransportError> {
        let too_long =
            |_| TransportError::Unpublishable("its topic is longer than 255 bytes".into());
        let readers = routing.readers.get(&message.topic).into_iter().flatten();
        let parts = readers.filter_map(|queue| queue.parts.as_ref()?.routing_key(message));
        let properties = self.encode(message, 1, false, None)?;
        Ok(Publication {
            exchange: ShortString::try_new(&*routing.app).map_err(too_long)?,
            key: ShortString::try_new(&*message.topic).map_err(too_long)?,
            properties: codec::also_to(properties, parts),
            payload: message.payload.clone(),
            // Without a reader in the app, external readers bind queues when they like.
            mandatory: routing.readers.contains_key(&message.topic),
        })
    }

    fn to_queue(
        &self,
        queue: &ShortString,
        message: &Message,
        attempt: u32,
    ) -> Result<Publication, TransportError> {
        Ok(Publication {
            exchange: "".into(),
            key: queue.clone(),
            properties: self.encode(message, attempt, true, None)?,
            payload: message.payload.clone(),
            mandatory: true,
        })
    }

    pub(super) fn encode(
        &self,
        message: &Message,
        attempt: u32,
        past_topics: bool,
        target: Option<&str>,
    ) -> Result<lapin::BasicProperties, TransportError> {
        let route = Route {
            attempt,
            past_topics,
            suspect: None,
            target,
            clock_skew_ms: self.session_state.clock_skew().get(),
            properties_bytes_max: self.properties_bytes_max,
        };
        codec::encode(message, route)
    }
}
