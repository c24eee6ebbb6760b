//! An app in the test's own process, on one arbiter, with virtual time.
//!
//! The clock jumps when no task can run, so a test that waits for a back-off of minutes takes no
//! time. Tests never sleep to wait for an event.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::System;
use brickwork::transport::{
    Completion, Consumer, Outgoing, Overflow, QueueSpec, Topology, Transport, Transports, take,
};
use brickwork::{
    App, Catalog, Clock, Delivery, Envelope, Message, Plan, QueueId, StopReport, Workers, manifest,
};
use serde_json::Value;
use tempfile::TempDir;

/// Runs a test on an actix system whose clock jumps when no task can run.
pub fn virtually<T>(test: impl Future<Output = T>) -> T {
    let runner = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime can be built")
    });
    runner.block_on(test)
}

/// Runs a test on an actix system with the real clock.
pub fn really<T>(test: impl Future<Output = T>) -> T {
    System::new().block_on(test)
}

/// An app under test.
pub struct TestApp {
    /// The app itself.
    pub app: App,
    folder: TempDir,
}

/// Loads a manifest from its text.
///
/// # Panics
/// If the manifest has a problem.
pub fn plan(manifest: &str, catalog: &Catalog, folder: &Path) -> Plan {
    let file = folder.join("app.toml");
    std::fs::write(&file, manifest).expect("the manifest can be written");
    match manifest::load(
        &file,
        &manifest::Options::default(),
        catalog,
        &Transports::new(),
    ) {
        Ok(plan) => plan,
        Err(report) => panic!("{}", report.render(false)),
    }
}

impl TestApp {
    /// Starts a manifest on the current arbiter, in a new folder.
    pub async fn start(manifest: &str, catalog: &Catalog) -> Self {
        Self::start_on(manifest, catalog, Workers::Here).await
    }

    /// Starts a manifest with the real clock, in a folder that an earlier run may have written.
    pub async fn start_in(
        folder: TempDir,
        manifest: &str,
        catalog: &Catalog,
        transports: &Transports,
    ) -> Self {
        let file = folder.path().join("app.toml");
        std::fs::write(&file, manifest).expect("the manifest can be written");
        let options = manifest::Options::default();
        let plan = match manifest::load(&file, &options, catalog, transports) {
            Ok(plan) => plan,
            Err(report) => panic!("{}", report.render(false)),
        };
        let app = App::start(plan, transports, Workers::Here, Clock::SYSTEM)
            .await
            .expect("the app starts");
        Self { app, folder }
    }

    /// Starts a manifest on the current arbiter or on worker threads.
    pub async fn start_on(manifest: &str, catalog: &Catalog, workers: Workers) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let plan = plan(manifest, catalog, folder.path());
        let clock =
            Clock::virtual_from(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let app = App::start(plan, &Transports::new(), workers, clock)
            .await
            .expect("the app starts");
        Self { app, folder }
    }

    /// The folder of the manifest.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Publishes a JSON payload on a topic and returns the message.
    pub async fn send(&self, topic: &str, payload: Value) -> Message {
        self.send_bytes(topic, payload.to_string()).await
    }

    /// Publishes bytes on a topic and returns the message.
    pub async fn send_bytes(&self, topic: &str, payload: impl Into<bytes::Bytes>) -> Message {
        let mut envelope = Envelope::new("test", payload.into());
        envelope.topic = topic.into();
        let message = Message::from(envelope);
        self.publish(message.clone()).await;
        message
    }

    /// Publishes a message.
    ///
    /// # Panics
    /// If the transport does not confirm it.
    pub async fn publish(&self, message: Message) {
        let (done, confirmed) = Completion::channel();
        self.transport()
            .publish(vec![Outgoing::from(message)], done);
        confirmed.await.expect("the message is taken over");
    }

    /// The app's transport.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        self.app.transport()
    }

    /// Subscribes to a topic. The probe gets messages that are published from now on.
    pub async fn probe(&self, topic: &str) -> Probe {
        let id = QueueId::new("probe", &topic.replace('.', "-"));
        let spec = QueueSpec {
            id: id.clone(),
            topics: vec![topic.into()],
            high_water: 1_000_000,
            limit: None,
            overflow: Overflow::DeadLetter,
            feeds: Vec::new(),
            single_active: false,
            keyed: None,
        };
        let topology = Topology {
            queues: vec![spec],
            ..Topology::default()
        };
        self.transport()
            .declare(&topology)
            .await
            .expect("a probe can be declared");
        self.consume(&id).await
    }

    /// Consumes the dead letters of a service.
    pub async fn dead_letters(&self, service: &str) -> Probe {
        self.consume(&QueueId::dead_letters(service)).await
    }

    async fn consume(&self, id: &QueueId) -> Probe {
        let consumer = self
            .transport()
            .consume(id, 10_000)
            .await
            .expect("the queue is there");
        Probe { consumer }
    }

    /// Waits until no message is left to handle.
    pub async fn idle(&self) {
        self.app.idle().await;
    }

    /// Returns the row of a service in the summary.
    ///
    /// # Panics
    /// If there is no such service.
    pub fn summary(&self, service: &str) -> brickwork::ServiceSummary {
        let summary = self.app.summary();
        let row = summary
            .services
            .into_iter()
            .find(|row| row.service == service);
        row.expect("the service is in the manifest")
    }

    /// Stops the app and returns its folder for another run.
    pub async fn stop_in(self) -> TempDir {
        self.app.stop().await;
        self.folder
    }

    /// Stops the app.
    pub async fn stop(self) -> StopReport {
        self.app.stop().await
    }
}

/// Consumes a queue as a service would, and acks each message.
pub struct Probe {
    consumer: Box<dyn Consumer>,
}

/// Longer than any step takes in virtual time.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Probe {
    /// Returns the next message.
    ///
    /// # Panics
    /// If no message comes within an hour of virtual time.
    pub async fn next(&mut self) -> Message {
        self.within(PATIENCE).await.expect("a message comes")
    }

    /// Returns the next payload as JSON.
    pub async fn next_json(&mut self) -> Value {
        serde_json::from_slice(&self.next().await.payload).expect("the payload is JSON")
    }

    /// Returns the next message, or `None` if no message comes in time.
    pub async fn within(&mut self, time: Duration) -> Option<Message> {
        let mut taken: VecDeque<Delivery> = VecDeque::new();
        tokio::time::timeout(time, take(&mut *self.consumer, &mut taken, 1))
            .await
            .ok()?
            .expect("the consumer lives");
        let delivery = taken.pop_front()?;
        let message = delivery.message().clone();
        delivery.ack();
        Some(message)
    }

    /// Returns all messages that are in the queue now.
    pub async fn rest(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.within(Duration::from_millis(1)).await {
            all.push(message);
        }
        all
    }
}
