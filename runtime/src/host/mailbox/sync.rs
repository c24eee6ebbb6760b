//! The lock under the mailbox: named here, so that a model checker can put in its own.

pub(super) use parking_lot::Mutex;
