//! Questions to a broker that change nothing there, whatever it answers.
//!
//! Whether something may be done is found out by asking for it in a form that the broker
//! refuses after it has checked the rights, and before it does anything: a queue with an
//! argument of the wrong type, a consumer with a priority that is no number, a message
//! with an expiration that is no time. "403" means no right, "406" that only the form was
//! wrong.

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};

use super::declarer::{count_ready, declare};
use super::topology::Declaration;

/// A question.
pub(super) enum Probe {
    /// Is it there, whatever its settings?
    Passive(Declaration),
    /// Is what is there the same? Only to be asked of what is there.
    Declare(Declaration),
    /// May it be made?
    MayDeclare(Declaration),
    /// May there be published to this exchange?
    Publish(ShortString),
    /// May this queue be consumed?
    Consume(ShortString),
    /// May this queue be bound to this exchange? That takes the same rights as to take a
    /// binding away that nobody made.
    Unbind {
        queue: ShortString,
        exchange: ShortString,
        key: ShortString,
    },
}

impl Probe {
    /// Asks on a channel; a refusal costs it.
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
        Declaration::Exchange { name, kind } => {
            let options = ExchangeDeclareOptions {
                passive: true,
                ..Default::default()
            };
            channel
                .exchange_declare(name, kind, options, FieldTable::default())
                .await
        }
        Declaration::Queue { name, .. } | Declaration::ExternalQueue { name } => {
            count_ready(channel, name).await.map(drop)
        }
        Declaration::ExternalExchange { .. } => declare(channel, declaration).await,
        Declaration::Binding { .. } => Ok(()),
    }
}

/// Should the broker not refuse, what it makes goes with the connection.
async fn may_declare(channel: &Channel, declaration: Declaration) -> lapin::Result<()> {
    match declaration {
        Declaration::Exchange { name, kind } => {
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
        // Nobody would make these.
        Declaration::Binding { .. }
        | Declaration::ExternalQueue { .. }
        | Declaration::ExternalExchange { .. } => Ok(()),
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

/// Should the broker not refuse, it gets one message back when the channel closes.
pub(super) async fn may_consume(channel: &Channel, queue: ShortString) -> lapin::Result<()> {
    channel.basic_qos(1, Default::default()).await?;
    let arguments = with_text("x-priority", "high");
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue, "".into(), options, arguments)
        .await
        .map(drop)
}

fn with_text(name: &str, text: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(name.into(), AMQPValue::LongString(text.into()));
    table
}
