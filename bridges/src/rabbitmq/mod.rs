//! `amqp:` and `amqps:`: queues on a RabbitMQ.
//!
//! | where | what |
//! | --- | --- |
//! | `address` | URLs |
//! | `connection`, `link` | the thread and the two connections; whether they are up |
//! | `topology`, `declarer` | names of queues and exchanges, and declaring them |
//! | `greeting`, `inspection`, `question` | looking at a broker before an app runs |
//! | `wire`, `rfc3339` | messages as AMQP properties and headers |
//! | `router`, `publisher` | where messages go; publishing with confirms |
//! | `consumer`, `settling` | taking messages, and settling them |
//! | `asks` | requests and replies |
//! | `delayed`, `pressure` | counting what waits; full queues |
//!
//! The straight way: a connection that is lost stays lost. Consumers end, publications
//! fail, [`Transport::status`] says why, and everything that was not acked is at the
//! broker: connect again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    AskError, Completion, Connector, Consumer, Depth, Guarantees, Inspection, Outgoing, Pressure,
    Status, Topology, Transport, TransportError,
};
use brickwork::{Message, QueueId, without_password};
use futures_util::future::BoxFuture;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

mod address;
mod asks;
mod connection;
mod consumer;
mod declarer;
mod delayed;
mod greeting;
mod inspection;
mod link;
mod pressure;
mod publisher;
mod question;
mod rfc3339;
mod router;
mod settling;
mod topology;
mod wire;

use asks::Asks;
use connection::{Connections, Worker};
use consumer::{Count, Question, QueueConsumer};
use declarer::Declarer;
use link::Link;
use publisher::Publisher;
use router::Router;
use settling::Settling;

const GUARANTEES: Guarantees = Guarantees {
    durable: true,
    redelivers: true,
    ordered: true,
    crosses_processes: true,
    delays: true,
    limits: false,
};

/// What a frame has beside a message's properties, generously.
const FRAME_OVERHEAD_BYTES: usize = 1024;
/// The frame size of a broker that sets no limit.
const FRAME_BYTES: usize = 128 * 1024;

/// Makes transports over RabbitMQ: `amqp:` and, with TLS, `amqps:`.
pub struct RabbitMq;

impl Connector for RabbitMq {
    fn schemes(&self) -> &'static [&'static str] {
        &["amqp", "amqps"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        GUARANTEES
    }

    fn check(&self, url: &str) -> Result<(), String> {
        address::parse(url).map(drop)
    }

    fn inspect<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Inspection, TransportError>> {
        Box::pin(async move {
            let failed = |why: String| TransportError::Connect {
                url: without_password(url),
                why,
            };
            let uri = address::parse(url).map_err(failed)?;
            let mut worker = Worker::start().map_err(|error| failed(error.to_string()))?;
            let (address, topology) = (url.to_owned(), topology.clone());
            let inspecting = async move { inspection::inspect(&uri, &address, &topology).await };
            let found = on(worker.handle(), inspecting).await;
            drop(worker.stop());
            worker.join().await;
            found.unwrap_or_else(|| Err(failed("the thread is gone".into())))
        })
    }

    fn connect<'a>(
        &'a self,
        url: &'a str,
        pressure: Arc<Pressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async move {
            let failed = |why: String| TransportError::Connect {
                url: without_password(url),
                why,
            };
            let uri = address::parse(url).map_err(failed)?;
            let worker = Worker::start().map_err(|error| failed(error.to_string()))?;
            // If this is dropped meanwhile, the worker goes, and the attempt with it.
            let handle = worker.handle().clone();
            let parts = on(&handle, open(uri, url.to_owned())).await;
            let parts = parts.unwrap_or_else(|| Err(failed("the thread is gone".into())))?;
            Ok(Arc::new(Amqp {
                worker: Mutex::new(Some(worker)),
                handle,
                pressure,
                parts: Arc::new(parts),
            }) as Arc<dyn Transport>)
        })
    }
}

/// Queues on a RabbitMQ.
struct Amqp {
    /// `None` once it was closed.
    worker: Mutex<Option<Worker>>,
    handle: Handle,
    pressure: Arc<Pressure>,
    parts: Arc<Parts>,
}

struct Parts {
    link: Arc<Link>,
    connections: Arc<Connections>,
    router: Arc<Router>,
    asks: Arc<Asks>,
    /// The pumps of consumers, by queue. Those that are gone are removed in passing.
    pumps: Mutex<HashMap<QueueId, Vec<mpsc::Sender<Question>>>>,
}

/// Runs a future on the transport's thread; `None` if that is gone.
async fn on<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (done, outcome) = oneshot::channel();
    handle.spawn(async move {
        // Whoever waited may have gone; the work is done completely all the same.
        let _gone = done.send(future.await);
    });
    outcome.await.ok()
}

async fn open(uri: AMQPUri, url: String) -> Result<Parts, TransportError> {
    let link = Link::new();
    let connections = Arc::new(Connections::open(&uri, &url, &link).await?);
    let publishing = &connections.publishing;
    let opened = async {
        let topics = confirming(publishing).await?;
        let direct = confirming(publishing).await?;
        let asks = confirming(publishing).await?;
        Ok((topics, direct, Asks::start(asks, link.clone()).await?))
    };
    let (topics, direct, asks) =
        opened
            .await
            .map_err(|error: lapin::Error| TransportError::Connect {
                url: without_password(&url),
                why: error.to_string(),
            })?;
    let frame_bytes = match publishing.configuration().frame_max() as usize {
        0 => FRAME_BYTES,
        bytes => bytes,
    };
    let router = Router::new(
        Publisher::start(topics, link.clone(), false),
        Publisher::start(direct, link.clone(), true),
        Declarer::start(connections.clone(), link.clone()),
        frame_bytes.saturating_sub(FRAME_OVERHEAD_BYTES),
    );
    Ok(Parts {
        link,
        connections,
        router,
        asks,
        pumps: Mutex::default(),
    })
}

async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(Default::default()).await?;
    Ok(channel)
}

impl Parts {
    async fn consume(
        &self,
        queue: &QueueId,
        bound: usize,
    ) -> Result<QueueConsumer, TransportError> {
        self.link.check()?;
        let queue = self.router.queue(queue)?;
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
        let settling = Settling {
            channel: channel.map_err(lost)?,
            link: self.link.clone(),
            router: self.router.clone(),
            queue: queue.clone(),
            letters,
        };
        let (consumer, questions) = consumer::consume(settling, bound).await.map_err(lost)?;
        let mut pumps = self.pumps.lock();
        let pumps = pumps.entry(queue.id.clone()).or_default();
        pumps.retain(|pump| !pump.is_closed());
        pumps.push(questions);
        Ok(consumer)
    }

    fn pumps_of(&self, queue: &QueueId) -> Vec<mpsc::Sender<Question>> {
        self.pumps.lock().get(queue).cloned().unwrap_or_default()
    }

    async fn depth(&self, id: &QueueId) -> Result<Depth, TransportError> {
        let queue = self.router.queue(id)?;
        let mut depth = Depth {
            delayed: queue.delayed.count(),
            ..Depth::default()
        };
        let mut ready = None;
        for pump in self.pumps_of(id) {
            let (answer, answered) = oneshot::channel();
            let asked = pump.send(Question::Count(answer)).await.is_ok();
            // A pump that is gone, or whose channel is, has nothing.
            if asked && let Ok(Ok(count)) = answered.await {
                let Count {
                    ready: at_broker,
                    fetched,
                    in_hand,
                } = count;
                ready = Some(at_broker);
                depth.ready += fetched;
                depth.in_hand += in_hand;
            }
        }
        let ready = match ready {
            Some(ready) => ready,
            None => {
                let count = self.router.declarer.count(queue.name.clone()).await?;
                count.ok_or_else(|| TransportError::NoQueue(id.clone()))?
            }
        };
        depth.ready += ready;
        Ok(depth)
    }

    async fn flush(&self) -> Result<(), TransportError> {
        self.router.topics.flush().await;
        self.router.direct.flush().await;
        self.asks.flush().await;
        let pumps: Vec<_> = self.pumps.lock().values().flatten().cloned().collect();
        for pump in pumps {
            let (done, flushed) = oneshot::channel();
            if pump.send(Question::Flush(done)).await.is_ok() {
                let _gone = flushed.await;
            }
        }
        self.link.check()
    }

    async fn close(&self) {
        let _lost = self.flush().await;
        self.link.close();
        self.connections.close().await;
    }
}

impl Transport for Amqp {
    fn scheme(&self) -> &'static str {
        "amqp"
    }

    fn guarantees(&self) -> Guarantees {
        GUARANTEES
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            if topology.queues.iter().any(|queue| queue.limit.is_some()) {
                return Err(TransportError::Unsupported("a queue's limit"));
            }
            let (parts, topology) = (self.parts.clone(), topology.clone());
            let pressure = self.pressure.clone();
            let declaring = async move {
                let new = parts.router.declare(&topology).await?;
                let declarer = parts.router.declarer.clone();
                pressure::watch_over(new, &pressure, declarer, parts.link.clone());
                Ok(())
            };
            on(&self.handle, declaring)
                .await
                .unwrap_or_else(|| Err(self.parts.link.error()))
        })
    }

    fn attach<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move { self.parts.router.attach(topology) })
    }

    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        self.parts.router.publish(batch, done);
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(async move {
            let (parts, queue) = (self.parts.clone(), queue.clone());
            let consuming = async move { parts.consume(&queue, bound).await };
            match on(&self.handle, consuming).await {
                Some(consumer) => Ok(Box::new(consumer?) as Box<dyn Consumer>),
                None => Err(self.parts.link.error()),
            }
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        self.parts.asks.ask(&self.parts.router, &request, within)
    }

    fn late_replies(&self) -> u64 {
        self.parts.asks.late()
    }

    /// What is ready is what the broker says; in hand and delayed are what this process
    /// has.
    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async move {
            self.parts.link.check()?;
            self.parts.depth(queue).await
        })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.parts.link.status()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(self.parts.flush())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let worker = self.worker.lock().take();
            let Some(mut worker) = worker else {
                // Somebody else closes it.
                let _closed = self.parts.link.ended().await;
                return;
            };
            let (parts, stop) = (self.parts.clone(), worker.stop());
            // Apart, so that it is done completely also if nobody waits for it.
            let closing = async move {
                parts.close().await;
                drop(stop);
            };
            let _gone = on(&self.handle, closing).await;
            worker.join().await;
        })
    }
}

impl Drop for Amqp {
    /// Without closing: what is under way fails, what is in hand is delivered again.
    fn drop(&mut self) {
        self.parts.link.close();
    }
}
