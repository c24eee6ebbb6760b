//! The part of a handler's context that belongs to its entity, and the part of a transaction.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

use crate::key::Key;
use crate::store::entities::Reminder;

/// The entity that handles a message.
pub(crate) struct EntityWork {
    pub(super) key: Key,
    /// The config of the entity type.
    pub(super) config: Arc<dyn Any + Send + Sync>,
    pub(super) changes: RefCell<Changes>,
}

/// The reminders that a handler has set and cancelled.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) reminders: Vec<Reminder>,
    pub(super) cancelled: Vec<String>,
}

/// The rows that the transaction of an entity's message writes.
pub(crate) struct EntityWrite {
    pub(crate) key: Key,
    /// Version of the saved state that the handler started from.
    pub(crate) version: i64,
    /// JSON.
    pub(crate) state: String,
    pub(crate) reminders: Vec<Reminder>,
    /// Reminders that are cancelled, or handled.
    pub(crate) removed: Vec<String>,
}
