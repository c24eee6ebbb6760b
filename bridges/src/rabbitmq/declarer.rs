//! Declares queues and counts their messages: the owner of one channel.
//!
//! A declaration that the broker refuses costs the channel. So this task has a channel of its
//! own and opens another when needed. The channel is on the consuming connection: the broker
//! blocks the publishing connection while it is short of memory.

use std::sync::Arc;

use brickwork::transport::TransportError;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind, Queue};
use tokio::sync::{mpsc, oneshot};

use super::connection::Connections;
use super::session_state::SessionState;
use super::topology::Declaration;

/// Maximum queued commands. Further callers wait.
const COMMANDS_MAX: usize = 16;

/// Declares queues and counts messages. Clones share the channel.
#[derive(Clone)]
pub(super) struct Declarer {
    commands: mpsc::Sender<DeclareCommand>,
    session_state: Arc<SessionState>,
}

enum DeclareCommand {
    Declare(Vec<Declaration>, Answer<()>),
    Look(ShortString, Answer<Option<QueueCounts>>),
}

/// The counts of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueCounts {
    pub(super) ready: u64,
    pub(super) consumers: u64,
}

type Answer<T> = oneshot::Sender<Result<T, TransportError>>;

impl Declarer {
    /// Starts the task on the current runtime.
    pub(super) fn start(connections: Arc<Connections>, session_state: Arc<SessionState>) -> Self {
        let (commands, mut received) = mpsc::channel(COMMANDS_MAX);
        let mut owner = DeclarerTask {
            connections,
            session_state: session_state.clone(),
            channel: None,
        };
        tokio::spawn(async move {
            while let Some(command) = received.recv().await {
                // The caller may have stopped waiting.
                match command {
                    DeclareCommand::Declare(all, answer) => {
                        let _gone = answer.send(owner.declare(all).await);
                    }
                    DeclareCommand::Look(queue, answer) => {
                        let _gone = answer.send(owner.look(queue).await);
                    }
                }
            }
        });
        Self {
            commands,
            session_state,
        }
    }

    /// Declares everything in `all`.
    ///
    /// # Errors
    /// The broker refuses a declaration, or the session has ended.
    pub(super) async fn declare(&self, all: Vec<Declaration>) -> Result<(), TransportError> {
        self.ask(|answer| DeclareCommand::Declare(all, answer))
            .await
    }

    /// Returns the number of ready messages, or `None` if there is no such queue.
    ///
    /// # Errors
    /// The broker doesn't answer, or the session has ended.
    pub(super) async fn count(&self, queue: ShortString) -> Result<Option<u64>, TransportError> {
        let counts = self.look(queue).await?;
        Ok(counts.map(|counts| counts.ready))
    }

    /// Returns the counts of a queue, or `None` if there is no such queue.
    ///
    /// # Errors
    /// As of [`count`](Self::count).
    pub(super) async fn look(
        &self,
        queue: ShortString,
    ) -> Result<Option<QueueCounts>, TransportError> {
        self.ask(|answer| DeclareCommand::Look(queue, answer)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(Answer<T>) -> DeclareCommand,
    ) -> Result<T, TransportError> {
        self.session_state.check()?;
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.commands.send(command(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::select! {
            outcome = asked => outcome.unwrap_or_else(|| Err(self.session_state.error())),
            error = self.session_state.ended() => Err(error),
        }
    }
}

struct DeclarerTask {
    connections: Arc<Connections>,
    session_state: Arc<SessionState>,
    channel: Option<Channel>,
}

impl DeclarerTask {
    async fn channel(&mut self) -> Result<Channel, TransportError> {
        if let Some(channel) = &self.channel
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let opened = self.connections.consuming.create_channel().await;
        let channel = opened.map_err(|error| self.session_state.lost(&error))?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    async fn declare(&mut self, all: Vec<Declaration>) -> Result<(), TransportError> {
        for declaration in all {
            let channel = self.channel().await?;
            let made = declare(&channel, declaration.clone()).await;
            made.map_err(|error| match refusal(&error) {
                Some((code, text)) => explain(&declaration, code, text),
                None => self.session_state.lost(&error),
            })?;
        }
        Ok(())
    }

    async fn look(&mut self, queue: ShortString) -> Result<Option<QueueCounts>, TransportError> {
        let channel = self.channel().await?;
        match passive_declare(&channel, queue).await {
            Ok(queue) => Ok(Some(QueueCounts {
                ready: u64::from(queue.message_count()),
                consumers: u64::from(queue.consumer_count()),
            })),
            Err(error) => match refusal(&error) {
                Some((404, _)) => Ok(None),
                _ => Err(self.session_state.lost(&error)),
            },
        }
    }
}

/// Asks for a queue on this channel: its name and counts.
///
/// # Errors
/// The broker's. Without the queue it closes the channel.
pub(super) async fn passive_declare(channel: &Channel, queue: ShortString) -> lapin::Result<Queue> {
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let declaring = channel.queue_declare(queue, options, FieldTable::default());
    declaring.await
}

/// Counts the ready messages of a queue on this channel.
///
/// # Errors
/// As of [`passive_declare`].
pub(super) async fn count_ready(channel: &Channel, queue: ShortString) -> lapin::Result<u64> {
    let queue = passive_declare(channel, queue).await?;
    Ok(u64::from(queue.message_count()))
}

pub(super) async fn declare(channel: &Channel, declaration: Declaration) -> lapin::Result<()> {
    match declaration {
        Declaration::Exchange {
            name,
            kind,
            alternate,
        } => {
            let options = ExchangeDeclareOptions {
                durable: true,
                ..Default::default()
            };
            let arguments = alternate.map_or_else(FieldTable::default, |alternate| {
                with_text("alternate-exchange", alternate.as_str())
            });
            channel
                .exchange_declare(name, kind, options, arguments)
                .await
        }
        Declaration::Queue { name, arguments } => {
            let options = QueueDeclareOptions {
                durable: true,
                ..Default::default()
            };
            channel
                .queue_declare(name, options, arguments)
                .await
                .map(drop)
        }
        Declaration::Binding {
            queue,
            exchange,
            key,
        }
        | Declaration::PartBinding {
            queue,
            exchange,
            key,
        } => {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue, exchange, key, options, FieldTable::default())
                .await
        }
        Declaration::ExchangeBinding { to, from, key } => {
            let (options, arguments) = (Default::default(), FieldTable::default());
            channel
                .exchange_bind(to, from, key, options, arguments)
                .await
        }
        Declaration::LaterQueue { .. } => Ok(()),
        Declaration::NoBinding {
            queue,
            exchange,
            key,
        } => {
            channel
                .queue_unbind(queue, exchange, key, FieldTable::default())
                .await
        }
        Declaration::NoExchange { name } => channel.exchange_delete(name, Default::default()).await,
        Declaration::NoQueue { name } => {
            let deleted = channel.queue_delete(name, Default::default());
            deleted.await.map(drop)
        }
        Declaration::ExternalQueue { name } => {
            count_ready(channel, name.clone()).await?;
            // Check the read permission. This always costs the channel.
            let asked = may_consume(channel, name).await;
            match asked.as_ref().map_err(refusal) {
                Ok(()) => channel.close(200, "done".into()).await,
                Err(Some((406, _))) => Ok(()),
                Err(_) => asked,
            }
        }
        Declaration::ExternalExchange { name } => {
            let options = ExchangeDeclareOptions {
                passive: true,
                ..Default::default()
            };
            // A passive declaration ignores the kind.
            let arguments = FieldTable::default();
            channel
                .exchange_declare(name, ExchangeKind::Topic, options, arguments)
                .await
        }
    }
}

/// Asks whether the user may consume a queue, by a request of the wrong form: see
/// `permission_probe`. If the broker accepts it, one message is delivered and requeued when the channel closes.
pub(super) async fn may_consume(channel: &Channel, queue: ShortString) -> lapin::Result<()> {
    channel.basic_qos(1, Default::default()).await?;
    let arguments = with_text("x-priority", "high");
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue, "".into(), options, arguments)
        .await
        .map(drop)
}

/// Returns arguments with one text.
pub(super) fn with_text(name: &str, text: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(name.into(), AMQPValue::LongString(text.into()));
    table
}

/// Returns the code and text of the broker's refusal.
pub(super) fn refusal(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some((error.get_id(), error.get_message().as_str())),
        _ => None,
    }
}

/// Explains a refused declaration: the object, the reason, the remedy.
fn explain(declaration: &Declaration, code: u16, text: &str) -> TransportError {
    let what = declaration.to_string();
    let text = text
        .split_once(" - ")
        .map_or(text, |(_, explained)| explained);
    if let Declaration::ExternalQueue { .. } | Declaration::ExternalExchange { .. } = declaration {
        let why = match code {
            404 => format!("it isn't there ({text}), and {EXTERNAL_HELP}"),
            403 => format!("the user has no right to read it ({text})"),
            405 => format!("another connection uses it exclusively ({text})"),
            _ => text.to_owned(),
        };
        return TransportError::OwnedByAnother { what, why };
    }
    let why = match code {
        // The broker uses the same code for the limit of queues.
        406 if !text.contains("inequivalent") => match text.contains("queue limit") {
            true => format!(
                "{text}: raise the limit (rabbitmqctl set_vhost_limits), or remove unused \
                 queues (brickwork prune)"
            ),
            false => text.to_owned(),
        },
        406 => format!(
            "it already exists with other settings ({text}): \
             delete it on the broker once it is empty, or give the app another name"
        ),
        403 if matches!(declaration, Declaration::Binding { .. }) => format!(
            "the broker doesn't allow it ({text}): the user needs write rights on the queue, and \
             read rights on the exchange"
        ),
        403 => format!("the broker doesn't allow it ({text}): the user needs configure rights"),
        _ => text.to_owned(),
    };
    TransportError::Declare { what, why }
}

/// The remedy if an external object is missing.
pub(super) const EXTERNAL_HELP: &str =
    "the app doesn't create it: its owner must, or the manifest's `from` must name another";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_other_settings_names_the_difference_and_the_remedy() {
        let queue = Declaration::Queue {
            name: "shop.stock.requests".into(),
            arguments: FieldTable::default(),
        };
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue \
                    'shop.stock.requests' in vhost '/': received 'quorum' but current is 'classic'";
        let why = explain(&queue, 406, text).to_string();
        assert!(why.starts_with("can't declare the queue shop.stock.requests: "));
        assert!(why.contains("received 'quorum' but current is 'classic'"));
        assert!(why.contains("delete it"));
        assert!(!why.contains("PRECONDITION_FAILED"));
        let text = "PRECONDITION_FAILED - cannot declare queue 'shop.wait.100': queue limit in \
                    vhost 'shop' (7) is reached";
        let why = explain(&queue, 406, text).to_string();
        assert!(why.contains("is reached: raise the limit"), "{why}");
        assert!(!why.contains("other settings"), "{why}");
    }
}
