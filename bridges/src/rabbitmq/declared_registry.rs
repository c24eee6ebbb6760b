//! The ledger: what the app's processes ever declared, kept on the broker itself.
//!
//! AMQP has no way to list queues. So the durable queue `APP.ledger` holds a message in
//! which the queues and bindings of every manifest that ran there are written down, a line
//! each:
//!
//! ```text
//! brickwork ledger 1
//! bind stock.requests orders.placed
//! queue stock.dlq
//! queue stock.requests
//! ```
//!
//! (`feed`, with tabs, is a binding to an exchange of somebody else.)
//!
//! Names are relative to the app, so a ledger can't name what is another app's. It only
//! grows, but by pruning: whoever declares reads it, and if a line is missing writes one
//! more message, confirmed, before the old ones are acked. Two processes at a time, or one
//! that is killed in between, leave several messages: a reader takes all of them together,
//! and the next writer makes one of them. What isn't understood stays: lines of later
//! versions within a ledger, and messages that are none.

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

/// The first line. Another number is another format, and left alone.
const HEADING: &str = "brickwork ledger 1";
/// Ledgers and foreign messages that are read at most. With more, nothing is written: who
/// doesn't see all would add to them for ever.
const MESSAGES_MAX: usize = 64;
/// A broker gives a message up that was read too often: it is written anew long before.
const DELIVERIES_MAX: u64 = 1000;
/// For all of it: an app's start doesn't wait longer.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// Somebody else has it in hand for moments.
const READS_MAX: u32 = 4;
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Connections that are lost by it.
const CONNECTIONS_MAX: u32 = 5;

/// The lines of a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entries(BTreeSet<String>);

impl Entries {
    /// What is declared for an app.
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

    /// Reads a message; `None` if it is no ledger, or one of another version.
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

    /// The queues.
    pub(super) fn queues(&self) -> BTreeSet<QueueId> {
        let names = self.0.iter().filter_map(|line| line.strip_prefix("queue "));
        names.filter_map(queue_id).collect()
    }

    /// The bindings.
    pub(super) fn bindings(&self) -> BTreeSet<Binding> {
        self.0
            .iter()
            .filter_map(|line| Binding::read(line))
            .collect()
    }

    /// The queue is gone, and so are its bindings.
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

/// A binding of a queue of the app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binding {
    pub(super) queue: QueueId,
    /// Somebody else's; `None` is the app's.
    pub(super) exchange: Option<String>,
    /// A topic, at the app's exchange.
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

    /// `None` if it can't be written in a line, so oddly is it named.
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

/// Whose queue it is, by its name within the app.
fn queue_id(name: &str) -> Option<QueueId> {
    check_topic(name).ok()?;
    let (service, input) = name.split_once('.')?;
    let one = |name: &str| !name.contains('.') && name.len() <= NAME_BYTES_MAX;
    (one(service) && one(input)).then(|| QueueId::new(service, input))
}

/// What is in a ledger, in hand: it goes back when this is closed, or dropped with its
/// connection.
pub(super) struct LedgerReader {
    channel: Channel,
    pub(super) lines: Entries,
    /// The messages that are ledgers.
    messages: Vec<Delivery>,
    /// Some are read so often that they must be written anew.
    must_rewrite: bool,
    /// Everything was read.
    complete: bool,
}

impl LedgerReader {
    /// With nothing in hand yet.
    async fn new(connection: &Connection) -> lapin::Result<Self> {
        Ok(Self {
            channel: connection.create_channel().await?,
            lines: Entries::default(),
            messages: Vec::new(),
            must_rewrite: false,
            complete: true,
        })
    }

    /// Reads a ledger; `None` if there is no such queue.
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

    /// Takes what is there; says how many messages that are.
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

    /// Whether there is anything that this understands.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Makes `lines` what the ledger says.
    pub(super) async fn replace(
        self,
        connection: &Connection,
        app: &str,
        lines: &Entries,
    ) -> Result<(), String> {
        if !self.complete {
            self.close().await;
            return Err(format!(
                "{MESSAGES_MAX} messages and more are in it: empty it"
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
            Ok(_) => return Err("the broker didn't take it".into()),
            Err(error) => return Err(error.to_string()),
        }
        // From here on nothing is lost: what can't be acked is merged by the next reader.
        for ledger in &self.messages {
            let acked = ledger.acker.ack(BasicAckOptions::default()).await;
            acked.map_err(|error| error.to_string())?;
        }
        self.close().await;
        Ok(())
    }

    /// Gives back what is in hand.
    pub(super) async fn close(self) {
        // A channel that is gone has given it back.
        let _gone = self.channel.close(200, "done".into()).await;
    }
}

/// Where a session writes down what it declares.
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

    /// Writes down what is declared. What is in the way is logged: the app runs without.
    pub(super) async fn record(&self, app: &str, all: &[Declaration]) {
        let lines = Entries::from_declarations(all, app);
        let recorded = tokio::select! {
            recorded = record(&self.socket, app, &lines) => recorded,
            // The next session does.
            _ = self.session_state.ended() => return,
        };
        if let Err(error) = recorded {
            warn!(%error, "the ledger of what the app declares can't be kept: `prune` may not know it");
        }
    }
}

/// Writes down what is declared, if a line of it isn't there yet.
///
/// Over a connection of its own: reading a queue that somebody else makes just now costs
/// the connection (the broker calls it an internal error), and then this is tried again.
///
/// # Errors
/// What is in the way: the app can run without.
async fn record(socket: &Arc<Socket>, app: &str, lines: &Entries) -> Result<(), String> {
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

async fn record_over(connection: &Connection, app: &str, lines: &Entries) -> Result<(), String> {
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
        return Ok(());
    }
    ledger.replace(connection, app, &all).await
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
    fn what_is_declared_is_read_as_it_was_written() {
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
    fn a_binding_to_an_exchange_of_somebody_else_is_written_down_with_it() {
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
    fn what_is_no_ledger_or_another_version_is_not_read() {
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
    fn lines_that_are_not_understood_are_kept_and_name_nothing() {
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
