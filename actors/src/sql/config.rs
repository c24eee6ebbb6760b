//! Config of `sql`.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{ByteSize, HumanDuration, ManifestPath, Secret};
use brickwork::prelude::*;
use serde::Deserialize;

use super::postgres::Settings;
use super::work::{Insert, Limits, Plan, Work};
use crate::expression::Expression;

/// Maximum of `batch`.
const BATCH_MAX: usize = 10_000;
/// Maximum of `rows_max`.
const ROWS_MAX: usize = 1_000_000;
/// Maximum of `bytes_max`: 1 GiB.
const BYTES_MAX: u64 = 1 << 30;
/// Minimum of `remember`.
const REMEMBER_MIN: Duration = Duration::from_secs(60);

/// Config of `sql`: a database, and rows to write or a query.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SqlConfig {
    /// URL of a PostgreSQL: `postgres://USER:PASSWORD@HOST:5432/DATABASE`. Connections that leave
    /// the machine use TLS, and certificate and name of the server are verified;
    /// `?sslmode=disable` switches TLS off, `?sslmode=verify-full` switches it on for loopback.
    /// `require` and `verify-ca` mean the same as `verify-full`.
    pub url: Option<Secret>,
    /// File of an SQLite database, relative to the manifest, instead of `url`. A missing file is
    /// created.
    pub path: ManifestPath,
    /// File with the certificates (PEM) of the authorities that are trusted; by default those of
    /// the system.
    pub ca: ManifestPath,
    /// Whether messages are written to the database, or a query is made for each.
    pub mode: Mode,
    /// Table that the messages are written to, one row each, in batches. A dot separates schema
    /// and table.
    pub table: String,
    /// Columns of `table`, each with the expression over `msg` and `meta` for its value.
    pub columns: BTreeMap<String, Expression>,
    /// Column of `table` that gets the message's id. It must have a unique index. A row whose id
    /// is there is not written again. Without it, the ids of written messages are kept in the
    /// table `brickwork_done`, which is created.
    pub id_column: Option<String>,
    /// A statement for each message instead of `table`, or the query. Its parameters are `$1`,
    /// `$2`, ….
    pub statement: String,
    /// Expressions over `msg` and `meta` for the parameters of `statement`.
    pub params: Vec<Expression>,
    /// Statements that run before the first message, each time a connection is made, such as
    /// `CREATE TABLE IF NOT EXISTS …`.
    pub setup: Vec<String>,
    /// Maximum number of messages that are written in one transaction.
    pub batch: usize,
    /// How long the ids in `brickwork_done` are kept.
    pub remember: HumanDuration,
    /// Form of a query's result.
    pub rows: Rows,
    /// Field of the message that gets the result of the query; the other fields stay. By default
    /// the result is the payload.
    pub into: Option<String>,
    /// Maximum rows of a query's result; a larger one dead-letters the message.
    pub rows_max: usize,
    /// Maximum size of a query's result as JSON; a larger one dead-letters the message.
    pub bytes_max: ByteSize,
    /// Maximum time to connect.
    pub connect_timeout: HumanDuration,
    /// Maximum time of a statement.
    pub statement_timeout: HumanDuration,
}

/// The work of the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Messages are written, each once. A message is emitted on `out` after its commit.
    #[default]
    Write,
    /// A query is made for each message, and its result is emitted on `out`.
    Query,
}

/// The form of a query's result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// One message with the list of all rows.
    #[default]
    All,
    /// One message with the only row. Without a row, the message goes to the output `none`.
    One,
    /// A message for each row.
    Each,
}

impl Default for SqlConfig {
    fn default() -> Self {
        const fn seconds(seconds: u64) -> HumanDuration {
            HumanDuration(Duration::from_secs(seconds))
        }
        Self {
            url: None,
            path: ManifestPath::default(),
            ca: ManifestPath::default(),
            mode: Mode::default(),
            table: String::new(),
            columns: BTreeMap::new(),
            id_column: None,
            statement: String::new(),
            params: Vec::new(),
            setup: Vec::new(),
            batch: 500,
            remember: seconds(7 * 86_400),
            rows: Rows::default(),
            into: None,
            rows_max: 1000,
            bytes_max: ByteSize(8 << 20),
            connect_timeout: seconds(5),
            statement_timeout: seconds(10),
        }
    }
}

impl SqlConfig {
    /// Limits of a query's result.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            rows: self.rows_max,
            bytes: usize::try_from(self.bytes_max.0).unwrap_or(usize::MAX),
        }
    }

    /// The expressions of a row or a statement, in order. The id column comes first.
    pub(super) fn expressions(&self) -> Vec<Expression> {
        if self.table.is_empty() {
            return self.params.clone();
        }
        let id = self
            .id_column
            .as_ref()
            .map(|_| Expression::compile("meta.id").expect("a name is an expression"));
        id.into_iter()
            .chain(self.columns.values().cloned())
            .collect()
    }

    /// The work, for a service of an app.
    pub(super) fn plan(&self, app: &str, service: &str) -> Plan {
        let work = match self.mode {
            Mode::Query => Work::Query(self.statement.clone()),
            Mode::Write if self.table.is_empty() => Work::Statement(self.statement.clone()),
            Mode::Write => Work::Insert(Insert {
                table: self.table.clone(),
                columns: self
                    .id_column
                    .iter()
                    .chain(self.columns.keys())
                    .cloned()
                    .collect(),
                id_column: self.id_column.clone(),
            }),
        };
        Plan {
            work,
            params: self.expressions().len(),
            setup: self.setup.clone(),
            owner: format!("{app}.{service}"),
            remember: self.remember.0,
            timeout: self.statement_timeout.0,
        }
    }

    /// Validates the config.
    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: &str| errors.push(ConfigError::new(path, text));
        check_place(
            Place {
                url: self.url.as_ref(),
                path: &self.path,
                ca: &self.ca,
                connect_timeout: self.connect_timeout,
                statement_timeout: self.statement_timeout,
            },
            &mut wrong,
        );
        let is_query = self.mode == Mode::Query;
        match (self.table.is_empty(), self.statement.trim().is_empty()) {
            (true, true) if is_query => wrong("statement", "it is empty: set a query"),
            (true, true) => wrong("", "it writes nothing: set table and columns, or statement"),
            (false, false) => wrong("", "table and statement exclude each other: leave one out"),
            (false, _) if is_query => wrong("table", "a query is set in statement"),
            (false, true) if self.columns.is_empty() => {
                wrong("columns", "it is empty: set the columns of the table");
            }
            _ => {}
        }
        if self.table.is_empty() && !self.columns.is_empty() {
            wrong("columns", "they belong to table");
        }
        if !self.table.is_empty() && !self.params.is_empty() {
            wrong("params", "they belong to statement; a table has columns");
        }
        match &self.id_column {
            Some(_) if self.table.is_empty() => wrong("id_column", "it belongs to table"),
            Some(id) if self.columns.contains_key(id) => {
                wrong(
                    "id_column",
                    "it gets the message's id: leave it out of columns",
                );
            }
            _ => {}
        }
        if !is_query && self.into.is_some() {
            wrong("into", "it has no effect without mode = \"query\"");
        }
        if self.into.is_some() && self.rows == Rows::Each {
            wrong("into", "it takes one result: set rows to all or one");
        }
        for (path, number, max) in [
            ("batch", self.batch, BATCH_MAX),
            ("rows_max", self.rows_max, ROWS_MAX),
        ] {
            if !(1..=max).contains(&number) {
                wrong(path, &format!("it is from 1 to {max}"));
            }
        }
        if !(1..=BYTES_MAX).contains(&self.bytes_max.0) {
            wrong("bytes_max", "it is from 1B to 1GiB");
        }
        if self.remember.0 < REMEMBER_MIN {
            wrong(
                "remember",
                "it is at least 1m: a message may come again after a crash",
            );
        }
        crate::config_errors::result(errors)
    }
}

/// The keys that name a database.
pub(super) struct Place<'a> {
    pub(super) url: Option<&'a Secret>,
    pub(super) path: &'a ManifestPath,
    pub(super) ca: &'a ManifestPath,
    pub(super) connect_timeout: HumanDuration,
    pub(super) statement_timeout: HumanDuration,
}

impl Place<'_> {
    /// The settings of the PostgreSQL that the URL names, if there is a URL.
    pub(super) fn postgres(&self) -> Option<Result<Settings, String>> {
        let url = self.url?.reveal();
        let ca = (!self.ca.as_os_str().is_empty()).then(|| self.ca.0.clone());
        Some(Settings::new(
            url,
            ca,
            self.connect_timeout.0,
            self.statement_timeout.0,
        ))
    }
}

/// Checks the keys that name a database.
pub(super) fn check_place(place: Place<'_>, wrong: &mut impl FnMut(&str, &str)) {
    let has_path = !place.path.as_os_str().is_empty();
    match (place.url, has_path) {
        (None, false) => wrong("url", "it names no database: set url, or path for SQLite"),
        (Some(_), true) => wrong("path", "url and path exclude each other: leave one out"),
        _ => {}
    }
    if let Some(Err(text)) = place.postgres() {
        wrong("url", &text);
    }
    if place.url.is_none() && !place.ca.as_os_str().is_empty() {
        wrong("ca", "it belongs to url");
    }
    for (path, time) in [
        ("connect_timeout", place.connect_timeout),
        ("statement_timeout", place.statement_timeout),
    ] {
        if time.0.is_zero() {
            wrong(path, "it is zero: set a time, such as 10s");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(config: serde_json::Value) -> Vec<String> {
        let config: SqlConfig = serde_json::from_value(config).unwrap();
        let errors = config.check().err().unwrap_or_default();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        for (config, expected) in [
            (json!({}), vec!["url", ""]),
            (
                json!({"path": "a", "url": "postgres://h/d", "table": "t", "columns": {"a": "1"}}),
                vec!["path"],
            ),
            (json!({"url": "mysql://h/d", "statement": "x"}), vec!["url"]),
            (
                json!({"path": "a", "ca": "b", "statement": "x"}),
                vec!["ca"],
            ),
            (json!({"path": "a", "table": "t"}), vec!["columns"]),
            (
                json!({"path": "a", "table": "t", "columns": {"a": "1"}, "statement": "x"}),
                vec![""],
            ),
            (
                json!({"path": "a", "table": "t", "columns": {"a": "1"}, "id_column": "a"}),
                vec!["id_column"],
            ),
            (
                json!({"path": "a", "table": "t", "columns": {"a": "1"}, "params": ["1"]}),
                vec!["params"],
            ),
            (
                json!({"path": "a", "statement": "x", "columns": {"a": "1"}, "id_column": "b"}),
                vec!["columns", "id_column"],
            ),
            (json!({"path": "a", "mode": "query"}), vec!["statement"]),
            (
                json!({"path": "a", "mode": "query", "table": "t", "columns": {"a": "1"}}),
                vec!["table"],
            ),
            (
                json!({"path": "a", "statement": "x", "into": "a"}),
                vec!["into"],
            ),
            (
                json!({"path": "a", "mode": "query", "statement": "x", "into": "a", "rows": "each"}),
                vec!["into"],
            ),
            (
                json!({"path": "a", "statement": "x", "batch": 0, "rows_max": 0, "bytes_max": "0B", "remember": "1s", "statement_timeout": "0s"}),
                vec![
                    "statement_timeout",
                    "batch",
                    "rows_max",
                    "bytes_max",
                    "remember",
                ],
            ),
        ] {
            assert_eq!(wrong(config.clone()), expected, "{config}");
        }
        assert!(wrong(json!({"path": "a", "statement": "x"})).is_empty());
    }
}
