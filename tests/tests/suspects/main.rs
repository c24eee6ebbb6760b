//! Quarantine beyond the laws in `conformance::quarantine`: lost connections, queues that one
//! process at a time reads, and handlers that ask.
//!
//! A crash is a transport that is dropped with deliveries in flight: the broker, or the next
//! process that opens the folder, sees the same.

mod asking;
mod connections;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    Backpressure, Completion, Consumer, Overflow, QueueSpec, Topology, Transport, take,
};
use brickwork::{Delivery, Envelope, Message, QueueId};
use brickwork_bridges::all;
use brickwork_tests::broker::Broker;
use bytes::Bytes;
use tokio::time::timeout;

/// Waits for a message that must come: far longer than it takes.
const SOON: Duration = Duration::from_secs(20);
/// Waits for a message that must not come: longer than it would take.
const A_WHILE: Duration = Duration::from_millis(300);

/// The transport of an app, and the app's name.
struct Place {
    url: String,
    app: &'static str,
}

impl Place {
    fn rabbitmq(app: &'static str) -> Self {
        let url = Broker::shared().url();
        Self { url, app }
    }

    fn embedded(folder: &Path, app: &'static str) -> Self {
        let url = format!("embedded:{}/queues", folder.display());
        Self { url, app }
    }
}

/// One process of an app. Each of its services reads the topic of its name by an input `in`.
struct App {
    transport: Arc<dyn Transport>,
}

impl App {
    async fn start(place: &Place, services: &[&str], single_active: bool) -> Self {
        let (transports, url) = (all(), &place.url);
        let connector = transports.for_url(url).expect("the scheme is known");
        let connecting = connector.connect(url, Arc::<Backpressure>::default());
        let transport = connecting.await.expect("it connects");
        let queues = services.iter().map(|service| QueueSpec {
            id: QueueId::new(service, "in"),
            topics: vec![(*service).into()],
            high_water: 1000,
            limit: None,
            overflow: Overflow::DeadLetter,
            single_active,
            keyed: None,
            feeds: Vec::new(),
        });
        let topology = Topology {
            app: place.app.into(),
            queues: queues.collect(),
            ..Topology::default()
        };
        transport.declare(&topology).await.expect("it declares");
        Self { transport }
    }

    async fn consume(&self, service: &str) -> Input {
        let queue = QueueId::new(service, "in");
        let consumer = timeout(SOON, self.transport.consume(&queue, 10)).await;
        Input {
            consumer: consumer.expect("it is in time").expect("it consumes"),
            taken: VecDeque::new(),
        }
    }

    /// Publishes to a topic, confirmed.
    async fn publish(&self, topic: &str, payload: impl Into<Bytes>) {
        let (done, outcome) = Completion::channel();
        let message = message("web", topic, payload);
        self.transport.publish(vec![message.into()], done);
        outcome.await.expect("it is confirmed");
    }

    /// Returns the number of messages of a service.
    async fn total(&self, service: &str) -> u64 {
        self.transport.flush().await.expect("it flushes");
        let depth = self.transport.depth(&QueueId::new(service, "in")).await;
        depth.expect("it counts").total()
    }

    /// Crashes with these deliveries in flight.
    fn crash(self, in_flight: Vec<Delivery>) {
        drop(self.transport);
        drop(in_flight);
    }
}

/// A message in the name of a service.
fn message(service: &str, topic: &str, payload: impl Into<Bytes>) -> Message {
    let mut envelope = Envelope::new("note", payload);
    envelope.topic = topic.into();
    envelope.source = format!("/shop/{service}").into();
    envelope.into()
}

/// The input of a service.
struct Input {
    consumer: Box<dyn Consumer>,
    taken: VecDeque<Delivery>,
}

impl Input {
    async fn one(&mut self) -> Delivery {
        while self.taken.is_empty() {
            let taking = take(&mut *self.consumer, &mut self.taken, 1);
            let taken = timeout(SOON, taking).await;
            taken.expect("a delivery comes").expect("it consumes");
        }
        self.taken.pop_front().expect("one is there")
    }

    async fn several(&mut self, count: usize) -> Vec<Delivery> {
        let mut several = Vec::new();
        for _ in 0..count {
            several.push(self.one().await);
        }
        several
    }

    /// Whether no delivery comes for a while.
    async fn is_quiet(&mut self) -> bool {
        let taking = take(&mut *self.consumer, &mut self.taken, 1);
        timeout(A_WHILE, taking).await.is_err()
    }
}

/// The number of the attempt and of the crashes that the message is blamed for.
fn attempt(delivery: &Delivery) -> (u32, u32) {
    (delivery.attempt(), delivery.crashes())
}
