//! The builder of an outgoing message: a payload with optional metadata.

use std::sync::Arc;
use std::time::Duration;

use super::payload::Payload;
use crate::id::MessageId;
use crate::message::ReplyTo;

/// A message to send: a payload with optional id, type, subject, headers and delay.
///
/// Every [`Payload`] converts into a builder, so most calls pass the value alone.
///
/// ```
/// use std::time::Duration;
///
/// use brickwork::prelude::*;
///
/// const REMINDERS: Output<String> = Output::new("reminders");
///
/// fn remind(cx: &mut Context, order: u64) -> Result<(), Failure> {
///     let reminder = MessageBuilder::new(format!("order {order} is open"))
///         .subject(order.to_string())
///         .header("channel", "mail")
///         .delay(Duration::from_secs(3600));
///     cx.emit(&REMINDERS, reminder)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct MessageBuilder<T> {
    pub(crate) value: T,
    pub(crate) id: Option<MessageId>,
    pub(crate) kind: Option<Arc<str>>,
    pub(crate) subject: Option<Arc<str>>,
    pub(crate) headers: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) delay: Duration,
    pub(crate) reply_to: Option<ReplyTo>,
}

impl<T> MessageBuilder<T> {
    /// Creates a message with this payload and no other metadata.
    pub fn new(value: T) -> Self {
        Self {
            value,
            id: None,
            kind: None,
            subject: None,
            headers: Vec::new(),
            delay: Duration::ZERO,
            reply_to: None,
        }
    }

    /// Sets the message id. A source that may send a message twice gives it a stable id, so
    /// that receivers recognise the copy. Handlers can't set an id: the ids of emitted
    /// messages are derived from the handled message, and this value is ignored.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the message type. Default: the type of the payload.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<Arc<str>>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Sets the subject: the thing that the message is about, such as an order number.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<Arc<str>>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Delays the delivery. The delay starts when the transport accepts the message.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl<T: Payload> From<T> for MessageBuilder<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}
