//! Names and arguments of an app's queues and exchanges on the broker.
//!
//! Owns names, arguments and the delay steps, as functions over values. `declarer` declares
//! them.
//!
//! The arguments of an existing queue can't change: a change here breaks the queues of every
//! deployment. A value that may change belongs in the queue's name.

use std::time::Duration;

use brickwork::QueueId;
use brickwork::transport::{ExternalBinding, ExternalSource, QueueSpec, Topology, TransportError};
use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable, ShortString};

pub(super) use super::declaration::Declaration;

/// The delivery limit of every queue: high, because it only replaces the broker's lower
/// default. The runtime decides about suspects. (The broker counts every message in flight at a
/// crash, not only the one that caused it.)
const DELIVERIES_MAX: i32 = 1_000_000;

/// Time after which the broker deletes an unused queue of a check that was killed.
const PROBE_EXPIRES_MS: i32 = 60_000;

/// The shortest delay step, in milliseconds. Each step is twice the one before.
const STEP_MS_MIN: u64 = 100;
/// The longest delay step: a day.
const STEP_MS_MAX: u64 = 86_400_000;

/// Returns everything that an app needs, in order, except the delay queues: they are declared
/// when first used, because most apps use few.
pub(super) fn declarations(topology: &Topology) -> Result<Vec<Declaration>, TransportError> {
    let app = &*topology.app;
    let exchange = short(app.to_owned())?;
    let mut all = vec![Declaration::Exchange {
        name: exchange.clone(),
        kind: ExchangeKind::Topic,
        alternate: None,
    }];
    for service in topology.services() {
        all.push(Declaration::Queue {
            name: queue_name(app, &QueueId::dead_letters(service))?,
            arguments: quorum_limited(),
        });
        all.push(Declaration::Queue {
            name: queue_name(app, &QueueId::suspects(service))?,
            arguments: quorum_limited(),
        });
    }
    for spec in &topology.queues {
        let queue = queue_name(app, &spec.id)?;
        let letters = queue_name(app, &QueueId::dead_letters(&spec.id.service))?;
        if let Some(partitions) = partitions(spec) {
            all.extend(keyed_declarations(app, spec, partitions)?);
            continue;
        }
        all.push(Declaration::Queue {
            name: queue.clone(),
            arguments: work_arguments(&letters, spec.single_active),
        });
        for topic in &spec.topics {
            all.push(Declaration::Binding {
                queue: queue.clone(),
                exchange: exchange.clone(),
                key: short(topic.to_string())?,
            });
        }
    }
    for source in &topology.single {
        all.push(lease_declaration(app, source)?.1);
    }
    all.extend(due_declarations(app)?);
    Ok(all)
}

/// Returns the number of parts of a keyed input. A service that one process runs as a whole has
/// one part for each input, so that the parts can't be in different processes.
pub(super) fn partitions(spec: &QueueSpec) -> Option<u16> {
    let keyed = spec.keyed.as_ref()?;
    Some(match spec.single_active {
        true => 1,
        false => keyed.partitions.max(1),
    })
}

/// Returns everything that a keyed input needs.
///
/// ```text
/// exchange shop --topic--> exchange shop.stock.requests --key of a part--> shop.stock.requests.p07
///                                  |
///                 alternate: exchange shop.stock.requests.of-16 --> shop.stock.requests --mover--> ...
/// ```
///
/// A publisher of the app publishes to the topic and adds the routing key of the part in the header
/// `BCC`, which the broker removes. A message without the key of a part, such as one of another
/// program, enters by the plain queue. So does a message whose publisher assumes another number of
/// parts. The number is in the name of the alternate exchange, which the broker compares: processes
/// with different numbers can't declare the input.
pub(super) fn keyed_declarations(
    app: &str,
    spec: &QueueSpec,
    partitions: u16,
) -> Result<Vec<Declaration>, TransportError> {
    let exchange = short(app.to_owned())?;
    let entry = queue_name(app, &spec.id)?;
    let others = others_name(app, &spec.id, partitions)?;
    let letters = queue_name(app, &QueueId::dead_letters(&spec.id.service))?;
    let queue = |name| Declaration::Queue {
        name,
        arguments: work_arguments(&letters, true),
    };
    let mut all = vec![
        queue(entry.clone()),
        Declaration::Exchange {
            name: entry.clone(),
            kind: ExchangeKind::Direct,
            alternate: Some(others.clone()),
        },
        Declaration::Exchange {
            name: others.clone(),
            kind: ExchangeKind::Fanout,
            alternate: None,
        },
        Declaration::PartBinding {
            queue: entry.clone(),
            exchange: others,
            key: "".into(),
        },
    ];
    all.push(Declaration::Queue {
        name: queue_name(app, &processes_id(&spec.id))?,
        arguments: quorum_limited(),
    });
    for number in 0..partitions {
        let part = partition_id(&spec.id, number);
        let name = queue_name(app, &part)?;
        all.push(queue(name.clone()));
        all.push(Declaration::LaterQueue {
            name: queue_name(app, &partition_suspects(&part))?,
        });
        all.push(Declaration::PartBinding {
            queue: name,
            exchange: entry.clone(),
            key: partition_key(&spec.id, number, partitions)?,
        });
    }
    for topic in &spec.topics {
        let key = short(topic.to_string())?;
        // Of a time when the input had no key.
        all.push(Declaration::NoBinding {
            queue: entry.clone(),
            exchange: exchange.clone(),
            key: key.clone(),
        });
        all.push(Declaration::ExchangeBinding {
            to: entry.clone(),
            from: exchange.clone(),
            key,
        });
    }
    Ok(all)
}

/// Returns the queue of a part of a keyed input.
pub(super) fn partition_id(input: &QueueId, number: u16) -> QueueId {
    QueueId::new(&input.service, &format!("{}.p{number:02}", input.input))
}

/// Returns the queue that each process which consumes a keyed input consumes, so that its consumers
/// are counted. It has no messages. (The broker doesn't count consumers that wait for a part.)
pub(super) fn processes_id(input: &QueueId) -> QueueId {
    QueueId::new(&input.service, &format!("{}.processes", input.input))
}

/// Returns the queue of suspects of a part.
pub(super) fn partition_suspects(part: &QueueId) -> QueueId {
    QueueId::new(&part.service, &format!("{}.suspect", part.input))
}

/// Returns the declaration of the queue of suspects of a part.
pub(super) fn partition_suspects_declaration(name: ShortString) -> Declaration {
    Declaration::Queue {
        name,
        arguments: quorum_limited(),
    }
}

/// Returns the routing key of a part. It is no topic, and has so many words that patterns of other
/// programs hardly match it.
pub(super) fn partition_key(
    input: &QueueId,
    number: u16,
    partitions: u16,
) -> Result<ShortString, TransportError> {
    short(format!("@.{input}.{number}.{partitions}"))
}

/// Returns the name of the exchange of a keyed input for messages without the key of a part.
pub(super) fn others_name(
    app: &str,
    input: &QueueId,
    partitions: u16,
) -> Result<ShortString, TransportError> {
    short(format!("{app}.{input}.of-{partitions}"))
}

/// Returns the same with the external sources of the queues.
pub(super) fn with_feeds(topology: &Topology) -> Result<Vec<Declaration>, TransportError> {
    let mut all = declarations(topology)?;
    for spec in &topology.queues {
        let queue = queue_name(&topology.app, &spec.id)?;
        all.extend(external_declarations(&queue, &spec.feeds)?);
    }
    Ok(all)
}

/// Returns the declarations for a queue's external sources. Nothing external is created or
/// changed: a binding changes the app's own queue.
pub(super) fn external_declarations(
    queue: &ShortString,
    feeds: &[ExternalBinding],
) -> Result<Vec<Declaration>, TransportError> {
    let mut all = Vec::new();
    for feed in feeds {
        match &feed.from {
            ExternalSource::Queue(name) => {
                let name = short(name.to_string())?;
                all.push(Declaration::ExternalQueue { name });
            }
            ExternalSource::Exchange { name, key } => {
                let exchange = short(name.to_string())?;
                let name = exchange.clone();
                all.push(Declaration::ExternalExchange { name });
                all.push(Declaration::Binding {
                    queue: queue.clone(),
                    exchange,
                    key: short(key.to_string())?,
                });
            }
        }
    }
    Ok(all)
}

/// A delay step: one of the fixed delays, each with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Index of the step, from 0.
    pub(super) number: u32,
    pub(super) wait: Duration,
}

impl Step {
    /// Returns the shortest step of at least `delay`, or `None` if there is none.
    pub(super) fn at_least(delay: Duration) -> Option<Self> {
        let mut ms = STEP_MS_MIN;
        let mut number = 0;
        while Duration::from_millis(ms) < delay {
            if ms == STEP_MS_MAX {
                return None;
            }
            ms = (ms * 2).min(STEP_MS_MAX);
            number += 1;
        }
        Some(Self {
            number,
            wait: Duration::from_millis(ms),
        })
    }

    /// Returns the step whose queue has this name.
    pub(super) fn of_queue(app: &str, name: &str) -> Option<Self> {
        let ms = name.strip_prefix(app)?.strip_prefix(".wait.")?;
        let wait = Duration::from_millis(ms.parse().ok()?);
        Self::at_least(wait).filter(|step| step.wait == wait)
    }

    /// Iterates over all steps, shortest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let mut next = Self::at_least(Duration::ZERO);
        std::iter::from_fn(move || {
            let step = next?;
            next = Self::at_least(step.wait + Duration::from_millis(1));
            Some(step)
        })
    }

    /// Returns the longest step: a day.
    pub(super) fn longest() -> Self {
        Self::at_least(Duration::from_millis(STEP_MS_MAX)).expect("there is a longest step")
    }

    /// Returns `APP.wait.<ms>`, the name of the step's queue.
    pub(super) fn name(self, app: &str) -> Result<ShortString, TransportError> {
        short(format!("{app}.wait.{}", self.wait.as_millis()))
    }

    /// Returns `APP.delay.<ms>`, the name that earlier versions gave the step's queue. The broker
    /// moves its messages to their queues itself.
    pub(super) fn old_name(self, app: &str) -> Result<ShortString, TransportError> {
        short(format!("{app}.delay.{}", self.wait.as_millis()))
    }

    /// Returns the declaration of the step's queue.
    ///
    /// When the delay is over, the broker moves the message to `APP.due`, and `delay_relay` moves
    /// it on to its queue. The broker moves at most 32 messages of a queue at a time: if it moved
    /// them to their queues itself, 32 messages for a queue that is gone or full would hold up all
    /// others with the same delay.
    pub(super) fn declaration(self, app: &str) -> Result<Declaration, TransportError> {
        let mut arguments = quorum_limited();
        let ms = self.wait.as_millis() as i64;
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ms));
        dead_letter_to(&mut arguments, &due_name(app)?);
        let name = self.name(app)?;
        Ok(Declaration::Queue { name, arguments })
    }
}

/// Returns `APP.due`, the name of the queue of messages whose delay is over.
pub(super) fn due_name(app: &str) -> Result<ShortString, TransportError> {
    short(format!("{app}.due"))
}

/// Returns `APP.unroutable`, the name of the queue of messages whose queue is gone.
pub(super) fn unroutable_name(app: &str) -> Result<ShortString, TransportError> {
    short(format!("{app}.unroutable"))
}

/// Returns the declarations of the queues behind the delay steps.
fn due_declarations(app: &str) -> Result<[Declaration; 2], TransportError> {
    let unroutable = unroutable_name(app)?;
    // Without a route, the broker would drop a message that was delivered too often: a policy may
    // set a low limit.
    let mut arguments = quorum_limited();
    dead_letter_to(&mut arguments, &unroutable);
    Ok([
        Declaration::Queue {
            name: unroutable,
            arguments: quorum_limited(),
        },
        Declaration::Queue {
            name: due_name(app)?,
            arguments,
        },
    ])
}

/// Returns `APP.ledger`, the name of the ledger's queue.
pub(super) fn ledger_name(app: &str) -> ShortString {
    short(format!("{app}.ledger")).expect("an app's name is short")
}

/// Returns the declaration of the ledger's queue.
pub(super) fn ledger_declaration(app: &str) -> Declaration {
    Declaration::Queue {
        name: ledger_name(app),
        arguments: quorum_limited(),
    }
}

/// Returns `APP.SOURCE.lease` and the declaration of the queue.
pub(super) fn lease_declaration(
    app: &str,
    source: &str,
) -> Result<(ShortString, Declaration), TransportError> {
    let name = queue_name(app, &QueueId::lease(source))?;
    let declaration = Declaration::Queue {
        name: name.clone(),
        arguments: lease_arguments(),
    };
    Ok((name, declaration))
}

/// Returns the name and the declaration of a queue for a moment, named like those of the app.
pub(super) fn probe_declaration(app: &str) -> Result<(ShortString, Declaration), TransportError> {
    let name = short(format!("{app}.check-{}.dlq", std::process::id()))?;
    let mut arguments = quorum_limited();
    arguments.insert("x-expires".into(), AMQPValue::LongInt(PROBE_EXPIRES_MS));
    let declaration = Declaration::Queue {
        name: name.clone(),
        arguments,
    };
    Ok((name, declaration))
}

/// Returns the name and the arguments of a queue whose dead letters return to it.
pub(super) fn clock_declaration(app: &str) -> Result<(ShortString, FieldTable), TransportError> {
    let name = short(format!("{app}.clock-{:016x}", fastrand::u64(..)))?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(name.as_str()));
    Ok((name, arguments))
}

/// Returns `APP.SERVICE.INPUT`.
pub(super) fn queue_name(app: &str, queue: &QueueId) -> Result<ShortString, TransportError> {
    short(format!("{app}.{queue}"))
}

/// Arguments of a work queue: a message over the delivery limit goes to the dead-letter queue.
fn work_arguments(dead_letters: &ShortString, single_active: bool) -> FieldTable {
    let mut table = quorum_limited();
    dead_letter_to(&mut table, dead_letters);
    if single_active {
        let name = "x-single-active-consumer".into();
        table.insert(name, AMQPValue::Boolean(true));
    }
    table
}

/// Arguments of a queue from which the broker moves no message on, such as a dead-letter queue.
fn quorum_limited() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    table.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongInt(DELIVERIES_MAX),
    );
    table
}

/// Arguments of a lease queue: one consumer is active; the next one follows when it is gone.
fn lease_arguments() -> FieldTable {
    let mut table = quorum_limited();
    table.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    table
}

/// Dead-letters to this queue at least once. Without `reject-publish` the broker silently does so
/// at most once.
fn dead_letter_to(table: &mut FieldTable, queue: &ShortString) {
    table.insert("x-dead-letter-exchange".into(), text(""));
    table.insert("x-dead-letter-routing-key".into(), text(queue.as_str()));
    table.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    table.insert("x-overflow".into(), text("reject-publish"));
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Returns a name on the broker.
fn short(name: String) -> Result<ShortString, TransportError> {
    ShortString::try_new(&*name).map_err(|_| TransportError::Declare {
        what: name,
        why: "a name on the broker has at most 255 bytes: take a shorter app name".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_rounds_up_to_a_delay_step() {
        for (delay_ms, step_ms) in [
            (1, 100),
            (100, 100),
            (101, 200),
            (1_000, 1_600),
            (300_000, 409_600),
            (60_000_000, 86_400_000),
            (86_400_000, 86_400_000),
        ] {
            let step = Step::at_least(Duration::from_millis(delay_ms)).unwrap();
            assert_eq!(step.wait, Duration::from_millis(step_ms), "{delay_ms}");
        }
        assert_eq!(Step::at_least(Duration::from_millis(86_400_001)), None);
        assert_eq!(Step::longest().number, 20);
        assert_eq!(Step::all().count(), 21);
    }

    #[test]
    fn names_stay_as_other_programs_know_them() {
        let queue = QueueId::new("stock", "requests");
        assert_eq!(
            queue_name("shop", &queue).unwrap().as_str(),
            "shop.stock.requests"
        );
        let letters = QueueId::dead_letters("stock");
        assert_eq!(
            queue_name("shop", &letters).unwrap().as_str(),
            "shop.stock.dlq"
        );
        let step = Step::at_least(Duration::from_secs(1)).unwrap();
        assert_eq!(step.name("shop").unwrap().as_str(), "shop.wait.1600");
        assert!(step.name(&"x".repeat(250)).is_err());
    }
}
