//! The text of the ledger: one line for each queue and binding of the app.
//!
//! Owns the format that [`declared_registry`](super::declared_registry) describes.

use std::collections::BTreeSet;

use brickwork::{NAME_BYTES_MAX, QueueId, TOPIC_BYTES_MAX, check_topic};
use lapin::types::ShortString;

use super::topology::Declaration;

/// First line of a ledger. Another number is another format, which is ignored.
const HEADING: &str = "brickwork ledger 1";

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
                Declaration::Queue { name, .. } | Declaration::LaterQueue { name } => {
                    format!("queue {}", own(name)?)
                }
                // The exchange of a keyed input has the name of the queue.
                Declaration::ExchangeBinding { to, key, .. } => {
                    let binding = Binding {
                        queue: own(to)?,
                        exchange: None,
                        key: key.to_string(),
                    };
                    binding.line()?
                }
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
                | Declaration::PartBinding { .. }
                | Declaration::NoBinding { .. }
                | Declaration::NoExchange { .. }
                | Declaration::NoQueue { .. }
                | Declaration::ExternalQueue { .. }
                | Declaration::ExternalExchange { .. } => return None,
            })
        });
        Self(lines.collect())
    }

    /// Parses a message. Returns `None` if it is no ledger or has another version.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        (lines.next()? == HEADING).then(|| Self(lines.map(str::to_owned).collect()))
    }

    pub(super) fn write(&self) -> String {
        let mut text = HEADING.to_owned();
        for line in &self.0 {
            text.push('\n');
            text.push_str(line);
        }
        text
    }

    /// Adds the lines of another message.
    pub(super) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
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

/// Parses a queue name within the app: `SERVICE.INPUT`, or that of a part of a keyed input:
/// `SERVICE.INPUT.p07`, `SERVICE.INPUT.p07.suspect` or `SERVICE.INPUT.processes`.
fn queue_id(name: &str) -> Option<QueueId> {
    check_topic(name).ok()?;
    let (service, queue) = name.split_once('.')?;
    let (input, part) = queue.split_once('.').unwrap_or((queue, "p0"));
    let part = part.strip_suffix(".suspect").unwrap_or(part);
    let is_part = part == "processes"
        || part.strip_prefix('p').is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
    let one = |name: &str| name.len() <= NAME_BYTES_MAX;
    (one(service) && one(input) && is_part).then(|| QueueId::new(service, queue))
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
                keyed: None,
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
