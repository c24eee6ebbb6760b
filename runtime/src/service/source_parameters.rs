//! The parameters of sources that are written with `#[source]`.

use serde::{Serialize, de::DeserializeOwned};

use super::message_builder::MessageBuilder;
use super::payload::Payload;
use super::port::Output;
use super::source_context::{SendHandle, SourceContext, TrySubmitError};
use crate::failure::Failure;

/// An output of a source, as parameter. The port has the name of the parameter, with dashes.
///
/// An example stands at [`source`](macro@crate::source).
pub struct Feed<'a, T> {
    cx: &'a SourceContext,
    output: Output<T>,
}

impl<'a, T: Payload> Feed<'a, T> {
    #[doc(hidden)]
    pub fn of(cx: &'a SourceContext, output: Output<T>) -> Self {
        Self { cx, output }
    }

    /// Sends a message and waits until the transport has confirmed it. Waits before while the
    /// source is under backpressure.
    ///
    /// # Errors
    /// As [`SourceContext::send`].
    pub async fn send(&self, value: impl Into<MessageBuilder<T>>) -> Result<(), Failure> {
        self.cx.send(&self.output, value).await
    }

    /// Submits a message and returns a handle that resolves when the transport has confirmed it.
    ///
    /// # Errors
    /// As [`SourceContext::submit`].
    pub async fn submit(&self, value: impl Into<MessageBuilder<T>>) -> Result<SendHandle, Failure> {
        self.cx.submit(&self.output, value).await
    }

    /// Submits a message, but never waits.
    ///
    /// # Errors
    /// As [`SourceContext::try_submit`].
    pub fn try_submit(
        &self,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<SendHandle, TrySubmitError> {
        self.cx.try_submit(&self.output, value)
    }
}

/// The place that a source has reached, as parameter: any serde type.
///
/// Positions are kept only if the transport is durable, so that sent messages outlive this
/// process, too.
pub struct Position<'a, P> {
    cx: &'a SourceContext,
    value: Option<P>,
}

impl<'a, P: Serialize + DeserializeOwned + Clone> Position<'a, P> {
    #[doc(hidden)]
    pub fn of(cx: &'a SourceContext) -> Result<Self, Failure> {
        let value = cx.position()?;
        Ok(Self { cx, value })
    }

    /// Returns the saved position; `None` if none was saved, or none is kept.
    pub fn get(&self) -> Option<P> {
        self.value.clone()
    }

    /// Saves the position durably. Every message before it must be confirmed: after
    /// [`Feed::send`].
    ///
    /// # Errors
    /// As [`SourceContext::save_position`].
    pub async fn save(&mut self, value: P) -> Result<(), Failure> {
        self.cx.save_position(&value).await?;
        self.value = Some(value);
        Ok(())
    }

    /// Saves the position when a submitted message is confirmed.
    ///
    /// # Errors
    /// The transport refused the message, and as [`save`](Self::save).
    pub async fn save_after(&mut self, sent: SendHandle, value: P) -> Result<(), Failure> {
        sent.await?;
        self.save(value).await
    }
}
