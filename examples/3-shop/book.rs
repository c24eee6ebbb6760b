//! Books: numbered entries, each with what is there after it.
//!
//! A service that moves goods or money writes down each move, in the same transaction, and
//! shows the entry in its answer. Whoever sees the entries can tell whether one is missing,
//! is there twice, or doesn't add up: without a look into the service's store.
//!
//! Nothing here makes sure that a move is written down only once. That is the inbox's.

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};

use crate::messages::Entry;

/// The table; every service that keeps books has one of its own.
pub(crate) const BOOKS: Migration = Migration::new(
    "books",
    "CREATE TABLE entry (
        book TEXT NOT NULL,
        n INTEGER NOT NULL,
        order_id TEXT NOT NULL,
        change INTEGER NOT NULL,
        balance INTEGER NOT NULL,
        PRIMARY KEY (book, n)
    ) STRICT;
    CREATE INDEX entry_of_order ON entry (order_id);",
);

/// Opens a book with something in it, unless it is open.
pub(crate) fn open(db: &Connection, book: &str, balance: i64) -> Result<(), Failure> {
    let sql = "INSERT INTO entry VALUES (?1, 0, '', ?2, ?2) ON CONFLICT DO NOTHING";
    db.prepare_cached(sql)?.execute((book, balance))?;
    Ok(())
}

/// The number of a book's last entry, and what is there.
pub(crate) fn last(db: &Connection, book: &str) -> Result<(i64, i64), Failure> {
    let sql = "SELECT n, balance FROM entry WHERE book = ?1 ORDER BY n DESC LIMIT 1";
    let mut last = db.prepare_cached(sql)?;
    let last = last.query_row([book], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(last.optional()?.unwrap_or((0, 0)))
}

/// Writes down a move.
pub(crate) fn enter(
    db: &Connection,
    book: &str,
    order: &str,
    change: i64,
) -> Result<Entry, Failure> {
    let (n, balance) = last(db, book)?;
    let entry = Entry {
        book: book.into(),
        n: n + 1,
        change,
        balance: balance + change,
    };
    db.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((book, entry.n, order, change, entry.balance))?;
    Ok(entry)
}

/// Whether there is an entry for an order.
pub(crate) fn has(db: &Connection, book: &str, order: &str) -> Result<bool, Failure> {
    let mut find = db.prepare_cached("SELECT 1 FROM entry WHERE order_id = ?1 AND book = ?2")?;
    Ok(find.exists((order, book))?)
}
