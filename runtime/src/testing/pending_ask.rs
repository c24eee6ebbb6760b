//! Questions that services ask the test.

use std::fmt;
use std::marker::PhantomData;

use tokio::sync::oneshot;

use super::ports::{Asks, shown};
use super::recorder::{Answer, Asked};
use crate::delivery::Reply;
use crate::message::Message;
use crate::service::Payload;

/// A question that a service asked the test, and waits for the answer.
///
/// If it is dropped, there is no answer: the asker's time runs out.
pub struct Question<M, R> {
    /// What it asks.
    pub value: M,
    /// All that is known of it.
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

    /// Answers it.
    ///
    /// # Panics
    /// If the answer can't be written.
    #[track_caller]
    pub fn reply(self, answer: R) {
        match answer.into_bytes() {
            // An asker that has stopped waiting needs no answer.
            Ok(bytes) => drop(self.reply.send(Ok(bytes))),
            Err(error) => panic!("{error}"),
        }
    }

    /// Fails it, as a service does that gives a question up.
    pub fn refuse(self, text: impl Into<String>) {
        // An asker that has stopped waiting needs no answer.
        let _gone = self.reply.send(Err(text.into()));
    }
}

/// An answer over bytes, from one over values.
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

/// A value, or a text that says why there is none, and shows what came.
pub(super) fn decode<T: Payload>(name: &str, message: &Message) -> Result<T, String> {
    T::decode(message)
        .map_err(|error| format!("what came on `{name}`: {error}: {}", shown(message)))
}
