//! SQLite: a connection on threads that may block.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use brickwork::sqlite::rusqlite::types::{Value, ValueRef};
use brickwork::sqlite::rusqlite::{self, Connection, ErrorCode, OpenFlags, Statement};

use super::database::Database;
use super::error::{Class, SqlError};
use super::json_value::{Form, without_zero_fraction};
use super::work::{
    Collected, Insert, Limits, Plan, Row, Work, line_and_column, quoted, quoted_path,
};

/// Wait for the lock of another program.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Virtual machine steps between two checks of the time.
const STEPS: i32 = 1_000;
/// Rows between two deletions of old done ids; each deletes up to twice as many.
const CLEAN_EVERY: i64 = 10_000;

const CREATE_DONE: &str = "CREATE TABLE IF NOT EXISTS brickwork_done (
    n INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL DEFAULT (unixepoch()),
    UNIQUE (owner, id)
)";
const CLAIM: &str = "INSERT INTO brickwork_done (owner, id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
/// Rows are numbered by age.
const DELETE_OLD: &str = "DELETE FROM brickwork_done WHERE n IN (
    SELECT n FROM brickwork_done ORDER BY n LIMIT 20000)
    AND owner = ?1 AND at < unixepoch() - ?2";

/// A session with an SQLite file.
pub(super) struct Sqlite {
    path: PathBuf,
    plan: Arc<Plan>,
    connection: Option<Connection>,
}

impl Sqlite {
    pub(super) fn new(path: PathBuf, plan: Arc<Plan>) -> Self {
        Self {
            path,
            plan,
            connection: None,
        }
    }

    /// Runs some work on another thread. A handler that is cancelled takes the connection with
    /// it.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection, &Plan) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let (path, plan) = (self.path.clone(), self.plan.clone());
        let open = self.connection.take();
        let done = tokio::task::spawn_blocking(move || {
            let mut connection = match open {
                Some(connection) => connection,
                None => connect(&path, &plan)?,
            };
            limit_time(&mut connection, plan.timeout).map_err(of_sqlite)?;
            let result = work(&mut connection, &plan);
            Ok((connection, result))
        });
        let (connection, result) = done
            .await
            .map_err(|error| SqlError::away(error.to_string()))??;
        self.connection = Some(connection);
        result
    }
}

impl Database for Sqlite {
    type Value = Value;

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    async fn open(&mut self) -> Result<(), SqlError> {
        match self.connection {
            Some(_) => Ok(()),
            None => self.blocking(|_, _| Ok(())).await,
        }
    }

    fn encode(&self, _: usize, json: &str) -> Result<Value, String> {
        Ok(match Form::of(json)? {
            Form::Null => Value::Null,
            Form::Bool(yes) => Value::Integer(yes.into()),
            Form::Text(text) => Value::Text(text.into_owned()),
            Form::List(json) | Form::Object(json) => Value::Text(json.to_owned()),
            Form::Number(number) => {
                let whole = without_zero_fraction(number);
                match whole.parse() {
                    Ok(whole) => Value::Integer(whole),
                    Err(_) if whole.contains(['.', 'e', 'E']) => {
                        Value::Real(whole.parse().map_err(|_| format!("{whole} is no number"))?)
                    }
                    Err(_) => return Err(format!("{whole} is beyond the integers of SQLite")),
                }
            }
        })
    }

    async fn write(&mut self, rows: &[Row<Value>]) -> Result<(), SqlError> {
        let rows = rows.to_vec();
        self.blocking(move |connection, plan| write_rows(connection, plan, &rows))
            .await
    }

    async fn query(&mut self, values: &[Value], limits: Limits) -> Result<Vec<String>, SqlError> {
        let values = values.to_vec();
        self.blocking(move |connection, plan| {
            let sql = sql_of(&plan.work);
            let mut statement = connection.prepare_cached(&sql).map_err(of_sqlite)?;
            rows_of(&mut statement, &values, limits)
        })
        .await
    }
}

/// A file to open.
pub(super) struct Connecting {
    pub(super) path: PathBuf,
    /// Whether a missing file is an error; otherwise it is created.
    pub(super) must_exist: bool,
    /// Maximum time of the next statement.
    pub(super) timeout: Duration,
}

impl Connecting {
    pub(super) fn connect(&self) -> Result<Connection, SqlError> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if !self.must_exist {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let connect = || {
            let mut connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_WAIT)?;
            connection.pragma_update(None, "foreign_keys", true)?;
            limit_time(&mut connection, self.timeout)?;
            Ok(connection)
        };
        connect().map_err(|error: rusqlite::Error| {
            let text = format!(
                "can't open {}: {}",
                self.path.display(),
                of_sqlite(error).text
            );
            SqlError::new(Class::Away, text)
        })
    }
}

/// Interrupts statements after a time from now.
fn limit_time(connection: &mut Connection, timeout: Duration) -> rusqlite::Result<()> {
    let until = Instant::now() + timeout;
    connection.progress_handler(STEPS, Some(move || Instant::now() >= until))
}

/// Opens the file, runs the setup and prepares the statement.
fn connect(path: &Path, plan: &Plan) -> Result<Connection, SqlError> {
    let connecting = Connecting {
        path: path.to_owned(),
        must_exist: false,
        timeout: plan.timeout,
    };
    let connection = connecting.connect()?;
    let mut script = plan.setup.clone();
    if has_done(&plan.work) {
        script.push(CREATE_DONE.to_owned());
    }
    for statement in script {
        connection.execute_batch(&statement).map_err(|error| {
            let error = of_statement(error, &statement);
            let text = format!("setup: {}", error.text);
            SqlError { text, ..error }
        })?;
    }
    let sql = sql_of(&plan.work);
    let statement = connection.prepare_cached(&sql);
    let statement = statement.map_err(|error| of_statement(error, &sql))?;
    let found = statement.parameter_count();
    if found != plan.params {
        let text = format!(
            "the statement has {found} parameters, and params has {}",
            plan.params
        );
        return Err(SqlError::new(Class::Other, text));
    }
    let mut columns = BTreeMap::new();
    for name in statement.column_names() {
        if columns.insert(name.to_owned(), ()).is_some() {
            let text = format!("two columns have the name {name}: use AS");
            return Err(SqlError::new(Class::Other, text));
        }
    }
    drop(statement);
    Ok(connection)
}

fn has_done(work: &Work) -> bool {
    match work {
        Work::Insert(insert) => insert.id_column.is_none(),
        Work::Statement(_) => true,
        Work::Query(_) => false,
    }
}

fn sql_of(work: &Work) -> String {
    match work {
        Work::Statement(sql) | Work::Query(sql) => sql.clone(),
        Work::Insert(insert) => insert_sql(insert),
    }
}

fn insert_sql(insert: &Insert) -> String {
    let columns: Vec<String> = insert.columns.iter().map(|name| quoted(name)).collect();
    let numbers: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
    let conflict = match &insert.id_column {
        Some(id) => format!(" ON CONFLICT ({}) DO NOTHING", quoted(id)),
        None => String::new(),
    };
    format!(
        "INSERT INTO {} ({}) VALUES ({}){conflict}",
        quoted_path(&insert.table),
        columns.join(", "),
        numbers.join(", "),
    )
}

fn write_rows(
    connection: &mut Connection,
    plan: &Plan,
    rows: &[Row<Value>],
) -> Result<(), SqlError> {
    let sql = sql_of(&plan.work);
    let claims = has_done(&plan.work);
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(of_sqlite)?;
    {
        let mut statement = transaction.prepare_cached(&sql).map_err(of_sqlite)?;
        let mut claim = match claims {
            true => Some(transaction.prepare_cached(CLAIM).map_err(of_sqlite)?),
            false => None,
        };
        for (index, row) in rows.iter().enumerate() {
            if let Some(claim) = &mut claim {
                let claimed = claim.execute((&plan.owner, &*row.id)).map_err(of_sqlite)?;
                if claimed == 0 {
                    continue;
                }
                if transaction.last_insert_rowid() % CLEAN_EVERY == 0 {
                    let age = plan.remember.as_secs() as i64;
                    transaction
                        .execute(DELETE_OLD, (&plan.owner, age))
                        .map_err(of_sqlite)?;
                }
            }
            run(&mut statement, &row.values).map_err(|error| of_sqlite(error).of_row(index))?;
        }
    }
    transaction.commit().map_err(of_sqlite)
}

/// Binds values: the n-th to `$n` or `?n`.
fn bind(statement: &mut Statement<'_>, values: &[Value]) -> rusqlite::Result<()> {
    for (nth, value) in values.iter().enumerate() {
        let number = nth + 1;
        let named = statement.parameter_index(&format!("${number}"))?;
        statement.raw_bind_parameter(named.unwrap_or(number), value)?;
    }
    Ok(())
}

fn run(statement: &mut Statement<'_>, values: &[Value]) -> rusqlite::Result<()> {
    bind(statement, values)?;
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

fn rows_of(
    statement: &mut Statement<'_>,
    values: &[Value],
    limits: Limits,
) -> Result<Vec<String>, SqlError> {
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    bind(statement, values).map_err(of_sqlite)?;
    let mut rows = statement.raw_query();
    let mut collected = Collected::new(limits);
    while let Some(row) = rows.next().map_err(of_sqlite)? {
        let mut object = serde_json::Map::new();
        for (nth, name) in names.iter().enumerate() {
            let value = json(row.get_ref(nth).map_err(of_sqlite)?)?;
            object.insert(name.clone(), value);
        }
        collected.add(serde_json::Value::Object(object).to_string())?;
    }
    Ok(collected.rows)
}

pub(super) fn json(value: ValueRef<'_>) -> Result<serde_json::Value, SqlError> {
    Ok(match value {
        ValueRef::Null => serde_json::Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => text.into(),
            Err(_) => {
                return Err(SqlError::new(
                    Class::Data,
                    "a text of the result is not UTF-8",
                ));
            }
        },
        ValueRef::Blob(bytes) => BASE64.encode(bytes).into(),
    })
}

/// The class of an error of SQLite.
fn class_of(code: ErrorCode) -> Class {
    match code {
        ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch
        | ErrorCode::TooBig
        | ErrorCode::ParameterOutOfRange => Class::Data,
        ErrorCode::OperationInterrupted => Class::Slow,
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::DiskFull
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::SystemIoFailure
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::OutOfMemory
        | ErrorCode::NotADatabase
        | ErrorCode::DatabaseCorrupt => Class::Away,
        _ => Class::Other,
    }
}

pub(super) fn of_sqlite(error: rusqlite::Error) -> SqlError {
    let class = error.sqlite_error_code().map_or(Class::Other, class_of);
    let code = error.sqlite_error().map(|error| error.extended_code);
    let code = code
        .map(|code| format!(" (SQLite code {code})"))
        .unwrap_or_default();
    SqlError::new(class, format!("{error}{code}"))
}

fn of_statement(error: rusqlite::Error, sql: &str) -> SqlError {
    if let rusqlite::Error::SqlInputError { msg, offset, .. } = &error
        && let Ok(offset) = usize::try_from(*offset)
    {
        let characters = sql
            .get(..offset)
            .map_or(offset, |before| before.chars().count());
        let (line, column) = line_and_column(sql, characters);
        let text = format!("{msg} at line {line}, column {column} of the statement");
        return SqlError::new(Class::Other, text);
    }
    of_sqlite(error)
}
