//! The mailbox: the bounded queue in front of a service.
//!
//! Its core is generic over what it holds and locks by `sync`, so that the tests can
//! run the same file under a model checker.

mod core;
mod sync;

pub(crate) use self::core::{Mailbox, Pulled};
