//! Probes: requests to a broker that change nothing, whatever it answers.
//!
//! A permission is tested by a request that the broker refuses after it has checked the
//! permissions and before it changes anything: a queue with an argument of the wrong type, a
//! consumer with a priority that is no number, a message with an invalid expiration. The answer
//! 403 means that the permission is missing, 406 that only the request was invalid.

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};

use super::declarer::{declare, may_consume, passive_declare, with_text};
use super::topology::Declaration;

/// A request that changes nothing.
pub(super) enum Probe {
    /// Does the object exist, with any settings?
    Passive(Declaration),
    /// Does the existing object match our declaration? Use it only if the object exists.
    Declare(Declaration),
    /// May the user declare the object?
    MayDeclare(Declaration),
    /// May the user publish to this exchange?
    Publish(ShortString),
    /// May the user consume this queue?
    Consume(ShortString),
    /// May the user bind this queue to this exchange? Removing a binding that doesn't exist
    /// needs the same permissions.
    Unbind {
        queue: ShortString,
        exchange: ShortString,
        key: ShortString,
    },
}

impl Probe {
    /// Sends the probe on a channel. A refusal costs the channel.
    pub(super) async fn send(self, channel: Channel) -> lapin::Result<()> {
        match self {
            Self::Passive(declaration) => is_there(&channel, declaration).await,
            Self::Declare(declaration) => declare(&channel, declaration).await,
            Self::MayDeclare(declaration) => may_declare(&channel, declaration).await,
            Self::Publish(exchange) => publish(&channel, exchange).await,
            Self::Consume(queue) => may_consume(&channel, queue).await,
            Self::Unbind {
                queue,
                exchange,
                key,
            } => {
                channel
                    .queue_unbind(queue, exchange, key, FieldTable::default())
                    .await
            }
        }
    }
}

async fn is_there(channel: &Channel, declaration: Declaration) -> lapin::Result<()> {
    match declaration {
        Declaration::Exchange { name, .. } | Declaration::ExternalExchange { name } => {
            declare(channel, Declaration::ExternalExchange { name }).await
        }
        Declaration::Queue { name, .. }
        | Declaration::ExternalQueue { name }
        | Declaration::LaterQueue { name } => passive_declare(channel, name).await.map(drop),
        _ => Ok(()),
    }
}

/// If the broker accepts it, the object goes with the connection.
async fn may_declare(channel: &Channel, declaration: Declaration) -> lapin::Result<()> {
    match declaration {
        Declaration::Exchange { name, kind, .. } => {
            let options = ExchangeDeclareOptions {
                auto_delete: true,
                ..Default::default()
            };
            let mut arguments = FieldTable::default();
            arguments.insert("alternate-exchange".into(), AMQPValue::LongInt(1));
            channel
                .exchange_declare(name, kind, options, arguments)
                .await
        }
        Declaration::Queue { name, .. } => {
            let options = QueueDeclareOptions {
                exclusive: true,
                ..Default::default()
            };
            let arguments = with_text("x-message-ttl", "never");
            channel
                .queue_declare(name, options, arguments)
                .await
                .map(drop)
        }
        // The app never creates external objects, and AMQP can't query a binding.
        _ => Ok(()),
    }
}

async fn publish(channel: &Channel, exchange: ShortString) -> lapin::Result<()> {
    channel.confirm_select(Default::default()).await?;
    let key = ShortString::from("brickwork.check");
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_expiration("never".into());
    let published = channel.basic_publish(exchange, key, options, b"", properties);
    published.await?.await.map(drop)
}
