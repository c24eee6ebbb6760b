//! A program outside the app that publishes numbers, each under an id of its own, until the
//! broker has confirmed all of them.
//!
//! It has its own connection and survives the broker: an unconfirmed message is published again
//! under the same id. A message that it reports as accepted was confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::time::{sleep, timeout};

/// Messages that are published before the first confirm.
const BATCH: u64 = 50;
/// Time limit for a broker that does not answer.
const CONFIRM_MAX: Duration = Duration::from_secs(20);
/// Pause between attempts to reach the broker.
const AGAIN: Duration = Duration::from_millis(200);

/// Description of the messages.
#[derive(Debug, Clone)]
pub struct Feed {
    /// URL of the broker.
    pub url: String,
    /// Name of the app, which is also the name of its exchange.
    pub app: String,
    /// The routing key.
    pub topic: String,
    /// Number of messages, counted from 0.
    pub count: u64,
    /// Returns the payload for a number: JSON with the number as `n`.
    pub payload: fn(u64) -> String,
    /// Maximum rate.
    pub per_second: u64,
}

/// Returns a payload with the number alone.
pub fn plain(number: u64) -> String {
    format!("{{\"n\":{number}}}")
}

/// Publishes on a thread of its own. Dropping it stops the thread.
#[derive(Debug)]
pub struct Feeder {
    shared: Arc<Shared>,
    count: u64,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    attempted: AtomicU64,
    accepted: AtomicU64,
    stop: AtomicBool,
}

impl Feeder {
    /// Starts to publish.
    ///
    /// # Panics
    /// If the thread can't be started.
    pub fn start(feed: Feed) -> Self {
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let (shared, feed) = (shared.clone(), feed.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime can be made");
                runtime.block_on(publish_all(&feed, &shared));
            }
        });
        Self {
            shared,
            count: feed.count,
            thread: Some(thread),
        }
    }

    /// All numbers below this one were published, perhaps more than once.
    pub fn attempted(&self) -> u64 {
        self.shared.attempted.load(Relaxed)
    }

    /// The broker has confirmed all numbers below this one.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    /// Whether the broker has confirmed all messages.
    pub fn is_done(&self) -> bool {
        self.accepted() == self.count
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed already.
            let _panicked = thread.join();
        }
    }
}

async fn publish_all(feed: &Feed, shared: &Shared) {
    let began = Instant::now();
    while shared.accepted.load(Relaxed) < feed.count && !shared.stop.load(Relaxed) {
        // Each connection continues after the last confirmed batch, whatever ended the one
        // before.
        let connected = timeout(CONFIRM_MAX, connect(feed)).await;
        if let Ok(Ok((_connection, channel))) = connected {
            while publish_batch(feed, shared, &channel, began).await {}
        }
        sleep(AGAIN).await;
    }
}

async fn connect(feed: &Feed) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(&feed.url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok((connection, channel))
}

/// Publishes the next batch and awaits its confirms. Returns whether all were confirmed and more
/// remain.
async fn publish_batch(feed: &Feed, shared: &Shared, channel: &Channel, began: Instant) -> bool {
    let from = shared.accepted.load(Relaxed);
    let to = (from + BATCH).min(feed.count);
    if from == to || shared.stop.load(Relaxed) {
        return false;
    }
    let due = began + Duration::from_micros(from * 1_000_000 / feed.per_second);
    sleep(due.saturating_duration_since(Instant::now())).await;
    shared.attempted.fetch_max(to, Relaxed);
    let mut confirms = Vec::new();
    for number in from..to {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(format!("fed-{number}").into());
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let payload = (feed.payload)(number);
        let published = channel.basic_publish(
            feed.app.as_str().into(),
            feed.topic.as_str().into(),
            options,
            payload.as_bytes(),
            properties,
        );
        match timeout(CONFIRM_MAX, published).await {
            Ok(Ok(confirm)) => confirms.push(confirm),
            _ => return false,
        }
    }
    // A returned message may come with a later confirm of the batch: then none of the batch
    // counts.
    let Ok(confirmed) = timeout(CONFIRM_MAX, join_all(confirms)).await else {
        return false;
    };
    let all = confirmed
        .iter()
        .all(|confirm| matches!(confirm, Ok(Confirmation::Ack(None))));
    if all {
        shared.accepted.store(to, Relaxed);
    }
    all
}
