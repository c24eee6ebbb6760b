//! The delayed messages of an app, by queue.
//!
//! AMQP counts the messages of a delay queue and does not tell where they go. So this takes them
//! and puts them back: their order and their time stay, only the broker's count of deliveries
//! rises. The number of messages is bounded.

use std::collections::HashMap;

use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::types::ShortString;
use lapin::{Channel, Connection};

use super::codec;
use super::declarer::{count_ready, refusal};
use super::topology::{Step, due_name};

/// Maximum messages that are looked at.
const LOOKED_AT_MAX: u64 = 5_000;

/// Delayed messages.
#[derive(Default)]
pub(super) struct Delayed {
    /// Number of messages by the queue that they go to.
    by_queue: HashMap<String, u64>,
    /// Messages that were not looked at.
    unknown: u64,
    /// Delay queues of an earlier version.
    old: Vec<ShortString>,
}

impl Delayed {
    /// Looks at the delayed messages of an app.
    pub(super) async fn look(connection: &Connection, app: &str) -> lapin::Result<Self> {
        let mut delayed = Self::default();
        let mut channel = None;
        let current = Step::all().map(|step| step.name(app));
        for name in current.chain([due_name(app)]).flatten() {
            delayed.look_at(connection, &mut channel, name).await?;
        }
        for name in Step::all().flat_map(|step| step.old_name(app)) {
            if delayed
                .look_at(connection, &mut channel, name.clone())
                .await?
            {
                delayed.old.push(name);
            }
        }
        if let Some(channel) = channel {
            channel.close(200, "done".into()).await?;
        }
        Ok(delayed)
    }

    /// Returns the number of messages that go to a queue, including those that may.
    pub(super) fn of(&self, queue: &ShortString) -> u64 {
        self.by_queue.get(queue.as_str()).unwrap_or(&0) + self.unknown
    }

    /// Returns remarks for the user.
    pub(super) fn notes(&self, app: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if self.unknown > 0 {
            notes.push(format!(
                "more than {LOOKED_AT_MAX} messages are delayed: the others may be for any queue"
            ));
        }
        if !self.old.is_empty() {
            let old: Vec<_> = self.old.iter().map(ShortString::as_str).collect();
            notes.push(format!(
                "an earlier version delayed messages of {app} in {}: delete these queues when the \
                 broker shows no messages in them (rabbitmqctl list_queues name messages)",
                old.join(", ")
            ));
        }
        notes
    }

    /// Looks at the messages of a queue. Returns whether the queue exists.
    async fn look_at(
        &mut self,
        connection: &Connection,
        open: &mut Option<Channel>,
        name: ShortString,
    ) -> lapin::Result<bool> {
        let channel = match open.take() {
            Some(channel) => channel,
            None => connection.create_channel().await?,
        };
        let ready = match count_ready(&channel, name.clone()).await {
            Ok(ready) => ready,
            // This costs the channel.
            Err(error) if matches!(refusal(&error), Some((404, _))) => return Ok(false),
            Err(error) => return Err(error),
        };
        let seen: u64 = self.by_queue.values().sum();
        let wanted = ready.min(LOOKED_AT_MAX.saturating_sub(seen));
        self.unknown += ready - wanted;
        let mut last = None;
        for _ in 0..wanted {
            let got = channel.basic_get(name.clone(), BasicGetOptions::default());
            let Some(got) = got.await? else {
                break;
            };
            let delivery = got.delivery;
            let target = codec::target(&delivery.properties);
            // An earlier version put the queue into the routing key.
            let target = target.unwrap_or(delivery.routing_key);
            *self.by_queue.entry(target.to_string()).or_default() += 1;
            last = Some(delivery.delivery_tag);
        }
        if let Some(last) = last {
            let options = BasicNackOptions {
                multiple: true,
                requeue: true,
            };
            channel.basic_nack(last, options).await?;
        }
        *open = Some(channel);
        Ok(true)
    }
}
