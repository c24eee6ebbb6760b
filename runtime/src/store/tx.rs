//! What the closure of a transaction sees.

use std::ops::Deref;
use std::time::Duration;

use rusqlite::Connection;

use super::transact::TxInput;
use crate::failure::Failure;
use crate::message::Message;
use crate::service::{MessageBuilder, Output, Payload, PendingEmit};

/// The service's tables, and what the message in hand leads to. Derefs to the connection of
/// [`rusqlite`](crate::sqlite::rusqlite): what is executed there is part of the transaction.
///
/// The transaction itself, other files, and tables whose names start with `brickwork_` are
/// the runtime's: statements on them are refused.
pub struct Tx<'a> {
    connection: &'a Connection,
    hand: &'a mut TxInput,
}

impl<'a> Tx<'a> {
    pub(super) fn new(connection: &'a Connection, hand: &'a mut TxInput) -> Self {
        Self { connection, hand }
    }

    /// The message in hand; none in a tick and in `start`.
    pub fn message(&self) -> Option<&Message> {
        self.hand.message.as_ref()
    }

    /// The wall-clock time, in milliseconds since 1970-01-01 UTC.
    pub fn now_ms(&self) -> u64 {
        self.hand.now_ms
    }

    /// Emits a message: it is kept with the transaction, and published, in order, as soon as
    /// the transport takes it.
    ///
    /// # Errors
    /// As [`Context::emit`](crate::Context::emit).
    pub fn emit<T: Payload>(
        &mut self,
        output: &Output<T>,
        value: impl Into<MessageBuilder<T>>,
    ) -> Result<(), Failure> {
        if !self.hand.emits {
            return Err(Failure::reject("nothing can be emitted in start or stop"));
        }
        let held = PendingEmit::make(
            &self.hand.env,
            output.name(),
            value.into(),
            self.hand.message.as_ref(),
            self.hand.place,
            &self.hand.held,
            self.hand.now_ms,
        )?;
        self.hand.held.push(held);
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
        self.emit(output, value.into().after(delay))
    }

    /// Keeps the reply for whoever asked, should the message come again. The handler returns
    /// the same.
    ///
    /// # Errors
    /// A [`Failure::reject`] if it can't be encoded.
    pub fn reply<R: Payload + Clone>(&mut self, reply: &R) -> Result<(), Failure> {
        let bytes = reply.clone().into_bytes().map_err(Failure::reject)?;
        self.hand.reply = Some(bytes);
        Ok(())
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}
