//! The parameters of handlers that are written with `#[service]`, and their return values.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::message_builder::MessageBuilder;
use super::payload::Payload;
use super::port::{Output, Request};
#[cfg(feature = "store")]
use super::tx::TxInput;
use crate::failure::Failure;
use crate::key::Key;
use crate::message::Message;
use crate::transport::AskError;

/// An output as parameter of a handler. The port has the name of the parameter, with dashes.
///
/// Messages are published after the handler returned `Ok`; a handler that fails emits nothing.
/// Beside a `&mut Tx` they commit with the transaction.
///
/// An example stands at [`service`](macro@crate::service).
pub struct Out<'a, T> {
    outs: Outs<'a>,
    output: Output<T>,
}

/// The place that keeps emitted messages until the handler has succeeded.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Outs<'a> {
    /// A handler.
    Context(&'a Context),
    /// A transaction.
    #[cfg(feature = "store")]
    Tx(TxOuts<'a>),
}

/// The messages of a transaction.
#[cfg(feature = "store")]
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct TxOuts<'a>(pub(super) &'a TxInput);

impl<'a> From<&'a Context> for Outs<'a> {
    fn from(cx: &'a Context) -> Self {
        Self::Context(cx)
    }
}

impl<'a, T: Payload> Out<'a, T> {
    #[doc(hidden)]
    pub fn of(outs: impl Into<Outs<'a>>, output: Output<T>) -> Self {
        let outs = outs.into();
        Self { outs, output }
    }

    /// Emits a message.
    ///
    /// # Errors
    /// A [`Failure::reject`]: the value can't be encoded or is larger than `app.max_message`,
    /// the message had its transaction already, or this is a batch (use
    /// [`emit_for`](Self::emit_for)).
    pub fn emit(&self, value: impl Into<MessageBuilder<T>>) -> Result<(), Failure> {
        match self.outs {
            Outs::Context(cx) => cx.emit(&self.output, value),
            #[cfg(feature = "store")]
            Outs::Tx(TxOuts(input)) => input.emit(&self.output, value.into()),
        }
    }

    /// Emits a message that is delivered after `delay`. The delay survives a restart if the
    /// transport is durable.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_after(
        &self,
        value: impl Into<MessageBuilder<T>>,
        delay: Duration,
    ) -> Result<(), Failure> {
        self.emit(value.into().delay(delay))
    }

    /// Emits a message for the value at `index` of a batch. It is published if the outcome of
    /// that value is `Ok`.
    ///
    /// # Errors
    /// As [`emit`](Self::emit), and if the batch has no such value.
    pub fn emit_for(
        &self,
        index: usize,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        match self.outs {
            Outs::Context(cx) => cx.emit_for(index, &self.output, value),
            #[cfg(feature = "store")]
            Outs::Tx(_) => Err(Failure::reject("a transaction has one message")),
        }
    }
}

/// A request to another service, as parameter of a handler. The port has the name of the
/// parameter, with dashes.
///
/// An example stands at [`service`](macro@crate::service).
pub struct Ask<'a, Q, R> {
    cx: &'a Context,
    request: Request<Q, R>,
}

impl<'a, Q: Payload, R: Payload> Ask<'a, Q, R> {
    #[doc(hidden)]
    pub fn of(cx: &'a Context, request: Request<Q, R>) -> Self {
        Self { cx, request }
    }

    /// Sends the question at once and waits for the answer, at most until the deadline of the
    /// handled message.
    ///
    /// # Errors
    /// As [`Context::ask`].
    pub async fn ask(&self, question: impl Into<MessageBuilder<Q>>) -> Result<R, AskError> {
        self.cx.ask(&self.request, question).await
    }
}

/// The handled message as parameter of a handler: its id, type, headers, time and attempt.
///
/// It derefs to the [`Message`].
#[derive(Debug, Clone)]
pub struct Meta {
    message: Message,
    attempt: u32,
    input: Arc<str>,
    key: Option<Key>,
}

impl Meta {
    #[doc(hidden)]
    pub fn of(cx: &Context) -> Self {
        Self {
            message: cx.handled_message().clone(),
            attempt: cx.attempt(),
            input: cx.input_name(),
            key: cx.key().cloned(),
        }
    }

    /// Returns the attempt at this message, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the name of the input.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// Returns the key of this message; `None` if the service has no key.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }
}

impl Deref for Meta {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// Returns the key of the handled message.
///
/// # Errors
/// The message has no key.
#[doc(hidden)]
pub fn key_of(cx: &Context) -> Result<Key, Failure> {
    let key = cx.key().cloned();
    key.ok_or_else(|| Failure::reject("the message has no key"))
}

/// The return value of a handler.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a handler can't return `{Self}`",
    label = "write `Result`, or `Result<T>` for a reply of type `T`"
)]
pub trait HandlerReturn {
    /// The reply.
    type Reply;

    /// Returns the outcome.
    ///
    /// # Errors
    /// The failure of the handler.
    fn into_result(self) -> Result<Self::Reply, Failure>;
}

impl HandlerReturn for () {
    type Reply = ();

    fn into_result(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl<T, E: Into<Failure>> HandlerReturn for Result<T, E> {
    type Reply = T;

    fn into_result(self) -> Result<T, Failure> {
        self.map_err(Into::into)
    }
}

/// The return value of a batch handler.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a batch handler can't return `{Self}`",
    label = "write `Vec<Result>`: one outcome for each message, in order"
)]
pub trait BatchReturn {
    /// Returns the outcomes.
    fn into_results(self) -> Vec<Result<(), Failure>>;
}

impl<E: Into<Failure>> BatchReturn for Vec<Result<(), E>> {
    fn into_results(self) -> Vec<Result<(), Failure>> {
        self.into_iter().map(|it| it.map_err(Into::into)).collect()
    }
}
