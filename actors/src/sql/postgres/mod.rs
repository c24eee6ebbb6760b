//! PostgreSQL: a session that connects when it is needed.

mod decode;
mod encode;
mod settings;
mod statements;
mod table;
mod tls;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient};
use tracing::warn;

use self::encode::{Text, array, encode};
pub(super) use self::settings::Settings;
use self::settings::{Connection, of_postgres};
use self::statements::{DELETE_OLD, Statements, Write};
pub(super) use self::table::PostgresTable;
use super::database::Database;
use super::error::{Class, SqlError};
use super::work::{Collected, Limits, Plan, Row};

/// Time for the server to answer after its own limit for a statement.
const GRACE: Duration = Duration::from_secs(5);
/// Done ids between two deletions of old ones; each deletes up to twice as many.
const CLEAN_EVERY: usize = 10_000;
/// Time between two deletions of old done ids.
const CLEAN_INTERVAL: Duration = Duration::from_secs(600);

/// A session with a PostgreSQL.
pub(super) struct Postgres {
    settings: Settings,
    plan: Arc<Plan>,
    live: Option<Live>,
    done: usize,
    cleaned: Instant,
}

/// An open connection with its prepared statements.
struct Live {
    connection: Connection,
    statements: Statements,
}

impl Postgres {
    pub(super) fn new(settings: Settings, plan: Arc<Plan>) -> Self {
        Self {
            settings,
            plan,
            live: None,
            done: 0,
            cleaned: Instant::now(),
        }
    }

    fn limit(&self) -> Duration {
        self.plan.timeout + GRACE
    }

    /// Runs some work on the connection. A broken connection is dropped.
    async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Live, &Plan) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.open().await?;
        let limit = self.limit();
        let Some(mut live) = self.live.take() else {
            return Err(SqlError::away("there is no connection"));
        };
        // A handler that is cancelled here takes the connection with it, and its transaction.
        let result = match timeout(limit, work(&mut live, &self.plan)).await {
            Ok(result) => result,
            Err(_) => Err(SqlError::without_answer(limit)),
        };
        let is_broken = matches!(&result, Err(error) if error.class == Class::Away);
        if !is_broken && !live.connection.client.is_closed() {
            self.live = Some(live);
        }
        result
    }

    /// Deletes old done ids, now and then.
    async fn clean(&mut self, written: usize) {
        self.done += written;
        if self.done < CLEAN_EVERY && self.cleaned.elapsed() < CLEAN_INTERVAL {
            return;
        }
        self.done = 0;
        self.cleaned = Instant::now();
        let deleted = self.within(async |live, plan| {
            let Statements::Write(Write { claim: Some(_), .. }) = &live.statements else {
                return Ok(0);
            };
            let age = plan.remember.as_secs_f64();
            let client = &live.connection.client;
            client
                .execute(DELETE_OLD, &[&plan.owner, &age])
                .await
                .map_err(of_postgres)
        });
        if let Err(error) = deleted.await {
            warn!(error = error.text, "old ids in brickwork_done not deleted");
        }
    }
}

impl Database for Postgres {
    type Value = Text;

    fn place(&self) -> String {
        self.settings.place()
    }

    async fn open(&mut self) -> Result<(), SqlError> {
        if self
            .live
            .as_ref()
            .is_some_and(|live| !live.connection.client.is_closed())
        {
            return Ok(());
        }
        self.live = None;
        let connection = self.settings.connect().await?;
        let limit = self.limit();
        let statements = Statements::prepare(&connection.client, &self.plan);
        let statements = timeout(limit, statements).await;
        let statements = statements.unwrap_or_else(|_| Err(SqlError::without_answer(limit)))?;
        self.live = Some(Live {
            connection,
            statements,
        });
        Ok(())
    }

    fn encode(&self, index: usize, json: &str) -> Result<Text, String> {
        let types = self.live.as_ref().map(|live| live.statements.types());
        match types.and_then(|types| types.get(index)) {
            Some(ty) => encode(json, ty),
            None => Err("the database is away".to_owned()),
        }
    }

    async fn write(&mut self, rows: &[Row<Text>]) -> Result<(), SqlError> {
        self.within(async |live, plan| {
            let client = &mut live.connection.client;
            match &live.statements {
                Statements::Write(write) => write_rows(client, write, plan, rows).await,
                Statements::Query(_) => Err(SqlError::new(Class::Other, "this is a query")),
            }
        })
        .await?;
        self.clean(rows.len()).await;
        Ok(())
    }

    async fn query(&mut self, values: &[Text], limits: Limits) -> Result<Vec<String>, SqlError> {
        self.within(async |live, _| {
            let Statements::Query(statement) = &live.statements else {
                return Err(SqlError::new(Class::Other, "this is no query"));
            };
            let client = &live.connection.client;
            let rows = client
                .query_raw(statement, values)
                .await
                .map_err(of_postgres)?;
            let mut rows = std::pin::pin!(rows);
            let mut collected = Collected::new(limits);
            while let Some(row) = rows.next().await {
                let row = decode::object(&row.map_err(of_postgres)?);
                collected.add(row.map_err(|text| SqlError::new(Class::Data, text))?)?;
            }
            Ok(collected.rows)
        })
        .await
    }
}

/// Writes rows in one transaction, but for those whose ids are done.
async fn write_rows(
    client: &mut Client,
    write: &Write,
    plan: &Plan,
    rows: &[Row<Text>],
) -> Result<(), SqlError> {
    let Some(claim) = &write.claim else {
        // One statement, in a transaction of its own.
        return send(client, write, &rows.iter().collect::<Vec<_>>()).await;
    };
    let transaction = client.transaction().await.map_err(of_postgres)?;
    let ids = Text(Some(plan.owner.clone()));
    let all: Vec<Text> = rows
        .iter()
        .map(|row| Text(Some(row.id.to_string())))
        .collect();
    let all = array(all.iter());
    let claimed = transaction
        .query(claim, &[&ids, &all])
        .await
        .map_err(of_postgres)?;
    let mut claimed: HashSet<&str> = claimed.iter().map(|row| row.get(0)).collect();
    let new: Vec<&Row<Text>> = rows.iter().filter(|row| claimed.remove(&*row.id)).collect();
    send(&transaction, write, &new)
        .await
        .map_err(|error| of_all(error, rows, &new))?;
    transaction.commit().await.map_err(of_postgres)
}

/// The index of a row among all rows, not among the new ones.
fn of_all(error: SqlError, all: &[Row<Text>], new: &[&Row<Text>]) -> SqlError {
    let refused = error.row.and_then(|row| new.get(row)).copied();
    let row = refused.and_then(|refused| all.iter().position(|row| std::ptr::eq(row, refused)));
    SqlError { row, ..error }
}

async fn send(
    client: &impl GenericClient,
    write: &Write,
    rows: &[&Row<Text>],
) -> Result<(), SqlError> {
    if rows.is_empty() {
        return Ok(());
    }
    if write.takes_arrays {
        let columns =
            (0..write.types.len()).map(|column| array(rows.iter().map(|row| &row.values[column])));
        let columns: Vec<Text> = columns.collect();
        let columns: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|it| it as _).collect();
        client
            .execute(&write.statement, &columns)
            .await
            .map_err(of_postgres)?;
        return Ok(());
    }
    // All statements are sent before the first answer is awaited.
    let sent = rows
        .iter()
        .map(|row| client.execute_raw(&write.statement, &row.values));
    for (index, outcome) in join_all(sent).await.into_iter().enumerate() {
        outcome.map_err(|error| of_postgres(error).of_row(index))?;
    }
    Ok(())
}
