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
//! - Unknown lines, written by later versions, are kept; so are messages that are no ledger.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use brickwork::{NAME_BYTES_MAX, QueueId, TOPIC_BYTES_MAX, check_topic};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::protocol::basic::AMQPProperties;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Connection};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::codec;
use super::connect::Socket;
use super::connection::{close, connect};
use super::declarer;
use super::session_state::SessionState;
use super::topology::{Declaration, ledger_declaration, ledger_name};

/// First line of a ledger. Another number is another format, which is ignored.
const HEADING: &str = "brickwork ledger 1";
/// Maximum messages that are read. If there are more, nothing is written: a writer that doesn't
/// read all of them would add messages forever.
const MESSAGES_MAX: usize = 64;
/// Deliveries after which a message is written again. The broker drops a message that was
/// delivered too often; this is far below its limit.
const DELIVERIES_MAX: u64 = 1000;
/// Time limit of recording: the app's start doesn't wait longer.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum reads of an empty ledger: another process may hold its message for a moment.
const READS_MAX: u32 = 4;
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum connections that recording may lose.
const CONNECTIONS_MAX: u32 = 5;

/// The lines of a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entries(BTreeSet<String>);

impl Entries {
    /// Returns the lines for an app's declarations.
    pub(super) fn from_declarations(declarations: &[Declaration], app: &str) -> Self {
        let own = |name: &ShortString| {
            let name = name.as_str().strip_prefix(app)?.strip_prefix('.')?;
            queue_id(name)
        };
        let lines = declarations.iter().filter_map(|declaration| {
            Some(match declaration {
                Declaration::Queue { name, .. } => format!("queue {}", own(name)?),
                Declaration::Binding {
                    queue,
                    exchange,
                    key,
                } => {
                    let external = exchange.as_str() != app;
                    let binding = Binding {
                        queue: own(queue)?,
                        exchange: external.then(|| exchange.to_string()),
                        key: key.to_string(),
                    };
                    binding.line()?
                }
                Declaration::Exchange { .. }
                | Declaration::ExternalQueue { .. }
                | Declaration::ExternalExchange { .. } => return None,
            })
        });
        Self(lines.collect())
    }

    /// Parses a message. Returns `None` if it is no ledger or has another version.
    fn read(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        (lines.next()? == HEADING).then(|| Self(lines.map(str::to_owned).collect()))
    }

    fn write(&self) -> String {
        let mut text = HEADING.to_owned();
        for line in &self.0 {
            text.push('\n');
            text.push_str(line);
        }
        text
    }

    /// Returns the queues.
    pub(super) fn queues(&self) -> BTreeSet<QueueId> {
        let names = self.0.iter().filter_map(|line| line.strip_prefix("queue "));
        names.filter_map(queue_id).collect()
    }

    /// Returns the bindings.
    pub(super) fn bindings(&self) -> BTreeSet<Binding> {
        self.0
            .iter()
            .filter_map(|line| Binding::read(line))
            .collect()
    }

    /// Removes a queue and its bindings.
    pub(super) fn remove_queue(&mut self, queue: &QueueId) {
        self.0.remove(&format!("queue {queue}"));
        let of_it =
            |line: &String| Binding::read(line).is_some_and(|binding| binding.queue == *queue);
        self.0.retain(|line| !of_it(line));
    }

    pub(super) fn remove_binding(&mut self, binding: &Binding) {
        if let Some(line) = binding.line() {
            self.0.remove(&line);
        }
    }
}

/// A binding of one of the app's queues.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binding {
    pub(super) queue: QueueId,
    /// An external exchange; `None` means the app's own.
    pub(super) exchange: Option<String>,
    /// The routing key: on the app's own exchange, the topic.
    pub(super) key: String,
}

impl Binding {
    fn read(line: &str) -> Option<Self> {
        if let Some(external) = line.strip_prefix("feed ") {
            let mut parts = external.split('\t');
            let binding = Self {
                queue: queue_id(parts.next()?)?,
                exchange: Some(parts.next()?.to_owned()),
                key: parts.next()?.to_owned(),
            };
            let names = [
                binding.exchange.as_deref().unwrap_or_default(),
                &binding.key,
            ];
            let are_short = names.iter().all(|name| name.len() <= TOPIC_BYTES_MAX);
            return (parts.next().is_none() && are_short).then_some(binding);
        }
        let (queue, topic) = line.strip_prefix("bind ")?.split_once(' ')?;
        check_topic(topic).ok()?;
        Some(Self {
            queue: queue_id(queue)?,
            exchange: None,
            key: topic.to_owned(),
        })
    }

    /// Returns the line, or `None` if the names don't fit into one.
    fn line(&self) -> Option<String> {
        let Self {
            queue,
            exchange,
            key,
        } = self;
        let line = match exchange {
            None => format!("bind {queue} {key}"),
            Some(exchange) => format!("feed {queue}\t{exchange}\t{key}"),
        };
        (!line.contains(['\n', '\r']) && Self::read(&line).as_ref() == Some(self)).then_some(line)
    }
}

/// Parses a queue name within the app.
fn queue_id(name: &str) -> Option<QueueId> {
    check_topic(name).ok()?;
    let (service, input) = name.split_once('.')?;
    let one = |name: &str| !name.contains('.') && name.len() <= NAME_BYTES_MAX;
    (one(service) && one(input)).then(|| QueueId::new(service, input))
}

/// A ledger whose messages this process holds unacked. The broker requeues them when this is
/// closed, or dropped with its connection.
pub(super) struct LedgerReader {
    channel: Channel,
    pub(super) lines: Entries,
    /// The messages that are ledgers.
    messages: Vec<Delivery>,
    /// A message was delivered so often that it must be written again.
    must_rewrite: bool,
    /// Every message was read.
    complete: bool,
}

impl LedgerReader {
    /// Creates a reader that holds no message.
    async fn new(connection: &Connection) -> lapin::Result<Self> {
        Ok(Self {
            channel: connection.create_channel().await?,
            lines: Entries::default(),
            messages: Vec::new(),
            must_rewrite: false,
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
        let mut taken = 0;
        let options = BasicGetOptions::default();
        while let Some(got) = self.channel.basic_get(queue.clone(), options).await? {
            taken += 1;
            if let Some(lines) = Entries::read(&got.delivery.data) {
                let read = codec::deliveries_before(&got.delivery.properties);
                self.must_rewrite |= read.unwrap_or(0) > DELIVERIES_MAX;
                self.lines.0.extend(lines.0);
                self.messages.push(got.delivery);
            }
            if taken == MESSAGES_MAX {
                self.complete = false;
                break;
            }
        }
        Ok(taken)
    }

    /// Returns whether no readable ledger was found.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Replaces the content of the ledger by `lines`.
    pub(super) async fn replace(
        self,
        connection: &Connection,
        app: &str,
        lines: &Entries,
    ) -> Result<(), String> {
        if !self.complete {
            self.close().await;
            return Err(format!(
                "the ledger holds {MESSAGES_MAX} messages or more: purge it"
            ));
        }
        let written = async {
            let publishing = connection.create_channel().await?;
            publishing.confirm_select(Default::default()).await?;
            let options = BasicPublishOptions {
                mandatory: true,
                ..Default::default()
            };
            let properties = AMQPProperties::default()
                .with_content_type("text/plain".into())
                .with_delivery_mode(2)
                .with_app_id(app.into());
            let text = lines.write();
            let sent = publishing
                .basic_publish(
                    "".into(),
                    ledger_name(app),
                    options,
                    text.as_bytes(),
                    properties,
                )
                .await?;
            let confirmed = sent.await?;
            publishing.close(200, "done".into()).await?;
            Ok(confirmed)
        };
        let written: lapin::Result<Confirmation> = written.await;
        match written {
            Ok(Confirmation::Ack(None)) => {}
            Ok(_) => return Err("the broker did not confirm it".into()),
            Err(error) => return Err(error.to_string()),
        }
        // The new message is stored: the next reader merges any message whose ack fails.
        for ledger in &self.messages {
            let acked = ledger.acker.ack(BasicAckOptions::default()).await;
            acked.map_err(|error| error.to_string())?;
        }
        self.close().await;
        Ok(())
    }

    /// Requeues the messages.
    pub(super) async fn close(self) {
        // A channel that is gone has requeued them.
        let _gone = self.channel.close(200, "done".into()).await;
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

    /// Records declarations. Returns every queue in the ledger. A failure is logged only: the app
    /// runs without the ledger.
    pub(super) async fn record(&self, app: &str, all: &[Declaration]) -> BTreeSet<QueueId> {
        let lines = Entries::from_declarations(all, app);
        let recorded = tokio::select! {
            recorded = record(&self.socket, app, &lines) => recorded,
            // The next session records them.
            _ = self.session_state.ended() => return BTreeSet::new(),
        };
        match recorded {
            Ok(recorded) => recorded.queues(),
            Err(error) => {
                warn!(%error, "declarations were not recorded in the ledger, `prune` may miss them");
                BTreeSet::new()
            }
        }
    }
}

/// Records declarations that the ledger lacks. Returns the ledger.
///
/// Uses a connection of its own: reading a queue that another process is creating costs the
/// connection (an internal error of the broker). Then this tries again.
///
/// # Errors
/// The reason why recording failed. The app can run without.
async fn record(socket: &Arc<Socket>, app: &str, lines: &Entries) -> Result<Entries, String> {
    let recording = async {
        let mut tries = 0;
        loop {
            tries += 1;
            let connection = connect(socket, "ledger").await;
            let connection = connection
                .ok_or("no answer")?
                .map_err(|error| error.to_string())?;
            let recorded = record_over(&connection, app, lines).await;
            let lost = !connection.status().connected();
            close(&connection).await;
            if recorded.is_ok() || !lost || tries == CONNECTIONS_MAX {
                return recorded;
            }
            sleep(RETRY_INTERVAL).await;
        }
    };
    let recorded = timeout(RECORD_TIMEOUT, recording).await;
    recorded.unwrap_or_else(|_| Err(format!("not done within {RECORD_TIMEOUT:?}")))
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
    all.0.extend(lines.0.iter().cloned());
    if ledger.messages.len() == 1 && !ledger.must_rewrite && all == ledger.lines {
        ledger.close().await;
        return Ok(all);
    }
    ledger.replace(connection, app, &all).await?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use brickwork::transport::{QueueSpec, Topology};

    use super::super::topology::declarations;
    use super::*;

    fn topology() -> Topology {
        Topology {
            app: "shop".into(),
            queues: vec![QueueSpec {
                id: QueueId::new("stock", "requests"),
                topics: vec!["orders.placed".into()],
                high_water: 1,
                limit: None,
                overflow: Default::default(),
                single_active: false,
                feeds: Vec::new(),
            }],
            ..Topology::default()
        }
    }

    #[test]
    fn a_ledger_reads_as_it_was_written() {
        let lines = Entries::from_declarations(&declarations(&topology()).unwrap(), "shop");
        let text = lines.write();
        assert_eq!(
            text,
            "brickwork ledger 1\nbind stock.requests orders.placed\nqueue stock.dlq\n\
             queue stock.requests\nqueue stock.suspect"
        );
        let read = Entries::read(text.as_bytes()).unwrap();
        assert_eq!(read, lines);
        let stock = QueueId::new("stock", "requests");
        assert!(read.queues().contains(&stock));
        let binding = Binding {
            queue: stock.clone(),
            exchange: None,
            key: "orders.placed".into(),
        };
        assert_eq!(read.bindings(), [binding].into());
    }

    #[test]
    fn a_binding_to_an_external_exchange_is_recorded_with_the_exchange() {
        let binding = Binding {
            queue: QueueId::new("stock", "requests"),
            exchange: Some("their exchange".into()),
            key: "orders.#".into(),
        };
        let line = binding.line().unwrap();
        assert_eq!(line, "feed stock.requests\ttheir exchange\torders.#");
        assert_eq!(Binding::read(&line), Some(binding.clone()));
        let key = "two\nlines".to_owned();
        assert_eq!(Binding { key, ..binding }.line(), None);
    }

    #[test]
    fn other_messages_and_other_versions_are_not_read() {
        for external in [
            &b""[..],
            b"{}",
            b"brickwork ledger 2\nqueue a.b",
            b"\xff\xfe",
        ] {
            assert_eq!(Entries::read(external), None);
        }
    }

    #[test]
    fn unknown_lines_are_kept_and_name_nothing() {
        let text = "brickwork ledger 1\nqueue eu.stock.in\nqueue ../x\nbind a.b *\nstore a.b\n\
                    bind a.b c";
        let mut lines = Entries::read(text.as_bytes()).unwrap();
        assert!(lines.queues().is_empty());
        assert_eq!(lines.bindings().len(), 1);
        lines.remove_queue(&QueueId::new("a", "b"));
        assert!(lines.write().contains("store a.b"));
        assert!(lines.write().contains("bind a.b *"));
        assert!(!lines.write().contains("bind a.b c"));
    }
}
