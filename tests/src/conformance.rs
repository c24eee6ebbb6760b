//! The laws of the transport contract: one function each, named by its promise.
//!
//! A law takes a [`Subject`] and either holds, panics, or says why it doesn't apply,
//! which only a transport's [`Guarantees`] decide. The contract itself is the comments
//! of [`brickwork::transport`]; where the two differ, one of them is wrong.
//!
//! | where | laws on |
//! | --- | --- |
//! | [`arriving`] | what arrives where, and how |
//! | [`settling`] | what becomes of a delivery |
//! | [`waiting`] | delays and retries |
//! | [`asking`] | requests and replies |
//! | [`bounds`] | bounds, depth and pressure |
//! | [`limits`] | queues that are full |
//! | [`finding`] | looking for messages in queues |
//! | [`ending`] | stopping, flushing, closing, connecting again |
//! | [`lasting`] | what outlives a transport |
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

/// No law takes so long, and no wait within one.
const LAW_MAX: Duration = Duration::from_secs(90);
/// For something that must come: far longer than it takes.
const SOON: Duration = Duration::from_secs(20);

/// Whether a law says something on a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Kept,
    /// The transport doesn't claim it.
    DoesNotApply(&'static str),
}

/// A transport to be tried: how to connect to it.
pub struct Subject {
    transports: Transports,
    url: String,
    app: String,
    /// Where it keeps them, if it does; it goes with the subject.
    folder: Option<tempfile::TempDir>,
}

impl Subject {
    /// Transports by this URL. Each subject is another app on it.
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

    /// A transport that keeps its queues in a folder: one of its own.
    ///
    /// # Panics
    /// There can be no such folder.
    pub fn in_folder(transports: Transports, scheme: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let url = format!("{scheme}:{}/queues", folder.path().display());
        Self {
            folder: Some(folder),
            ..Self::new(transports, url)
        }
    }

    /// The same transport for another app, with nothing there yet.
    fn another(&self) -> Self {
        match &self.folder {
            Some(_) => {
                let scheme = brickwork::transport::scheme_of(&self.url);
                Self::in_folder(self.transports.clone(), scheme)
            }
            None => Self::new(self.transports.clone(), self.url.clone()),
        }
    }

    /// What it claims.
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

/// Tries a law on a transport, for a bounded time.
///
/// # Panics
/// It doesn't hold.
pub async fn check(subject: Subject, name: &str, law: impl AsyncFnOnce(&Subject) -> Verdict) {
    let verdict = timeout(LAW_MAX, law(&subject)).await;
    match verdict.unwrap_or_else(|_| panic!("not done within {LAW_MAX:?}")) {
        Verdict::Kept => {}
        Verdict::DoesNotApply(why) => {
            let scheme = brickwork::transport::scheme_of(&subject.url);
            // Past the harness, which hides what tests that pass print.
            let _unseen = writeln!(std::io::stderr(), "{scheme}: {name} does not apply: {why}");
        }
    }
}

/// An app on a transport, for one law.
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

    /// The same app, connected anew.
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

    /// Publishes numbered messages, confirmed.
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

    /// Waits until a queue is as given: what was settled is on its way.
    async fn wait_for_depth(&self, name: &str, is: impl Fn(Depth) -> bool) {
        let began = tokio::time::Instant::now();
        loop {
            let depth = self.depth(name).await;
            if is(depth) {
                return;
            }
            assert!(began.elapsed() < SOON, "{name} stays at {depth:?}");
            // Others run meanwhile; a broker is asked over the network anyway.
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

/// A consumer, for people in a hurry.
struct Taker(Box<dyn Consumer>);

impl Taker {
    /// Takes what there is, at least one.
    async fn some(&mut self, max: usize) -> Vec<Delivery> {
        let mut taken = VecDeque::new();
        timeout(SOON, take(&mut *self.0, &mut taken, max))
            .await
            .expect("a delivery comes")
            .expect("the consumer goes on");
        assert!((1..=max).contains(&taken.len()));
        taken.into()
    }

    /// Takes exactly so many.
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

    /// The error that it ends with.
    async fn ends(&mut self) -> TransportError {
        let mut taken = VecDeque::new();
        timeout(SOON, take(&mut *self.0, &mut taken, 1))
            .await
            .expect("the consumer ends")
            .expect_err("the consumer ends")
    }

    /// Whether there is nothing to take at this moment.
    fn is_empty(&mut self) -> bool {
        let mut taken = VecDeque::new();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let poll = self.0.poll_take(&mut cx, &mut taken, 1);
        assert!(!matches!(poll, std::task::Poll::Ready(Err(_))), "it ended");
        poll.is_pending()
    }
}

/// A queue without bounds.
fn spec(name: &str, topics: &[&str]) -> QueueSpec {
    QueueSpec {
        id: queue(name),
        topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
        high_water: 1_000_000,
        limit: None,
        overflow: Overflow::DeadLetter,
        feeds: Vec::new(),
        single_active: false,
    }
}

/// `"service.input"`.
fn queue(name: &str) -> QueueId {
    let (service, input) = name.split_once('.').expect("service.input");
    QueueId::new(service, input)
}

/// A message that is known by its number.
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

/// A message is what it was. One that starts a trace may say so or leave it to its id.
fn assert_same(got: &Message, sent: &Message) {
    let told = |message: &Message| {
        let mut envelope = message.edit();
        envelope.trace = Some(message.trace());
        format!("{envelope:?}")
    };
    assert_eq!(told(got), told(sent));
}
