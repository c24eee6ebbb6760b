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
use super::declared_registry::{Binding, Entries, LedgerReader};
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
    options: Prune,
) -> Result<Pruned, TransportError> {
    let session_state = SessionState::new(Health::new(&Arc::default()));
    let connections = Connections::open(broker, url, &session_state).await?;
    let connection = &connections.consuming;
    let pruned = match options.remove {
        true => remove(connection, topology, options.with_messages).await,
        false => report(connection, topology, options.with_messages).await,
    };
    session_state.close();
    connections.close().await;
    pruned.map_err(|error| TransportError::Connect {
        url: without_password(url),
        why: error.to_string(),
    })
}

/// Says what is left over, and changes nothing.
pub(super) async fn find(connection: &Connection, topology: &Topology) -> lapin::Result<Pruned> {
    match report(connection, topology, false).await {
        Err(error) if matches!(refusal(&error), Some((403, _))) => {
            let note = "what earlier manifests left on the broker isn't known: the user may not \
                        read the ledger";
            Ok(Pruned {
                notes: vec![note.into()],
                ..Pruned::default()
            })
        }
        scan => scan,
    }
}

async fn report(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> lapin::Result<Pruned> {
    let Some(scan) = StaleScan::run(connection, topology, with_messages).await? else {
        return Ok(without_ledger(&topology.app));
    };
    let delayed = delayed(connection, &scan).await?;
    let pruned = scan.result(delayed);
    scan.ledger.close().await;
    Ok(pruned)
}

async fn remove(
    connection: &Connection,
    topology: &Topology,
    with_messages: bool,
) -> lapin::Result<Pruned> {
    let Some(mut scan) = StaleScan::run(connection, topology, with_messages).await? else {
        return Ok(without_ledger(&topology.app));
    };
    let delayed = delayed(connection, &scan).await?;
    scan.unbind().await?;
    // What came before that is seen now.
    scan.reassess(with_messages).await?;
    scan.delete().await?;
    let mut pruned = scan.result(delayed);
    let StaleScan {
        app,
        ledger,
        remaining,
        ..
    } = scan;
    if remaining != ledger.lines {
        if let Err(why) = ledger.replace(connection, app, &remaining).await {
            let note = format!("the ledger could not be brought up to date: {why}; prune again");
            pruned.notes.push(note);
        }
    } else {
        ledger.close().await;
    }
    Ok(pruned)
}

/// Without a ledger.
fn without_ledger(app: &str) -> Pruned {
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
struct StaleScan<'a> {
    connection: &'a Connection,
    app: &'a str,
    ledger: LedgerReader,
    /// What the ledger is to say afterwards.
    remaining: Entries,
    queues: Vec<StaleQueue>,
    /// For each of them.
    actions: Vec<PruneAction>,
    /// Bindings of queues that the manifest names.
    bindings: Vec<(Binding, PruneAction)>,
}

impl<'a> StaleScan<'a> {
    /// `None` if there is no ledger.
    async fn run(
        connection: &'a Connection,
        topology: &'a Topology,
        with_messages: bool,
    ) -> lapin::Result<Option<Self>> {
        let app = &*topology.app;
        let Some(ledger) = LedgerReader::open(connection, app).await? else {
            return Ok(None);
        };
        // What can't be named can't have been declared.
        let needed = with_feeds(topology).unwrap_or_default();
        let needed = Entries::from_declarations(&needed, app);
        let named = needed.queues();
        let mut scan = Self {
            connection,
            app,
            remaining: ledger.lines.clone(),
            queues: Vec::new(),
            actions: Vec::new(),
            bindings: Vec::new(),
            ledger,
        };
        for id in scan.ledger.lines.queues().difference(&named) {
            match scan.count(id).await? {
                Some(queue) => scan.queues.push(queue),
                // Somebody else was quicker.
                None => scan.remaining.remove_queue(id),
            }
        }
        let needed = needed.bindings();
        let known = scan.ledger.lines.bindings();
        scan.bindings = known
            .into_iter()
            .filter(|binding| named.contains(&binding.queue) && !needed.contains(binding))
            .map(|binding| (binding, PruneAction::Removable))
            .collect();
        scan.actions = judge(&scan.queues, with_messages);
        Ok(Some(scan))
    }

    /// Takes away the bindings that nothing needs: those that the manifest doesn't name,
    /// and those of queues that nobody consumes any more, which then fill no further.
    async fn unbind(&mut self) -> lapin::Result<()> {
        for number in 0..self.bindings.len() {
            let binding = self.bindings[number].0.clone();
            self.bindings[number].1 = match self.unbind_one(&binding).await? {
                None => PruneAction::Removed,
                Some(why) => PruneAction::Failed(why),
            };
        }
        for binding in self.ledger.lines.bindings() {
            let id = &binding.queue;
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
            if let Some(why) = self.unbind_one(&binding).await? {
                self.actions[number] = PruneAction::Failed(why);
            }
        }
        Ok(())
    }

    /// Takes a binding away; if that is refused, why.
    async fn unbind_one(&mut self, binding: &Binding) -> lapin::Result<Option<String>> {
        let channel = self.connection.create_channel().await?;
        let exchange = binding.exchange.as_deref().unwrap_or(self.app);
        let unbinding = channel.queue_unbind(
            name(self.app, &binding.queue),
            exchange.into(),
            binding.key.as_str().into(),
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
            self.remaining.remove_binding(binding);
        }
        Ok(refused)
    }

    async fn reassess(&mut self, with_messages: bool) -> lapin::Result<()> {
        for number in 0..self.queues.len() {
            let id = self.queues[number].id.clone();
            if let Some(queue) = self.count(&id).await? {
                self.queues[number] = queue;
            }
        }
        let actions = judge(&self.queues, with_messages);
        for (action, now) in self.actions.iter_mut().zip(actions) {
            if !matches!(action, PruneAction::Failed(_)) {
                *action = now;
            }
        }
        Ok(())
    }

    /// Deletes what can be; where messages may end is deleted last.
    async fn delete(&mut self) -> lapin::Result<()> {
        for auxiliary in [false, true] {
            for number in 0..self.queues.len() {
                let id = self.queues[number].id.clone();
                if id.is_auxiliary() != auxiliary || self.actions[number] != PruneAction::Removable
                {
                    continue;
                }
                if let Some(stays) = self.failed_sibling(&id) {
                    let why = format!("what {stays} holds may end there");
                    self.actions[number] = PruneAction::Kept(why);
                    continue;
                }
                let channel = self.connection.create_channel().await?;
                let options = QueueDeleteOptions::default();
                match channel.queue_delete(name(self.app, &id), options).await {
                    Ok(_) => {
                        channel.close(200, "done".into()).await?;
                        self.remaining.remove_queue(&id);
                        self.actions[number] = PruneAction::Removed;
                    }
                    Err(error) => match refusal(&error) {
                        Some((_, text)) => {
                            self.actions[number] = PruneAction::Failed(text.to_owned())
                        }
                        None => return Err(error),
                    },
                }
            }
        }
        Ok(())
    }

    /// A queue of the same service that could not be removed.
    fn failed_sibling(&self, id: &QueueId) -> Option<&QueueId> {
        let queues = self.queues.iter().zip(&self.actions);
        let mut siblings = queues.filter(|(queue, _)| queue.id.service == id.service);
        let failed = siblings.find(|(_, action)| matches!(action, PruneAction::Failed(_)));
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

    fn result(&self, delayed: u64) -> Pruned {
        let mut notes = Vec::new();
        if self.ledger.is_empty() {
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
        if delayed > 0 && !self.queues.is_empty() {
            notes.push(format!(
                "{delayed} messages wait for another attempt: those of a queue that was removed \
                 stay where they wait"
            ));
        }
        let app = self.app;
        let queues = self.queues.iter().zip(&self.actions);
        let queues = queues.map(|(queue, action)| StaleResource {
            what: format!("queue {app}.{}", queue.id),
            messages: Some(queue.messages),
            consumers: Some(queue.consumers),
            fate: action.clone(),
        });
        let bindings = self.bindings.iter().map(|(binding, action)| StaleResource {
            what: match &binding.exchange {
                None => format!(
                    "binding of {} to queue {app}.{}",
                    binding.key, binding.queue
                ),
                Some(exchange) => format!(
                    "binding of {} from exchange {exchange} to queue {app}.{}",
                    binding.key, binding.queue
                ),
            },
            messages: None,
            consumers: None,
            fate: action.clone(),
        });
        Pruned {
            notes,
            leftovers: queues.chain(bindings).collect(),
        }
    }
}

/// How much is on the steps of the delay ladder, whosever it is.
async fn delayed(connection: &Connection, scan: &StaleScan<'_>) -> lapin::Result<u64> {
    let mut delayed = 0;
    if scan.queues.is_empty() {
        return Ok(delayed);
    }
    for step in Step::all() {
        if let Ok(name) = step.name(scan.app)
            && let Some((messages, _)) = count(connection, name).await?
        {
            delayed += messages;
        }
    }
    Ok(delayed)
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
