//! Finds and removes the queues and bindings that earlier manifests of an app left on the
//! broker, by the ledger.
//!
//! Owns the order of removal: unbind, count again, delete, and finally remove the entries from
//! the ledger, whose messages are held meanwhile. The order loses only messages that the user
//! chose to lose, and an interrupted removal can start over.
//!
//! A message may still arrive between the last count and the deletion, from a publisher that
//! knows the queue's name: a quorum queue can't be deleted on the condition that it is empty
//! (the broker closes the connection).

use std::collections::BTreeSet;
use std::sync::Arc;

use brickwork::QueueId;
use brickwork::transport::{
    Prune, PruneAction, Pruned, StaleQueue, StaleResource, Topology, TransportError, judge,
    next_to_remove,
};
use lapin::Connection;
use lapin::options::QueueDeleteOptions;
use lapin::types::{FieldTable, ShortString};

use super::address::Address;
use super::connection::{Connections, connect_error};
use super::declared_registry::LedgerReader;
use super::declarer::{passive_declare, refusal};
use super::delayed_messages::Delayed;
use super::health::Health;
use super::ledger_entries::{Binding, Entries};
use super::session_state::SessionState;
use super::topology::{
    ledger_name, others_name, partition_id, queue_name, unroutable_name, with_feeds,
};

/// Prunes over connections of its own, on the current runtime.
///
/// # Errors
/// The broker can't be reached, refuses the login, or goes away.
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
    pruned.map_err(|error| connect_error(url, error))
}

/// Reports stale queues and bindings and changes nothing.
pub(super) async fn find(connection: &Connection, topology: &Topology) -> lapin::Result<Pruned> {
    match report(connection, topology, false).await {
        Err(error) if matches!(refusal(&error), Some((403, _))) => {
            let note = "stale queues and bindings are unknown: the user may not read the ledger";
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
    let mut pruned = scan.result();
    scan.ledger.close(connection, &topology.app).await;
    pruned
        .leftovers
        .extend(unroutable(connection, &topology.app, false, with_messages).await?);
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
    scan.unbind().await?;
    // This count includes the messages that arrived before unbinding.
    scan.reassess(with_messages).await?;
    scan.delete().await?;
    let mut pruned = scan.result();
    pruned
        .leftovers
        .extend(unroutable(connection, &topology.app, true, with_messages).await?);
    let StaleScan {
        app,
        ledger,
        remaining,
        ..
    } = scan;
    if remaining != ledger.lines {
        if let Err(why) = ledger.replace(connection, app, &remaining).await {
            let note = format!("the ledger was not updated: {why}; prune again");
            pruned.notes.push(note);
        }
    } else {
        ledger.close(connection, app).await;
    }
    Ok(pruned)
}

/// The result if there is no ledger.
fn without_ledger(app: &str) -> Pruned {
    let ledger = ledger_name(app);
    let note = format!(
        "stale queues and bindings are unknown: there is no ledger {ledger} yet, and AMQP can't \
         list queues"
    );
    Pruned {
        notes: vec![note],
        ..Pruned::default()
    }
}

/// The stale queues and bindings, with the ledger's messages held.
struct StaleScan<'a> {
    connection: &'a Connection,
    app: &'a str,
    ledger: LedgerReader,
    /// The ledger's content afterwards.
    remaining: Entries,
    queues: Vec<StaleQueue>,
    /// The delayed messages.
    delayed: Delayed,
    /// Stale bindings of queues that the manifest names.
    bindings: Vec<(Binding, PruneAction)>,
}

impl<'a> StaleScan<'a> {
    /// Scans the broker. Returns `None` if there is no ledger.
    async fn run(
        connection: &'a Connection,
        topology: &'a Topology,
        with_messages: bool,
    ) -> lapin::Result<Option<Self>> {
        let app = &*topology.app;
        let Some(ledger) = LedgerReader::open(connection, app).await? else {
            return Ok(None);
        };
        // An invalid name can't have been declared.
        let needed = with_feeds(topology).unwrap_or_default();
        let needed = Entries::from_declarations(&needed, app);
        let named = needed.queues();
        let mut scan = Self {
            connection,
            app,
            remaining: ledger.lines.clone(),
            queues: Vec::new(),
            delayed: Delayed::default(),
            bindings: Vec::new(),
            ledger,
        };
        for id in scan.ledger.lines.queues().difference(&named) {
            match scan.count(id).await? {
                Some(queue) => scan.queues.push(queue),
                // Another process has removed it.
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
        if !scan.queues.is_empty() {
            scan.delayed = Delayed::look(connection, app).await?;
        }
        scan.assess(with_messages);
        Ok(Some(scan))
    }

    /// Removes the bindings that the manifest doesn't name, and those of stale queues without
    /// consumers, so that the queues fill no further.
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
                self.queues[number].action = PruneAction::Failed(why);
            }
        }
        Ok(())
    }

    /// Removes a binding. Returns the reason if the broker refuses.
    async fn unbind_one(&mut self, binding: &Binding) -> lapin::Result<Option<String>> {
        let channel = self.connection.create_channel().await?;
        let exchange = binding.exchange.as_deref().unwrap_or(self.app);
        if binding.exchange.is_none() {
            // A keyed input is bound by its exchange, which has the name of the queue. Without one
            // the broker refuses, and nothing is to be done.
            let channel = self.connection.create_channel().await?;
            let unbound = channel.exchange_unbind(
                name(self.app, &binding.queue),
                self.app.into(),
                binding.key.as_str().into(),
                Default::default(),
                FieldTable::default(),
            );
            match unbound.await {
                Ok(()) => channel.close(200, "done".into()).await?,
                Err(error) if refusal(&error).is_some() => {}
                Err(error) => return Err(error),
            }
        }
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
            if let Some(now) = self.count(&id).await? {
                let action = self.queues[number].action.clone();
                self.queues[number] = StaleQueue { action, ..now };
            }
        }
        self.assess(with_messages);
        Ok(())
    }

    /// Decides on each queue.
    fn assess(&mut self, with_messages: bool) {
        for queue in &mut self.queues {
            queue.delayed = self.delayed.of(&name(self.app, &queue.id));
        }
        judge(&mut self.queues, with_messages);
    }

    /// Deletes the removable queues.
    async fn delete(&mut self) -> lapin::Result<()> {
        while let Some(queue) = next_to_remove(&mut self.queues) {
            let channel = self.connection.create_channel().await?;
            let options = QueueDeleteOptions::default();
            let deleted = channel
                .queue_delete(name(self.app, &queue.id), options)
                .await;
            queue.action = match deleted {
                Ok(_) => {
                    let parts = self.ledger.lines.queues();
                    for exchange in exchanges_with(self.app, &queue.id, &parts) {
                        channel
                            .exchange_delete(exchange, Default::default())
                            .await?;
                    }
                    channel.close(200, "done".into()).await?;
                    self.remaining.remove_queue(&queue.id);
                    PruneAction::Removed
                }
                Err(error) => match refusal(&error) {
                    Some((_, text)) => PruneAction::Failed(text.to_owned()),
                    None => return Err(error),
                },
            };
        }
        Ok(())
    }

    async fn count(&self, id: &QueueId) -> lapin::Result<Option<StaleQueue>> {
        let counted = count(self.connection, name(self.app, id)).await?;
        Ok(counted.map(|(messages, consumers)| StaleQueue {
            id: id.clone(),
            messages,
            delayed: 0,
            consumers,
            action: PruneAction::Removable,
        }))
    }

    fn result(&self) -> Pruned {
        let mut notes = Vec::new();
        if self.ledger.is_empty() {
            let ledger = ledger_name(self.app);
            notes.push(format!(
                "stale queues and bindings are unknown: the ledger {ledger} is empty, or another \
                 process is reading it"
            ));
        } else {
            notes.push(format!(
                "only queues and bindings in the ledger {} are found: AMQP can't list queues",
                ledger_name(self.app)
            ));
        }
        notes.extend(self.delayed.notes(self.app));
        let app = self.app;
        let queues = self.queues.iter().map(|queue| StaleResource {
            what: format!("queue {app}.{}", queue.id),
            messages: Some(queue.messages),
            consumers: Some(queue.consumers),
            fate: queue.action.clone(),
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

/// Reports the messages whose queue is gone, and removes them if `remove` and `with_messages`.
async fn unroutable(
    connection: &Connection,
    app: &str,
    remove: bool,
    with_messages: bool,
) -> lapin::Result<Option<StaleResource>> {
    let Ok(name) = unroutable_name(app) else {
        return Ok(None);
    };
    let (messages, consumers) = match count(connection, name.clone()).await? {
        None | Some((0, _)) => return Ok(None),
        Some(counts) => counts,
    };
    let fate = match (with_messages, remove) {
        (false, _) => PruneAction::Kept(
            "its messages are for queues that are gone: they are delivered when a process declares \
             their queues again"
                .into(),
        ),
        (true, false) => PruneAction::Removable,
        (true, true) => {
            let channel = connection.create_channel().await?;
            match channel.queue_purge(name.clone(), Default::default()).await {
                Ok(_) => {
                    channel.close(200, "done".into()).await?;
                    PruneAction::Removed
                }
                Err(error) => match refusal(&error) {
                    Some((_, text)) => PruneAction::Failed(text.to_owned()),
                    None => return Err(error),
                },
            }
        }
    };
    Ok(Some(StaleResource {
        what: format!("messages in queue {name}"),
        messages: Some(messages),
        consumers: Some(consumers),
        fate,
    }))
}

/// Returns the numbers of ready messages and of consumers of a queue, or `None` if there is no
/// such queue.
async fn count(connection: &Connection, name: ShortString) -> lapin::Result<Option<(u64, u64)>> {
    let channel = connection.create_channel().await?;
    match passive_declare(&channel, name).await {
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

/// Returns the exchanges of a keyed input that go with its first part.
fn exchanges_with(app: &str, queue: &QueueId, all: &BTreeSet<QueueId>) -> Vec<ShortString> {
    let Some(input) = queue.input.strip_suffix(".p00") else {
        return Vec::new();
    };
    let input = QueueId::new(&queue.service, input);
    let count = (0..=u16::MAX).take_while(|number| all.contains(&partition_id(&input, *number)));
    let others = others_name(app, &input, count.count() as u16);
    let names = [queue_name(app, &input), others];
    names.into_iter().flatten().collect()
}

fn name(app: &str, queue: &QueueId) -> ShortString {
    queue_name(app, queue).expect("the name comes from the broker")
}
