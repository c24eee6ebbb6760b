//! The statements of a connection: prepared once, so that a mistake is found at the start.

use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Statement};

use super::decode;
use super::settings::{of_postgres, of_statement};
use crate::sql::error::{Class, SqlError};
use crate::sql::work::{Insert, Plan, Work, quoted, quoted_path};

/// Number of the lock under which tables are created: the letters `brickwrk`.
const SETUP_LOCK: i64 = 0x6272_6963_6b77_726b;

/// Whether there is a table of done ids.
const HAS_DONE: &str = "SELECT to_regclass('brickwork_done') IS NOT NULL";

/// The done ids: `at` grows with the rows, so that a BRIN index finds the old ones.
const CREATE_DONE: &str = "CREATE TABLE IF NOT EXISTS brickwork_done (
    owner text NOT NULL,
    id text COLLATE \"C\" NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, id)
);
CREATE INDEX IF NOT EXISTS brickwork_done_at ON brickwork_done USING brin (at)";

/// Records ids. Returns those that are new.
const CLAIM: &str = "INSERT INTO brickwork_done (owner, id)
    SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING id";

/// Deletes old done ids.
pub(super) const DELETE_OLD: &str = "DELETE FROM brickwork_done WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM brickwork_done
    WHERE owner = $1 AND at < now() - make_interval(secs => $2) LIMIT 20000))";

/// The prepared statements.
pub(super) enum Statements {
    Write(Write),
    Query(Statement),
}

/// The statements that write.
pub(super) struct Write {
    pub(super) statement: Statement,
    /// Types of the values of a row.
    pub(super) types: Vec<Type>,
    /// Whether the statement takes the rows as one array for each column.
    pub(super) takes_arrays: bool,
    /// Records done ids; `None` if a column of the table has them.
    pub(super) claim: Option<Statement>,
}

impl Statements {
    /// Runs the setup and prepares the statements.
    ///
    /// # Errors
    /// A statement is wrong, or the database is away.
    pub(super) async fn prepare(client: &Client, plan: &Plan) -> Result<Self, SqlError> {
        set_up(client, plan).await?;
        match &plan.work {
            Work::Query(sql) => {
                let statement = prepare(client, sql, plan.params).await?;
                decode::check(statement.columns())
                    .map_err(|text| SqlError::new(Class::Other, text))?;
                Ok(Self::Query(statement))
            }
            Work::Statement(sql) => {
                let statement = prepare(client, sql, plan.params).await?;
                Ok(Self::Write(Write {
                    types: statement.params().to_vec(),
                    statement,
                    takes_arrays: false,
                    claim: Some(client.prepare(CLAIM).await.map_err(of_postgres)?),
                }))
            }
            Work::Insert(insert) => {
                // PostgreSQL tells the types of the columns.
                let numbers: Vec<String> = (1..=plan.params).map(|n| format!("${n}")).collect();
                let one = format!("{} VALUES ({})", into(insert), numbers.join(", "));
                let one = client.prepare(&one).await.map_err(of_postgres)?;
                let types = one.params().to_vec();
                let statement = client.prepare(&insert_arrays(insert, &types)).await;
                let claim = match insert.id_column {
                    None => Some(client.prepare(CLAIM).await.map_err(of_postgres)?),
                    Some(_) => None,
                };
                Ok(Self::Write(Write {
                    statement: statement.map_err(of_postgres)?,
                    types,
                    takes_arrays: true,
                    claim,
                }))
            }
        }
    }

    /// Types of the values.
    pub(super) fn types(&self) -> &[Type] {
        match self {
            Self::Write(write) => &write.types,
            Self::Query(statement) => statement.params(),
        }
    }
}

async fn prepare(client: &Client, sql: &str, params: usize) -> Result<Statement, SqlError> {
    let statement = client.prepare(sql).await;
    let statement = statement.map_err(|error| of_statement(error, sql))?;
    match statement.params().len() {
        found if found == params => Ok(statement),
        found => {
            let text = format!("the statement has {found} parameters, and params has {params}");
            Err(SqlError::new(Class::Other, text))
        }
    }
}

/// Creates tables, one process at a time.
async fn set_up(client: &Client, plan: &Plan) -> Result<(), SqlError> {
    let mut script: Vec<&str> = plan.setup.iter().map(String::as_str).collect();
    let needs_done = match &plan.work {
        Work::Insert(insert) => insert.id_column.is_none(),
        Work::Statement(_) => true,
        Work::Query(_) => false,
    };
    if needs_done {
        let has_done = client.query_one(HAS_DONE, &[]).await.map_err(of_postgres)?;
        if !has_done.get::<_, bool>(0) {
            script.push(CREATE_DONE);
        }
    }
    if script.is_empty() {
        return Ok(());
    }
    let lock = format!("BEGIN; SELECT pg_advisory_xact_lock({SETUP_LOCK})");
    client.batch_execute(&lock).await.map_err(of_postgres)?;
    for statement in script {
        let done = client.batch_execute(statement).await;
        // The connection ends with this error, and the transaction with it.
        done.map_err(|error| {
            let error = of_statement(error, statement);
            let text = format!("setup: {}", error.text);
            SqlError { text, ..error }
        })?;
    }
    client.batch_execute("COMMIT").await.map_err(of_postgres)
}

fn into(insert: &Insert) -> String {
    let columns: Vec<String> = insert.columns.iter().map(|name| quoted(name)).collect();
    let table = quoted_path(&insert.table);
    format!("INSERT INTO {table} ({})", columns.join(", "))
}

/// An `INSERT` of any number of rows by one array for each column. Arrays of arrays would lose a
/// dimension in `unnest`, so a column of arrays comes as texts.
fn insert_arrays(insert: &Insert, types: &[Type]) -> String {
    let mut values = Vec::new();
    let mut arrays = Vec::new();
    let mut names = Vec::new();
    for (nth, ty) in types.iter().enumerate() {
        let number = nth + 1;
        let ty_name = format!("{}.{}", quoted(ty.schema()), quoted(ty.name()));
        names.push(format!("c{number}"));
        if matches!(ty.kind(), Kind::Array(_)) {
            arrays.push(format!("${number}::text[]"));
            values.push(format!("c{number}::{ty_name}"));
        } else {
            arrays.push(format!("${number}::{ty_name}[]"));
            values.push(format!("c{number}"));
        }
    }
    let conflict = match &insert.id_column {
        Some(id) => format!(" ON CONFLICT ({}) DO NOTHING", quoted(id)),
        None => String::new(),
    };
    format!(
        "{} SELECT {} FROM unnest({}) AS u({}){conflict}",
        into(insert),
        values.join(", "),
        arrays.join(", "),
        names.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_as_arrays_of_their_columns() {
        let insert = Insert {
            table: "shop.orders".into(),
            columns: vec!["id".into(), "tags".into()],
            id_column: Some("id".into()),
        };
        assert_eq!(
            insert_arrays(&insert, &[Type::INT8, Type::TEXT_ARRAY]),
            "INSERT INTO \"shop\".\"orders\" (\"id\", \"tags\") \
             SELECT c1, c2::\"pg_catalog\".\"_text\" \
             FROM unnest($1::\"pg_catalog\".\"int8\"[], $2::text[]) AS u(c1, c2) \
             ON CONFLICT (\"id\") DO NOTHING"
        );
    }
}
