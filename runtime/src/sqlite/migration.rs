//! Migrations: steps that create and change the tables of a database.
//!
//! Each step runs once, in order; all new steps run in one transaction. The file records the
//! steps with their checksums, so a step that was changed later is an error.

use std::borrow::Cow;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::error::SqliteError;
use crate::clock::Clock;

/// One step: SQL statements with a name.
///
/// ```
/// use brickwork::sqlite::Migration;
///
/// const STEPS: &[Migration] = &[Migration::new(
///     "items on stock",
///     "CREATE TABLE item (sku TEXT PRIMARY KEY, quantity INTEGER NOT NULL) STRICT",
/// )];
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    name: Cow<'static, str>,
    sql: Cow<'static, str>,
}

impl Migration {
    /// Creates a step. Never change a step that has run anywhere: add another one.
    pub const fn new(name: &'static str, sql: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            sql: Cow::Borrowed(sql),
        }
    }

    /// Creates a step with a name and statements from run time.
    pub fn from_strings(name: String, sql: String) -> Self {
        Self {
            name: Cow::Owned(name),
            sql: Cow::Owned(sql),
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the SHA-256 of the statements, in hexadecimal.
    fn checksum(&self) -> String {
        let digest = Sha256::digest(self.sql.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A sequence of steps, numbered from 1.
#[derive(Debug, Clone)]
pub struct Part {
    /// Name of the sequence in the file. It must never change.
    pub name: &'static str,
    /// Steps in order.
    pub steps: Vec<Migration>,
}

/// The owner of a file and the steps that create its tables.
#[derive(Debug, Clone)]
pub struct Schema {
    /// Owner of the data. A file of another owner is not opened.
    pub owner: String,
    /// Sequences of steps, in the order in which they run.
    pub parts: Vec<Part>,
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS brickwork_owner (owner TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS brickwork_migration (
        part TEXT NOT NULL,
        step INTEGER NOT NULL,
        name TEXT NOT NULL,
        checksum TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (part, step)
    ) STRICT, WITHOUT ROWID;
";

/// Runs the missing steps of a schema, all of them or none.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    schema: &Schema,
) -> Result<(), SqliteError> {
    if is_up_to_date(connection, path, schema)? {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    tx.execute_batch(TABLES)?;
    tx.execute(
        "INSERT INTO brickwork_owner SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM brickwork_owner)",
        [&schema.owner],
    )?;
    for part in &schema.parts {
        let done = steps_done(&tx, part.name)?.len();
        for (number, step) in (1i64..).zip(&part.steps).skip(done) {
            tx.execute_batch(&step.sql)
                .map_err(|error| SqliteError::Migration {
                    path: path.to_owned(),
                    why: format!("migration {number} ({}) failed: {error}", step.name),
                })?;
            if tx.is_autocommit() {
                return Err(SqliteError::Migration {
                    path: path.to_owned(),
                    why: format!(
                        "migration {number} ({}) ended the transaction that it runs in: leave \
                         BEGIN, COMMIT and ROLLBACK out",
                        step.name
                    ),
                });
            }
            let at_ms = Clock::SYSTEM.unix_ms() as i64;
            tx.execute(
                "INSERT INTO brickwork_migration VALUES (?1, ?2, ?3, ?4, ?5)",
                (part.name, number, &*step.name, step.checksum(), at_ms),
            )?;
        }
    }
    if let Some(table) = deferred_key(&tx)? {
        return Err(SqliteError::Migration {
            path: path.to_owned(),
            why: format!(
                "the table {table} has a foreign key that is INITIALLY DEFERRED: several \
                 transactions share a commit, so SQLite would check it for all of them at once; \
                 remove INITIALLY DEFERRED, and insert the referenced row first"
            ),
        });
    }
    tx.commit()?;
    Ok(())
}

/// Returns a table with a foreign key that SQLite checks only at the commit.
fn deferred_key(connection: &Connection) -> Result<Option<String>, SqliteError> {
    let mut tables = connection.prepare(
        "SELECT name FROM sqlite_schema
         WHERE type = 'table' AND sql LIKE '%INITIALLY%DEFERRED%'
         AND EXISTS (SELECT 1 FROM pragma_foreign_key_list(sqlite_schema.name))",
    )?;
    Ok(tables.query_row([], |row| row.get(0)).optional()?)
}

/// Returns whether all steps of a schema have run, and checks owner and checksums.
pub(super) fn is_up_to_date(
    connection: &Connection,
    path: &Path,
    schema: &Schema,
) -> Result<bool, SqliteError> {
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table'",
        [],
        |row| row.get(0),
    )?;
    if tables == 0 {
        return Ok(false);
    }
    let owner: Option<String> = match connection
        .prepare("SELECT owner FROM brickwork_owner")
        .and_then(|mut owner| owner.query_row([], |row| row.get(0)).optional())
    {
        Ok(owner) => owner,
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.code == rusqlite::ErrorCode::Unknown =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    let owner = owner.unwrap_or_else(|| "another program".to_owned());
    if owner != schema.owner {
        return Err(SqliteError::OwnedByAnother {
            path: path.to_owned(),
            owner,
            wanted: schema.owner.clone(),
        });
    }
    let mut up_to_date = true;
    for part in &schema.parts {
        let done = steps_done(connection, part.name)?;
        for (number, (name, checksum)) in (1..).zip(&done) {
            let wrong = |why: &str| SqliteError::Migration {
                path: path.to_owned(),
                why: format!("migration {number} ({name}) {why}"),
            };
            match part.steps.get(number - 1) {
                None => {
                    return Err(wrong(
                        "has run here, and this program doesn't know it: is it an older version?",
                    ));
                }
                Some(step) if step.checksum() != *checksum => {
                    return Err(wrong(
                        "was changed after it had run here: a step must not change, add another one",
                    ));
                }
                Some(_) => {}
            }
        }
        up_to_date &= done.len() == part.steps.len();
    }
    Ok(up_to_date)
}

/// Returns name and checksum of each step that has run.
fn steps_done(connection: &Connection, part: &str) -> Result<Vec<(String, String)>, SqliteError> {
    let mut steps = connection
        .prepare("SELECT name, checksum FROM brickwork_migration WHERE part = ?1 ORDER BY step")?;
    let steps = steps.query_map([part], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(steps.collect::<Result<_, _>>()?)
}
