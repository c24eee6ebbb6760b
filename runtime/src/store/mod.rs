//! The store: a service's own database, with an inbox and an outbox.
//!
//! The states of entities are here, too (`entities`).
//!
//! Owns the promise that the inbox entry of a message, the changes of the service and the
//! emitted messages commit together or not at all. A message that is redelivered is found in
//! the inbox: it is acked without effect, and a caller that asked gets the stored reply.
//! Emitted messages wait in the outbox until the transport has confirmed them; the relay of
//! the service (`host::relay`) publishes them.
//!
//! A file is opened only for its own service of its own app, and by one process at a time.
//!
//! The transactions of handlers are in `service::store_access`: this module knows messages and
//! databases, but no handlers.

pub(crate) mod entities;
pub(crate) mod inbox;
mod open_store;
mod outbox;
mod stores;

#[cfg(test)]
mod tests;

pub(crate) use inbox::Entry;
pub(crate) use open_store::OpenStore;
pub(crate) use outbox::Row;
pub(crate) use stores::{Stores, file, open_read_only};
