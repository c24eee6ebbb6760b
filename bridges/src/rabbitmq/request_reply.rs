//! Requests and replies over the broker's direct reply-to: without a queue for replies, the
//! broker sends them to the channel that published the request.
//!
//! Owns the channel of the requests. A reply names its request by the correlation id.

use std::sync::Arc;
use std::time::Duration;

use brickwork::Message;
use brickwork::transport::{AskError, Completion, Replies, TransportError};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, Either, select};
use lapin::Channel;
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};
use tokio::time::timeout;

use super::codec::{self, TopicSource};
use super::max_message_size::MaxMessageSize;
use super::publisher::{Publication, Publisher};
use super::router::Router;
use super::session_state::SessionState;

/// The broker's name for the channel that published the request.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The requesting side of one session.
pub(super) struct RequestReply {
    publisher: Publisher,
    session_state: Arc<SessionState>,
    /// Outlives the session.
    replies: Arc<Replies>,
}

impl RequestReply {
    /// Starts on a channel in confirm mode, on the current runtime.
    pub(super) async fn start(
        channel: Channel,
        session_state: Arc<SessionState>,
        max_message_size: Arc<MaxMessageSize>,
        replies: Arc<Replies>,
    ) -> lapin::Result<Arc<Self>> {
        // The broker can't store replies, so they need no acks. The pending requests bound
        // their number.
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let mut arriving = channel
            .basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default())
            .await?;
        // The replies arrive on this channel, so it can't be replaced alone.
        let publisher = Publisher::start(channel, None, session_state.clone(), max_message_size);
        let request_reply = Arc::new(Self {
            publisher,
            session_state,
            replies,
        });
        let receiver = request_reply.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _error = receiver.session_state.ended() => break,
                    reply = arriving.next() => match reply {
                        Some(Ok(delivery)) => receiver.received(delivery),
                        Some(Err(error)) => {
                            receiver.session_state.fail(format!("replies: {error}"));
                        }
                        None => receiver.session_state.fail("replies: the broker cancelled them"),
                    },
                }
            }
            receiver.replies.close();
        });
        Ok(request_reply)
    }

    pub(super) async fn flush(&self) {
        self.publisher.flush().await;
    }

    /// Publishes a request to its topic and waits for its reply.
    pub(super) fn ask(
        self: &Arc<Self>,
        router: &Router,
        request: &Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        let to_topic = |request: &Message| router.to_topic(&router.routing_table(), request);
        self.ask_by(to_topic, request, within)
    }

    /// Publishes a request as `route` says and waits for its reply.
    pub(super) fn ask_by(
        self: &Arc<Self>,
        route: impl FnOnce(&Message) -> Result<Publication, TransportError>,
        request: &Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        let expected = self.replies.expect(request.clone());
        let expected = expected.and_then(|(request, waiting)| {
            let publication = route(&request)?;
            let too_long = |_| TransportError::Unpublishable("its id is too long".into());
            let correlation = ShortString::try_new(request.id.to_string()).map_err(too_long)?;
            let publication = Publication {
                mandatory: true,
                properties: publication.properties.with_correlation_id(correlation),
                ..publication
            };
            Ok((publication, waiting))
        });
        let (publication, waiting) = match expected {
            Ok(expected) => expected,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        if let Err(error) = self.session_state.check() {
            return Box::pin(async move { Err(error.into()) });
        }
        let (done, published) = Completion::channel();
        self.publisher.publish(vec![publication], done);
        let session_state = self.session_state.clone();
        Box::pin(async move {
            let answered = async {
                let published = std::pin::pin!(published);
                let reply = match select(waiting, published).await {
                    Either::Left((reply, _)) => reply,
                    Either::Right((Ok(()), waiting)) => waiting.await,
                    Either::Right((Err(TransportError::Refused(why)), _)) => {
                        Err(AskError::Failed(why))
                    }
                    Either::Right((Err(error), _)) => Err(error.into()),
                };
                match reply {
                    // The session has ended.
                    Err(AskError::Transport(TransportError::Closed)) => {
                        Err(session_state.error().into())
                    }
                    reply => reply,
                }
            };
            let outcome = timeout(within, answered).await;
            outcome.unwrap_or(Err(AskError::Timeout(within)))
        })
    }

    fn received(&self, delivery: lapin::message::Delivery) {
        let correlation = delivery.properties.correlation_id().as_ref();
        let request = correlation.and_then(|text| text.as_str().parse().ok());
        let message =
            codec::decode(TopicSource::Queue(""), &delivery.properties, delivery.data).message;
        let reply = match message.headers.get(codec::ERROR) {
            Some(error) => Err(error.to_string()),
            None => Ok(message),
        };
        self.replies.deliver(request.as_ref(), reply);
    }
}
