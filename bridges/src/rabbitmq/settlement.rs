//! Carries out the settlement of a delivery: publishes its retry, dead letter or reply,
//! confirmed, before the ack. If that fails, it is tried again, and the status reports it. The
//! owner of the channel sends the ack or nack.

use std::sync::Arc;
use std::time::Duration;

use brickwork::supervision::Backoff;
use brickwork::transport::TransportError;
use brickwork::{DeliveryParts, Message, Reply, Settlement};
use lapin::types::ShortString;
use tokio::time::Instant;
use tracing::{info, warn};

use super::codec;
use super::router::Router;
use super::session_state::SessionState;
use super::source_queue::SourceQueue;

/// Back-off of a settlement that fails.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(30),
    jitter: 0.2,
};
/// Maximum time after which a delivery that can't be settled is requeued. The broker closes the
/// channel of a consumer that holds a message for 30 minutes.
const PERSIST_MAX: Duration = Duration::from_secs(5 * 60);

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
        match &settlement {
            Settlement::Requeue => return BrokerAction::Requeue,
            Settlement::DeadLetter(_) if self.dead_letters.is_none() => {
                return BrokerAction::Requeue;
            }
            _ => {}
        }
        self.persist(message, || self.publish(message, &settlement))
            .await
    }

    /// Publishes the messages that precede the ack.
    async fn publish(
        &self,
        message: &Message,
        settlement: &Settlement,
    ) -> Result<(), TransportError> {
        match settlement {
            Settlement::Ack(None) | Settlement::Requeue => Ok(()),
            Settlement::Ack(Some(reply)) => self.reply(message, reply.clone()).await,
            Settlement::Retry { after, attempt } => {
                let queue = &self.source.queue;
                self.router.retry(queue, message, *attempt, *after).await
            }
            Settlement::DeadLetter(letter) => {
                if let Some(dead_letters) = &self.dead_letters {
                    let kept = letter.letter(message);
                    let sent = self
                        .router
                        .send_to_queue(dead_letters, &kept, letter.attempts);
                    sent.await?;
                }
                self.reply(message, Err(letter.error.clone())).await
            }
        }
    }

    /// Moves a suspect to the quarantine queue.
    pub(super) async fn move_to_suspects(
        &self,
        delivery: lapin::message::Delivery,
    ) -> BrokerAction {
        let (exchange, key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
        let topic_source = self.source.topic_source(exchange, key);
        let decoded = codec::decode(topic_source, &delivery.properties, delivery.data);
        let message = &self.session_state.clock_skew().localize(decoded.message);
        let queue = &self.source.queue.id;
        info!(%queue, id = %message.id, "message was in flight during two crashes, moving it to quarantine");
        let sent = || {
            self.router
                .to_suspects(queue, message, decoded.crash_record)
        };
        self.persist(message, sent).await
    }

    /// Publishes until that succeeds, with back-off. Meanwhile the delivery stays in flight: if it
    /// were requeued, its handler would run again without an end. It is requeued after
    /// [`PERSIST_MAX`], and when the transport is flushed.
    async fn persist<F>(&self, message: &Message, publish: impl Fn() -> F) -> BrokerAction
    where
        F: Future<Output = Result<(), TransportError>>,
    {
        let mut hurries = self.session_state.hurries();
        let since = Instant::now();
        let mut trouble = None;
        for failures in 0.. {
            let Err(error) = publish().await else {
                return BrokerAction::Ack;
            };
            if self.session_state.check().is_err() {
                break;
            }
            let trouble = trouble.get_or_insert_with(|| self.session_state.settlement_trouble());
            trouble.failed(&error);
            let (queue, id) = (&self.source.queue.id, &message.id);
            let wait = BACKOFF.delay(failures, fastrand::f64());
            warn!(%queue, %id, %error, ?wait, "settlement failed, trying again");
            let in_time = since.elapsed() + wait <= PERSIST_MAX;
            if !self.session_state.pause(wait, &mut hurries).await || !in_time {
                break;
            }
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
