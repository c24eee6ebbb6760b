//! SQLite in a build without the feature `store`: only the type that
//! [`Service::STORE`](crate::Service::STORE) needs.

/// One step of a store's schema. It has no values, because this build has no stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migration {}
