//! The work of a service on its database, independent of the kind of database.

use std::sync::Arc;
use std::time::Duration;

use super::error::SqlError;

/// The work that the config describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Rows for a table.
    Insert(Insert),
    /// A statement for each message.
    Statement(String),
    /// A query for each message.
    Query(String),
}

/// Rows for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Insert {
    pub(super) table: String,
    pub(super) columns: Vec<String>,
    /// The column of the message's id, with a unique index.
    pub(super) id_column: Option<String>,
}

/// The work of a session: statements, parameters and limits.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) work: Work,
    /// Number of expressions.
    pub(super) params: usize,
    /// Statements that run before the first message.
    pub(super) setup: Vec<String>,
    /// App and service, the owner of the done ids.
    pub(super) owner: String,
    /// Time for which done ids are kept.
    pub(super) remember: Duration,
    /// Maximum time of a statement.
    pub(super) timeout: Duration,
}

/// A row to write: the message's id, and the values as their database takes them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row<V> {
    pub(super) id: Arc<str>,
    pub(super) values: Vec<V>,
}

/// Limits of a query's result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Collects the rows of a result, within limits.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) rows: Vec<String>,
    bytes: usize,
    limits: Limits,
}

impl Collected {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            rows: Vec::new(),
            bytes: 0,
            limits,
        }
    }

    /// Adds a row, as a JSON object.
    ///
    /// # Errors
    /// The result is too large.
    pub(super) fn add(&mut self, row: String) -> Result<(), SqlError> {
        let too_large = |text: String| {
            let text = format!("the result has more than {text}: limit the query");
            Err(SqlError::new(super::error::Class::Data, text))
        };
        self.bytes += row.len();
        if self.rows.len() == self.limits.rows {
            return too_large(format!("rows_max = {} rows", self.limits.rows));
        }
        if self.bytes > self.limits.bytes {
            return too_large(format!("bytes_max = {} bytes", self.limits.bytes));
        }
        self.rows.push(row);
        Ok(())
    }
}

/// Quotes a name for SQL. A dot separates schema and table.
pub(super) fn quoted_path(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(quoted).collect();
    parts.join(".")
}

/// Quotes a name for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Line and column of a byte offset, both from 1.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before: String = text.chars().take(offset).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_beyond_its_limits_is_refused() {
        let limits = Limits { rows: 2, bytes: 10 };
        let add = |rows: &[&str]| {
            let mut collected = Collected::new(limits);
            rows.iter()
                .try_for_each(|row| collected.add((*row).to_owned()))
        };
        assert!(add(&["{}", "{}"]).is_ok());
        assert!(
            add(&["{}", "{}", "{}"])
                .unwrap_err()
                .text
                .contains("rows_max = 2")
        );
        assert!(
            add(&["{\"a\":12345}"])
                .unwrap_err()
                .text
                .contains("bytes_max = 10")
        );
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(
            quoted_path("shop.the \"orders\""),
            "\"shop\".\"the \"\"orders\"\"\""
        );
    }

    #[test]
    fn a_place_is_line_and_column() {
        assert_eq!(line_and_column("a\nbc", 3), (2, 2));
        assert_eq!(line_and_column("äb", 1), (1, 2));
    }
}
