//! Requests that services ask the test.

use std::fmt;
use std::marker::PhantomData;

use tokio::sync::oneshot;

use super::ports::{Asks, shown};
use super::recorder::{Answer, Asked};
use crate::delivery::Reply;
use crate::message::Message;
use crate::service::Payload;

/// A request that a service asked the test. The service waits for the reply.
///
/// If it is dropped, the service gets no reply and runs into its time-out.
pub struct Question<M, R> {
    /// The decoded request.
    pub value: M,
    /// The whole message.
    pub message: Message,
    reply: oneshot::Sender<Reply>,
    answer: PhantomData<fn(R)>,
}

impl<M: fmt::Debug, R> fmt::Debug for Question<M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Question").field(&self.value).finish()
    }
}

impl<M: Payload, R: Payload> Question<M, R> {
    pub(super) fn new(name: &str, asked: Asked) -> Result<Self, String> {
        Ok(Self {
            value: decode(name, &asked.message)?,
            message: asked.message,
            reply: asked.reply,
            answer: PhantomData,
        })
    }

    /// Replies.
    ///
    /// # Panics
    /// If the reply can't be encoded.
    #[track_caller]
    pub fn reply(self, answer: R) {
        match answer.into_bytes() {
            // The service may have stopped waiting.
            Ok(bytes) => drop(self.reply.send(Ok(bytes))),
            Err(error) => panic!("{error}"),
        }
    }

    /// Fails the request, as a service does that dead-letters it.
    pub fn refuse(self, text: impl Into<String>) {
        // The service may have stopped waiting.
        let _gone = self.reply.send(Err(text.into()));
    }
}

/// Wraps a reply function over values as one over bytes.
pub(super) fn answering<P: Asks + ?Sized>(
    mut answer: impl FnMut(P::Value) -> P::Reply + Send + 'static,
) -> Answer {
    Box::new(move |message| {
        let question = P::Value::decode(message).map_err(|error| error.to_string())?;
        answer(question)
            .into_bytes()
            .map_err(|error| error.to_string())
    })
}

/// Decodes a message. The error text shows the payload.
pub(super) fn decode<T: Payload>(name: &str, message: &Message) -> Result<T, String> {
    T::decode(message).map_err(|error| {
        format!(
            "can't decode the message on `{name}`: {error}: {}",
            shown(message)
        )
    })
}
