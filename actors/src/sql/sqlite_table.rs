//! A table of SQLite that is read in the order of a column.
//!
//! SQLite has one writer at a time, so that rows become visible in the order of their numbers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use brickwork::sqlite::rusqlite::types::{Value, ValueRef};

use super::error::SqlError;
use super::sqlite::{Connecting, json, of_sqlite};
use super::table::{Found, Mark, Source};
use super::work::{quoted, quoted_path};

/// A session that reads a table.
pub(super) struct SqliteTable {
    path: PathBuf,
    source: Arc<Source>,
    timeout: Duration,
}

impl SqliteTable {
    pub(super) fn new(path: PathBuf, source: Arc<Source>, timeout: Duration) -> Self {
        Self {
            path,
            source,
            timeout,
        }
    }

    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// Reads rows above a mark, in order.
    pub(super) async fn page(&self, above: Option<&Mark>) -> Result<Vec<Found>, SqlError> {
        let source = &self.source;
        let (column, key) = (quoted(&source.column), quoted(&source.key));
        let condition = match above {
            None => format!("t.{column} IS NOT NULL"),
            Some(_) if source.key == source.column => format!("t.{column} > ?1"),
            Some(_) => format!("(t.{column}, t.{key}) > (?1, ?2)"),
        };
        let sql = format!(
            "SELECT t.{column}, t.{key}, t.* FROM {} AS t WHERE {condition}{} \
             ORDER BY t.{column}, t.{key} LIMIT {}",
            quoted_path(&source.table),
            source.and_filter(),
            source.page,
        );
        let values = above.map(|mark| (value(&mark.value), value(&mark.key)));
        let values: Vec<Value> = match values {
            None => Vec::new(),
            Some((first, _)) if source.key == source.column => vec![first],
            Some((first, second)) => vec![first, second],
        };
        self.rows(sql, values).await
    }

    /// The last row, if there is one.
    pub(super) async fn last(&self) -> Result<Option<Mark>, SqlError> {
        let source = &self.source;
        let (column, key) = (quoted(&source.column), quoted(&source.key));
        let sql = format!(
            "SELECT t.{column}, t.{key} FROM {} AS t WHERE t.{column} IS NOT NULL{} \
             ORDER BY t.{column} DESC, t.{key} DESC LIMIT 1",
            quoted_path(&source.table),
            source.and_filter(),
        );
        Ok(self.rows(sql, Vec::new()).await?.pop().map(|row| row.mark))
    }

    /// Runs a query whose first two columns are the mark of a row.
    async fn rows(&self, sql: String, values: Vec<Value>) -> Result<Vec<Found>, SqlError> {
        let connecting = Connecting {
            path: self.path.clone(),
            must_exist: true,
            timeout: self.timeout,
        };
        let read = tokio::task::spawn_blocking(move || {
            let connection = connecting.connect()?;
            let mut statement = connection.prepare(&sql).map_err(of_sqlite)?;
            let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let params = brickwork::sqlite::rusqlite::params_from_iter(values);
            let mut rows = statement.query(params).map_err(of_sqlite)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next().map_err(of_sqlite)? {
                let cell = |nth: usize| json(row.get_ref(nth).map_err(of_sqlite)?);
                let mut object = serde_json::Map::new();
                for (nth, name) in names.iter().enumerate().skip(2) {
                    object.insert(name.clone(), cell(nth)?);
                }
                found.push(Found {
                    mark: Mark {
                        value: text(row.get_ref(0).map_err(of_sqlite)?)?,
                        key: text(row.get_ref(1).map_err(of_sqlite)?)?,
                    },
                    json: serde_json::Value::Object(object).to_string(),
                });
            }
            Ok(found)
        });
        read.await
            .map_err(|error| SqlError::away(error.to_string()))?
    }
}

/// A value as a text that keeps its type.
fn text(cell: ValueRef<'_>) -> Result<String, SqlError> {
    Ok(json(cell)?.to_string())
}

/// The value of such a text.
fn value(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::String(text)) => Value::Text(text),
        Ok(serde_json::Value::Number(number)) => match number.as_i64() {
            Some(whole) => Value::Integer(whole),
            None => Value::Real(number.as_f64().unwrap_or_default()),
        },
        _ => Value::Null,
    }
}
