//! `amqp:` and `amqps:`: queues on a RabbitMQ.
//!
//! | where | what |
//! | --- | --- |
//! | `address`, `tls` | URLs, and the files that they name |
//! | `socket` | one stream to one host, and why there is none |
//! | `connection`, `link` | the thread and the two connections; whether they are up |
//! | `kit`, `mending` | what the connections are made of; texts that are none |
//! | `session`, `recovery` | all that is set up over them; making it again when it is lost |
//! | `health` | what everybody may know of that |
//! | `topology`, `declarer` | names of queues and exchanges, and declaring them |
//! | `wires` | what was declared |
//! | `ledger`, `leftovers` | what was ever declared, on the broker; what is left over of it |
//! | `greeting`, `inspection`, `question` | looking at a broker before an app runs |
//! | `wire`, `rfc3339` | messages as AMQP properties and headers |
//! | `router`, `publisher`, `ring` | where messages go; publishing with confirms |
//! | `renewal` | when to publish by another channel |
//! | `limit` | the largest message that the broker takes |
//! | `consumer`, `pump` | taking messages; the task that owns a consumer's channel |
//! | `settling`, `tags` | what a settlement means; which acks to send |
//! | `ward`, `alibis` | trying what was in hand at crashes, one at a time; what was no crash |
//! | `origin`, `merged` | from where: also queues of others, and what feeds topics |
//! | `asks` | requests and replies |
//! | `lease` | being the only one that runs a source |
//! | `delayed`, `pressure` | counting what waits; full queues |
//!
//! Whatever ends a session (a broker that restarts, a connection that is cut, a channel
//! that publishes and fails), the next one is made anew with everything on it. What was
//! under way fails, and what was not acked is delivered again: nothing is carried from
//! one session to another but what was declared. A consumer that ends alone is its
//! reader's to open again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use brickwork::transport::{
    AskError, Backpressure, Completion, Connector, Consumer, Depth, Guarantees, Inspection,
    LeaseKeeper, Outgoing, Prune, Pruned, Status, Topology, Transport, TransportError,
};
use brickwork::{Message, QueueId, without_password};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

mod ack_tracker;
mod address;
mod channel_replacement;
mod close_delay;
mod codec;
mod connect;
mod connection;
mod consumer_task;
mod declared_registry;
mod declarer;
mod delay_count;
mod depth_poller;
mod health;
mod inspection;
mod lapin_runtime;
mod lease;
mod max_message_size;
mod merged_consumer;
mod non_crash_redeliveries;
mod permission_probe;
mod prefetch;
mod prune;
mod publisher;
mod recovery;
mod request_reply;
mod rfc3339;
mod router;
mod routing;
mod server_properties;
mod session;
mod session_state;
mod settlement;
mod slot_queue;
mod source_queue;
mod suspects;
mod tls;
mod topology;
mod utf8_repair;

use address::Address;
use connection::Worker;
use health::Health;
use max_message_size::MaxMessageSize;
use non_crash_redeliveries::NonCrashRedeliveries;
use recovery::Recovery;
use routing::DeclaredTopology;
use session::SharedAcrossSessions;

const GUARANTEES: Guarantees = Guarantees {
    durable: true,
    redelivers: true,
    ordered: true,
    crosses_processes: true,
    delays: true,
    limits: false,
    searches: false,
};

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
        let address = Address::parse(url)?;
        // Also what the files hold: it is known without connecting.
        address.tls.map_or(Ok(()), |tls| tls.load().map(drop))
    }

    fn resolve(&self, url: &str, folder: &Path) -> String {
        address::resolve(url, folder)
    }

    fn inspect<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Inspection, TransportError>> {
        let topology = topology.clone();
        Box::pin(visit(url, move |broker, url| async move {
            inspection::inspect(&broker, &url, &topology).await
        }))
    }

    fn prune<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
        how: Prune,
    ) -> BoxFuture<'a, Result<Pruned, TransportError>> {
        let topology = topology.clone();
        Box::pin(visit(url, move |broker, url| async move {
            prune::prune(&broker, &url, &topology, how).await
        }))
    }

    fn connect<'a>(
        &'a self,
        url: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async move {
            let failed = |why: String| TransportError::Connect {
                url: without_password(url),
                why,
            };
            let broker = Address::parse(url).map_err(failed)?;
            let worker = Worker::start().map_err(|error| failed(error.to_string()))?;
            // If this is dropped meanwhile, the worker goes, and the attempt with it.
            let handle = worker.handle().clone();
            let lasting = SharedAcrossSessions {
                address: broker,
                url: url.to_owned(),
                health: Health::new(&pressure),
                book: Arc::<DeclaredTopology>::default(),
                alibis: Arc::<NonCrashRedeliveries>::default(),
                limit: Arc::<MaxMessageSize>::default(),
                late: Arc::<AtomicU64>::default(),
            };
            let recovery = on(&handle, Recovery::start(lasting)).await;
            let recovery = recovery.unwrap_or_else(|| Err(failed("the thread is gone".into())))?;
            Ok(Arc::new(Amqp {
                worker: Mutex::new(Some(worker)),
                handle,
                pressure,
                recovery,
            }) as Arc<dyn Transport>)
        })
    }
}

/// Queues on a RabbitMQ.
struct Amqp {
    /// `None` once it was closed.
    worker: Mutex<Option<Worker>>,
    handle: Handle,
    pressure: Arc<Backpressure>,
    recovery: Arc<Recovery>,
}

/// Does something with a broker, on a thread of its own.
async fn visit<T: Send + 'static, F>(
    url: &str,
    work: impl FnOnce(Address, String) -> F + Send,
) -> Result<T, TransportError>
where
    F: Future<Output = Result<T, TransportError>> + Send + 'static,
{
    let failed = |why: String| TransportError::Connect {
        url: without_password(url),
        why,
    };
    let broker = Address::parse(url).map_err(failed)?;
    let mut worker = Worker::start().map_err(|error| failed(error.to_string()))?;
    let done = on(worker.handle(), work(broker, url.to_owned())).await;
    drop(worker.stop());
    worker.join().await;
    done.unwrap_or_else(|| Err(failed("the thread is gone".into())))
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
            let (recovery, topology) = (self.recovery.clone(), topology.clone());
            let pressure = self.pressure.clone();
            let declaring = async move {
                let new = recovery.now()?.router.declare(&topology).await?;
                depth_poller::watch_over(new, &pressure, recovery);
                Ok(())
            };
            on(&self.handle, declaring)
                .await
                .unwrap_or_else(|| Err(self.recovery.lasting.health.error()))
        })
    }

    fn attach<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move { self.recovery.now()?.router.attach(topology) })
    }

    /// While there is no session this fails at once: what is taken from queues comes
    /// again with the next one, and sources are made to wait.
    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        match self.recovery.now() {
            Ok(session) => session.router.publish(batch, done),
            Err(error) => done.complete(Err(error)),
        }
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(async move {
            loop {
                let session = self.recovery.next().await?;
                let (link, queue) = (session.link.clone(), queue.clone());
                let consuming = async move { session.consume(&queue, bound).await };
                match on(&self.handle, consuming).await {
                    Some(Ok(consumer)) => return Ok(consumer),
                    // Lost meanwhile: over the next one, then.
                    Some(Err(_)) if link.check().is_err() => {}
                    Some(Err(error)) => return Err(error),
                    None => return Err(self.recovery.lasting.health.error()),
                }
            }
        })
    }

    fn lease<'a>(
        &'a self,
        source: &'a str,
        keeper: LeaseKeeper,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            let session = self.recovery.next().await?;
            lease::ask(session, source, keeper, &self.handle).await
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        match self.recovery.now() {
            Ok(session) => session.asks.ask(&session.router, &request, within),
            Err(error) => Box::pin(async move { Err(error.into()) }),
        }
    }

    fn late_replies(&self) -> u64 {
        self.recovery.lasting.late.load(Relaxed)
    }

    /// What is ready is what the broker says; in hand and delayed are what this process
    /// has.
    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async move { self.recovery.now()?.depth(queue).await })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.recovery.lasting.health.status()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async { self.recovery.now()?.flush().await })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let worker = self.worker.lock().take();
            let Some(mut worker) = worker else {
                // Somebody else closes it.
                self.recovery.lasting.health.closed().await;
                return;
            };
            let (recovery, stop) = (self.recovery.clone(), worker.stop());
            // Apart, so that it is done completely also if nobody waits for it.
            let closing = async move {
                recovery.close().await;
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
        self.recovery.abandon();
    }
}
