//! The argument of a transaction's closure, and the input that it works on.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;

use super::entity::EntityWrite;
use super::message_builder::MessageBuilder;
use super::parameters::{Outs, TxOuts};
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
    pub(super) emits: RefCell<Vec<PendingEmit>>,
    /// Whether the hook may emit.
    pub(super) may_emit: bool,
    pub(super) now_ms: u64,
    /// The reply to store in the inbox.
    pub(super) reply: RefCell<Option<Bytes>>,
    /// The entity to save.
    pub(super) entity: Option<EntityWrite>,
}

impl TxInput {
    pub(super) fn emit<T: Payload>(
        &self,
        output: &Output<T>,
        builder: MessageBuilder<T>,
    ) -> Result<(), Failure> {
        if !self.may_emit {
            return Err(Failure::reject("nothing can be emitted in start or stop"));
        }
        let emit = PendingEmit::new(
            &self.publisher,
            output.name(),
            builder,
            self.message.as_ref(),
            self.index,
            &self.emits.borrow(),
            self.now_ms,
        )?;
        self.emits.borrow_mut().push(emit);
        Ok(())
    }
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
    input: &'a TxInput,
}

impl<'a> Tx<'a> {
    pub(super) fn new(connection: &'a Connection, input: &'a TxInput) -> Self {
        Self { connection, input }
    }

    #[doc(hidden)]
    pub fn outs(&self) -> Outs<'a> {
        Outs::Tx(TxOuts(self.input))
    }

    /// Keeps the reply of a handler for a caller, as [`reply`](Self::reply) does, and returns it.
    #[doc(hidden)]
    pub fn keep_reply<R: Payload + Clone>(&mut self, reply: R) -> Result<R, Failure> {
        let is_asked = self
            .message()
            .is_some_and(|message| message.reply_to.is_some());
        if is_asked {
            self.reply(&reply)?;
        }
        Ok(reply)
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
        self.input.emit(output, value.into())
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
        self.input.reply.replace(Some(bytes));
        Ok(())
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}
