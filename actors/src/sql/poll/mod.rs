//! `sql-poll`: emits the rows of a table that grows, each once.
//!
//! The position is saved after the transport confirmed the rows before it; after a crash some rows
//! are sent again under the same ids. `window` has the rules of the boundary.

mod config;
mod window;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::{FailureKind, LogThrottle, MessageId, SendHandle};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::error::{Class, SqlError};
use super::postgres::PostgresTable;
use super::sqlite_table::SqliteTable;
use super::table::{Found, Horizon, Mark};
use crate::outage::Backoff;
use crate::ports::OUT;
pub use config::{From as PollFrom, SqlPollConfig};
use window::{Pass, RowId, Saved, Window};

/// Maximum messages in flight.
const IN_FLIGHT: usize = 1000;
/// Rows above the last settled one at which a pass ends, so that it can be settled.
const WINDOW_ROWS: usize = 20_000;
/// Time between two saves of the position within a pass.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Emits the rows of a table that grows.
#[derive(Debug)]
pub struct SqlPoll;

/// A session that reads a table.
enum Table {
    Postgres(Box<PostgresTable>),
    Sqlite(SqliteTable),
}

impl Table {
    fn new(config: &SqlPollConfig) -> Result<Self, Failure> {
        let (source, timeout) = (Arc::new(config.source()), config.statement_timeout.0);
        Ok(match config.place().postgres() {
            Some(settings) => {
                let settings = settings.map_err(Failure::retry)?;
                Self::Postgres(Box::new(PostgresTable::new(settings, source, timeout)))
            }
            None => Self::Sqlite(SqliteTable::new(config.path.0.clone(), source, timeout)),
        })
    }

    fn place(&self) -> String {
        match self {
            Self::Postgres(table) => table.place(),
            Self::Sqlite(table) => table.place(),
        }
    }

    async fn page(&mut self, above: Option<&Mark>) -> Result<Vec<Found>, SqlError> {
        match self {
            Self::Postgres(table) => table.page(above).await,
            Self::Sqlite(table) => table.page(above).await,
        }
    }

    async fn last(&mut self) -> Result<Option<Mark>, SqlError> {
        match self {
            Self::Postgres(table) => table.last().await,
            Self::Sqlite(table) => table.last().await,
        }
    }

    async fn horizon(&mut self) -> Result<Horizon, SqlError> {
        match self {
            Self::Postgres(table) => table.horizon().await,
            // One writer at a time: no transaction is open behind a row that is visible.
            Self::Sqlite(_) => Ok(Horizon::default()),
        }
    }
}

impl Source for SqlPoll {
    const NAME: &'static str = "sql-poll";
    const SUMMARY: &'static str =
        "emits the new and changed rows of a PostgreSQL or SQLite table, by a column that grows";
    const EXAMPLE: &'static str = r#"[services.orders]
use = "sql-poll"
out = "orders"
[services.orders.config]
url = "postgres://shop:${SHOP_PASSWORD}@db.example.com/shop"
table = "orders"
column = "updated_at"
key = "id"
every = "2s"
"#;
    const FAILURES: &'static [&'static str] = &[
        "waits, with a warning in the log, while the database is away",
        "restarts, with back-off, when table, column or filter are wrong, or a column has a type that has no form in JSON",
        "restarts when two rows have the same column and key: the key must be unique",
        "skips a row larger than app.max_message, with an error in the log",
        "emits rows again, with the same ids, after a crash",
    ];
    type Config = SqlPollConfig;

    fn ports(_: &SqlPollConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn check(config: &SqlPollConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    fn in_flight(_: &SqlPollConfig) -> usize {
        IN_FLIGHT
    }

    async fn run(config: &SqlPollConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let mut poll = Poll {
            table: Table::new(config)?,
            config,
            out,
            began: Instant::now(),
            backoff: Backoff::default(),
            log: LogThrottle::default(),
            saved_at: Instant::now(),
        };
        let Some(mut window) = poll.first_window().await? else {
            return Ok(());
        };
        while !out.is_stopping() {
            let more = match poll.pass(&mut window).await {
                Ok(more) => more,
                Err(Ended::Stopping) => return Ok(()),
                Err(Ended::Failed(failure)) => return Err(failure),
                Err(Ended::Sql(error)) => {
                    poll.wait_after(error).await?;
                    continue;
                }
            };
            poll.works();
            if !more && out.or_stop(sleep(config.every.0)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The reason why a pass did not come to its end.
enum Ended {
    Stopping,
    Failed(Failure),
    Sql(SqlError),
}

impl From<SqlError> for Ended {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

/// One run of the source.
struct Poll<'a> {
    table: Table,
    config: &'a SqlPollConfig,
    out: &'a SourceContext,
    began: Instant,
    backoff: Backoff,
    log: LogThrottle,
    saved_at: Instant,
}

impl Poll<'_> {
    /// The window of the saved position; `None` if the source stops before.
    async fn first_window(&mut self) -> Result<Option<Window>, Failure> {
        let saved: Option<Saved> = self.out.position()?;
        loop {
            let opened = match &saved {
                Some(saved) => Ok(saved.clone()),
                None if self.config.from == PollFrom::Start => Ok(Saved::default()),
                None => self.table.last().await.map(Window::above),
            };
            let horizon = match opened {
                Ok(saved) => self.table.horizon().await.map(|horizon| (saved, horizon)),
                Err(error) => Err(error),
            };
            match horizon {
                Ok((first, horizon)) => {
                    if saved.is_none() {
                        self.out.save_position(&first).await?;
                    }
                    let now = self.began.elapsed();
                    return Ok(Some(Window::new(first, self.config.lag.0, now, horizon)));
                }
                Err(error) => self.wait_after(error).await?,
            }
            if self.out.is_stopping() {
                return Ok(None);
            }
        }
    }

    /// Reads the rows above the last settled one and emits the new ones. Returns whether the next
    /// pass should follow at once.
    async fn pass(&mut self, window: &mut Window) -> Result<bool, Ended> {
        let horizon = self.table.horizon().await?;
        let mut pass = window.pass(self.began.elapsed(), horizon);
        let mut above = window.low().cloned();
        let mut seen = HashSet::new();
        let mut rows_read = 0;
        let mut new = 0;
        let is_complete = loop {
            let page = self.table.page(above.as_ref()).await?;
            let is_last = page.len() < self.config.page;
            let horizon = self.table.horizon().await?;
            rows_read += page.len();
            if let Some(row) = page.last() {
                above = Some(row.mark.clone());
            }
            new += self
                .emit(window, &mut pass, &mut seen, page, horizon)
                .await?;
            if is_last || rows_read >= WINDOW_ROWS.max(2 * self.config.page) {
                break is_last;
            }
            if new > 0 && self.saved_at.elapsed() >= SAVE_EVERY {
                self.save(window).await?;
            }
        };
        let before = window.len();
        if window.end(pass, is_complete) || new > 0 {
            self.save(window).await?;
        }
        let is_stuck = !is_complete && new == 0 && window.len() >= before;
        if is_stuck && let Some(suppressed) = self.log.event() {
            let (service, rows) = (self.out.service(), window.len());
            warn!(
                service,
                rows, suppressed, "no further rows are read until older transactions end"
            );
        }
        Ok(!is_complete && !is_stuck)
    }

    /// Emits the rows of a page that are new, and waits for their confirms. Returns their number.
    async fn emit(
        &self,
        window: &mut Window,
        pass: &mut Pass,
        seen: &mut HashSet<RowId>,
        page: Vec<Found>,
        horizon: Horizon,
    ) -> Result<usize, Ended> {
        let now = self.began.elapsed();
        let mut handles: Vec<SendHandle> = Vec::new();
        let mut rows = Vec::new();
        for row in page {
            let id = RowId::of(&row.mark);
            if !seen.insert(id) {
                let text = "two rows have the same column and key: set a unique key";
                return Err(Ended::Failed(Failure::retry(text)));
            }
            if !window.read(pass, &row.mark) {
                continue;
            }
            handles.extend(self.submit(id, row).await?);
            rows.push(id);
        }
        for handle in handles {
            match self.out.or_stop(handle).await {
                Ok(confirmed) => confirmed.map_err(|error| Ended::Failed(error.into()))?,
                Err(_) => return Err(Ended::Stopping),
            }
        }
        let count = rows.len();
        window.emitted(rows, now, horizon);
        Ok(count)
    }

    /// Submits a row; `None` if it can't be a message.
    async fn submit(&self, id: RowId, row: Found) -> Result<Option<SendHandle>, Ended> {
        let id: Result<MessageId, _> = format!("{}.{id}", self.out.service()).parse();
        let id = id.map_err(|error| Ended::Failed(Failure::retry(error)))?;
        let raw = Raw::bytes(self.config.kind.as_str(), row.json);
        match self.out.submit(&OUT, MessageBuilder::new(raw).id(id)).await {
            Ok(handle) => Ok(Some(handle)),
            Err(_) if self.out.is_stopping() => Err(Ended::Stopping),
            Err(failure) if failure.kind() == FailureKind::Reject => {
                let (service, column) = (self.out.service(), &row.mark.value);
                error!(service, column, error = failure.text(), "row skipped");
                Ok(None)
            }
            Err(failure) => Err(Ended::Failed(failure)),
        }
    }

    async fn save(&mut self, window: &Window) -> Result<(), Ended> {
        self.saved_at = Instant::now();
        let saved = self.out.save_position(&window.saved()).await;
        saved.map_err(Ended::Failed)
    }

    /// Waits after an error of the database.
    ///
    /// # Errors
    /// The error is one of the config.
    async fn wait_after(&mut self, error: SqlError) -> Result<(), Failure> {
        let (service, place) = (self.out.service(), self.table.place());
        if matches!(error.class, Class::Data | Class::Other) {
            return Err(Failure::retry(format!("{place}: {}", error.text)));
        }
        let pause = self.backoff.next();
        if let Some(suppressed) = self.log.event() {
            warn!(
                service,
                error = error.text,
                ?pause,
                suppressed,
                "outside system is away"
            );
        }
        // An error means that the source stops, which the caller sees.
        let _stopped = self.out.or_stop(sleep(pause)).await;
        Ok(())
    }

    /// Notes that the database works.
    fn works(&mut self) {
        if self.backoff.reset() {
            info!(service = self.out.service(), "outside system is back");
        }
    }
}
