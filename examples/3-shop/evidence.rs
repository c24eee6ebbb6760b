//! What the auditor knows, what of it can't be, and what it comes to.
//!
//! All of it is SQL on the auditor's own store; what is added once more changes nothing.

use std::collections::BTreeMap;

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};

use crate::histories::{is_complete, is_possible};
use crate::messages::Entry;
use crate::sightings::Sighting;

/// Where it is kept.
pub(crate) const TABLES: &[Migration] = &[Migration::new(
    "what is known",
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

/// How things are, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    pub(crate) orders: i64,
    /// Orders of which something is still to come.
    pub(crate) open: i64,
    pub(crate) violations: i64,
    /// In cents.
    pub(crate) till: i64,
    pub(crate) deposits: i64,
    pub(crate) sales: i64,
    /// In pieces.
    pub(crate) taken_from_shelves: i64,
    pub(crate) parcels: i64,
}

/// What an auditor can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Verdict {
    #[serde(rename = "something impossible has happened")]
    Violated,
    #[serde(rename = "so far nothing impossible has happened")]
    SoFarSoGood,
    #[serde(rename = "all is balanced")]
    Balanced,
}

/// Adds it to what is known, and says what of it can't be and wasn't said before.
pub(crate) fn look(db: &Connection, sighting: &Sighting) -> Result<Vec<String>, Failure> {
    let Sighting { fact, order, .. } = sighting;
    let mut wrong = Vec::new();
    let mut see = db.prepare_cached(
        "INSERT INTO seen VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET facts = facts | excluded.facts RETURNING told, facts",
    )?;
    let told = serde_json::to_string(order)?;
    let (told_before, facts): (String, u32) = see
        .query_row((&order.id, &told, fact.bit()), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if told != told_before {
        wrong.push(format!("{} is told as {told_before} and {told}", order.id));
    }
    if !is_possible(facts) {
        wrong.push(format!("{} can't be {fact:?} after all", order.id));
    }
    for (entry, change) in &sighting.entries {
        if entry.change != *change {
            wrong.push(format!("{} moved {}: {entry:?}", order.id, entry.change));
        }
        let proves = format!("{fact:?} {}", order.id);
        wrong.extend(look_at_entry(db, entry, &proves)?);
    }
    let sql = "INSERT INTO violation VALUES (?1) ON CONFLICT DO NOTHING";
    let mut say = db.prepare_cached(sql)?;
    let mut news = Vec::new();
    for text in wrong {
        if say.execute([&text])? == 1 {
            news.push(text);
        }
    }
    Ok(news)
}

/// An entry must be the only one with its number, the only one that proves what it proves,
/// and fit the one before it and the one after it.
fn look_at_entry(db: &Connection, entry: &Entry, proves: &str) -> Result<Vec<String>, Failure> {
    let Entry {
        book,
        n,
        change,
        balance,
    } = entry;
    let known = |n: i64| -> Result<Option<(String, i64, i64)>, Failure> {
        let sql = "SELECT proves, change, balance FROM entry WHERE book = ?1 AND n = ?2";
        let mut find = db.prepare_cached(sql)?;
        let found = find.query_row((book, n), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        Ok(found.optional()?)
    };
    let mut wrong = Vec::new();
    if let Some(before) = known(*n)? {
        if before != (proves.to_owned(), *change, *balance) {
            wrong.push(format!("{book} {n} is {before:?} and {entry:?} {proves}"));
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
    if let Some((_, _, before)) = known(n - 1)?
        && before + change != *balance
    {
        wrong.push(format!(
            "{book} {n} doesn't fit the one before: {before}, {entry:?}"
        ));
    }
    if let Some((_, change, after)) = known(n + 1)?
        && balance + change != after
    {
        wrong.push(format!(
            "{book} {n} doesn't fit the one after: {entry:?}, {after}"
        ));
    }
    Ok(wrong)
}

/// Sums up what is known.
pub(crate) fn report(db: &Connection) -> Result<Report, Failure> {
    let (mut orders, mut open) = (0, 0);
    let mut groups = db.prepare_cached("SELECT facts, count(*) FROM seen GROUP BY facts")?;
    let groups = groups.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, i64>(1)?)))?;
    for group in groups {
        let (facts, count) = group?;
        orders += count;
        open += if is_complete(facts) { 0 } else { count };
    }
    // How much each book has moved, by the entries that are known.
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
        verdict: Verdict::SoFarSoGood,
        orders,
        open,
        violations: db.query_row(violations, [], |row| row.get(0))?,
        till: moved("till"),
        deposits: moved("deposits"),
        sales: moved("sales"),
        taken_from_shelves: -moved("shelf"),
        parcels: moved("parcels"),
    };
    let at_rest = orders > 0 && open == 0 && gaps == 0;
    let adds_up = report.deposits == 0
        && report.till == report.sales
        && report.taken_from_shelves == report.parcels;
    report.verdict = match (at_rest, adds_up && report.violations == 0) {
        (true, true) => Verdict::Balanced,
        (false, _) if report.violations == 0 => Verdict::SoFarSoGood,
        _ => Verdict::Violated,
    };
    Ok(report)
}
