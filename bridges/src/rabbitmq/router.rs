//! Where messages go: from an app's words (topics, queues, delays, replies) to the
//! broker's (exchanges, routing keys, the delay ladder).
//!
//! What goes to a queue, or to a topic that a queue of the app reads, must find one, or
//! the publication fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use brickwork::supervision::quarantine::CrashRecord;
use brickwork::transport::{Completion, Outgoing, Topology, TransportError};
use brickwork::{Envelope, Message, QueueId, Reply};
use lapin::types::ShortString;
use tokio::runtime::Handle;

use super::codec::{self, Route};
use super::declared_registry::DeclaredRegistry;
use super::declarer::Declarer;
use super::publisher::{Publication, Publisher};
use super::routing::{DeclaredTopology, Queue, RoutingTable};
use super::topology::{Step, external_declarations, with_feeds};

/// Sends messages. One for a session.
pub(super) struct Router {
    pub(super) publisher: Publisher,
    pub(super) declarer: Declarer,
    pub(super) properties_bytes_max: usize,
    registry: DeclaredRegistry,
    handle: Handle,
    declared: Arc<DeclaredTopology>,
    /// The steps of the delay ladder that this session has made sure of, a bit each.
    declared_steps: AtomicU32,
}

/// A batch, sorted by channel.
#[derive(Default)]
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
        properties_bytes_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            publisher,
            declarer,
            registry,
            properties_bytes_max,
            handle: Handle::current(),
            declared,
            declared_steps: AtomicU32::new(0),
        })
    }

    pub(super) fn routing_table(&self) -> Arc<RoutingTable> {
        self.declared.routing_table()
    }

    pub(super) fn queue(&self, id: &QueueId) -> Result<Arc<Queue>, TransportError> {
        self.declared.queue(id)
    }

    /// Declares on the broker, then knows it here. Returns the queues that are new.
    pub(super) async fn declare(
        &self,
        topology: &Topology,
    ) -> Result<Vec<Arc<Queue>>, TransportError> {
        self.check_app(topology)?;
        // Before it is made, so that nothing is there that isn't written down.
        let all = with_feeds(topology)?;
        self.registry.record(&topology.app, &all).await;
        self.declarer.declare(all).await?;
        self.declared.add(topology)
    }

    /// That what feeds a queue, and isn't the app's, is there and does.
    pub(super) async fn ensure_feeds(&self, queue: &Queue) -> Result<(), TransportError> {
        if queue.feeds.is_empty() {
            return Ok(());
        }
        let needed = external_declarations(&queue.name, &queue.feeds)?;
        self.declarer.declare(needed).await
    }

    /// Knows it here, and makes nothing on the broker.
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

    /// Makes sure that everything that was ever declared is there: on a broker that was
    /// started anew, or after somebody deleted something.
    pub(super) async fn redeclare(&self) -> Result<(), TransportError> {
        let all = self.declared.declarations()?;
        if all.is_empty() {
            return Ok(());
        }
        self.declarer.declare(all).await?;
        // Nobody waits for it: what matters is to work again.
        let (registry, app) = (self.registry.clone(), self.routing_table().app.clone());
        let all = self.declared.declarations_with_feeds()?;
        self.handle
            .spawn(async move { registry.record(&app, &all).await });
        Ok(())
    }

    /// Publishes a batch and reports once on all of it.
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
        let missing = delayed.iter().fold(0, |bits, (_, step)| {
            bits | (1 << step.number & !self.declared_steps.load(Relaxed))
        });
        let steps: Vec<Step> = delayed
            .iter()
            .map(|(_, step)| *step)
            .filter(|step| missing & (1 << step.number) != 0)
            .collect();
        let done = Completion::new(move |outcome| {
            if outcome.is_ok() {
                for (queue, step) in delayed {
                    queue.delayed.add(step);
                }
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
        let mut routed = RoutedBatch::default();
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
                // A waiting message goes to one queue, and whose these are is unknown.
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

    /// Delivers to one queue after a while, as the given attempt. Longer than a day is a
    /// day.
    pub(super) async fn retry(
        &self,
        queue: &Arc<Queue>,
        message: &Message,
        attempt: u32,
        after: Duration,
    ) -> Result<(), TransportError> {
        if after.is_zero() {
            return self.send_to_queue(&queue.name, message, attempt).await;
        }
        let step = Step::at_least(after).unwrap_or_else(Step::longest);
        self.ensure_delay_step(step).await?;
        let waiting =
            self.to_delay_queue(&self.routing_table(), step, &queue.name, message, attempt)?;
        self.publisher.send(waiting).await?;
        queue.delayed.add(step);
        Ok(())
    }

    /// Puts a message into one queue.
    pub(super) async fn send_to_queue(
        &self,
        queue: &ShortString,
        message: &Message,
        attempt: u32,
    ) -> Result<(), TransportError> {
        let publication = self.to_queue(queue, message, attempt)?;
        self.publisher.send(publication).await
    }

    /// Moves a message to the queue of suspects of its service.
    pub(super) async fn to_suspects(
        &self,
        source: &QueueId,
        message: &Message,
        record: CrashRecord,
    ) -> Result<(), TransportError> {
        let suspects = self.queue(&QueueId::suspects(&source.service))?;
        self.send_suspect(&suspects, source, message, record).await
    }

    /// Publishes a suspect of one queue to another queue, with its crashes.
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

    /// Sends an asker its reply. Whether the asker still waits isn't known here.
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
        // An asker that is gone is no failure.
        publication.mandatory = false;
        publication.properties = publication
            .properties
            .with_correlation_id(ShortString::try_new(correlation).map_err(too_long)?);
        self.publisher.send(publication).await
    }

    /// To whoever reads its topic.
    pub(super) fn to_topic(
        &self,
        routing: &RoutingTable,
        message: &Message,
    ) -> Result<Publication, TransportError> {
        let too_long =
            |_| TransportError::Unpublishable("its topic is longer than 255 bytes".into());
        Ok(Publication {
            exchange: ShortString::try_new(&*routing.app).map_err(too_long)?,
            key: ShortString::try_new(&*message.topic).map_err(too_long)?,
            properties: self.encode(message, 1, false)?,
            payload: message.payload.clone(),
            // Where nobody of ours reads, whoever reads binds a queue when it likes.
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
            properties: self.encode(message, attempt, true)?,
            payload: message.payload.clone(),
            mandatory: true,
        })
    }

    fn to_delay_queue(
        &self,
        routing: &RoutingTable,
        step: Step,
        queue: &ShortString,
        message: &Message,
        attempt: u32,
    ) -> Result<Publication, TransportError> {
        Ok(Publication {
            exchange: step.name(&routing.app)?,
            ..self.to_queue(queue, message, attempt)?
        })
    }

    fn encode(
        &self,
        message: &Message,
        attempt: u32,
        past_topics: bool,
    ) -> Result<lapin::BasicProperties, TransportError> {
        let route = Route {
            attempt,
            past_topics,
            suspect: None,
            properties_bytes_max: self.properties_bytes_max,
        };
        codec::encode(message, route)
    }

    /// Makes a step of the delay ladder, unless it is known to be there.
    async fn ensure_delay_step(&self, step: Step) -> Result<(), TransportError> {
        let bit = 1 << step.number;
        if self.declared_steps.load(Relaxed) & bit == 0 {
            let declarations = step.declarations(&self.routing_table().app)?;
            self.declarer.declare(declarations).await?;
            self.declared_steps.fetch_or(bit, Relaxed);
        }
        Ok(())
    }
}
