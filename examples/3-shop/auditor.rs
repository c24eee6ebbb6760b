//! `auditor`: reads the messages of all other services and reports violations.
//!
//! The messages reach the auditor late, in any order, and some of them twice. While messages
//! are in flight, its verdict is at best *so far nothing impossible has happened*: the known
//! facts of each order can still become one of the [histories](crate::histories), nothing was
//! done twice, and the known entries of each [book](crate::book) fit each other. When all
//! histories are complete and no book has a gap, the verdict is *all is balanced*: to the cent
//! and to the piece.
//!
//! The auditor doesn't use its inbox, because it must not depend on the feature that it
//! checks. A redelivered fact equals the known one and changes nothing. A fact that differs
//! proves that something was done twice.

use std::time::Duration;

use brickwork::prelude::*;
use tracing::{error, info};

use crate::evidence::{self, Report, Verdict};
use crate::messages::{Booked, Closed, PaymentAnswer, ShippingAnswer, StockAnswer, Wanted};
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

/// A contradiction between facts or entries.
#[message]
pub(crate) struct Violation {
    pub(crate) text: String,
}

pub(crate) struct Auditor {
    last: Option<Report>,
}

impl Service for Auditor {
    const NAME: &'static str = "auditor";
    const SUMMARY: &'static str = "reports violations";
    const STORE: &'static [Migration] = evidence::TABLES;
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
        let report = cx.store()?.read(evidence::report).await?;
        if self.last.as_ref() != Some(&report) {
            self.last = Some(report.clone());
            cx.emit(&REPORTS, report)?;
        }
        Ok(())
    }

    async fn stop(&mut self, cx: &mut Context) -> Result<(), Failure> {
        if cx.instance() == 0 {
            let report = cx.store()?.read(evidence::report).await?;
            match report.verdict {
                Verdict::Violated => error!("final audit: {report:?}"),
                _ => info!("final audit: {report:?}"),
            }
        }
        Ok(())
    }
}

/// Every message becomes a sighting and is checked in the same way.
impl<M: Into<Sighting>> Handle<M> for Auditor {
    async fn handle(&mut self, message: M, cx: &mut Context) -> Result<(), Failure> {
        let sighting = message.into();
        let record = move |tx: &mut Tx<'_>| {
            for text in evidence::record(tx, &sighting)? {
                error!("{text}");
                tx.emit(&VIOLATIONS, Violation { text })?;
            }
            Ok(())
        };
        cx.store()?.without_inbox().transact(record).await
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;

    use super::*;
    use crate::messages::{Booking, Entry, Order, Outcome};

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

    /// Returns the verdict of the next report.
    fn verdict(auditor: &TestApp) -> Verdict {
        auditor.advance(Duration::from_secs(1));
        auditor.expect(&REPORTS).verdict
    }

    /// Sends all messages of a successful order, each twice, the last one first.
    #[test]
    fn complete_facts_are_balanced_in_any_order_and_with_duplicates() {
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
        assert_eq!(verdict(&auditor), Verdict::Consistent);
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
    fn a_violation_is_reported_at_once() {
        let auditor = TestApp::of::<Auditor>(NoConfig {});
        auditor.send(&PAYMENTS, charged(1, 698));
        auditor.send(&PAYMENTS, charged(2, 1396));
        let text = auditor.expect(&VIOLATIONS).text;
        assert_eq!(text, "Charged order-1 twice: till 1 and 2");
        auditor.send(&PAYMENTS, PaymentAnswer::Refused { order: order() });
        let text = auditor.expect(&VIOLATIONS).text;
        assert_eq!(text, "order-1: Refused contradicts the other facts");
        assert_eq!(verdict(&auditor), Verdict::Violated);
        auditor.stop();
    }

    #[test]
    fn a_missing_cent_is_found_when_the_neighbouring_entry_is_known() {
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
        assert!(text.contains("till 1 doesn't fit the next entry"), "{text}");
        auditor.stop();
    }
}
