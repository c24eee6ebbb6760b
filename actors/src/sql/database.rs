//! The contract of a database.

use super::error::SqlError;
use super::work::{Limits, Row};

/// A database that a service works on.
///
/// A session connects when it is needed, and again after an error of the class
/// [`Away`](super::error::Class::Away).
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub(super) trait Database {
    /// A value as the database takes it.
    type Value;

    /// The database, for logs, without secrets.
    fn place(&self) -> String;

    /// Connects and prepares the statements, unless that is done.
    ///
    /// # Errors
    /// The database is away, or a statement is wrong.
    async fn open(&mut self) -> Result<(), SqlError>;

    /// Converts the JSON value of an expression for the parameter at an index. The session is
    /// open.
    ///
    /// # Errors
    /// The value does not fit, and the reason.
    fn encode(&self, index: usize, json: &str) -> Result<Self::Value, String>;

    /// Writes rows in one transaction, but for those whose ids are done.
    ///
    /// # Errors
    /// No row was written. If the connection broke during the commit, all may be written: their
    /// ids are then done.
    async fn write(&mut self, rows: &[Row<Self::Value>]) -> Result<(), SqlError>;

    /// Returns the rows of the query as JSON objects.
    ///
    /// # Errors
    /// The database refused the values, is away, or the result is too large.
    async fn query(
        &mut self,
        values: &[Self::Value],
        limits: Limits,
    ) -> Result<Vec<String>, SqlError>;
}
