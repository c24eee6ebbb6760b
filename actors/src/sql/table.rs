//! A table that `sql-poll` reads: its parts, and marks between its rows.

use serde::{Deserialize, Serialize};

/// The table and the order in which it is read.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) table: String,
    /// The column whose values grow.
    pub(super) column: String,
    /// The column that orders rows of one value.
    pub(super) key: String,
    /// A further condition in SQL; empty for none.
    pub(super) filter: String,
    /// Maximum rows of a page.
    pub(super) page: usize,
}

impl Source {
    /// The condition, as a part of `WHERE`.
    pub(super) fn and_filter(&self) -> String {
        match self.filter.trim() {
            "" => String::new(),
            // A comment at its end must not hide the rest.
            filter => format!(" AND ({filter}\n)"),
        }
    }
}

/// The place of a row in the order, as texts of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) value: String,
    pub(super) key: String,
}

/// A row.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) mark: Mark,
    /// The row as a JSON object.
    pub(super) json: String,
}

/// Numbers of transactions, as the database has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Horizon {
    /// Transaction number below which every transaction has ended.
    pub(super) ended_below: i64,
    /// No transaction has this number yet, or a higher one.
    pub(super) next: i64,
}
