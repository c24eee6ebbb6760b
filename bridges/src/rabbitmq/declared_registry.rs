//! The ledger: every queue and binding that the app's processes have declared, stored on the
//! broker.
//!
//! AMQP can't list queues. So the durable queue `APP.ledger` holds a message that names the
//! queues and bindings of every manifest that ran there, one per line:
//!
//! ```text
//! brickwork ledger 1
//! bind stock.requests orders.placed
//! queue stock.dlq
//! queue stock.requests
//! ```
//!
//! (`feed`, with tabs, is a binding to an external exchange.)
//!
//! - Names are relative to the app, so a ledger can't name another app's queues.
//! - A ledger only grows, except by pruning. A process that declares reads it first. If a line
//!   is missing, the process publishes a complete message, confirmed, and then acks the old ones.
//! - Two processes at a time, or one killed in between, leave several messages. A reader merges
//!   them, and the next writer replaces them by one.
//! - A reader, too, publishes a copy of every message, confirmed, and acks the old one. The broker
//!   drops a message that was requeued more often than a policy may allow.
//! - Unknown lines, written by later versions, are kept; so are messages that are no ledger.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use brickwork::QueueId;
use brickwork::supervision::Backoff;
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use lapin::protocol::basic::AMQPProperties;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Connection};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::codec;
use super::connect::Socket;
use super::connection::{close, connect};
use super::declarer::{self, count_ready};
use super::ledger_entries::Entries;
use super::page::{ack_page, take_page};
use super::session_state::SessionState;
use super::topology::{Declaration, ledger_declaration, ledger_name};

/// Maximum messages that are read. If there are more, nothing is written: a writer that doesn't
/// read all of them would add messages forever.
const MESSAGES_MAX: u16 = 64;
/// Time limit of one attempt to record.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// The app's start doesn't wait longer for the record.
const START_WAIT: Duration = Duration::from_secs(10);
/// Failed attempts before the start goes on. Recording continues in the background.
const START_ATTEMPTS: u32 = 6;
/// Maximum reads of an empty ledger: another process may hold its message for a moment.
const READS_MAX: u32 = 4;
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Back-off between attempts to record.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(30),
    jitter: 0.5,
};

/// A ledger whose messages this process holds unacked. [`close`](Self::close) puts copies of them
/// in their place. If this is dropped, the broker requeues them.
pub(super) struct LedgerReader {
    channel: Channel,
    pub(super) lines: Entries,
    /// No message was a ledger.
    is_empty: bool,
    /// Messages that are no ledger, or of another version.
    unknown: Vec<Delivery>,
    /// The last message that was read.
    last_tag: Option<u64>,
    /// Every message was read.
    complete: bool,
}

impl LedgerReader {
    /// Creates a reader that holds no message.
    async fn new(connection: &Connection) -> lapin::Result<Self> {
        Ok(Self {
            channel: connection.create_channel().await?,
            lines: Entries::default(),
            is_empty: true,
            unknown: Vec::new(),
            last_tag: None,
            complete: true,
        })
    }

    /// Reads a ledger. Returns `None` if there is no ledger queue.
    pub(super) async fn open(connection: &Connection, app: &str) -> lapin::Result<Option<Self>> {
        let mut ledger = Self::new(connection).await?;
        let queue = ledger_name(app);
        for attempt in 0..READS_MAX {
            match ledger.take(&queue).await {
                Ok(0) if attempt + 1 < READS_MAX => sleep(RETRY_INTERVAL).await,
                Ok(_) => break,
                Err(error) => match declarer::refusal(&error) {
                    Some((404, _)) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
        Ok(Some(ledger))
    }

    /// Takes all messages. Returns their number.
    async fn take(&mut self, queue: &ShortString) -> lapin::Result<usize> {
        let ready = count_ready(&self.channel, queue.clone()).await?;
        if ready == 0 {
            return Ok(0);
        }
        let count = u16::try_from(ready).map_or(MESSAGES_MAX, |ready| ready.min(MESSAGES_MAX));
        let page = take_page(&self.channel, queue, count).await?;
        self.complete = page.len() < usize::from(MESSAGES_MAX);
        let taken = page.len();
        self.last_tag = page.last().map(|delivery| delivery.delivery_tag);
        for delivery in page {
            match Entries::read(&delivery.data) {
                Some(lines) => {
                    self.lines.merge(lines);
                    self.is_empty = false;
                }
                None => self.unknown.push(delivery),
            }
        }
        Ok(taken)
    }

    /// Returns whether no readable ledger was found.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Replaces the content of the ledger by `lines`.
    pub(super) async fn replace(
        self,
        connection: &Connection,
        app: &str,
        lines: &Entries,
    ) -> Result<(), String> {
        if !self.complete {
            self.close(connection, app).await;
            return Err(format!(
                "the ledger holds {MESSAGES_MAX} messages or more: purge it"
            ));
        }
        self.write(connection, app, Some(lines)).await
    }

    /// Keeps the messages.
    pub(super) async fn close(self, connection: &Connection, app: &str) {
        let lines = self.lines.clone();
        let kept = (!self.is_empty).then_some(&lines);
        if let Err(error) = self.write(connection, app, kept).await {
            // For example without the permission to write: the broker requeues the messages.
            debug!(%error, "the ledger was not written again");
        }
    }

    /// Publishes `lines` and copies of the unknown messages, and acks every message that was read.
    async fn write(
        self,
        connection: &Connection,
        app: &str,
        lines: Option<&Entries>,
    ) -> Result<(), String> {
        let ledger = lines.map(|lines| {
            let properties = AMQPProperties::default()
                .with_content_type("text/plain".into())
                .with_delivery_mode(2)
                .with_app_id(app.into());
            (lines.write().into_bytes(), properties)
        });
        let unknown = self.unknown.iter().map(|unknown| {
            let properties = codec::copy_of_letter(&unknown.properties);
            (unknown.data.clone(), properties)
        });
        let copies: Vec<_> = ledger.into_iter().chain(unknown).collect();
        if !copies.is_empty() {
            // While the broker is short of memory or disk, it accepts no messages.
            let publishing = publish_all(connection, app, copies);
            let published = timeout(RECORD_TIMEOUT, publishing).await;
            published.map_err(|_| format!("not confirmed within {RECORD_TIMEOUT:?}"))??;
        }
        // The new messages are stored: the next reader merges any message whose ack fails.
        if let Some(last) = self.last_tag {
            let acked = ack_page(&self.channel, last).await;
            acked.map_err(|error| error.to_string())?;
        }
        // A channel that is gone has requeued what was not acked.
        let _gone = self.channel.close(200, "done".into()).await;
        Ok(())
    }
}

/// Publishes messages of the ledger and waits for their confirms.
async fn publish_all(
    connection: &Connection,
    app: &str,
    messages: Vec<(Vec<u8>, AMQPProperties)>,
) -> Result<(), String> {
    let said = |error: lapin::Error| error.to_string();
    let channel = connection.create_channel().await.map_err(said)?;
    let confirms = channel.confirm_select(Default::default()).await;
    confirms.map_err(said)?;
    for (text, properties) in messages {
        publish(&channel, ledger_name(app), &text, properties).await?;
    }
    channel.close(200, "done".into()).await.map_err(said)
}

/// Publishes a message of the ledger and waits for its confirm.
async fn publish(
    channel: &Channel,
    ledger: ShortString,
    text: &[u8],
    properties: AMQPProperties,
) -> Result<(), String> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let published = async {
        let sent = channel.basic_publish("".into(), ledger, options, text, properties);
        sent.await?.await
    };
    let published: lapin::Result<Confirmation> = published.await;
    match published {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(_) => Err("the broker did not confirm it".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Records the declarations of a session.
#[derive(Clone)]
pub(super) struct DeclaredRegistry {
    socket: Arc<Socket>,
    session_state: Arc<SessionState>,
}

impl DeclaredRegistry {
    pub(super) fn new(socket: Arc<Socket>, session_state: Arc<SessionState>) -> Self {
        Self {
            socket,
            session_state,
        }
    }

    /// Records declarations. Tries until it is confirmed or the session ends; the app's start
    /// waits for the first attempts only. The next session records the declarations again.
    ///
    /// Returns every queue in the ledger; none if the ledger isn't recorded yet.
    pub(super) async fn record(&self, app: &str, all: &[Declaration]) -> BTreeSet<QueueId> {
        let lines = Entries::from_declarations(all, app);
        let (socket, session_state) = (self.socket.clone(), self.session_state.clone());
        let (goes_on, done) = oneshot::channel();
        let app = app.to_owned();
        tokio::spawn(async move {
            tokio::select! {
                () = record_until_confirmed(&socket, &app, &lines, goes_on) => {}
                _ = session_state.ended() => {}
            }
        });
        match timeout(START_WAIT, done).await {
            Ok(recorded) => recorded.unwrap_or_default(),
            Err(_) => {
                warn!(
                    "recording declarations in the ledger takes long, `prune` may miss them so far"
                );
                BTreeSet::new()
            }
        }
    }
}

/// Records declarations. `goes_on` gets the queues of the ledger. It is dropped when the app's
/// start must not wait any longer.
async fn record_until_confirmed(
    socket: &Arc<Socket>,
    app: &str,
    lines: &Entries,
    goes_on: oneshot::Sender<BTreeSet<QueueId>>,
) {
    let mut waiting = Some(goes_on);
    for attempt in 0.. {
        let recorded = timeout(RECORD_TIMEOUT, record(socket, app, lines)).await;
        let recorded =
            recorded.unwrap_or_else(|_| Err(format!("not done within {RECORD_TIMEOUT:?}")));
        let error = match recorded {
            Ok(recorded) => {
                if let Some(waiting) = waiting {
                    let _gone = waiting.send(recorded.queues());
                }
                return;
            }
            Err(error) => error,
        };
        if attempt + 1 >= START_ATTEMPTS && waiting.take().is_some() {
            warn!(%error, "declarations were not recorded in the ledger, `prune` may miss them so far");
        }
        sleep(BACKOFF.delay(attempt, fastrand::f64())).await;
    }
}

/// Records declarations that the ledger lacks. Returns the ledger.
///
/// Uses a connection of its own: reading a queue that another process is creating costs the
/// connection (an internal error of the broker).
///
/// # Errors
/// The reason why recording failed. The app can run without.
async fn record(socket: &Arc<Socket>, app: &str, lines: &Entries) -> Result<Entries, String> {
    let connection = connect(socket, "ledger").await.ok_or("no answer")?;
    let connection = connection.map_err(|error| error.to_string())?;
    let recorded = record_over(&connection, app, lines).await;
    close(&connection).await;
    recorded
}

async fn record_over(
    connection: &Connection,
    app: &str,
    lines: &Entries,
) -> Result<Entries, String> {
    let said = |error: lapin::Error| error.to_string();
    let ledger = match LedgerReader::open(connection, app).await.map_err(said)? {
        Some(ledger) => ledger,
        None => {
            let ledger = LedgerReader::new(connection).await.map_err(said)?;
            let made = declarer::declare(&ledger.channel, ledger_declaration(app)).await;
            made.map_err(said)?;
            ledger
        }
    };
    let mut all = ledger.lines.clone();
    all.merge(lines.clone());
    ledger.replace(connection, app, &all).await?;
    Ok(all)
}
