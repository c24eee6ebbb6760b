//! Requests and replies over the broker's direct reply-to: no queue for replies, the
//! broker hands them to the channel that asked.
//!
//! Owns who waits for which reply. A reply that nobody waits for is counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use brickwork::transport::{AskError, Completion, TransportError};
use brickwork::{Message, ReplyTo};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, Either, select};
use lapin::Channel;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::codec;
use super::max_message_size::MaxMessageSize;
use super::publisher::{Publication, Publisher};
use super::router::Router;
use super::session_state::SessionState;
use super::source_queue::TopicSource;

/// The broker's name for "the channel that this came by".
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The asking side. One for a session.
pub(super) struct RequestReply {
    publisher: Publisher,
    session_state: Arc<SessionState>,
    pending: Mutex<HashMap<u64, oneshot::Sender<Result<Message, String>>>>,
    next: AtomicU64,
    late_replies: Arc<AtomicU64>,
}

impl RequestReply {
    /// Takes over a channel in confirm mode, on the current runtime. Replies that nobody
    /// waits for are counted in `late`.
    pub(super) async fn start(
        channel: Channel,
        session_state: Arc<SessionState>,
        max_message_size: Arc<MaxMessageSize>,
        late_replies: Arc<AtomicU64>,
    ) -> lapin::Result<Arc<Self>> {
        // Replies can't be kept by the broker: they are taken without acks, and the
        // table of who waits bounds them.
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let mut replies = channel
            .basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default())
            .await?;
        // Mandatory: a request that nobody reads fails at once.
        // Replies come by this very channel: it can't be replaced alone.
        let publisher = Publisher::start(channel, None, session_state.clone(), max_message_size);
        let request_reply = Arc::new(Self {
            publisher,
            session_state,
            pending: Mutex::default(),
            next: AtomicU64::new(0),
            late_replies,
        });
        let receiver = request_reply.clone();
        tokio::spawn(async move {
            let error = loop {
                tokio::select! {
                    error = receiver.session_state.ended() => break error,
                    reply = replies.next() => match reply {
                        Some(Ok(delivery)) => receiver.received(delivery),
                        Some(Err(error)) => {
                            receiver.session_state.fail(format!("replies: {error}"));
                        }
                        None => receiver.session_state.fail("replies: the broker cancelled them"),
                    },
                }
            };
            // Dropping what they wait for tells the askers.
            receiver.pending.lock().clear();
            drop(error);
        });
        Ok(request_reply)
    }

    pub(super) async fn flush(&self) {
        self.publisher.flush().await;
    }

    /// Publishes a request and waits for its reply.
    pub(super) fn ask(
        self: &Arc<Self>,
        router: &Router,
        request: &Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        let number = self.next.fetch_add(1, Relaxed);
        let mut asking = request.edit();
        asking.reply_to = Some(ReplyTo {
            address: REPLY_TO.into(),
            correlation: Some(number.to_string().into()),
        });
        let publication = match router.to_topic(&router.routing_table(), &asking.into()) {
            Ok(publication) => Publication {
                mandatory: true,
                ..publication
            },
            Err(error) => return Box::pin(async move { Err(error.into()) }),
        };
        let pending = self.register(number);
        if let Err(error) = self.session_state.check() {
            return Box::pin(async move { Err(error.into()) });
        }
        let (done, published) = Completion::channel();
        self.publisher.publish(vec![publication], done);
        Box::pin(async move {
            let answered = pending.reply(published);
            match timeout(within, answered).await {
                Ok(outcome) => outcome,
                Err(_) => Err(AskError::Timeout(within)),
            }
        })
    }

    fn register(self: &Arc<Self>, number: u64) -> PendingReply {
        let (sender, receiver) = oneshot::channel();
        self.pending.lock().insert(number, sender);
        PendingReply {
            number,
            receiver,
            request_reply: self.clone(),
        }
    }

    fn received(&self, delivery: lapin::message::Delivery) {
        let correlation = delivery.properties.correlation_id().as_ref();
        let number = correlation.and_then(|text| text.as_str().parse::<u64>().ok());
        let pending = number.and_then(|number| self.pending.lock().remove(&number));
        let message =
            codec::decode(TopicSource::Queue(""), &delivery.properties, delivery.data).message;
        let reply = match message.headers.get(codec::ERROR) {
            Some(error) => Err(error.to_string()),
            None => Ok(message),
        };
        match pending.map(|asker| asker.send(reply)) {
            Some(Ok(())) => {}
            None | Some(Err(_)) => {
                self.late_replies.fetch_add(1, Relaxed);
            }
        }
    }
}

/// An asker's wait; dropping it ends it.
struct PendingReply {
    number: u64,
    receiver: oneshot::Receiver<Result<Message, String>>,
    request_reply: Arc<RequestReply>,
}

impl PendingReply {
    /// The reply, or why there can't be one. It may come before the confirm.
    async fn reply(
        mut self,
        published: impl Future<Output = Result<(), TransportError>>,
    ) -> Result<Message, AskError> {
        let published = std::pin::pin!(published);
        let reply = match select(&mut self.receiver, published).await {
            Either::Left((reply, _)) => reply,
            Either::Right((Ok(()), _)) => (&mut self.receiver).await,
            Either::Right((Err(TransportError::Refused(why)), _)) => {
                return Err(AskError::Failed(why));
            }
            Either::Right((Err(error), _)) => return Err(error.into()),
        };
        match reply {
            Ok(reply) => reply.map_err(AskError::Failed),
            Err(_) => Err(self.request_reply.session_state.error().into()),
        }
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        self.request_reply.pending.lock().remove(&self.number);
    }
}
