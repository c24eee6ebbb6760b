//! The argument of a transaction's closure, and the input that it works on.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;

use super::message_builder::MessageBuilder;
use super::payload::Payload;
use super::pending_emit::PendingEmit;
use super::port::Output;
use super::publisher::Publisher;
use crate::failure::Failure;
use crate::message::Message;

/// The input of a transaction.
pub(super) struct TxInput {
    pub(super) publisher: Arc<Publisher>,
    /// The handled message; `None` in a tick and in `start`.
    pub(super) message: Option<Message>,
    /// Name of the input of the message.
    pub(super) input: Arc<str>,
    /// Index of the message in its batch.
    pub(super) index: usize,
    /// Messages that the handler emitted before the transaction, then those of the closure.
    pub(super) emits: Vec<PendingEmit>,
    /// Whether the hook may emit.
    pub(super) may_emit: bool,
    pub(super) now_ms: u64,
    /// The reply to store in the inbox.
    pub(super) reply: Option<Bytes>,
}

/// An open transaction on the service's own tables, for one message.
///
/// It derefs to the connection of [`rusqlite`](crate::sqlite::rusqlite): statements on it are
/// part of the transaction. SQLite refuses statements that begin or end a transaction, open
/// another file, or touch a table whose name starts with `brickwork_`: these belong to the
/// runtime.
///
/// An example stands at [`Store`](crate::Store).
pub struct Tx<'a> {
    connection: &'a Connection,
    input: &'a mut TxInput,
}

impl<'a> Tx<'a> {
    pub(super) fn new(connection: &'a Connection, input: &'a mut TxInput) -> Self {
        Self { connection, input }
    }

    /// Returns the handled message; `None` in a tick and in `start`.
    pub fn message(&self) -> Option<&Message> {
        self.input.message.as_ref()
    }

    /// Returns the wall-clock time, in milliseconds since 1970-01-01 UTC.
    pub fn now_ms(&self) -> u64 {
        self.input.now_ms
    }

    /// Emits a message. It is stored with the transaction and published after the commit, in
    /// order, as soon as the transport accepts it.
    ///
    /// # Errors
    /// A [`Failure::reject`] if the value can't be encoded or is too large, if the service
    /// has no such output, and in `start` and `stop`.
    pub fn emit<T: Payload>(
        &mut self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        if !self.input.may_emit {
            return Err(Failure::reject("nothing can be emitted in start or stop"));
        }
        let emit = PendingEmit::new(
            &self.input.publisher,
            output.name(),
            value.into(),
            self.input.message.as_ref(),
            self.input.index,
            &self.input.emits,
            self.input.now_ms,
        )?;
        self.input.emits.push(emit);
        Ok(())
    }

    /// Emits a message that is delivered after `delay`.
    ///
    /// # Errors
    /// As [`emit`](Tx::emit).
    pub fn emit_after<T: Payload>(
        &mut self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
        delay: Duration,
    ) -> Result<(), Failure> {
        self.emit(output, value.into().delay(delay))
    }

    /// Stores the reply in the inbox: if the message is delivered again, the caller gets this
    /// reply. The handler must return the same value.
    ///
    /// # Errors
    /// A [`Failure::reject`] if the reply can't be encoded.
    pub fn reply<R: Payload + Clone>(&mut self, reply: &R) -> Result<(), Failure> {
        let bytes = reply.clone().into_bytes().map_err(Failure::reject)?;
        self.input.reply = Some(bytes);
        Ok(())
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}
