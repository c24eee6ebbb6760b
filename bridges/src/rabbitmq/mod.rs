//! The transport for RabbitMQ: `amqp:` and, with TLS, `amqps:`.
//!
//! The files form layers: a file uses only files that stand before it in this table.
//!
//! | layer | files | content |
//! | --- | --- | --- |
//! | values | `rfc3339`, `clock_skew`, `slot_queue`, `flushes`, `close_delay`, `channel_replacement`, `max_message_size`, `non_crash_redeliveries`, `ack_tracker`, `exclusive_trial`, `partition_share` | small data structures and policies |
//! | wire format | `declaration`, `topology`, `delay_count`, `delay_flow`, `declared_steps`, `routing`, `codec`, `source_queue` | names and arguments of queues, the routing table, messages as AMQP properties |
//! | connecting | `tls`, `address`, `frame_repair`, `lapin_runtime`, `connect` | URLs, TLS, one stream to one host |
//! | connection | `health`, `session_state`, `connection` | the thread, the two connections, and whether they work |
//! | broker objects | `declarer`, `partition_change`, `page`, `permission_probe`, `policy_probe`, `server_properties`, `ledger_entries`, `declared_registry`, `delayed_messages`, `prune`, `inspection` | declaring, checking and pruning queues |
//! | publishing | `confirm_window`, `publisher`, `router`, `delay_steps`, `request_reply`, `settlement` | publisher confirms, delays, requests and replies |
//! | consuming | `exclusive_trial`, `prefetch`, `suspects`, `suspect_task`, `ack_sender`, `consumer_query`, `consumer_task`, `merged_consumer`, `partition_mover`, `partition_consumer` | deliveries, acks, quarantine of suspects |
//! | session | `session`, `lease`, `letter_reader`, `stranded`, `recovery`, `depth_poller`, `clock_probe`, `delay_probe`, `delay_relay` | everything over one pair of connections, and its replacement |
//!
//! A session ends when a connection is lost or a publishing channel fails. `recovery` then
//! opens a new session and declares everything again. Operations in progress fail, and the
//! broker redelivers unacked messages. Only the declarations outlive a session. A consumer that
//! ends alone doesn't end the session: its reader opens another consumer.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use brickwork::transport::{
    AskError, Backpressure, Completion, Connector, Consumer, Depth, Guarantees, Inspection,
    LeaseKeeper, LetterReader, Outgoing, Prune, Pruned, RenewUrl, Replies, Status, StrandedQueue,
    Topology, Transport, TransportError,
};
use brickwork::{Message, QueueId};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

mod ack_sender;
mod ack_tracker;
mod address;
mod channel_replacement;
mod clock_probe;
mod clock_skew;
mod close_delay;
mod codec;
mod confirm_window;
mod connect;
mod connection;
mod consumer_query;
mod consumer_task;
mod declaration;
mod declared_registry;
mod declared_steps;
mod declarer;
mod delay_count;
mod delay_flow;
mod delay_probe;
mod delay_relay;
mod delay_steps;
mod delayed_messages;
mod depth_poller;
mod exclusive_trial;
mod flushes;
mod frame_repair;
mod health;
mod inspection;
mod lapin_runtime;
mod lease;
mod ledger_entries;
mod letter_reader;
mod max_message_size;
mod merged_consumer;
mod non_crash_redeliveries;
mod page;
mod partition_change;
mod partition_consumer;
mod partition_mover;
mod partition_share;
mod permission_probe;
mod policy_probe;
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
mod stranded;
mod suspect_task;
mod suspects;
mod tls;
mod topology;

use address::Address;
use connection::{Worker, connect_error};
use delay_relay::DelayRelay;
use health::Health;
use letter_reader::QueueLetters;
use max_message_size::MaxMessageSize;
use non_crash_redeliveries::NonCrashRedeliveries;
use recovery::Recovery;
use request_reply::REPLY_TO;
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

/// Creates transports for `amqp:` and `amqps:` URLs.
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
        // The certificate files can be checked without connecting.
        address.tls.map_or(Ok(()), |tls| tls.load().map(drop))
    }

    fn resolve(&self, url: &str, folder: &Path) -> String {
        address::resolve(url, folder)
    }

    fn in_flight_max(&self, url: &str) -> Option<Duration> {
        Some(Address::parse(url).ok()?.consumer_timeout)
    }

    fn inspect<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Inspection, TransportError>> {
        let topology = topology.clone();
        Box::pin(run_on_temporary_worker(
            url,
            move |broker, url| async move { inspection::inspect(&broker, &url, &topology).await },
        ))
    }

    fn prune<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
        options: Prune,
    ) -> BoxFuture<'a, Result<Pruned, TransportError>> {
        let topology = topology.clone();
        Box::pin(run_on_temporary_worker(
            url,
            move |broker, url| async move { prune::prune(&broker, &url, &topology, options).await },
        ))
    }

    fn connect<'a>(
        &'a self,
        url: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        self.connect_renewing(url, None, pressure)
    }

    fn connect_renewing<'a>(
        &'a self,
        url: &'a str,
        renew: Option<RenewUrl>,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async move {
            let failed = |why: String| connect_error(url, why);
            let broker = Address::parse(url).map_err(failed)?;
            let worker = Worker::start().map_err(|error| failed(error.to_string()))?;
            // Dropping this future drops the worker, and with it the attempt to connect.
            let handle = worker.handle().clone();
            let shared = SharedAcrossSessions {
                address: Mutex::new(Arc::new(broker)),
                url: url.to_owned(),
                renew,
                health: Health::new(&pressure),
                topology: Arc::<DeclaredTopology>::default(),
                non_crash_redeliveries: Arc::<NonCrashRedeliveries>::default(),
                max_message_size: Arc::<MaxMessageSize>::default(),
                replies: Arc::new(Replies::new(REPLY_TO)),
            };
            let recovery = run_on_worker(&handle, Recovery::start(shared)).await;
            let recovery = recovery.unwrap_or_else(|| Err(failed("the thread is gone".into())))?;
            Ok(Arc::new(Amqp {
                worker: Mutex::new(Some(worker)),
                handle,
                pressure,
                recovery,
                relay: Arc::default(),
            }) as Arc<dyn Transport>)
        })
    }
}

/// A transport whose queues are on a RabbitMQ broker.
struct Amqp {
    /// `None` after the transport was closed.
    worker: Mutex<Option<Worker>>,
    handle: Handle,
    pressure: Arc<Backpressure>,
    recovery: Arc<Recovery>,
    /// Started with the first declaration.
    relay: Arc<OnceLock<DelayRelay>>,
}

/// Runs `work` on a worker thread that ends afterwards.
async fn run_on_temporary_worker<T: Send + 'static, F>(
    url: &str,
    work: impl FnOnce(Address, String) -> F + Send,
) -> Result<T, TransportError>
where
    F: Future<Output = Result<T, TransportError>> + Send + 'static,
{
    let failed = |why: String| connect_error(url, why);
    let broker = Address::parse(url).map_err(failed)?;
    let mut worker = Worker::start().map_err(|error| failed(error.to_string()))?;
    let done = run_on_worker(worker.handle(), work(broker, url.to_owned())).await;
    drop(worker.stop());
    worker.join().await;
    done.unwrap_or_else(|| Err(failed("the thread is gone".into())))
}

/// Runs a future on the transport's thread. Returns `None` if the thread is gone.
async fn run_on_worker<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (done, outcome) = oneshot::channel();
    handle.spawn(async move {
        // The future runs to its end even if the caller has stopped waiting.
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
            let (pressure, relay) = (self.pressure.clone(), self.relay.clone());
            let declaring = async move {
                let new = recovery.current()?.router.declare(&topology).await?;
                depth_poller::start(new, &pressure, recovery.clone());
                relay.get_or_init(|| DelayRelay::start(recovery));
                Ok(())
            };
            run_on_worker(&self.handle, declaring)
                .await
                .unwrap_or_else(|| Err(self.recovery.shared.health.error()))
        })
    }

    fn attach<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move { self.recovery.current()?.router.attach(topology) })
    }

    /// Without a session this fails at once. The broker redelivers the inputs in the next
    /// session, and the transport makes sources wait.
    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        match self.recovery.current() {
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
                let session = self.recovery.wait_for_session().await?;
                let (session_state, queue) = (session.session_state.clone(), queue.clone());
                let consuming = async move { session.consume(&queue, bound).await };
                match run_on_worker(&self.handle, consuming).await {
                    Some(Ok(consumer)) => return Ok(consumer),
                    // The session was lost in between: wait for the next one.
                    Some(Err(_)) if session_state.check().is_err() => {}
                    Some(Err(error)) => return Err(error),
                    None => return Err(self.recovery.shared.health.error()),
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
            let session = self.recovery.wait_for_session().await?;
            lease::acquire(session, source, keeper, &self.handle).await
        })
    }

    fn letters<'a>(
        &'a self,
        queue: &'a QueueId,
    ) -> BoxFuture<'a, Result<Option<Box<dyn LetterReader>>, TransportError>> {
        Box::pin(async move {
            let session = self.recovery.wait_for_session().await?;
            let (queue, handle) = (queue.clone(), self.handle.clone());
            let opening = async move { QueueLetters::open(session, &queue, handle).await };
            let opened = run_on_worker(&self.handle, opening).await;
            let reader = opened.unwrap_or_else(|| Err(self.recovery.shared.health.error()))?;
            Ok(Some(Box::new(reader) as Box<dyn LetterReader>))
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        match self.recovery.current() {
            Ok(session) => session.ask(&request, within),
            Err(error) => Box::pin(async move { Err(error.into()) }),
        }
    }

    fn late_replies(&self) -> u64 {
        self.recovery.shared.replies.late()
    }

    /// The broker counts ready messages. In-flight and delayed messages are those of this
    /// process only.
    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async move { self.recovery.current()?.depth(queue).await })
    }

    fn stranded<'a>(
        &'a self,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Vec<StrandedQueue>, TransportError>> {
        Box::pin(async move { stranded::find(&self.recovery.current()?.router, topology).await })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.recovery.shared.health.status()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async { self.recovery.current()?.flush().await })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let worker = self.worker.lock().take();
            let Some(mut worker) = worker else {
                // Another caller is closing the transport.
                self.recovery.shared.health.closed().await;
                return;
            };
            let (recovery, stop) = (self.recovery.clone(), worker.stop());
            let relay = self.relay.clone();
            // A task of its own: closing completes even if the caller stops waiting.
            let closing = async move {
                if let Some(relay) = relay.get() {
                    relay.stop().await;
                }
                recovery.close().await;
                drop(stop);
            };
            let _gone = run_on_worker(&self.handle, closing).await;
            worker.join().await;
        })
    }
}

impl Drop for Amqp {
    /// Ends without closing: operations in progress fail and the broker redelivers unacked
    /// messages.
    fn drop(&mut self) {
        self.recovery.abandon();
    }
}
