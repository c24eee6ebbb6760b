//! The laws of the transport contract: one function each, named after its promise.
//!
//! A law takes a [`Subject`]. It holds, panics, or says why it does not apply; only a transport's
//! [`Guarantees`] decide the last. The contract itself is the documentation of
//! [`brickwork::transport`]; where the two differ, one of them is wrong.
//!
//! | module | laws on |
//! | --- | --- |
//! | [`arriving`] | routing and content of messages |
//! | [`settling`] | ack, requeue, retry, dead letter |
//! | [`waiting`] | delays and retries |
//! | [`asking`] | requests and replies |
//! | [`bounds`] | prefetch bounds, depth and backpressure |
//! | [`limits`] | full queues |
//! | [`finding`] | searches for messages in queues |
//! | [`ending`] | stop, flush, close, reconnect |
//! | [`lasting`] | durability |
//! | [`quarantine`] | messages that were in flight during crashes |

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use brickwork::transport::{
    Backpressure, Completion, Consumer, Depth, Guarantees, Outgoing, Overflow, QueueSpec, Topology,
    Transport, TransportError, Transports, take,
};
use brickwork::{Delivery, Envelope, Message, QueueId};
use tokio::time::timeout;

pub mod arriving;
pub mod asking;
pub mod bounds;
pub mod ending;
pub mod finding;
pub mod lasting;
pub mod limits;
pub mod quarantine;
pub mod settling;
pub mod waiting;

/// Maximum duration of a law, and of each wait in it.
const LAW_MAX: Duration = Duration::from_secs(90);
/// Time limit for an event that must happen; far longer than it takes.
const SOON: Duration = Duration::from_secs(20);

/// The result of a law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The law holds.
    Kept,
    /// The transport does not give this guarantee.
    DoesNotApply(&'static str),
}

/// A transport under test: how to connect to it.
pub struct Subject {
    transports: Transports,
    url: String,
    app: String,
    /// Folder of the queues, for transports that need one. Dropping the subject removes it.
    folder: Option<tempfile::TempDir>,
}

impl Subject {
    /// Creates a subject for this URL. Each subject is a separate app.
    pub fn new(transports: Transports, url: impl Into<String>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Relaxed);
        Self {
            transports,
            url: url.into(),
            app: format!("app{}-{next}", std::process::id()),
            folder: None,
        }
    }

    /// Creates a subject whose queues are in a new folder.
    ///
    /// # Panics
    /// If the folder can't be made.
    pub fn in_folder(transports: Transports, scheme: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let url = format!("{scheme}:{}/queues", folder.path().display());
        Self {
            folder: Some(folder),
            ..Self::new(transports, url)
        }
    }

    /// Returns the same transport for another app, with empty queues.
    fn another(&self) -> Self {
        match &self.folder {
            Some(_) => {
                let scheme = brickwork::transport::scheme_of(&self.url);
                Self::in_folder(self.transports.clone(), scheme)
            }
            None => Self::new(self.transports.clone(), self.url.clone()),
        }
    }

    /// Returns the guarantees of the transport.
    pub fn guarantees(&self) -> Guarantees {
        let scheme = brickwork::transport::scheme_of(&self.url);
        let connector = self.transports.for_url(&self.url);
        connector
            .expect("the transport of the subject")
            .guarantees(scheme)
    }

    async fn connect(&self, pressure: Arc<Backpressure>) -> Arc<dyn Transport> {
        let connector = self.transports.for_url(&self.url);
        connector
            .expect("the transport of the subject")
            .connect(&self.url, pressure)
            .await
            .expect("it connects")
    }
}

/// Runs a law on a transport, with a time limit.
///
/// # Panics
/// If the law does not hold.
pub async fn check(subject: Subject, name: &str, law: impl AsyncFnOnce(&Subject) -> Verdict) {
    let verdict = timeout(LAW_MAX, law(&subject)).await;
    match verdict.unwrap_or_else(|_| panic!("not done within {LAW_MAX:?}")) {
        Verdict::Kept => {}
        Verdict::DoesNotApply(why) => {
            let scheme = brickwork::transport::scheme_of(&subject.url);
            // Written to stderr directly: the harness hides the output of tests that pass.
            let _unseen = writeln!(std::io::stderr(), "{scheme}: {name} does not apply: {why}");
        }
    }
}

/// A connected app, for one law.
struct App {
    transport: Arc<dyn Transport>,
    topology: Topology,
    pressure: Arc<Backpressure>,
}

/// Queues as `("service.input", ["topic", …])`.
type Queues<'a> = &'a [(&'a str, &'a [&'a str])];

const ORDERS: &str = "orders";
/// One queue that reads [`ORDERS`].
const STOCK: Queues<'_> = &[("stock.requests", &[ORDERS])];

impl App {
    async fn new(subject: &Subject, queues: Queues<'_>) -> Self {
        Self::with_high_water(subject, queues, 1_000_000).await
    }

    async fn with_high_water(subject: &Subject, queues: Queues<'_>, high_water: u64) -> Self {
        let specs = queues.iter().map(|(name, topics)| QueueSpec {
            high_water,
            ..spec(name, topics)
        });
        Self::with_specs(subject, specs.collect()).await
    }

    async fn with_specs(subject: &Subject, queues: Vec<QueueSpec>) -> Self {
        let topology = Topology {
            app: subject.app.as_str().into(),
            queues,
            ..Topology::default()
        };
        let pressure = Arc::<Backpressure>::default();
        let transport = subject.connect(pressure.clone()).await;
        transport.declare(&topology).await.expect("it declares");
        Self {
            transport,
            topology,
            pressure,
        }
    }

    /// Connects the same app again.
    async fn again(subject: &Subject, topology: &Topology) -> Self {
        let pressure = Arc::<Backpressure>::default();
        let transport = subject.connect(pressure.clone()).await;
        transport.declare(topology).await.expect("it declares");
        Self {
            transport,
            topology: topology.clone(),
            pressure,
        }
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), TransportError> {
        let (done, outcome) = Completion::channel();
        self.transport.publish(batch, done);
        timeout(SOON, outcome).await.expect("a completion comes")
    }

    /// Publishes numbered messages and waits for their confirms.
    async fn send(&self, topic: &str, numbers: std::ops::Range<u32>) {
        let batch = numbers.map(|number| message(topic, number).into());
        self.publish(batch.collect()).await.expect("it publishes");
    }

    async fn consume(&self, name: &str, bound: usize) -> Taker {
        let consumer = self.transport.consume(&queue(name), bound).await;
        Taker(consumer.expect("it consumes"))
    }

    async fn depth(&self, name: &str) -> Depth {
        let depth = timeout(SOON, self.transport.depth(&queue(name))).await;
        depth.expect("a depth comes").expect("there is a depth")
    }

    /// Waits until the depth of a queue satisfies `is`: settlements take effect asynchronously.
    async fn wait_for_depth(&self, name: &str, is: impl Fn(Depth) -> bool) {
        let began = tokio::time::Instant::now();
        loop {
            let depth = self.depth(name).await;
            if is(depth) {
                return;
            }
            assert!(began.elapsed() < SOON, "{name} stays at {depth:?}");
            // Gives other tasks time to run; a broker is asked over the network anyway.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn flush(&self) {
        let flushed = timeout(SOON, self.transport.flush()).await;
        flushed.expect("flushing ends").expect("it flushes");
    }

    async fn close(&self) {
        let closed = timeout(SOON, self.transport.close()).await;
        closed.expect("closing ends");
    }
}

/// A consumer with shorthands.
struct Taker(Box<dyn Consumer>);

impl Taker {
    /// Takes at least one delivery and at most `max`.
    async fn some(&mut self, max: usize) -> Vec<Delivery> {
        let mut taken = VecDeque::new();
        timeout(SOON, take(&mut *self.0, &mut taken, max))
            .await
            .expect("a delivery comes")
            .expect("the consumer goes on");
        assert!((1..=max).contains(&taken.len()));
        taken.into()
    }

    /// Takes exactly `count` deliveries.
    async fn exactly(&mut self, count: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        while taken.len() < count {
            taken.extend(self.some(count - taken.len()).await);
        }
        taken
    }

    async fn one(&mut self) -> Delivery {
        self.exactly(1).await.remove(0)
    }

    /// Returns the error that ends the consumer.
    async fn ends(&mut self) -> TransportError {
        let mut taken = VecDeque::new();
        timeout(SOON, take(&mut *self.0, &mut taken, 1))
            .await
            .expect("the consumer ends")
            .expect_err("the consumer ends")
    }

    /// Whether no delivery can be taken now.
    fn is_empty(&mut self) -> bool {
        let mut taken = VecDeque::new();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let poll = self.0.poll_take(&mut cx, &mut taken, 1);
        assert!(!matches!(poll, std::task::Poll::Ready(Err(_))), "it ended");
        poll.is_pending()
    }
}

/// Declares a queue without limits.
fn spec(name: &str, topics: &[&str]) -> QueueSpec {
    QueueSpec {
        id: queue(name),
        topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
        high_water: 1_000_000,
        limit: None,
        overflow: Overflow::DeadLetter,
        feeds: Vec::new(),
        single_active: false,
        keyed: None,
    }
}

/// `"service.input"`.
fn queue(name: &str) -> QueueId {
    let (service, input) = name.split_once('.').expect("service.input");
    QueueId::new(service, input)
}

/// Creates a message that is identified by its number.
fn message(topic: &str, number: u32) -> Message {
    let mut envelope = Envelope::new("test", number.to_string());
    envelope.topic = topic.into();
    envelope.into()
}

fn number(message: &Message) -> u32 {
    let text = std::str::from_utf8(&message.payload).expect("a number");
    text.parse().expect("a number")
}

fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    let numbers = deliveries.iter().map(|delivery| number(delivery.message()));
    numbers.collect()
}

fn sorted(mut numbers: Vec<u32>) -> Vec<u32> {
    numbers.sort_unstable();
    numbers
}

/// Asserts that a message arrived as it was sent. A message that starts a trace may carry its
/// trace or leave it to its id.
fn assert_same(got: &Message, sent: &Message) {
    let told = |message: &Message| {
        let mut envelope = message.edit();
        envelope.trace = Some(message.trace());
        format!("{envelope:?}")
    };
    assert_eq!(told(got), told(sent));
}
