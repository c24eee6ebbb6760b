//! One life of the transport: two connections, their channels, and what is done over
//! them. It is set up whole or not at all, and ends with its link; `recovery` makes the
//! next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use brickwork::transport::{Consumer, Depth, TransportError};
use brickwork::{QueueId, without_password};
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::address::Address;
use super::connection::{Connections, confirming};
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
    pub(super) book: Arc<DeclaredTopology>,
    /// What came back to the broker otherwise than by a crash.
    pub(super) alibis: Arc<NonCrashRedeliveries>,
    pub(super) limit: Arc<MaxMessageSize>,
    /// Replies for askers that had stopped waiting.
    pub(super) late: Arc<AtomicU64>,
}

/// Connections that are set up.
pub(super) struct Session {
    pub(super) link: Arc<SessionState>,
    pub(super) router: Arc<Router>,
    pub(super) asks: Arc<RequestReply>,
    pub(super) ward: Arc<SuspectQueue>,
    connections: Arc<Connections>,
    /// The pumps of consumers, by queue. Those that are gone are removed in passing.
    pumps: Mutex<HashMap<QueueId, Vec<Pump>>>,
}

/// Where the pump of a consumer can be asked.
#[derive(Clone)]
struct Pump {
    /// What is consumed: the queue itself, or one of somebody else that feeds it.
    of: ShortString,
    questions: mpsc::Sender<ConsumerQuery>,
}

impl Session {
    /// Connects and sets everything up, with all that was declared before.
    ///
    /// # Errors
    /// It can't be had as it must be; nothing of it is left.
    pub(super) async fn open(lasting: &SharedAcrossSessions) -> Result<Arc<Self>, TransportError> {
        let link = SessionState::new(lasting.health.clone());
        let opened = async {
            let connections = Connections::open(&lasting.address, &lasting.url, &link).await?;
            let set_up = Self::set_up(lasting, &link, connections);
            match timeout(SET_UP_TIMEOUT, set_up).await {
                Ok(session) => session,
                Err(_) => Err(TransportError::Connect {
                    url: without_password(&lasting.url),
                    why: format!("not set up within {SET_UP_TIMEOUT:?}"),
                }),
            }
        };
        let opened = tokio::select! {
            opened = opened => opened,
            error = link.ended() => Err(error),
        };
        if opened.is_err() {
            // What was begun on it ends.
            link.close();
        }
        opened
    }

    async fn set_up(
        lasting: &SharedAcrossSessions,
        link: &Arc<SessionState>,
        connections: Connections,
    ) -> Result<Arc<Self>, TransportError> {
        let connections = Arc::new(connections);
        let publishing = &connections.publishing;
        let opened = async {
            let channel = confirming(publishing).await?;
            let asks = confirming(publishing).await?;
            let asks = RequestReply::start(
                asks,
                link.clone(),
                lasting.limit.clone(),
                lasting.late.clone(),
            )
            .await?;
            Ok((channel, asks))
        };
        let (channel, asks) =
            opened
                .await
                .map_err(|error: lapin::Error| TransportError::Connect {
                    url: without_password(&lasting.url),
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
                link.clone(),
                lasting.limit.clone(),
            ),
            Declarer::start(connections.clone(), link.clone()),
            DeclaredRegistry::new(connections.socket.clone(), link.clone()),
            lasting.book.clone(),
            frame_bytes.saturating_sub(FRAME_OVERHEAD_BYTES),
        );
        router.declare_again().await?;
        let ward = SuspectQueue::start(
            connections.clone(),
            link.clone(),
            router.clone(),
            lasting.alibis.clone(),
        );
        Ok(Arc::new(Self {
            link: link.clone(),
            router,
            asks,
            ward,
            connections,
            pumps: Mutex::default(),
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
                self.router.declare_again().await?;
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
        let own = SourceQueue::own(queue.clone());
        let Some(theirs) = SourceQueue::theirs(queue) else {
            let consumer = self.consume_from(own, bound).await?;
            self.router.make_sure_of(queue).await?;
            return Ok(Box::new(consumer));
        };
        let (own_bound, their_bound) = merged_consumer::shares(bound);
        let own = self.consume_from(own, own_bound).await?;
        self.router.make_sure_of(queue).await?;
        let theirs = self.consume_from(theirs, their_bound).await?;
        Ok(Box::new(Merged::new(own, theirs)))
    }

    async fn consume_from(
        &self,
        origin: SourceQueue,
        bound: usize,
    ) -> Result<QueueConsumer, TransportError> {
        self.link.check()?;
        let queue = origin.queue.clone();
        let lost = |error: lapin::Error| match declarer::refusal(&error) {
            Some((404, _)) => TransportError::NoQueue(queue.id.clone()),
            _ => self
                .link
                .check()
                .err()
                .unwrap_or_else(|| TransportError::Lost(error.to_string())),
        };
        let channel = self.connections.consuming.create_channel().await;
        let letters = QueueId::dead_letters(&queue.id.service);
        let letters = if queue.id == letters {
            None
        } else {
            Some(self.router.queue(&letters)?.name.clone())
        };
        let channel = channel.map_err(lost)?;
        let settling = Settler {
            link: self.link.clone(),
            router: self.router.clone(),
            origin: origin.clone(),
            letters,
        };
        let consuming = consumer_task::consume(channel, settling, &self.ward, bound);
        let (consumer, questions) = tokio::select! {
            consuming = consuming => consuming.map_err(lost)?,
            error = self.link.ended() => return Err(error),
        };
        let mut pumps = self.pumps.lock();
        let pumps = pumps.entry(queue.id.clone()).or_default();
        pumps.retain(|pump| !pump.questions.is_closed());
        pumps.push(Pump {
            of: origin.name,
            questions,
        });
        Ok(consumer)
    }

    /// A channel of the connection that consumes.
    pub(super) async fn channel(&self) -> lapin::Result<lapin::Channel> {
        self.connections.consuming.create_channel().await
    }

    /// Of its own queue and of one of somebody else that it reads, too.
    pub(super) async fn depth(&self, id: &QueueId) -> Result<Depth, TransportError> {
        let queue = self.router.queue(id)?;
        let _none_between = self.ward.hold().await;
        let mut depth = self.depth_of(&SourceQueue::own(queue.clone())).await?;
        depth.delayed = queue.delayed.count();
        if let Some(theirs) = SourceQueue::theirs(&queue) {
            let theirs = self.depth_of(&theirs).await?;
            depth.ready += theirs.ready;
            depth.in_flight += theirs.in_flight;
        }
        if let Some(suspects) = self.router.wires().suspects_counted_with(id) {
            let count = self.router.declarer.count(suspects.name.clone()).await?;
            depth.ready += count.unwrap_or(0);
        }
        Ok(depth)
    }

    async fn depth_of(&self, origin: &SourceQueue) -> Result<Depth, TransportError> {
        let id = &origin.queue.id;
        let pumps = self.pumps.lock().get(id).cloned().unwrap_or_default();
        let mut depth = Depth::default();
        let mut ready = None;
        for pump in pumps.iter().filter(|pump| pump.of == origin.name) {
            // A pump that is gone, or whose channel is, has nothing.
            if let Some(Ok(count)) = ask(&pump.questions, ConsumerQuery::Count).await {
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
                let count = self.router.declarer.count(origin.name.clone()).await?;
                count.ok_or_else(|| TransportError::NoQueue(id.clone()))?
            }
        };
        depth.ready += ready;
        Ok(depth)
    }

    pub(super) async fn flush(&self) -> Result<(), TransportError> {
        self.router.publisher.flush().await;
        self.asks.flush().await;
        self.flush_pumps().await;
        self.ward.flush(&self.link).await;
        self.link.check()
    }

    async fn flush_pumps(&self) {
        let pumps: Vec<_> = self.pumps.lock().values().flatten().cloned().collect();
        for pump in pumps {
            // One that is gone has settled everything.
            let _gone = ask(&pump.questions, ConsumerQuery::Flush).await;
        }
    }

    /// Ends it, and says good-bye where somebody still listens.
    pub(super) async fn close(&self) {
        self.link.close();
        self.connections.close().await;
    }
}

/// Asks a pump; `None` if it is gone.
///
/// A question that arrives just as the pump goes stays in the channel, and its answer with
/// it, for as long as there are senders: so this also waits for the end of the pump.
async fn ask<T>(
    pump: &mpsc::Sender<ConsumerQuery>,
    question: impl FnOnce(oneshot::Sender<T>) -> ConsumerQuery,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    pump.send(question(answer)).await.ok()?;
    tokio::select! {
        biased;
        answer = answered => answer.ok(),
        () = pump.closed() => None,
    }
}
