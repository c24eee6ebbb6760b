//! A change of the number of parts of a keyed input.
//!
//! Another number puts the messages of a key into another part, where they would overtake those
//! that wait in the old one. So the number changes only while the parts are empty and no process
//! consumes them. The broker keeps the number in the name of an alternate exchange: see
//! [`keyed_declarations`].

use brickwork::QueueId;
use brickwork::transport::{ExternalSource, QueueSpec, Topology, TransportError};
use lapin::ExchangeKind;
use tracing::info;

use super::declarer::Declarer;
use super::topology::{
    Declaration, keyed_declarations, others_name, partition_id, partition_suspects, partitions,
    queue_name,
};

/// Parts that an error names.
const NAMED_MAX: usize = 4;

/// Checks that keyed inputs have the declared numbers of parts, and changes the numbers on the
/// broker where the parts are empty.
///
/// # Errors
/// Parts of another number are not empty, or are in use.
pub(super) async fn settle(declarer: &Declarer, topology: &Topology) -> Result<(), TransportError> {
    for spec in &topology.queues {
        if let Some(count) = partitions(spec) {
            check_feeds(&topology.app, spec)?;
            settle_one(declarer, &topology.app, spec, count).await?;
        }
    }
    Ok(())
}

/// Checks that the input reads no external queue: each process would move its messages on, and they
/// would lose their order.
fn check_feeds(app: &str, spec: &QueueSpec) -> Result<(), TransportError> {
    let queue = spec.feeds.iter().find_map(|feed| match &feed.from {
        ExternalSource::Queue(name) => Some(name),
        ExternalSource::Exchange { .. } => None,
    });
    match queue {
        None => Ok(()),
        Some(queue) => Err(TransportError::Declare {
            what: format!("the queue {}", queue_name(app, &spec.id)?),
            why: format!(
                "an input with a key can't read the external queue {queue}: read an exchange, or \
                 let a service with one instance and without a key read the queue and emit to the \
                 input's topic"
            ),
        }),
    }
}

async fn settle_one(
    declarer: &Declarer,
    app: &str,
    spec: &QueueSpec,
    count: u16,
) -> Result<(), TransportError> {
    let entry = queue_name(app, &spec.id)?;
    let exchange = Declaration::Exchange {
        name: entry.clone(),
        kind: ExchangeKind::Direct,
        alternate: Some(others_name(app, &spec.id, count)?),
    };
    let Err(error) = declarer.declare(vec![exchange]).await else {
        return Ok(());
    };
    let Some(before) = other_partitions(&error.to_string()) else {
        return Err(error);
    };
    let change = Change {
        declarer,
        app,
        input: &spec.id,
        before,
        count,
    };
    change.check().await?;
    // From now on the app can't publish to the input, so no more messages arrive.
    let unrouted = Declaration::NoExchange { name: entry };
    declarer.declare(vec![unrouted]).await?;
    if let Err(error) = change.check().await {
        let restored = keyed_declarations(app, spec, before)?;
        declarer.declare(restored).await?;
        return Err(error);
    }
    let mut unused = vec![Declaration::NoExchange {
        name: others_name(app, &spec.id, before)?,
    }];
    for number in count..before {
        let part = partition_id(&spec.id, number);
        for id in [partition_suspects(&part), part] {
            let name = queue_name(app, &id)?;
            unused.push(Declaration::NoQueue { name });
        }
    }
    declarer.declare(unused).await?;
    info!(queue = %spec.id, before, now = count, "number of partitions changed");
    Ok(())
}

struct Change<'a> {
    declarer: &'a Declarer,
    app: &'a str,
    input: &'a QueueId,
    before: u16,
    count: u16,
}

impl Change<'_> {
    /// Checks that the old parts are empty and that no process consumes them.
    async fn check(&self) -> Result<(), TransportError> {
        let (mut full, mut consumed) = (Vec::new(), false);
        for number in 0..self.before {
            let part = partition_id(self.input, number);
            for id in [partition_suspects(&part), part] {
                let name = queue_name(self.app, &id)?;
                let Some(counts) = self.declarer.look(name.clone()).await? else {
                    continue;
                };
                consumed |= counts.consumers > 0;
                if counts.ready > 0 {
                    full.push(format!("{name} ({})", counts.ready));
                }
            }
        }
        if full.is_empty() && !consumed {
            return Ok(());
        }
        let why = explain(self.before, self.count, &full, consumed);
        Err(TransportError::Declare {
            what: format!("the queue {}", queue_name(self.app, self.input)?),
            why,
        })
    }
}

/// Explains why the number of parts can't change now.
fn explain(before: u16, count: u16, full: &[String], consumed: bool) -> String {
    let mut why = format!("it has {before} partitions, and the manifest says {count}");
    if consumed {
        why += &format!("; processes with {before} partitions run: stop them");
    }
    if !full.is_empty() {
        let named = &full[..full.len().min(NAMED_MAX)];
        let more = full.len() - named.len();
        why += &format!("; messages wait in {}", named.join(", "));
        if more > 0 {
            why += &format!(" and {more} others");
        }
        why += &format!(": run with partitions = {before} until these are empty");
    }
    why
}

/// Returns the number of parts on the broker, from its refusal to declare another one.
pub(super) fn other_partitions(text: &str) -> Option<u16> {
    let (_, current) = text.split_once("alternate-exchange")?;
    let (_, current) = current.split_once("but current is")?;
    let (_, number) = current.split_once(".of-")?;
    let end = number.find(|c: char| !c.is_ascii_digit());
    number[..end.unwrap_or(number.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_parts_is_read_from_the_brokers_text() {
        let text = "inequivalent arg 'alternate-exchange' for exchange 'shop.stock.requests' in \
                    vhost '/': received 'shop.stock.requests.of-8' but current is \
                    'shop.stock.requests.of-16'";
        assert_eq!(other_partitions(text), Some(16));
        let text = text.replace("alternate-exchange", "x-queue-type");
        assert_eq!(other_partitions(&text), None);
    }

    #[test]
    fn an_error_about_another_number_says_what_to_do() {
        let full: Vec<_> = (0..6).map(|n| format!("a.b.c.p0{n} (7)")).collect();
        let why = explain(16, 8, &full, true);
        assert_eq!(
            why,
            "it has 16 partitions, and the manifest says 8; processes with 16 partitions run: stop \
             them; messages wait in a.b.c.p00 (7), a.b.c.p01 (7), a.b.c.p02 (7), a.b.c.p03 (7) and \
             2 others: run with partitions = 16 until these are empty"
        );
    }
}
