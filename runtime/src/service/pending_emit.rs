//! Pending emits: outputs that wait until their handler has succeeded.

use std::time::Duration;

use super::message_builder::MessageBuilder;
use super::payload::Payload;
use super::publisher::Publisher;
use crate::failure::Failure;
use crate::id::MessageId;
use crate::message::{Envelope, Message};

/// An emitted message that is not yet published.
pub(crate) struct PendingEmit {
    /// Number of the output.
    pub(crate) output: usize,
    /// Index of the handled message in its batch; 0 outside of a batch.
    pub(crate) message: usize,
    /// Number of this emit among those of the same message on the same output.
    sequence: u32,
    pub(crate) delay: Duration,
    pub(crate) envelope: Envelope,
}

impl PendingEmit {
    /// Builds an emit. `earlier` holds the emits of the same handler so far.
    ///
    /// The id of a message is derived from its parent, the output and the sequence, so a
    /// retried handler emits the same ids again.
    ///
    /// # Errors
    /// A [`Failure::reject`] if there is no such output, or the payload can't be encoded or
    /// is too large.
    pub(crate) fn new<T: Payload>(
        publisher: &Publisher,
        output: &str,
        builder: MessageBuilder<T>,
        parent: Option<&Message>,
        message: usize,
        earlier: &[Self],
        now_ms: u64,
    ) -> Result<Self, Failure> {
        let number = publisher.output(output)?;
        let mut earlier = earlier.iter().rev();
        let sequence = earlier
            .find(|emit| emit.output == number && emit.message == message)
            .map_or(0, |emit| emit.sequence + 1);
        let delay = builder.delay;
        let id = match parent {
            Some(parent) => parent.id.child(&publisher.label, output, sequence),
            None => MessageId::new(),
        };
        let envelope = publisher
            .envelope(number, builder, id, parent, now_ms)
            .map_err(Failure::reject)?;
        Ok(Self {
            output: number,
            message,
            sequence,
            delay,
            envelope,
        })
    }
}
