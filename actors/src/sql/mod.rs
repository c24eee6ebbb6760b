//! `sql` and `sql-poll`: PostgreSQL and SQLite.
//!
//! Writing keeps one promise: a message's row or statement is committed once, whatever crashes. The
//! transaction that writes also records the message's id, in a column of the table or in
//! `brickwork_done`; a message that comes again finds its id and is acked.
//!
//! | module | content |
//! | --- | --- |
//! | `config`, `work` | the config, and the work that it describes |
//! | `database` | the contract of a database |
//! | `postgres`, `sqlite` | the databases |
//! | `json_value` | values of expressions |
//! | `poll`, `table`, `sqlite_table` | `sql-poll`: a table that grows |
//! | `batch` | one transaction a batch, and a refused row that fails alone |
//! | `error` | the part that is at fault |

mod batch;
mod config;
mod database;
mod error;
mod json_value;
mod poll;
mod postgres;
mod sqlite;
mod sqlite_table;
mod table;
mod work;

use std::sync::Arc;
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::{Batch, Message};
use serde_json::value::RawValue;
use tracing::warn;

use crate::expression::{Expression, Reads, Scope};
use crate::outage::Outage;
use crate::ports::{OUT, batch_message, current_message};
use batch::write_all;
use config::Place;
pub use config::{Mode, Rows, SqlConfig};
use database::Database;
use error::{Class, SqlError};
pub use poll::{PollFrom, SqlPoll, SqlPollConfig};
use postgres::Postgres;
use sqlite::Sqlite;
use work::{Limits, Plan, Row};

/// Messages to write.
const WRITES: Input<Raw> = Input::new("in");
/// Messages with the parameters of a query. A caller that asked gets the result.
const QUERIES: Input<Raw, Raw> = Input::new("in");
/// Output of messages for which the query has no row.
const NONE: Output<Raw> = Output::new("none");

/// Writes messages to a database, or makes a query for each.
pub struct Sql {
    session: Session,
    expressions: Expressions,
    outage: Outage,
    rows: Rows,
    into: Option<String>,
    limits: Limits,
}

/// A session with one of the databases.
enum Session {
    Postgres(Box<Postgres>),
    Sqlite(Box<Sqlite>),
}

impl Session {
    fn new(place: &Place<'_>, plan: Plan) -> Result<Self, Failure> {
        let plan = Arc::new(plan);
        match place.postgres() {
            Some(settings) => {
                let settings = settings.map_err(Failure::retry)?;
                Ok(Self::Postgres(Box::new(Postgres::new(settings, plan))))
            }
            None => {
                let path = place.path.0.clone();
                Ok(Self::Sqlite(Box::new(Sqlite::new(path, plan))))
            }
        }
    }

    async fn open(&mut self) -> Result<(), SqlError> {
        match self {
            Self::Postgres(database) => database.open().await,
            Self::Sqlite(database) => database.open().await,
        }
    }

    fn place(&self) -> String {
        match self {
            Self::Postgres(database) => database.place(),
            Self::Sqlite(database) => database.place(),
        }
    }
}

/// The expressions of a row or a statement.
struct Expressions {
    all: Vec<Expression>,
    reads: Arc<Reads>,
}

impl Expressions {
    fn new(all: Vec<Expression>) -> Self {
        let reads = Expression::reads(&all);
        Self { all, reads }
    }

    /// The values for a message, as the database takes them.
    fn values<D: Database>(
        &self,
        database: &D,
        message: &Message,
        attempt: u32,
    ) -> Result<Vec<D::Value>, Failure> {
        let mut scope = Scope::new(message, attempt).planned(&self.reads);
        let expressions = self.all.iter().enumerate();
        expressions
            .map(|(index, expression)| {
                let json = expression.json(&mut scope)?;
                database
                    .encode(index, &json)
                    .map_err(|text| Failure::reject(format!("the value of {expression:?}: {text}")))
            })
            .collect()
    }
}

impl Service for Sql {
    const NAME: &'static str = "sql";
    const SUMMARY: &'static str =
        "writes messages to PostgreSQL or SQLite, each once, or makes a query for each";
    const EXAMPLE: &'static str = r#"[services.keep]
use = "sql"
in = "orders"
[services.keep.config]
url = "postgres://shop:${SHOP_PASSWORD}@db.example.com/shop"
table = "orders"
id_column = "message_id"
columns.customer = "msg.customer"
columns.cents = "msg.cents"

[services.lookup]
use = "sql"
in = "orders"
out = "orders.known"
[services.lookup.config]
url = "postgres://shop:${SHOP_PASSWORD}@db.example.com/shop"
mode = "query"
statement = "SELECT name, email FROM customers WHERE id = $1"
params = ["msg.customer"]
rows = "one"
into = "customer"
"#;
    const FAILURES: &'static [&'static str] = &[
        "dead-letters a message that the database refuses (constraint, type, range), with its text and SQLSTATE; the other messages of the batch are written",
        "dead-letters a message without a field that an expression needs and has() doesn't guard",
        "dead-letters a message whose query has more rows or bytes than rows_max and bytes_max, or no row with rows = \"one\" and no output none",
        "pauses while the database is away or a statement can't be prepared; messages wait in their queue and lose no attempt",
        "retries a statement that takes longer than statement_timeout, and one that the database refuses for another reason",
        "doesn't start when a statement is wrong, and names line and column",
        "makes a query again after a crash or a retry: statements that change data belong to mode = \"write\"",
    ];
    type Config = SqlConfig;

    fn ports(config: &SqlConfig, ports: &mut Ports<Self>) {
        match config.mode {
            Mode::Write => {
                let batch = Batch {
                    max: config.batch,
                    within: Duration::ZERO,
                };
                ports.batch(&WRITES, batch).optional_output(&OUT);
            }
            Mode::Query => {
                ports.input(&QUERIES).output(&OUT);
                if config.rows == Rows::One {
                    ports.optional_output(&NONE);
                }
            }
        }
    }

    fn check(config: &SqlConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    async fn start(config: &SqlConfig, cx: &mut Context) -> Result<Self, Failure> {
        let place = Place {
            url: config.url.as_ref(),
            path: &config.path,
            ca: &config.ca,
            connect_timeout: config.connect_timeout,
            statement_timeout: config.statement_timeout,
        };
        let plan = config.plan(cx.app(), cx.service());
        let mut session = Session::new(&place, plan)?;
        let mut outage = Outage::default();
        match session.open().await {
            Ok(()) => {}
            // A database that is away is no reason to give up.
            Err(error) if matches!(error.class, Class::Away | Class::Busy) => {
                let _messages_wait = outage.away(&error.text, cx);
            }
            Err(error) => {
                let (place, service) = (session.place(), cx.service());
                warn!(
                    service,
                    database = place,
                    error = error.text,
                    "statement can't be prepared"
                );
                return Err(Failure::retry(error.text));
            }
        }
        Ok(Self {
            session,
            expressions: Expressions::new(config.expressions()),
            outage,
            rows: config.rows,
            into: config.into.clone(),
            limits: config.limits(),
        })
    }
}

impl HandleBatch<Raw> for Sql {
    async fn handle_batch(
        &mut self,
        batch: Vec<Raw>,
        cx: &mut Context,
    ) -> Vec<Result<(), Failure>> {
        if let Err(error) = self.session.open().await {
            let failure = self.outage.away(&error.text, cx);
            return batch.iter().map(|_| Err(failure.clone())).collect();
        }
        let Self {
            session,
            expressions,
            outage,
            ..
        } = self;
        let count = batch.len();
        let mut outcomes = match session {
            Session::Postgres(database) => {
                write(&mut **database, expressions, outage, count, cx).await
            }
            Session::Sqlite(database) => {
                write(&mut **database, expressions, outage, count, cx).await
            }
        };
        if cx.is_wired(&OUT) {
            for (index, raw) in batch.into_iter().enumerate() {
                if outcomes[index].is_ok() {
                    outcomes[index] = cx.emit_for(index, &OUT, raw);
                }
            }
        }
        outcomes
    }
}

/// The consequence of an error for messages. Pauses the service if the database is away.
fn failure_of(error: &SqlError, outage: &mut Outage, cx: &Context) -> Failure {
    match error.class {
        Class::Away => outage.away(&error.text, cx),
        _ => error.failure(Duration::ZERO),
    }
}

/// Writes the messages of a batch. Returns one outcome for each, in order.
async fn write<D: Database>(
    database: &mut D,
    expressions: &Expressions,
    outage: &mut Outage,
    count: usize,
    cx: &Context,
) -> Vec<Result<(), Failure>> {
    let mut outcomes = Vec::with_capacity(count);
    let mut rows = Vec::with_capacity(count);
    let mut indexes = Vec::with_capacity(count);
    for index in 0..count {
        let (message, attempt) = batch_message(cx, index);
        let values = expressions.values(database, message, attempt);
        outcomes.push(values.as_ref().map(drop).map_err(Failure::clone));
        if let Ok(values) = values {
            let id = message.id.to_string().into();
            rows.push(Row { id, values });
            indexes.push(index);
        }
    }
    if rows.is_empty() {
        return outcomes;
    }
    let mut is_away = false;
    let written = write_all(database, &rows, |error| {
        is_away |= error.class == Class::Away;
        failure_of(error, outage, cx)
    });
    let written = written.await;
    if !is_away {
        outage.ended(cx.service());
    }
    for (index, outcome) in indexes.into_iter().zip(written) {
        outcomes[index] = outcome;
    }
    outcomes
}

impl Handle<Raw, Raw> for Sql {
    async fn handle(&mut self, raw: Raw, cx: &mut Context) -> Result<Raw, Failure> {
        if let Err(error) = self.session.open().await {
            return Err(self.outage.away(&error.text, cx));
        }
        let (message, attempt) = current_message(cx);
        let (expressions, limits) = (&self.expressions, self.limits);
        let found = match &mut self.session {
            Session::Postgres(database) => {
                let values = expressions.values(&**database, message, attempt)?;
                database.query(&values, limits).await
            }
            Session::Sqlite(database) => {
                let values = expressions.values(&**database, message, attempt)?;
                database.query(&values, limits).await
            }
        };
        match found {
            Ok(rows) => {
                self.outage.ended(cx.service());
                self.emit(raw, rows, cx)
            }
            Err(error) => Err(failure_of(&error, &mut self.outage, cx)),
        }
    }
}

impl Sql {
    /// Emits the rows in their form. Returns the reply.
    fn emit(&self, raw: Raw, mut rows: Vec<String>, cx: &Context) -> Result<Raw, Failure> {
        let result = match self.rows {
            Rows::All => format!("[{}]", rows.join(",")),
            Rows::Each => {
                for row in &rows {
                    cx.emit(&OUT, with_payload(&raw, row.clone()))?;
                }
                return Ok(with_payload(&raw, format!("[{}]", rows.join(","))));
            }
            Rows::One if rows.len() > 1 => {
                let text = format!("the query has {} rows, and rows = \"one\"", rows.len());
                return Err(Failure::reject(text));
            }
            Rows::One => match rows.pop() {
                Some(row) => row,
                None if cx.is_wired(&NONE) => {
                    cx.emit(&NONE, raw.clone())?;
                    return Ok(with_payload(&raw, "null".to_owned()));
                }
                None => return Err(Failure::reject("the query has no row")),
            },
        };
        let payload = match &self.into {
            Some(field) => merged(&raw, field, result)?,
            None => result,
        };
        let result = with_payload(&raw, payload);
        cx.emit(&OUT, result.clone())?;
        Ok(result)
    }
}

fn with_payload(raw: &Raw, payload: String) -> Raw {
    Raw {
        content_type: None,
        payload: payload.into(),
        ..raw.clone()
    }
}

/// The payload with the result in one of its fields. Numbers keep their digits.
fn merged(raw: &Raw, field: &str, result: String) -> Result<String, Failure> {
    let object: Result<std::collections::BTreeMap<String, Box<RawValue>>, _> =
        serde_json::from_slice(&raw.payload);
    let mut object = object.map_err(|error| {
        Failure::reject(format!(
            "the payload is no JSON object, so into has no effect: {error}"
        ))
    })?;
    object.insert(field.to_owned(), RawValue::from_string(result)?);
    Ok(serde_json::to_string(&object)?)
}
