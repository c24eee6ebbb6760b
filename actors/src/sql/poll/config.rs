//! Config of `sql-poll`.

use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{HumanDuration, ManifestPath, Secret};
use brickwork::prelude::*;
use serde::Deserialize;

use crate::sql::config::{Place, check_place};
use crate::sql::table::Source as TableSource;

/// Maximum of `page`.
const PAGE_MAX: usize = 10_000;

/// Config of `sql-poll`: a database, a table, and the column whose values grow.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SqlPollConfig {
    /// URL of a PostgreSQL, as of `sql`.
    pub url: Option<Secret>,
    /// File of an SQLite database, relative to the manifest, instead of `url`.
    pub path: ManifestPath,
    /// File with the certificates (PEM) of the authorities that are trusted; by default those of
    /// the system.
    pub ca: ManifestPath,
    /// Table or view to read. A dot separates schema and table.
    pub table: String,
    /// Column whose values grow with each new or changed row: a number from a sequence, or the
    /// time of the last change. Rows in which it is null are not read. It should have an index.
    pub column: String,
    /// Unique column that orders rows whose `column` is equal; by default `column` itself, which
    /// must then be unique.
    pub key: Option<String>,
    /// Further condition on rows, in SQL, such as `status = 'paid'`.
    pub filter: String,
    /// First row that is read when no position is saved.
    pub from: From,
    /// Time between two looks at the table. While there are more rows, the next follow at once.
    pub every: HumanDuration,
    /// Maximum rows that are read at once.
    pub page: usize,
    /// Time for which rows below the last one may still appear. On PostgreSQL the transactions
    /// that are open are waited for besides, however long they take; a longer lag is needed only
    /// if clients set the times in `column`, or sequences cache numbers.
    pub lag: HumanDuration,
    /// Message type of the emitted messages.
    #[serde(rename = "type")]
    pub kind: String,
    /// Maximum time to connect.
    pub connect_timeout: HumanDuration,
    /// Maximum time of a statement.
    pub statement_timeout: HumanDuration,
}

/// The first row that is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// All rows of the table.
    #[default]
    Start,
    /// Only rows after the last one at the first start.
    End,
}

impl Default for SqlPollConfig {
    fn default() -> Self {
        const fn seconds(seconds: u64) -> HumanDuration {
            HumanDuration(Duration::from_secs(seconds))
        }
        Self {
            url: None,
            path: ManifestPath::default(),
            ca: ManifestPath::default(),
            table: String::new(),
            column: String::new(),
            key: None,
            filter: String::new(),
            from: From::default(),
            every: seconds(5),
            page: 500,
            lag: seconds(1),
            kind: "row".to_owned(),
            connect_timeout: seconds(5),
            statement_timeout: seconds(10),
        }
    }
}

impl SqlPollConfig {
    pub(super) fn place(&self) -> Place<'_> {
        Place {
            url: self.url.as_ref(),
            path: &self.path,
            ca: &self.ca,
            connect_timeout: self.connect_timeout,
            statement_timeout: self.statement_timeout,
        }
    }

    pub(super) fn source(&self) -> TableSource {
        TableSource {
            table: self.table.clone(),
            column: self.column.clone(),
            key: self.key.clone().unwrap_or_else(|| self.column.clone()),
            filter: self.filter.clone(),
            page: self.page,
        }
    }

    /// Validates the config.
    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: &str| errors.push(ConfigError::new(path, text));
        check_place(self.place(), &mut wrong);
        for (path, name) in [("table", &self.table), ("column", &self.column)] {
            if name.is_empty() {
                wrong(path, "it is empty: set a name");
            }
        }
        if self.every.0.is_zero() {
            wrong("every", "it is zero: set a time, such as 5s");
        }
        if !(1..=PAGE_MAX).contains(&self.page) {
            wrong("page", &format!("it is from 1 to {PAGE_MAX}"));
        }
        crate::config_errors::result(errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let config: SqlPollConfig =
            serde_json::from_value(json!({"every": "0s", "page": 0})).unwrap();
        let errors = config.check().unwrap_err();
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["url", "table", "column", "every", "page"]);
        let config = json!({"path": "a.sqlite", "table": "t", "column": "n"});
        let config: SqlPollConfig = serde_json::from_value(config).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.source().key, "n");
    }
}
