//! A database of numbers: a small one, to see which writes arrived.

use std::path::Path;

use brickwork::sqlite::rusqlite::Connection;
use brickwork::sqlite::{Database, Migration, Options, Part, Schema, SqliteError, WriterPool};

/// The table of the numbers.
pub const TABLE: &str = "CREATE TABLE number (n INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT";

/// Opens a file of numbers, or makes one.
///
/// # Errors
/// If the file can't be used.
pub fn open(file: &Path, writers: &WriterPool) -> Result<Database, SqliteError> {
    let schema = Schema {
        owner: "a test".into(),
        parts: vec![Part {
            name: "numbers",
            steps: vec![Migration::new("numbers", TABLE)],
        }],
    };
    Database::open(file, &schema, Options::default(), writers)
}

/// Inserts a number with some text.
///
/// # Errors
/// If the number exists already.
pub fn insert(connection: &Connection, n: i64) -> Result<(), SqliteError> {
    let mut insert = connection.prepare_cached("INSERT INTO number VALUES (?1, ?2)")?;
    insert.execute((n, text_of(n)))?;
    Ok(())
}

/// Returns all numbers in order.
///
/// # Errors
/// If the file can't be read, or the text of a number is wrong.
pub fn all(connection: &Connection) -> Result<Vec<i64>, SqliteError> {
    let mut numbers = connection.prepare("SELECT n, text FROM number ORDER BY n")?;
    let numbers = numbers.query_map([], |row| {
        let (n, text): (i64, String) = (row.get(0)?, row.get(1)?);
        assert_eq!(text, text_of(n));
        Ok(n)
    })?;
    Ok(numbers.collect::<Result<_, _>>()?)
}

fn text_of(n: i64) -> String {
    format!("number {n}").repeat(20)
}
