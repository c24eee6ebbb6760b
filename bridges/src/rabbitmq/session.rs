//! A session: two connections, their channels, and the tasks on them. A session is set up
//! completely or not at all. It ends with its connections, and `recovery` opens the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use brickwork::transport::{AskError, Consumer, Depth, RenewUrl, Replies, TransportError};
use brickwork::{Message, QueueId};
use futures_util::future::BoxFuture;
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::address::Address;
use super::connection::{Connections, confirm_channel, connect_error};
use super::consumer_query::{ConsumerQuery, Count, ask};
use super::consumer_task;
use super::declared_registry::DeclaredRegistry;
use super::declarer::{self, Declarer};
use super::health::Health;
use super::max_message_size::MaxMessageSize;
use super::merged_consumer::{self, Merged};
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::partition_consumer;
use super::prefetch::QueueConsumer;
use super::publisher::Publisher;
use super::request_reply::RequestReply;
use super::router::Router;
use super::routing::{DeclaredTopology, Queue};
use super::session_state::SessionState;
use super::settlement::Settler;
use super::source_queue::SourceQueue;
use super::suspect_task;
use super::suspects::SuspectQueue;
use super::topology::Step;

/// Upper bound for the bytes of a frame beside a message's properties.
const FRAME_OVERHEAD_BYTES: usize = 1024;
/// Frame size if the broker sets no limit.
const FRAME_BYTES: usize = 128 * 1024;
/// Time limit for the setup of a session. A new quorum queue takes tens of milliseconds, an
/// existing one takes one.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// State that outlives sessions.
pub(super) struct SharedAcrossSessions {
    /// The address of the last session.
    pub(super) address: Mutex<Arc<Address>>,
    pub(super) url: String,
    /// Reads the URL again.
    pub(super) renew: Option<RenewUrl>,
    pub(super) health: Arc<Health>,
    pub(super) topology: Arc<DeclaredTopology>,
    /// Redeliveries that weren't caused by a crash.
    pub(super) non_crash_redeliveries: Arc<NonCrashRedeliveries>,
    pub(super) max_message_size: Arc<MaxMessageSize>,
    /// The requests that wait for a reply.
    pub(super) replies: Arc<Replies>,
}

impl SharedAcrossSessions {
    /// Returns the address for a new session, with the present secrets.
    fn address(&self) -> Arc<Address> {
        let mut address = self.address.lock();
        let renewed = self.renew.as_ref().map(|renew| renew());
        match renewed.map(|url| url.and_then(|url| Address::parse(&url))) {
            None => {}
            Some(Ok(mut renewed)) => {
                renewed.follow(&address);
                *address = Arc::new(renewed);
            }
            Some(Err(error)) => {
                warn!(%error, "the transport's URL can't be read again, using the last one");
            }
        }
        address.clone()
    }
}

/// An open session.
pub(super) struct Session {
    pub(super) session_state: Arc<SessionState>,
    pub(super) router: Arc<Router>,
    request_reply: Arc<RequestReply>,
    pub(super) suspects: Arc<SuspectQueue>,
    connections: Arc<Connections>,
    /// Time limit for a delivery, before the broker's own ends.
    pub(super) settle_within: Duration,
    /// Handles of the consumer tasks, by queue. Ended ones are removed when a new one is added.
    consumers: Mutex<HashMap<QueueId, Vec<ConsumerHandle>>>,
}

/// Sends queries to one consumer task.
#[derive(Clone)]
struct ConsumerHandle {
    /// Name of the consumed queue: the app's own or an external one.
    source: ShortString,
    queries: mpsc::Sender<ConsumerQuery>,
}

impl Session {
    /// Connects and declares everything again.
    ///
    /// # Errors
    /// The session can't be set up completely. Nothing of it remains.
    pub(super) async fn open(shared: &SharedAcrossSessions) -> Result<Arc<Self>, TransportError> {
        let session_state = SessionState::new(shared.health.clone());
        let opened = async {
            let address = shared.address();
            let connections = Connections::open(&address, &shared.url, &session_state).await?;
            let set_up = Self::set_up(shared, &session_state, connections);
            match timeout(SET_UP_TIMEOUT, set_up).await {
                Ok(session) => session,
                Err(_) => {
                    let why = format!("the session was not set up within {SET_UP_TIMEOUT:?}");
                    Err(connect_error(&shared.url, why))
                }
            }
        };
        let opened = tokio::select! {
            opened = opened => opened,
            error = session_state.ended() => Err(error),
        };
        if opened.is_err() {
            // Ends the tasks that were started.
            session_state.close();
        }
        opened
    }

    async fn set_up(
        shared: &SharedAcrossSessions,
        session_state: &Arc<SessionState>,
        connections: Connections,
    ) -> Result<Arc<Self>, TransportError> {
        let connections = Arc::new(connections);
        let publishing = &connections.publishing;
        let opened = async {
            let channel = confirm_channel(publishing).await?;
            let request_reply = RequestReply::start(
                confirm_channel(publishing).await?,
                session_state.clone(),
                shared.max_message_size.clone(),
                shared.replies.clone(),
            )
            .await?;
            Ok((channel, request_reply))
        };
        let opened: lapin::Result<_> = opened.await;
        let (channel, request_reply) = opened.map_err(|error| connect_error(&shared.url, error))?;
        let frame_bytes = match publishing.configuration().frame_max() as usize {
            0 => FRAME_BYTES,
            bytes => bytes,
        };
        let router = Router::new(
            Publisher::start(
                channel,
                Some(connections.clone()),
                session_state.clone(),
                shared.max_message_size.clone(),
            ),
            Declarer::start(connections.clone(), session_state.clone()),
            DeclaredRegistry::new(connections.socket.clone(), session_state.clone()),
            shared.topology.clone(),
            session_state.clone(),
            frame_bytes.saturating_sub(FRAME_OVERHEAD_BYTES),
        );
        router.redeclare().await?;
        let suspects = suspect_task::start(
            connections.clone(),
            session_state.clone(),
            router.clone(),
            shared.non_crash_redeliveries.clone(),
        );
        Ok(Arc::new(Self {
            session_state: session_state.clone(),
            router,
            request_reply,
            suspects,
            connections,
            settle_within: shared.address().settle_within(),
            consumers: Mutex::default(),
        }))
    }

    /// Consumes a queue. A deleted queue is declared again.
    ///
    /// External sources are checked here and not when the session is set up: if one is missing,
    /// only its reader fails.
    pub(super) async fn consume(
        self: &Arc<Self>,
        id: &QueueId,
        bound: usize,
    ) -> Result<Box<dyn Consumer>, TransportError> {
        let queue = self.router.queue(id)?;
        match self.try_consume(&queue, bound).await {
            Err(TransportError::NoQueue(_)) => {
                warn!(queue = %id, "queue was deleted on the broker, declaring it again");
                self.router.redeclare().await?;
                self.try_consume(&queue, bound).await
            }
            outcome => outcome,
        }
    }

    async fn try_consume(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        bound: usize,
    ) -> Result<Box<dyn Consumer>, TransportError> {
        if queue.parts.is_some() {
            let session = self.clone();
            let open = move |queue, bound| -> BoxFuture<'static, _> {
                let session = session.clone();
                Box::pin(async move {
                    let source = SourceQueue::app_queue(queue);
                    session.consume_from(source, bound).await
                })
            };
            let session = self.clone();
            let open_channel = move || -> BoxFuture<'static, _> {
                let session = session.clone();
                Box::pin(async move { session.channel().await })
            };
            let (router, queue) = (self.router.clone(), queue.clone());
            let (open, open_channel) = (Arc::new(open), Arc::new(open_channel));
            let feeding = queue.clone();
            let consumer =
                partition_consumer::start(router, queue, bound, open, open_channel).await?;
            self.router.ensure_feeds(&feeding).await?;
            return Ok(Box::new(consumer));
        }
        let app_queue = SourceQueue::app_queue(queue.clone());
        let Some(external) = SourceQueue::external_queue(queue) else {
            let (consumer, _) = self.consume_from(app_queue, bound).await?;
            self.router.ensure_feeds(queue).await?;
            return Ok(Box::new(consumer));
        };
        let (app_bound, external_bound) = merged_consumer::split_prefetch(bound);
        let (app_queue, _) = self.consume_from(app_queue, app_bound).await?;
        self.router.ensure_feeds(queue).await?;
        let (external, _) = self.consume_from(external, external_bound).await?;
        Ok(Box::new(Merged::new(app_queue, external)))
    }

    /// Starts a consumer of one queue on the broker. Returns also the sender to its task.
    async fn consume_from(
        &self,
        source: SourceQueue,
        bound: usize,
    ) -> Result<(QueueConsumer, mpsc::Sender<ConsumerQuery>), TransportError> {
        self.session_state.check()?;
        let queue = source.queue.clone();
        let lost = |error: lapin::Error| match declarer::refusal(&error) {
            Some((404, _)) => TransportError::NoQueue(queue.id.clone()),
            _ => self.session_state.lost(&error),
        };
        let channel = self.connections.consuming.create_channel().await;
        let dead_letters = QueueId::dead_letters(&queue.id.service);
        let dead_letters = if queue.id == dead_letters {
            None
        } else {
            Some(self.router.queue(&dead_letters)?.name.clone())
        };
        let channel = channel.map_err(lost)?;
        let settler = Settler {
            session_state: self.session_state.clone(),
            router: self.router.clone(),
            source: source.clone(),
            dead_letters,
        };
        let consuming =
            consumer_task::consume(channel, settler, &self.suspects, bound, self.settle_within);
        let (consumer, queries) = tokio::select! {
            consuming = consuming => consuming.map_err(lost)?,
            error = self.session_state.ended() => return Err(error),
        };
        let mut consumers = self.consumers.lock();
        let consumers = consumers.entry(queue.id.clone()).or_default();
        consumers.retain(|consumer| !consumer.queries.is_closed());
        consumers.push(ConsumerHandle {
            source: source.name,
            queries: queries.clone(),
        });
        Ok((consumer, queries))
    }

    /// Publishes a request and waits for its reply.
    pub(super) fn ask(
        &self,
        request: &Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        // Before the request can be delivered: a suspect that asks has dependents from then on.
        let queues = self.router.routing_table().queues_asked(request);
        let pending_ask = self.suspects.ask(queues);
        let asking = self.request_reply.ask(&self.router, request, within);
        Box::pin(async move {
            let _until_answered = pending_ask;
            asking.await
        })
    }

    /// Sends a request through a delay step and waits for its answer.
    pub(super) fn probe(
        &self,
        step: Step,
        request: &Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        let route = |request: &Message| self.router.to_delay_step(step, request);
        self.request_reply.ask_by(route, request, within)
    }

    /// Opens a channel on the consuming connection.
    pub(super) async fn channel(&self) -> lapin::Result<lapin::Channel> {
        self.connections.consuming.create_channel().await
    }

    /// Returns the depth of a queue, including its external queue and its suspects.
    pub(super) async fn depth(&self, id: &QueueId) -> Result<Depth, TransportError> {
        let queue = self.router.queue(id)?;
        let _none_between = self.suspects.lock_transfers().await;
        let mut depth = Depth {
            delayed: queue.delayed.count(),
            ..Depth::default()
        };
        for part in queue.with_parts() {
            let part_depth = self.depth_of(&SourceQueue::app_queue(part.clone())).await?;
            depth.ready += part_depth.ready;
            depth.in_flight += part_depth.in_flight;
            if let Some(part_of) = &part.part_of
                && part_of.has_suspects.load(Relaxed)
            {
                let suspects = self.router.queue(&part_of.suspects)?.name.clone();
                let count = self.router.declarer.count(suspects).await?;
                depth.ready += count.unwrap_or(0);
            }
        }
        if let Some(external) = SourceQueue::external_queue(&queue) {
            let external = self.depth_of(&external).await?;
            depth.ready += external.ready;
            depth.in_flight += external.in_flight;
        }
        if let Some(suspects) = self.router.routing_table().suspects_counted_with(id) {
            let count = self.router.declarer.count(suspects.name.clone()).await?;
            depth.ready += count.unwrap_or(0);
        }
        Ok(depth)
    }

    async fn depth_of(&self, source: &SourceQueue) -> Result<Depth, TransportError> {
        let id = &source.queue.id;
        let consumers = self.consumers.lock().get(id).cloned().unwrap_or_default();
        let mut depth = Depth::default();
        let mut ready = None;
        for consumer in consumers
            .iter()
            .filter(|consumer| consumer.source == source.name)
        {
            // A task that has ended, or lost its channel, holds no messages.
            if let Some(Ok(count)) = ask(&consumer.queries, ConsumerQuery::Count).await {
                let Count {
                    ready: at_broker,
                    fetched,
                    in_flight,
                } = count;
                ready = Some(at_broker);
                depth.ready += fetched;
                depth.in_flight += in_flight;
            }
        }
        let ready = match ready {
            Some(ready) => ready,
            None => {
                let count = self.router.declarer.count(source.name.clone()).await?;
                count.ok_or_else(|| TransportError::NoQueue(id.clone()))?
            }
        };
        depth.ready += ready;
        Ok(depth)
    }

    pub(super) async fn flush(&self) -> Result<(), TransportError> {
        self.session_state.hurry();
        self.router.publisher.flush().await;
        self.request_reply.flush().await;
        self.flush_consumers().await;
        self.suspects.flush(&self.session_state).await;
        self.session_state.check()
    }

    async fn flush_consumers(&self) {
        let consumers: Vec<_> = self.consumers.lock().values().flatten().cloned().collect();
        for consumer in consumers {
            // A task that has ended has settled everything.
            let _gone = ask(&consumer.queries, ConsumerQuery::Flush).await;
        }
    }

    /// Ends the session and closes the connections that still answer.
    pub(super) async fn close(&self) {
        self.session_state.close();
        self.connections.close().await;
    }
}
