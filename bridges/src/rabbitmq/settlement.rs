//! Carries out the settlement of a delivery: publishes its retry, dead letter or reply,
//! confirmed, before the ack. If that fails, the delivery is requeued. The owner of the channel
//! sends the ack or nack.

use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::TransportError;
use brickwork::{DeliveryParts, Message, Reply, Settlement};
use lapin::types::ShortString;
use tracing::{info, warn};

use super::codec;
use super::router::Router;
use super::session_state::SessionState;
use super::source_queue::SourceQueue;

/// Pause before a delivery is requeued because the broker refused the publication. Without a
/// pause it would circulate in a tight loop.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// The command for the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokerAction {
    Ack,
    Requeue,
    /// None: the broker has requeued the delivery with its channel and redelivers it.
    Stale,
}

/// Settles the deliveries of one queue.
pub(super) struct Settler {
    pub(super) session_state: Arc<SessionState>,
    pub(super) router: Arc<Router>,
    pub(super) source: SourceQueue,
    /// The dead-letter queue. `None` for a dead-letter queue itself, which keeps its messages.
    pub(super) dead_letters: Option<ShortString>,
}

impl Settler {
    /// Carries out a settlement. Returns the command for the broker.
    pub(super) async fn settle(
        &self,
        parts: &DeliveryParts,
        settlement: Settlement,
    ) -> BrokerAction {
        if self.session_state.check().is_err() {
            return BrokerAction::Stale;
        }
        let message = &parts.message;
        let outcome = match settlement {
            Settlement::Ack(None) => Ok(()),
            Settlement::Ack(Some(reply)) => self.reply(message, reply).await,
            Settlement::Requeue => return BrokerAction::Requeue,
            Settlement::Retry { after, attempt } => {
                self.router
                    .retry(&self.source.queue, message, attempt, after)
                    .await
            }
            Settlement::DeadLetter(letter) => match &self.dead_letters {
                Some(dead_letters) => {
                    let kept = letter.letter(message);
                    let sent = self
                        .router
                        .send_to_queue(dead_letters, &kept, letter.attempts);
                    match sent.await {
                        Ok(()) => self.reply(message, Err(letter.error.clone())).await,
                        error => error,
                    }
                }
                None => return BrokerAction::Requeue,
            },
        };
        self.or_requeue(message, outcome).await
    }

    /// Moves a suspect to the quarantine queue.
    pub(super) async fn move_to_suspects(
        &self,
        delivery: lapin::message::Delivery,
    ) -> BrokerAction {
        let (exchange, key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
        let topic_source = self.source.topic_source(exchange, key);
        let decoded = codec::decode(topic_source, &delivery.properties, delivery.data);
        let (queue, message) = (&self.source.queue.id, &decoded.message);
        info!(%queue, id = %message.id, "message was in flight during two crashes, moving it to quarantine");
        let sent = self
            .router
            .to_suspects(queue, message, decoded.crash_record);
        let outcome = sent.await;
        self.or_requeue(message, outcome).await
    }

    async fn or_requeue(
        &self,
        message: &Message,
        outcome: Result<(), TransportError>,
    ) -> BrokerAction {
        let Err(error) = outcome else {
            return BrokerAction::Ack;
        };
        if self.session_state.check().is_ok() {
            let (queue, id) = (&self.source.queue.id, &message.id);
            warn!(%queue, %id, %error, "settlement failed, requeueing the message");
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
        BrokerAction::Requeue
    }

    /// Publishes a reply. After an error the reply may succeed at the next attempt.
    async fn reply(&self, request: &Message, reply: Reply) -> Result<(), TransportError> {
        match self.router.reply(request, reply).await {
            Err(TransportError::Refused(why)) => {
                // The next attempt would fail, too.
                warn!(id = %request.id, error = why, "reply was not sent");
                Ok(())
            }
            outcome => outcome,
        }
    }
}
