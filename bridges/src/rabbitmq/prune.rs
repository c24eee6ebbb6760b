//! What earlier manifests of an app left on the broker: found by the ledger, and pruned.
//!
//! Owns the order in which things go, so that nothing is lost but what was asked for, and
//! whoever is interrupted can begin again: what nothing needs is unbound first, looked at
//! once more, deleted, and at the end struck off the ledger, which is held meanwhile.
//!
//! Between the last look and the deletion a message may still come, by somebody who knows
//! the queue by its name: a quorum queue can't be deleted on the condition that it is
//! empty (the broker closes the connection of whoever asks for it).

use std::sync::Arc;

use brickwork::transport::{
    Prune, PruneAction, Pruned, StaleQueue, StaleResource, Topology, TransportError, judge,
};
use brickwork::{QueueId, without_password};
use lapin::Connection;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::address::Address;
use super::connection::Connections;
use super::declared_registry::{Binding, Entries, Reading};
use super::declarer::refusal;
use super::health::Health;
use super::session_state::SessionState;
use super::topology::{Step, ledger_name, queue_name, with_feeds};

/// Prunes over connections of its own, on the current runtime.
///
/// # Errors
/// The broker can't be reached, doesn't let us in, or went away meanwhile.
pub(super) async fn prune(
    broker: &Address,
    url: &str,
    topology: &Topology,
    how: Prune,
) -> Result<Pruned, TransportError> {
    let link = SessionState::new(Health::new(&Arc::default()));
    let connections = Connections::open(broker, url, &link).await?;
    let connection = &connections.consuming;
    let pruned = match how.remove {
        true => sweep(connection, topology, how.with_messages).await,
        false => look(connection, topology, how.with_messages).await,
    };
    link.close();
    connections.close().await;
    pruned.map_err(|error| TransportError::Connect {
        url: without_password(url),
        why: error.to_string(),
    })
}

/// Says what is left over, and changes nothing.
pub(super) async fn find(connection: &Connection, topology: &Topology) -> lapin::Result<Pruned> {
    match look(connection, topology, false).await {
        Err(error) if matches!(refusal(&error), Some((403, _))) => {
            let note = "what earlier manifests left on the broker isn't known: the user may not \
                        read the ledger";
            Ok(Pruned {
                notes: vec![note.into()],
                ..Pruned::default()
            })
        }
        found => found,
    }
}

async fn look(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> lapin::Result<Pruned> {
    let Some(found) = Found::begin(connection, topology, with_messages).await? else {
        return Ok(unknown(&topology.app));
    };
    let waiting = waiting(connection, &found).await?;
    let pruned = found.tell(waiting);
    found.reading.close().await;
    Ok(pruned)
}

async fn sweep(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> lapin::Result<Pruned> {
    let Some(mut found) = Found::begin(connection, topology, with_messages).await? else {
        return Ok(unknown(&topology.app));
    };
    let waiting = waiting(connection, &found).await?;
    found.unbind().await?;
    // What came before that is seen now.
    found.judge_again(with_messages).await?;
    found.delete().await?;
    let mut pruned = found.tell(waiting);
    let Found {
        app, reading, left, ..
    } = found;
    if left != reading.lines {
        if let Err(why) = reading.replace(connection, app, &left).await {
            let note = format!("the ledger could not be brought up to date: {why}; prune again");
            pruned.notes.push(note);
        }
    } else {
        reading.close().await;
    }
    Ok(pruned)
}

/// Without a ledger.
fn unknown(app: &str) -> Pruned {
    let ledger = ledger_name(app);
    let note = format!(
        "what earlier manifests left on the broker isn't known: there is no ledger {ledger} yet, \
         and AMQP has no way to list queues"
    );
    Pruned {
        notes: vec![note],
        ..Pruned::default()
    }
}

/// What is left over, with the ledger in hand.
struct Found<'a> {
    connection: &'a Connection,
    app: &'a str,
    reading: Reading,
    /// What the ledger is to say afterwards.
    left: Entries,
    queues: Vec<StaleQueue>,
    /// For each of them.
    fates: Vec<PruneAction>,
    /// Bindings of queues that the manifest names.
    bindings: Vec<(Binding, PruneAction)>,
}

impl<'a> Found<'a> {
    /// `None` if there is no ledger.
    async fn begin(
        connection: &'a Connection,
        topology: &'a Topology,
        with_messages: bool,
    ) -> lapin::Result<Option<Self>> {
        let app = &*topology.app;
        let Some(reading) = Reading::begin(connection, app).await? else {
            return Ok(None);
        };
        // What can't be named can't have been declared.
        let needed = with_feeds(topology).unwrap_or_default();
        let needed = Entries::of(&needed, app);
        let named = needed.queues();
        let mut found = Self {
            connection,
            app,
            left: reading.lines.clone(),
            queues: Vec::new(),
            fates: Vec::new(),
            bindings: Vec::new(),
            reading,
        };
        for id in found.reading.lines.queues().difference(&named) {
            match found.count(id).await? {
                Some(queue) => found.queues.push(queue),
                // Somebody else was quicker.
                None => found.left.remove_queue(id),
            }
        }
        let needed = needed.bindings();
        let known = found.reading.lines.bindings();
        found.bindings = known
            .into_iter()
            .filter(|bound| named.contains(&bound.queue) && !needed.contains(bound))
            .map(|bound| (bound, PruneAction::Removable))
            .collect();
        found.fates = judge(&found.queues, with_messages);
        Ok(Some(found))
    }

    /// Takes away the bindings that nothing needs: those that the manifest doesn't name,
    /// and those of queues that nobody consumes any more, which then fill no further.
    async fn unbind(&mut self) -> lapin::Result<()> {
        for number in 0..self.bindings.len() {
            let bound = self.bindings[number].0.clone();
            self.bindings[number].1 = match self.unbind_one(&bound).await? {
                None => PruneAction::Removed,
                Some(why) => PruneAction::Failed(why),
            };
        }
        for bound in self.reading.lines.bindings() {
            let id = &bound.queue;
            let Some(number) = self.queues.iter().position(|queue| queue.id == *id) else {
                continue;
            };
            let mut siblings = self
                .queues
                .iter()
                .filter(|other| other.id.service == id.service);
            if siblings.any(|other| other.consumers > 0) {
                continue;
            }
            if let Some(why) = self.unbind_one(&bound).await? {
                self.fates[number] = PruneAction::Failed(why);
            }
        }
        Ok(())
    }

    /// Takes a binding away; if that is refused, why.
    async fn unbind_one(&mut self, bound: &Binding) -> lapin::Result<Option<String>> {
        let channel = self.connection.create_channel().await?;
        let exchange = bound.exchange.as_deref().unwrap_or(self.app);
        let unbinding = channel.queue_unbind(
            name(self.app, &bound.queue),
            exchange.into(),
            bound.key.as_str().into(),
            FieldTable::default(),
        );
        let refused = match unbinding.await {
            Ok(()) => {
                channel.close(200, "done".into()).await?;
                None
            }
            Err(error) => match refusal(&error) {
                Some((404, _)) => None,
                Some((_, text)) => Some(text.to_owned()),
                None => return Err(error),
            },
        };
        if refused.is_none() {
            self.left.remove_binding(bound);
        }
        Ok(refused)
    }

    async fn judge_again(&mut self, with_messages: bool) -> lapin::Result<()> {
        for number in 0..self.queues.len() {
            let id = self.queues[number].id.clone();
            if let Some(queue) = self.count(&id).await? {
                self.queues[number] = queue;
            }
        }
        let fates = judge(&self.queues, with_messages);
        for (fate, now) in self.fates.iter_mut().zip(fates) {
            if !matches!(fate, PruneAction::Failed(_)) {
                *fate = now;
            }
        }
        Ok(())
    }

    /// Deletes what can be; where messages may end is deleted last.
    async fn delete(&mut self) -> lapin::Result<()> {
        for auxiliary in [false, true] {
            for number in 0..self.queues.len() {
                let id = self.queues[number].id.clone();
                if id.is_auxiliary() != auxiliary || self.fates[number] != PruneAction::Removable {
                    continue;
                }
                if let Some(stays) = self.that_failed(&id) {
                    let why = format!("what {stays} holds may end there");
                    self.fates[number] = PruneAction::Kept(why);
                    continue;
                }
                let channel = self.connection.create_channel().await?;
                let options = QueueDeleteOptions::default();
                match channel.queue_delete(name(self.app, &id), options).await {
                    Ok(_) => {
                        channel.close(200, "done".into()).await?;
                        self.left.remove_queue(&id);
                        self.fates[number] = PruneAction::Removed;
                    }
                    Err(error) => match refusal(&error) {
                        Some((_, text)) => {
                            self.fates[number] = PruneAction::Failed(text.to_owned())
                        }
                        None => return Err(error),
                    },
                }
            }
        }
        Ok(())
    }

    /// A queue of the same service that could not be removed.
    fn that_failed(&self, id: &QueueId) -> Option<&QueueId> {
        let queues = self.queues.iter().zip(&self.fates);
        let mut siblings = queues.filter(|(queue, _)| queue.id.service == id.service);
        let failed = siblings.find(|(_, fate)| matches!(fate, PruneAction::Failed(_)));
        failed.map(|(queue, _)| &queue.id)
    }

    async fn count(&self, id: &QueueId) -> lapin::Result<Option<StaleQueue>> {
        let counted = count(self.connection, name(self.app, id)).await?;
        Ok(counted.map(|(messages, consumers)| StaleQueue {
            id: id.clone(),
            messages,
            consumers,
        }))
    }

    fn tell(&self, waiting: u64) -> Pruned {
        let mut notes = Vec::new();
        if self.reading.is_empty() {
            let ledger = ledger_name(self.app);
            notes.push(format!(
                "the ledger {ledger} is empty, or somebody else reads it just now: what is left \
                 over isn't known"
            ));
        } else {
            notes.push(format!(
                "what is left over is what the ledger {} knows: AMQP has no way to list queues",
                ledger_name(self.app)
            ));
        }
        if waiting > 0 && !self.queues.is_empty() {
            notes.push(format!(
                "{waiting} messages wait for another attempt: those of a queue that was removed \
                 stay where they wait"
            ));
        }
        let app = self.app;
        let queues = self.queues.iter().zip(&self.fates);
        let queues = queues.map(|(queue, fate)| StaleResource {
            what: format!("queue {app}.{}", queue.id),
            messages: Some(queue.messages),
            consumers: Some(queue.consumers),
            fate: fate.clone(),
        });
        let bindings = self.bindings.iter().map(|(bound, fate)| StaleResource {
            what: match &bound.exchange {
                None => format!("binding of {} to queue {app}.{}", bound.key, bound.queue),
                Some(exchange) => format!(
                    "binding of {} from exchange {exchange} to queue {app}.{}",
                    bound.key, bound.queue
                ),
            },
            messages: None,
            consumers: None,
            fate: fate.clone(),
        });
        Pruned {
            notes,
            leftovers: queues.chain(bindings).collect(),
        }
    }
}

/// How much is on the steps of the delay ladder, whosever it is.
async fn waiting(connection: &Connection, found: &Found<'_>) -> lapin::Result<u64> {
    let mut waiting = 0;
    if found.queues.is_empty() {
        return Ok(waiting);
    }
    for step in Step::all() {
        if let Ok(name) = step.name(found.app)
            && let Some((messages, _)) = count(connection, name).await?
        {
            waiting += messages;
        }
    }
    Ok(waiting)
}

/// How many messages are ready in a queue, and how many consumers it has; `None` if there
/// is no such queue.
async fn count(connection: &Connection, name: ShortString) -> lapin::Result<Option<(u64, u64)>> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    match channel
        .queue_declare(name, options, FieldTable::default())
        .await
    {
        Ok(queue) => {
            channel.close(200, "done".into()).await?;
            let (messages, consumers) = (queue.message_count(), queue.consumer_count());
            Ok(Some((u64::from(messages), u64::from(consumers))))
        }
        Err(error) => match refusal(&error) {
            Some((404, _)) => Ok(None),
            _ => Err(error),
        },
    }
}

fn name(app: &str, queue: &QueueId) -> ShortString {
    queue_name(app, queue).expect("it comes from a name on the broker")
}
