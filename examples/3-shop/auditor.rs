//! `auditor`: hears all that the others tell, and says what can't be.
//!
//! Its knowledge is always behind, comes in any order, and some of it more than once. So at
//! any time it can say only that *so far nothing impossible has happened*: what it knows of
//! each order may still become one of the [histories](crate::histories), nothing was done
//! twice, and the entries of the [books](crate::book) that it knows fit each other. When all
//! histories are complete and no book has a gap, it can say that *all is balanced*, to the
//! cent and to the piece.
//!
//! It goes without its inbox, on purpose: it mustn't trust what it is there to check. A fact
//! that comes again says the same as before, and changes nothing. If it says something else,
//! something was done twice.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};
use tracing::{error, info};

use crate::histories::{is_complete, is_possible};
use crate::messages::{Booked, Closed, Entry, PaymentAnswer, ShippingAnswer, StockAnswer, Wanted};
use crate::sightings::Sighting;

const ORDERS: Input<Wanted> = Input::new("orders");
const STOCK: Input<StockAnswer> = Input::new("stock");
const PAYMENTS: Input<PaymentAnswer> = Input::new("payments");
const SHIPPING: Input<ShippingAnswer> = Input::new("shipping");
const LEDGER: Input<Booked> = Input::new("ledger");
const CLOSED: Input<Closed> = Input::new("closed");

const VIOLATIONS: Output<Violation> = Output::new("violations");
const REPORTS: Output<Report> = Output::new("reports");
const REPORT: Tick = Tick::new("report");

/// Something that can't be.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Violation {
    pub(crate) text: String,
}

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

pub(crate) struct Auditor {
    last: Option<Report>,
}

impl Service for Auditor {
    const NAME: &'static str = "auditor";
    const SUMMARY: &'static str = "says what can't be";
    const STORE: &'static [Migration] = &[Migration::new(
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
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports
            .input(&ORDERS)
            .input(&STOCK)
            .input(&PAYMENTS)
            .input(&SHIPPING)
            .input(&LEDGER)
            .input(&CLOSED)
            .output(&VIOLATIONS)
            .output(&REPORTS)
            .tick(REPORT, Duration::from_secs(1));
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self { last: None })
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        if cx.instance() != 0 {
            return Ok(());
        }
        let report = cx.store()?.read(report).await?;
        if self.last.as_ref() != Some(&report) {
            self.last = Some(report.clone());
            cx.emit(&REPORTS, report)?;
        }
        Ok(())
    }

    async fn stop(&mut self, cx: &mut Context) -> Result<(), Failure> {
        if cx.instance() == 0 {
            let report = cx.store()?.read(report).await?;
            match report.verdict {
                Verdict::Violated => error!("the auditor's last word: {report:?}"),
                _ => info!("the auditor's last word: {report:?}"),
            }
        }
        Ok(())
    }
}

/// Everything that anybody tells is looked at in the same way.
impl<M: Into<Sighting>> Handle<M> for Auditor {
    async fn handle(&mut self, message: M, cx: &mut Context) -> Result<(), Failure> {
        let sighting = message.into();
        let look = move |tx: &mut Tx<'_>| {
            for text in look(tx, &sighting)? {
                let sql = "INSERT INTO violation VALUES (?1) ON CONFLICT DO NOTHING";
                if tx.prepare_cached(sql)?.execute([&text])? == 1 {
                    error!("{text}");
                    tx.emit(&VIOLATIONS, Violation { text })?;
                }
            }
            Ok(())
        };
        cx.store()?.without_inbox().transact(look).await
    }
}

/// Adds it to what is known, and says what of it can't be.
fn look(db: &Connection, sighting: &Sighting) -> Result<Vec<String>, Failure> {
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
    Ok(wrong)
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

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;

    use super::*;
    use crate::messages::{Booking, Order, Outcome};

    fn order() -> Order {
        Order {
            id: "order-1".into(),
            customer: 7,
            item: "tea".into(),
            quantity: 2,
            cents: 698,
        }
    }

    fn entry(book: &str, n: i64, change: i64, balance: i64) -> Entry {
        Entry {
            book: book.into(),
            n,
            change,
            balance,
        }
    }

    fn charged(n: i64, balance: i64) -> PaymentAnswer {
        PaymentAnswer::Charged {
            order: order(),
            entry: entry("till", n, 698, balance),
        }
    }

    fn booked(what: Booking, from: &str, to: (&str, i64)) -> Booked {
        Booked {
            what,
            order: order(),
            from: entry(from, 1, -698, -698),
            to: entry(to.0, to.1, 698, 698),
        }
    }

    /// The verdict of the next report.
    fn verdict(auditor: &TestApp) -> Verdict {
        auditor.advance(Duration::from_secs(1));
        auditor.expect(&REPORTS).verdict
    }

    /// All that there is to know of an order that goes well, each of it twice, the last first.
    #[test]
    fn what_comes_in_any_order_and_again_is_balanced_when_nothing_is_missing() {
        let auditor = TestApp::of::<Auditor>(NoConfig {});
        for _ in 0..2 {
            let (order, outcome) = (order(), Outcome::Shipped);
            auditor.send(&CLOSED, Closed { order, outcome });
            let mut sale = booked(Booking::Sale, "deposits", ("sales", 1));
            sale.from = entry("deposits", 2, -698, 0);
            auditor.send(&LEDGER, sale);
            auditor.send(
                &LEDGER,
                booked(Booking::Deposit, "customers", ("deposits", 1)),
            );
        }
        assert_eq!(verdict(&auditor), Verdict::SoFarSoGood);
        for _ in 0..2 {
            let parcel = ShippingAnswer::Shipped {
                order: order(),
                entry: entry("parcels", 1, 2, 2),
            };
            auditor.send(&SHIPPING, parcel);
            auditor.send(&PAYMENTS, charged(1, 698));
            let reserved = StockAnswer::Reserved {
                order: order(),
                entry: entry("shelf/tea", 1, -2, 98),
            };
            auditor.send(&STOCK, reserved);
            auditor.send(&ORDERS, Wanted(order()));
        }
        assert_eq!(verdict(&auditor), Verdict::Balanced);
        auditor.expect_nothing(&VIOLATIONS);
        auditor.stop();
    }

    #[test]
    fn what_can_not_be_is_told_at_once() {
        let auditor = TestApp::of::<Auditor>(NoConfig {});
        auditor.send(&PAYMENTS, charged(1, 698));
        auditor.send(&PAYMENTS, charged(2, 1396));
        let text = auditor.expect(&VIOLATIONS).text;
        assert_eq!(text, "Charged order-1 twice: till 1 and 2");
        auditor.send(&PAYMENTS, PaymentAnswer::Refused { order: order() });
        let text = auditor.expect(&VIOLATIONS).text;
        assert_eq!(text, "order-1 can't be Refused after all");
        assert_eq!(verdict(&auditor), Verdict::Violated);
        auditor.stop();
    }

    #[test]
    fn a_cent_that_is_missing_in_a_book_is_found_when_its_neighbour_is_known() {
        let auditor = TestApp::of::<Auditor>(NoConfig {});
        auditor.send(&PAYMENTS, charged(2, 1395));
        auditor.expect_nothing(&VIOLATIONS);
        let mut other = order();
        other.id = "order-2".into();
        let first = PaymentAnswer::Charged {
            order: other,
            entry: entry("till", 1, 698, 698),
        };
        auditor.send(&PAYMENTS, first);
        let text = auditor.expect(&VIOLATIONS).text;
        assert!(text.contains("till 1 doesn't fit the one after"), "{text}");
        auditor.stop();
    }
}
