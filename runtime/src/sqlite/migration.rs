//! Migrations: the steps that lead from an empty file to what a program expects.
//!
//! Each step runs once, in order, all new ones in one transaction. What has run is kept in
//! the file, with a checksum: a step that was changed afterwards is an error, not a surprise.

use std::borrow::Cow;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::SqliteError;
use crate::clock::Clock;

/// One step: SQL statements, and what to call them.
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
    /// A step. Once it has run anywhere, it must not change: add another one.
    pub const fn new(name: &'static str, sql: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            sql: Cow::Borrowed(sql),
        }
    }

    /// A step that is made at run time.
    pub fn made(name: String, sql: String) -> Self {
        Self {
            name: Cow::Owned(name),
            sql: Cow::Owned(sql),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of its statements, in hexadecimal.
    fn checksum(&self) -> String {
        let digest = Sha256::digest(self.sql.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Steps that belong together, numbered from 1 in their order.
#[derive(Debug, Clone)]
pub struct Part {
    /// What they are for. It names them in the file: it stays.
    pub name: &'static str,
    /// The steps.
    pub steps: Vec<Migration>,
}

/// What a file must be, and must have in it, before it is used.
#[derive(Debug, Clone)]
pub struct Schema {
    /// Whose data it is. A file of another owner isn't opened.
    pub owner: String,
    /// What makes its tables, in this order.
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

/// Brings a file to what the schema says: all of it, or nothing.
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
                "the table {table} has a foreign key that is INITIALLY DEFERRED: it would be \
                 checked for several messages at once, whose transactions share a commit; leave \
                 that out, and write what is referred to first"
            ),
        });
    }
    tx.commit()?;
    Ok(())
}

/// A table with a foreign key that is checked not before the commit.
fn deferred_key(connection: &Connection) -> Result<Option<String>, SqliteError> {
    let mut tables = connection.prepare(
        "SELECT name FROM sqlite_schema
         WHERE type = 'table' AND sql LIKE '%INITIALLY%DEFERRED%'
         AND EXISTS (SELECT 1 FROM pragma_foreign_key_list(sqlite_schema.name))",
    )?;
    Ok(tables.query_row([], |row| row.get(0)).optional()?)
}

/// Looks whether anything is to be done, and whether what was done is what the schema says.
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
                        "is not what has run here: a step must not change, add another one",
                    ));
                }
                Some(_) => {}
            }
        }
        up_to_date &= done.len() == part.steps.len();
    }
    Ok(up_to_date)
}

/// Name and checksum of each step that has run.
fn steps_done(connection: &Connection, part: &str) -> Result<Vec<(String, String)>, SqliteError> {
    let mut steps = connection
        .prepare("SELECT name, checksum FROM brickwork_migration WHERE part = ?1 ORDER BY step")?;
    let steps = steps.query_map([part], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(steps.collect::<Result<_, _>>()?)
}
