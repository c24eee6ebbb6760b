//! Books: append-only journals of numbered entries, each with the balance after it.
//!
//! A service that moves goods or money records an entry for each move, in the same transaction,
//! and adds the entry to its answer. So the entries alone show whether one of them is missing,
//! exists twice or doesn't add up: the reader needs no access to the service's store.
//!
//! This module doesn't prevent two entries for one move. The inbox does.

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};

use crate::messages::Entry;

/// Table of entries. Every service with books has this table in its own store.
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

/// Opens a book with an initial balance. Does nothing if the book is open.
pub(crate) fn open(db: &Connection, book: &str, balance: i64) -> Result<(), Failure> {
    let sql = "INSERT INTO entry VALUES (?1, 0, '', ?2, ?2) ON CONFLICT DO NOTHING";
    db.prepare_cached(sql)?.execute((book, balance))?;
    Ok(())
}

/// Returns the number of a book's last entry and the balance; both are 0 for a new book.
pub(crate) fn last(db: &Connection, book: &str) -> Result<(i64, i64), Failure> {
    let sql = "SELECT n, balance FROM entry WHERE book = ?1 ORDER BY n DESC LIMIT 1";
    let mut last = db.prepare_cached(sql)?;
    let last = last.query_row([book], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(last.optional()?.unwrap_or((0, 0)))
}

/// Appends an entry for a move, and returns it.
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

/// Whether a book has an entry for an order.
pub(crate) fn has(db: &Connection, book: &str, order: &str) -> Result<bool, Failure> {
    let mut find = db.prepare_cached("SELECT 1 FROM entry WHERE order_id = ?1 AND book = ?2")?;
    Ok(find.exists((order, book))?)
}
