//! The lock of the mailbox. A model checker replaces this file by its own.

pub(super) use parking_lot::Mutex;
