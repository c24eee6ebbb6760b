//! Evidence of the auditor: records facts and entries, finds violations, and sums up a report.
//!
//! The evidence is in the auditor's own store. Recording the same sighting twice changes
//! nothing.

use std::collections::BTreeMap;

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};

use crate::histories::{is_complete, is_possible};
use crate::messages::Entry;
use crate::sightings::Sighting;

/// Tables of the facts of each order, of the entries of all books, and of violations.
pub(crate) const TABLES: &[Migration] = &[Migration::new(
    "evidence",
    "CREATE TABLE seen (
        order_id TEXT PRIMARY KEY,
        told TEXT NOT NULL,
        facts INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE entry (
        book TEXT NOT NULL,
        n INTEGER NOT NULL,
        proves TEXT NOT NULL,
        change INTEGER NOT NULL,
        balance INTEGER NOT NULL,
        PRIMARY KEY (book, n)
    ) STRICT;
    CREATE INDEX entry_proves ON entry (proves, book);
    CREATE TABLE violation (text TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;",
)];

/// Summary of the evidence so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    pub(crate) orders: i64,
    /// Orders with an incomplete history.
    pub(crate) open: i64,
    pub(crate) violations: i64,
    /// Balance of the till, in cents.
    pub(crate) till: i64,
    /// Balance of the account `deposits`, in cents.
    pub(crate) deposits: i64,
    /// Balance of the account `sales`, in cents.
    pub(crate) sales: i64,
    /// Pieces taken and not put back.
    pub(crate) taken_from_shelves: i64,
    /// Pieces sent.
    pub(crate) parcels: i64,
}

/// Conclusion of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Verdict {
    /// At least one violation, or complete evidence whose sums differ.
    #[serde(rename = "something impossible has happened")]
    Violated,
    /// No violation; evidence is missing.
    #[serde(rename = "so far nothing impossible has happened")]
    Consistent,
    /// No violation; the evidence is complete and all sums match.
    #[serde(rename = "all is balanced")]
    Balanced,
}

/// Records a sighting, and returns the new violations.
pub(crate) fn record(db: &Connection, sighting: &Sighting) -> Result<Vec<String>, Failure> {
    let Sighting { fact, order, .. } = sighting;
    let mut wrong = Vec::new();
    let mut upsert = db.prepare_cached(
        "INSERT INTO seen VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET facts = facts | excluded.facts RETURNING told, facts",
    )?;
    let order_json = serde_json::to_string(order)?;
    let (first_order, facts): (String, u32) = upsert
        .query_row((&order.id, &order_json, fact.bit()), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if order_json != first_order {
        wrong.push(format!(
            "{}: two versions: {first_order} and {order_json}",
            order.id
        ));
    }
    if !is_possible(facts) {
        wrong.push(format!(
            "{}: {fact:?} contradicts the other facts",
            order.id
        ));
    }
    for (entry, change) in &sighting.entries {
        if entry.change != *change {
            wrong.push(format!(
                "{}: the entry must move {change}: {entry:?}",
                order.id
            ));
        }
        let proves = format!("{fact:?} {}", order.id);
        wrong.extend(record_entry(db, entry, &proves)?);
    }
    let sql = "INSERT INTO violation VALUES (?1) ON CONFLICT DO NOTHING";
    let mut insert = db.prepare_cached(sql)?;
    let mut new = Vec::new();
    for text in wrong {
        if insert.execute([&text])? == 1 {
            new.push(text);
        }
    }
    Ok(new)
}

/// Records an entry, and returns its violations.
///
/// An entry must be the only one with its number in its book and the only one that proves its
/// fact there. Its balance must fit the previous and the next entry.
fn record_entry(db: &Connection, entry: &Entry, proves: &str) -> Result<Vec<String>, Failure> {
    let Entry {
        book,
        n,
        change,
        balance,
    } = entry;
    let find = |n: i64| -> Result<Option<(String, i64, i64)>, Failure> {
        let sql = "SELECT proves, change, balance FROM entry WHERE book = ?1 AND n = ?2";
        let mut select = db.prepare_cached(sql)?;
        let found = select.query_row((book, n), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        Ok(found.optional()?)
    };
    let mut wrong = Vec::new();
    if let Some(known) = find(*n)? {
        if known != (proves.to_owned(), *change, *balance) {
            wrong.push(format!(
                "{book} {n}: two versions: {known:?} and {entry:?} {proves}"
            ));
        }
        return Ok(wrong);
    }
    let mut twice = db.prepare_cached("SELECT n FROM entry WHERE proves = ?1 AND book = ?2")?;
    let twice: Option<i64> = twice
        .query_row((proves, book), |row| row.get(0))
        .optional()?;
    if let Some(other) = twice {
        wrong.push(format!("{proves} twice: {book} {other} and {n}"));
    }
    db.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((book, n, proves, change, balance))?;
    if let Some((_, _, before)) = find(n - 1)?
        && before + change != *balance
    {
        wrong.push(format!(
            "{book} {n} doesn't fit the previous entry: {before}, {entry:?}"
        ));
    }
    if let Some((_, change, after)) = find(n + 1)?
        && balance + change != after
    {
        wrong.push(format!(
            "{book} {n} doesn't fit the next entry: {entry:?}, {after}"
        ));
    }
    Ok(wrong)
}

/// Sums up the evidence.
pub(crate) fn report(db: &Connection) -> Result<Report, Failure> {
    let (mut orders, mut open) = (0, 0);
    let mut groups = db.prepare_cached("SELECT facts, count(*) FROM seen GROUP BY facts")?;
    let groups = groups.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, i64>(1)?)))?;
    for group in groups {
        let (facts, count) = group?;
        orders += count;
        open += if is_complete(facts) { 0 } else { count };
    }
    // Sum of the known changes of each book; all shelves count as one book.
    let mut moved: BTreeMap<String, i64> = BTreeMap::new();
    let mut gaps = 0;
    let mut books = db.prepare_cached(
        "SELECT substr(book, 1, instr(book || '/', '/') - 1), sum(change), max(n) - count(*)
         FROM entry GROUP BY book",
    )?;
    let books = books.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for book in books {
        let (book, change, missing): (String, i64, i64) = book?;
        *moved.entry(book).or_default() += change;
        gaps += missing;
    }
    let moved = |book: &str| moved.get(book).copied().unwrap_or(0);
    let violations = "SELECT count(*) FROM violation";
    let mut report = Report {
        verdict: Verdict::Consistent,
        orders,
        open,
        violations: db.query_row(violations, [], |row| row.get(0))?,
        till: moved("till"),
        deposits: moved("deposits"),
        sales: moved("sales"),
        taken_from_shelves: -moved("shelf"),
        parcels: moved("parcels"),
    };
    let complete = orders > 0 && open == 0 && gaps == 0;
    let adds_up = report.deposits == 0
        && report.till == report.sales
        && report.taken_from_shelves == report.parcels;
    report.verdict = match (complete, adds_up && report.violations == 0) {
        (true, true) => Verdict::Balanced,
        (false, _) if report.violations == 0 => Verdict::Consistent,
        _ => Verdict::Violated,
    };
    Ok(report)
}
