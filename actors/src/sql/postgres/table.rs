//! A table that is read in the order of a column.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::decode;
use super::encode::Text;
use super::settings::{Connection, Settings, of_postgres};
use crate::sql::error::{Class, SqlError};
use crate::sql::table::{Found, Horizon, Mark, Source};
use crate::sql::work::{quoted, quoted_path};

/// Time for the server to answer after its own limit for a statement.
const GRACE: Duration = Duration::from_secs(5);

/// The numbers of transactions. These functions exist since PostgreSQL 8.3.
const HORIZON: &str = "SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s)
    FROM txid_current_snapshot() AS s";

/// A session that reads a table.
pub(in crate::sql) struct PostgresTable {
    settings: Settings,
    source: Arc<Source>,
    timeout: Duration,
    live: Option<Live>,
}

struct Live {
    connection: Connection,
    /// Types of the column and the key.
    types: [Type; 2],
}

impl PostgresTable {
    pub(in crate::sql) fn new(settings: Settings, source: Arc<Source>, timeout: Duration) -> Self {
        Self {
            settings,
            source,
            timeout: timeout + GRACE,
            live: None,
        }
    }

    pub(in crate::sql) fn place(&self) -> String {
        self.settings.place()
    }

    /// Reads rows above a mark, in order.
    pub(in crate::sql) async fn page(
        &mut self,
        above: Option<&Mark>,
    ) -> Result<Vec<Found>, SqlError> {
        let (sql, values) = {
            let live = self.open().await?;
            let types = live.types.clone();
            page_sql(&self.source, &types, above)
        };
        let rows = self.query(&sql, &values).await?;
        rows.iter().map(found).collect()
    }

    /// The last row, if there is one.
    pub(in crate::sql) async fn last(&mut self) -> Result<Option<Mark>, SqlError> {
        let source = self.source.clone();
        let (column, key) = (quoted(&source.column), quoted(&source.key));
        let sql = format!(
            "SELECT t.{column}::text, t.{key}::text FROM {} AS t WHERE t.{column} IS NOT NULL{} \
             ORDER BY t.{column} DESC, t.{key} DESC LIMIT 1",
            quoted_path(&source.table),
            source.and_filter(),
        );
        let rows = self.query(&sql, &[]).await?;
        let mark = |row: &Row| Mark {
            value: row.get(0),
            key: row.get::<_, Option<String>>(1).unwrap_or_default(),
        };
        Ok(rows.first().map(mark))
    }

    /// The numbers of transactions now.
    pub(in crate::sql) async fn horizon(&mut self) -> Result<Horizon, SqlError> {
        let rows = self.query(HORIZON, &[]).await?;
        let row = rows.first().ok_or_else(|| SqlError::away("no answer"))?;
        Ok(Horizon {
            ended_below: row.get(0),
            next: row.get(1),
        })
    }

    async fn query(&mut self, sql: &str, values: &[Text]) -> Result<Vec<Row>, SqlError> {
        let limit = self.timeout;
        self.open().await?;
        let Some(live) = self.live.take() else {
            return Err(SqlError::away("there is no connection"));
        };
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|it| it as _).collect();
        let rows = timeout(limit, live.connection.client.query(sql, &values)).await;
        let rows = match rows {
            Ok(rows) => rows.map_err(of_postgres),
            Err(_) => Err(SqlError::without_answer(limit)),
        };
        if !matches!(&rows, Err(error) if error.class == Class::Away) {
            self.live = Some(live);
        }
        rows
    }

    async fn open(&mut self) -> Result<&Live, SqlError> {
        let is_open = |live: &Live| !live.connection.client.is_closed();
        if !self.live.as_ref().is_some_and(is_open) {
            self.live = None;
            let connection = self.settings.connect().await?;
            let source = &self.source;
            let sql = format!(
                "SELECT t.{}, t.{}, t.* FROM {} AS t WHERE true{}",
                quoted(&source.column),
                quoted(&source.key),
                quoted_path(&source.table),
                source.and_filter(),
            );
            let statement = connection.client.prepare(&sql).await.map_err(of_postgres)?;
            let wrong = |text: String| SqlError::new(Class::Other, text);
            let columns = statement.columns();
            decode::check(&columns[2..]).map_err(wrong)?;
            let types = [columns[0].type_().clone(), columns[1].type_().clone()];
            self.live = Some(Live { connection, types });
        }
        self.live
            .as_ref()
            .ok_or_else(|| SqlError::away("there is no connection"))
    }
}

/// A page of rows above a mark, and the parameters. The last two columns are the mark of a row.
fn page_sql(source: &Source, types: &[Type; 2], above: Option<&Mark>) -> (String, Vec<Text>) {
    let (column, key) = (quoted(&source.column), quoted(&source.key));
    let name = |ty: &Type| format!("{}.{}", quoted(ty.schema()), quoted(ty.name()));
    let condition = match above {
        None => format!("t.{column} IS NOT NULL"),
        Some(_) if source.key == source.column => format!("t.{column} > $1::{}", name(&types[0])),
        Some(_) => format!(
            "(t.{column}, t.{key}) > ($1::{}, $2::{})",
            name(&types[0]),
            name(&types[1])
        ),
    };
    let sql = format!(
        "SELECT t.*, t.{column}::text, t.{key}::text FROM {} AS t WHERE {condition}{} \
         ORDER BY t.{column}, t.{key} LIMIT {}",
        quoted_path(&source.table),
        source.and_filter(),
        source.page,
    );
    let mut values: Vec<Text> = Vec::new();
    if let Some(mark) = above {
        values.push(Text(Some(mark.value.clone())));
        if source.key != source.column {
            values.push(Text(Some(mark.key.clone())));
        }
    }
    (sql, values)
}

fn found(row: &Row) -> Result<Found, SqlError> {
    let columns = row.columns().len() - 2;
    let json = decode::object_of(row, columns);
    Ok(Found {
        json: json.map_err(|text| SqlError::new(Class::Data, text))?,
        mark: Mark {
            value: row.get(columns),
            key: row
                .get::<_, Option<String>>(columns + 1)
                .unwrap_or_default(),
        },
    })
}
