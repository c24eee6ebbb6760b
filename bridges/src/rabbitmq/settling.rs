//! What is done about a delivery once it is decided: what leads elsewhere goes there,
//! confirmed, before the broker is told to forget it here. If that fails, the delivery
//! goes back to its queue.

use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::TransportError;
use brickwork::{Message, Parcel, Reply, Settlement};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use lapin::types::ShortString;
use tracing::warn;

use super::link::Link;
use super::origin::Origin;
use super::router::Router;

/// Before a delivery goes back because the broker refused what was to become of it:
/// without a pause it would run in circles.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Settles the deliveries that came over one channel.
pub(super) struct Settling {
    /// Tags mean something on this channel only, and it never reconnects.
    pub(super) channel: Channel,
    pub(super) link: Arc<Link>,
    pub(super) router: Arc<Router>,
    pub(super) origin: Origin,
    /// Where given-up messages go; a dead-letter queue has none: it keeps its own.
    pub(super) letters: Option<ShortString>,
}

impl Settling {
    pub(super) async fn settle(&self, parcel: Parcel, settlement: Settlement) {
        if self.is_stale() {
            return;
        }
        let message = &parcel.message;
        let outcome = match settlement {
            Settlement::Ack(None) => Ok(()),
            Settlement::Ack(Some(reply)) => self.reply(message, reply).await,
            Settlement::GiveBack => return self.give_back(parcel.tag).await,
            Settlement::Again { after, attempt } => {
                self.router
                    .again(&self.origin.queue, message, attempt, after)
                    .await
            }
            Settlement::DeadLetter(letter) => match &self.letters {
                Some(letters) => {
                    let kept = letter.letter(message);
                    let sent = self.router.send_to_queue(letters, &kept, letter.attempts);
                    match sent.await {
                        Ok(()) => self.reply(message, Err(letter.error.clone())).await,
                        error => error,
                    }
                }
                None => return self.give_back(parcel.tag).await,
            },
        };
        match outcome {
            Ok(()) => {
                let acked = self
                    .channel
                    .basic_ack(parcel.tag, BasicAckOptions::default());
                // If this fails, the channel is gone: the broker delivers it again.
                let _again = acked.await;
            }
            Err(error) => {
                if self.link.check().is_ok() {
                    let (queue, id) = (&self.origin.queue.id, &message.id);
                    warn!(%queue, message = %id, %error, "could not be settled, it goes back");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                self.give_back(parcel.tag).await;
            }
        }
    }

    /// The broker has taken the delivery back with its channel, and delivers it again:
    /// nothing that is decided about it may have an effect any more.
    fn is_stale(&self) -> bool {
        self.link.check().is_err() || !self.channel.status().connected()
    }

    pub(super) async fn give_back(&self, tag: u64) {
        if self.is_stale() {
            return;
        }
        let options = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        // If this fails, the channel is gone: that gives it back, too.
        let _back = self.channel.basic_nack(tag, options).await;
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
