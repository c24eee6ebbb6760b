//! SQLite, written to by few threads and in groups: what the store of a service and the
//! embedded transport keep their data with.
//!
//! Owns how a database is opened (WAL, `synchronous = FULL`: what was confirmed is on the
//! disk), who writes (one job after the other, many of them in one commit), migrations, and
//! errors that say which file and what to do. Knows nothing of services or messages.
//!
//! | where | what |
//! | --- | --- |
//! | [`Database`] | one file: jobs that write, closures that read |
//! | [`ReadOnlyDatabase`] | one that somebody else keeps, looked at without changing anything |
//! | [`WriterPool`] | the threads that all databases of an app share |
//! | [`Job`], [`Transaction`] | what is done within a commit, and told of its outcome |
//! | [`Schema`], [`Migration`] | what a file must have in it before it is used |
//! | [`SqliteError`] | what can be wrong |
//!
//! Group commit: while one commit waits for the disk, jobs gather; the next commit takes all
//! of them, each in a savepoint of its own, so that one that fails takes nothing with it.

mod database;
mod error;
mod job;
mod migration;
mod open;
mod read_only;
mod readers;
mod statement_timeout;
mod transaction;
mod writers;

#[cfg(test)]
mod tests;

pub use database::Database;
pub use error::SqliteError;
pub use job::Job;
pub use migration::{Migration, Part, Schema};
pub use open::Options;
pub use read_only::ReadOnlyDatabase;
pub use rusqlite;
pub use transaction::Transaction;
pub use writers::WriterPool;
