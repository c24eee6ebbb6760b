//! Declaring queues and counting what is in them: the owner of one channel.
//!
//! A declaration that the broker refuses costs the channel, so this has one of its own
//! and opens another when it needs to. It is on the connection that consumes: what is
//! published has the other one blocked while the broker is short of memory.

use std::sync::Arc;

use brickwork::transport::TransportError;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};
use tokio::sync::{mpsc, oneshot};

use super::connection::Connections;
use super::permission_probe::may_consume;
use super::session_state::SessionState;
use super::topology::Declaration;

/// Requests that wait; whoever has one more waits to hand it over.
const COMMANDS_MAX: usize = 16;

/// Declares and counts. Clones share the channel.
#[derive(Clone)]
pub(super) struct Declarer {
    commands: mpsc::Sender<DeclareCommand>,
    session_state: Arc<SessionState>,
}

enum DeclareCommand {
    Declare(Vec<Declaration>, Answer<()>),
    Count(ShortString, Answer<Option<u64>>),
}

type Answer<T> = oneshot::Sender<Result<T, TransportError>>;

impl Declarer {
    /// Starts the owner on the current runtime.
    pub(super) fn start(connections: Arc<Connections>, session_state: Arc<SessionState>) -> Self {
        let (commands, mut received) = mpsc::channel(COMMANDS_MAX);
        let mut owner = DeclarerTask {
            connections,
            session_state: session_state.clone(),
            channel: None,
        };
        tokio::spawn(async move {
            while let Some(command) = received.recv().await {
                // Whoever asked may have gone.
                match command {
                    DeclareCommand::Declare(all, answer) => {
                        let _gone = answer.send(owner.declare(all).await);
                    }
                    DeclareCommand::Count(queue, answer) => {
                        let _gone = answer.send(owner.count(queue).await);
                    }
                }
            }
        });
        Self {
            commands,
            session_state,
        }
    }

    /// Makes sure that all of it is there.
    ///
    /// # Errors
    /// It can't be made, or the link has ended.
    pub(super) async fn declare(&self, all: Vec<Declaration>) -> Result<(), TransportError> {
        self.ask(|answer| DeclareCommand::Declare(all, answer))
            .await
    }

    /// How many messages are ready in a queue; `None` if there is no such queue.
    ///
    /// # Errors
    /// The broker doesn't say, or the link has ended.
    pub(super) async fn count(&self, queue: ShortString) -> Result<Option<u64>, TransportError> {
        self.ask(|answer| DeclareCommand::Count(queue, answer))
            .await
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
        let channel = opened.map_err(|error| self.lost(&error))?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    fn lost(&self, error: &lapin::Error) -> TransportError {
        self.session_state
            .check()
            .err()
            .unwrap_or_else(|| TransportError::Lost(error.to_string()))
    }

    async fn declare(&mut self, all: Vec<Declaration>) -> Result<(), TransportError> {
        for declaration in all {
            let channel = self.channel().await?;
            let made = declare(&channel, declaration.clone()).await;
            made.map_err(|error| match refusal(&error) {
                Some((code, text)) => explain(&declaration, code, text),
                None => self.lost(&error),
            })?;
        }
        Ok(())
    }

    async fn count(&mut self, queue: ShortString) -> Result<Option<u64>, TransportError> {
        let channel = self.channel().await?;
        match count_ready(&channel, queue).await {
            Ok(count) => Ok(Some(count)),
            Err(error) => match refusal(&error) {
                Some((404, _)) => Ok(None),
                _ => Err(self.lost(&error)),
            },
        }
    }
}

/// Asks on a channel how many messages are ready.
///
/// # Errors
/// The broker's; without the queue it closes the channel.
pub(super) async fn count_ready(channel: &Channel, queue: ShortString) -> lapin::Result<u64> {
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let declared = channel
        .queue_declare(queue, options, FieldTable::default())
        .await?;
    Ok(u64::from(declared.message_count()))
}

pub(super) async fn declare(channel: &Channel, declaration: Declaration) -> lapin::Result<()> {
    match declaration {
        Declaration::Exchange { name, kind } => {
            let options = ExchangeDeclareOptions {
                durable: true,
                ..Default::default()
            };
            let arguments = FieldTable::default();
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
        } => {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue, exchange, key, options, FieldTable::default())
                .await
        }
        Declaration::ExternalQueue { name } => {
            count_ready(channel, name.clone()).await?;
            // May it be read? The question costs its channel, whatever the answer.
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
            // Of which kind it is, isn't asked.
            let arguments = FieldTable::default();
            channel
                .exchange_declare(name, ExchangeKind::Topic, options, arguments)
                .await
        }
    }
}

/// The broker's answer to a request that it doesn't carry out: code and text.
pub(super) fn refusal(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some((error.get_id(), error.get_message().as_str())),
        _ => None,
    }
}

/// What could not be made or used, why not, and what to do.
fn explain(declaration: &Declaration, code: u16, text: &str) -> TransportError {
    let what = declaration.to_string();
    let text = text
        .split_once(" - ")
        .map_or(text, |(_, explained)| explained);
    if let Declaration::ExternalQueue { .. } | Declaration::ExternalExchange { .. } = declaration {
        let why = match code {
            404 => format!("it isn't there ({text}), and {EXTERNAL_HELP}"),
            403 => format!("the user has no right to read it ({text})"),
            405 => format!("another connection has it for itself ({text})"),
            _ => text.to_owned(),
        };
        return TransportError::OwnedByAnother { what, why };
    }
    let why = match code {
        406 => format!(
            "it is there already, with other settings ({text}): \
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

/// What to do when something of somebody else isn't there.
pub(super) const EXTERNAL_HELP: &str =
    "the app doesn't make it: whoever owns it does, or the manifest's `from` names another";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_with_other_settings_is_explained_with_what_differs_and_what_to_do() {
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
    }
}
