//! SQLite databases with group commit: the storage of service stores and of the embedded
//! transport.
//!
//! Owns the settings of a database (write-ahead log, `synchronous = FULL`: a commit is on disk),
//! the writer threads, migrations, and errors that name the file and the remedy. Knows nothing of
//! services or messages.
//!
//! | item | purpose |
//! | --- | --- |
//! | [`Database`] | one file: jobs that write, closures that read |
//! | [`ReadOnlyDatabase`] | a file of another process, read without changing anything |
//! | [`WriterPool`] | the writer threads, shared by all databases of an app |
//! | [`Job`], [`Transaction`] | work within a commit, and its outcome |
//! | [`Schema`], [`Migration`] | the owner and tables that a file must have |
//! | [`SqliteError`] | errors |
//!
//! Group commit: while one commit waits for the disk, jobs gather. The next commit runs all of
//! them, each in a savepoint of its own, so that a failed job undoes only its own changes.

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
