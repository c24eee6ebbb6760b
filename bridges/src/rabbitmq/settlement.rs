//! What is done about a delivery once it is decided: what leads elsewhere goes there,
//! confirmed, before the broker is told to forget it here. If that fails, the delivery
//! goes back to its queue. Telling the broker is left to who owns the channel.

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

/// Before a delivery goes back because the broker refused what was to become of it:
/// without a pause it would run in circles.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// What the broker is to be told of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokerAction {
    Ack,
    Requeue,
    /// Nothing: it has taken the delivery back with its channel, and delivers it again.
    Stale,
}

/// Settles the deliveries of one queue.
pub(super) struct Settler {
    pub(super) session_state: Arc<SessionState>,
    pub(super) router: Arc<Router>,
    pub(super) source: SourceQueue,
    /// Where given-up messages go; a dead-letter queue has none: it keeps its own.
    pub(super) dead_letters: Option<ShortString>,
}

impl Settler {
    /// Does what was decided, but for telling the broker.
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

    /// Puts a message that was in hand at two crashes, or was so before, into the queue of
    /// suspects.
    pub(super) async fn move_to_suspects(
        &self,
        delivery: lapin::message::Delivery,
    ) -> BrokerAction {
        let (exchange, key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
        let topic_source = self.source.topic_source(exchange, key);
        let decoded = codec::decode(topic_source, &delivery.properties, delivery.data);
        let (queue, message) = (&self.source.queue.id, &decoded.message);
        info!(%queue, message = %message.id, "was in hand at two crashes, it will be tried alone");
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
            warn!(%queue, message = %id, %error, "could not be settled, it goes back");
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
        BrokerAction::Requeue
    }

    /// An error means that the reply may not have gone out, and may the next time.
    async fn reply(&self, request: &Message, reply: Reply) -> Result<(), TransportError> {
        match self.router.reply(request, reply).await {
            Err(TransportError::Refused(why)) => {
                // It will not do better the next time.
                warn!(message = %request.id, error = why, "a reply could not be sent");
                Ok(())
            }
            outcome => outcome,
        }
    }
}
