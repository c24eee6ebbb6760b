//! One life of the transport: two connections, their channels, and what is done over
//! them. It is set up whole or not at all, and ends with its link; `recovery` makes the
//! next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use brickwork::transport::{AskError, Consumer, Depth, TransportError};
use brickwork::{Message, QueueId, without_password};
use futures_util::future::BoxFuture;
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::address::Address;
use super::connection::{Connections, confirm_channel};
use super::consumer_task::{self, ConsumerQuery, Count};
use super::declared_registry::DeclaredRegistry;
use super::declarer::{self, Declarer};
use super::health::Health;
use super::max_message_size::MaxMessageSize;
use super::merged_consumer::{self, Merged};
use super::non_crash_redeliveries::NonCrashRedeliveries;
use super::prefetch::QueueConsumer;
use super::publisher::Publisher;
use super::request_reply::RequestReply;
use super::router::Router;
use super::routing::{DeclaredTopology, Queue};
use super::session_state::SessionState;
use super::settlement::Settler;
use super::source_queue::SourceQueue;
use super::suspects::SuspectQueue;

/// What a frame has beside a message's properties, generously.
const FRAME_OVERHEAD_BYTES: usize = 1024;
/// The frame size of a broker that sets no limit.
const FRAME_BYTES: usize = 128 * 1024;
/// For setting everything up once connected: a new quorum queue takes tens of
/// milliseconds, one that is there a millisecond.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// What outlives sessions.
pub(super) struct SharedAcrossSessions {
    pub(super) address: Address,
    pub(super) url: String,
    pub(super) health: Arc<Health>,
    pub(super) topology: Arc<DeclaredTopology>,
    /// What came back to the broker otherwise than by a crash.
    pub(super) non_crash_redeliveries: Arc<NonCrashRedeliveries>,
    pub(super) max_message_size: Arc<MaxMessageSize>,
    /// Replies for askers that had stopped waiting.
    pub(super) late_replies: Arc<AtomicU64>,
}

/// Connections that are set up.
pub(super) struct Session {
    pub(super) session_state: Arc<SessionState>,
    pub(super) router: Arc<Router>,
    request_reply: Arc<RequestReply>,
    pub(super) suspects: Arc<SuspectQueue>,
    connections: Arc<Connections>,
    /// The pumps of consumers, by queue. Those that are gone are removed in passing.
    consumers: Mutex<HashMap<QueueId, Vec<ConsumerHandle>>>,
}

/// Where the pump of a consumer can be asked.
#[derive(Clone)]
struct ConsumerHandle {
    /// What is consumed: the queue itself, or one of somebody else that feeds it.
    source: ShortString,
    queries: mpsc::Sender<ConsumerQuery>,
}

impl Session {
    /// Connects and sets everything up, with all that was declared before.
    ///
    /// # Errors
    /// It can't be had as it must be; nothing of it is left.
    pub(super) async fn open(shared: &SharedAcrossSessions) -> Result<Arc<Self>, TransportError> {
        let session_state = SessionState::new(shared.health.clone());
        let opened = async {
            let connections =
                Connections::open(&shared.address, &shared.url, &session_state).await?;
            let set_up = Self::set_up(shared, &session_state, connections);
            match timeout(SET_UP_TIMEOUT, set_up).await {
                Ok(session) => session,
                Err(_) => Err(TransportError::Connect {
                    url: without_password(&shared.url),
                    why: format!("not set up within {SET_UP_TIMEOUT:?}"),
                }),
            }
        };
        let opened = tokio::select! {
            opened = opened => opened,
            error = session_state.ended() => Err(error),
        };
        if opened.is_err() {
            // What was begun on it ends.
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
            let request_reply = confirm_channel(publishing).await?;
            let request_reply = RequestReply::start(
                request_reply,
                session_state.clone(),
                shared.max_message_size.clone(),
                shared.late_replies.clone(),
            )
            .await?;
            Ok((channel, request_reply))
        };
        let (channel, request_reply) =
            opened
                .await
                .map_err(|error: lapin::Error| TransportError::Connect {
                    url: without_password(&shared.url),
                    why: error.to_string(),
                })?;
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
            frame_bytes.saturating_sub(FRAME_OVERHEAD_BYTES),
        );
        router.redeclare().await?;
        let suspects = SuspectQueue::start(
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
            consumers: Mutex::default(),
        }))
    }

    /// Consumes a queue; one that somebody has deleted is made again.
    ///
    /// What feeds it that isn't the app's is made sure of here, and not when the session
    /// is set up: what somebody else has removed is this reader's trouble alone.
    pub(super) async fn consume(
        &self,
        id: &QueueId,
        bound: usize,
    ) -> Result<Box<dyn Consumer>, TransportError> {
        let queue = self.router.queue(id)?;
        match self.try_consume(&queue, bound).await {
            Err(TransportError::NoQueue(_)) => {
                warn!(queue = %id, "the queue was deleted at the broker, it is made again");
                self.router.redeclare().await?;
                self.try_consume(&queue, bound).await
            }
            outcome => outcome,
        }
    }

    async fn try_consume(
        &self,
        queue: &Arc<Queue>,
        bound: usize,
    ) -> Result<Box<dyn Consumer>, TransportError> {
        let app_queue = SourceQueue::app_queue(queue.clone());
        let Some(external) = SourceQueue::external_queue(queue) else {
            let consumer = self.consume_from(app_queue, bound).await?;
            self.router.ensure_feeds(queue).await?;
            return Ok(Box::new(consumer));
        };
        let (app_bound, external_bound) = merged_consumer::split_prefetch(bound);
        let app_queue = self.consume_from(app_queue, app_bound).await?;
        self.router.ensure_feeds(queue).await?;
        let external = self.consume_from(external, external_bound).await?;
        Ok(Box::new(Merged::new(app_queue, external)))
    }

    async fn consume_from(
        &self,
        source: SourceQueue,
        bound: usize,
    ) -> Result<QueueConsumer, TransportError> {
        self.session_state.check()?;
        let queue = source.queue.clone();
        let lost = |error: lapin::Error| match declarer::refusal(&error) {
            Some((404, _)) => TransportError::NoQueue(queue.id.clone()),
            _ => self
                .session_state
                .check()
                .err()
                .unwrap_or_else(|| TransportError::Lost(error.to_string())),
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
        let consuming = consumer_task::consume(channel, settler, &self.suspects, bound);
        let (consumer, queries) = tokio::select! {
            consuming = consuming => consuming.map_err(lost)?,
            error = self.session_state.ended() => return Err(error),
        };
        let mut consumers = self.consumers.lock();
        let consumers = consumers.entry(queue.id.clone()).or_default();
        consumers.retain(|consumer| !consumer.queries.is_closed());
        consumers.push(ConsumerHandle {
            source: source.name,
            queries,
        });
        Ok(consumer)
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

    /// A channel of the connection that consumes.
    pub(super) async fn channel(&self) -> lapin::Result<lapin::Channel> {
        self.connections.consuming.create_channel().await
    }

    /// Of its own queue and of one of somebody else that it reads, too.
    pub(super) async fn depth(&self, id: &QueueId) -> Result<Depth, TransportError> {
        let queue = self.router.queue(id)?;
        let _none_between = self.suspects.lock_transfers().await;
        let mut depth = self
            .depth_of(&SourceQueue::app_queue(queue.clone()))
            .await?;
        depth.delayed = queue.delayed.count();
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
            // A pump that is gone, or whose channel is, has nothing.
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
        self.router.publisher.flush().await;
        self.request_reply.flush().await;
        self.flush_consumers().await;
        self.suspects.flush(&self.session_state).await;
        self.session_state.check()
    }

    async fn flush_consumers(&self) {
        let consumers: Vec<_> = self.consumers.lock().values().flatten().cloned().collect();
        for consumer in consumers {
            // One that is gone has settled everything.
            let _gone = ask(&consumer.queries, ConsumerQuery::Flush).await;
        }
    }

    /// Ends it, and says good-bye where somebody still listens.
    pub(super) async fn close(&self) {
        self.session_state.close();
        self.connections.close().await;
    }
}

/// Asks a pump; `None` if it is gone.
///
/// A question that arrives just as the pump goes stays in the channel, and its answer with
/// it, for as long as there are senders: so this also waits for the end of the pump.
async fn ask<T>(
    consumer: &mpsc::Sender<ConsumerQuery>,
    query: impl FnOnce(oneshot::Sender<T>) -> ConsumerQuery,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    consumer.send(query(answer)).await.ok()?;
    tokio::select! {
        biased;
        answer = answered => answer.ok(),
        () = consumer.closed() => None,
    }
}
