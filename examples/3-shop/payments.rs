//! `payments`: takes and refunds customers' money. The till is a [book](mod@crate::book).
//!
//! The simulated bank refuses some payments and confirms others late, possibly after the
//! time-out of `orders`.

use std::time::Duration;

use brickwork::Store;
use brickwork::config::HumanDuration;
use brickwork::prelude::*;

use crate::messages::{Charge, PaymentAnswer, Refund};
use crate::{book, luck};

const CHARGE: Input<Charge> = Input::new("charge");
const REFUND: Input<Refund> = Input::new("refund");
const ANSWERS: Output<PaymentAnswer> = Output::new("answers");

const TILL: &str = "till";

/// Config of `payments`.
#[config]
pub(crate) struct PaymentsConfig {
    /// Share of payments that the bank refuses, from 0 to 1.
    #[default(0.05)]
    refused: f64,
    /// Share of payments that the bank confirms late, from 0 to 1.
    #[default(0.02)]
    late: f64,
    /// Delay of a late confirmation.
    #[default(HumanDuration(Duration::from_secs(5)))]
    late_by: HumanDuration,
    /// Whether the inbox filters redelivered messages. `false` shows the effect of duplicates.
    #[default(true)]
    inbox: bool,
}

pub(crate) struct Payments {
    config: PaymentsConfig,
}

impl Payments {
    fn store<'a>(&self, cx: &'a mut Context) -> Result<Store<'a>, Failure> {
        let store = cx.store()?;
        Ok(match self.config.inbox {
            true => store,
            false => store.without_inbox(),
        })
    }
}

impl Service for Payments {
    const NAME: &'static str = "payments";
    const SUMMARY: &'static str = "takes and refunds money";
    const STORE: &'static [Migration] = &[
        book::BOOKS,
        // Orders that must never be charged.
        Migration::new("void", "CREATE TABLE void (order_id TEXT NOT NULL) STRICT"),
        Migration::new(
            "index of void",
            "CREATE INDEX void_order ON void (order_id)",
        ),
    ];
    type Config = PaymentsConfig;

    fn ports(_: &PaymentsConfig, ports: &mut Ports<Self>) {
        ports.input(&CHARGE).input(&REFUND).output(&ANSWERS);
    }

    async fn start(config: &PaymentsConfig, _: &mut Context) -> Result<Self, Failure> {
        let config = config.clone();
        Ok(Self { config })
    }
}

impl Handle<Charge> for Payments {
    async fn handle(&mut self, Charge(order): Charge, cx: &mut Context) -> Result<(), Failure> {
        let refused = luck::happens("refused", &order.id, self.config.refused);
        let late = luck::happens("late", &order.id, self.config.late);
        let delay = if late {
            self.config.late_by.0
        } else {
            Duration::ZERO
        };
        let charge = move |tx: &mut Tx<'_>| {
            let mut find = tx.prepare_cached("SELECT 1 FROM void WHERE order_id = ?1")?;
            let is_void = find.exists([&order.id])?;
            drop(find);
            if refused || is_void {
                return tx.emit(&ANSWERS, PaymentAnswer::Refused { order });
            }
            let entry = book::enter(tx, TILL, &order.id, order.cents)?;
            tx.emit_after(&ANSWERS, PaymentAnswer::Charged { order, entry }, delay)
        };
        self.store(cx)?.transact(charge).await
    }
}

impl Handle<Refund> for Payments {
    async fn handle(&mut self, Refund(order): Refund, cx: &mut Context) -> Result<(), Failure> {
        let refund = move |tx: &mut Tx<'_>| {
            if book::has(tx, TILL, &order.id)? {
                let entry = book::enter(tx, TILL, &order.id, -order.cents)?;
                return tx.emit(&ANSWERS, PaymentAnswer::Refunded { order, entry });
            }
            // Messages may arrive out of order: the charge may still be in flight.
            tx.prepare_cached("INSERT INTO void VALUES (?1)")?
                .execute([&order.id])?;
            tx.emit(&ANSWERS, PaymentAnswer::NotCharged { order })
        };
        self.store(cx)?.transact(refund).await
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;

    use super::*;
    use crate::messages::{Entry, Order};

    fn order() -> Order {
        Order {
            id: "order-1".into(),
            customer: 7,
            item: "tea".into(),
            quantity: 2,
            cents: 698,
        }
    }

    fn payments(refused: f64, inbox: bool) -> TestApp {
        TestApp::of::<Payments>(PaymentsConfig {
            refused,
            late: 0.0,
            inbox,
            ..PaymentsConfig::default()
        })
    }

    fn till_entry(answer: PaymentAnswer) -> Entry {
        match answer {
            PaymentAnswer::Charged { entry, .. } | PaymentAnswer::Refunded { entry, .. } => entry,
            other => panic!("no entry: {other:?}"),
        }
    }

    #[test]
    fn a_refund_pays_back_the_charged_amount() {
        let payments = payments(0.0, true);
        payments.send(&CHARGE, Charge(order()));
        assert_eq!(till_entry(payments.expect(&ANSWERS)).balance, 698);
        payments.send(&REFUND, Refund(order()));
        assert_eq!(till_entry(payments.expect(&ANSWERS)).balance, 0);
        payments.stop();
    }

    #[test]
    fn a_charge_after_its_refund_is_refused() {
        let payments = payments(0.0, true);
        payments.send(&REFUND, Refund(order()));
        let answer = payments.expect(&ANSWERS);
        assert!(matches!(answer, PaymentAnswer::NotCharged { .. }));
        payments.send(&CHARGE, Charge(order()));
        let answer = payments.expect(&ANSWERS);
        assert!(matches!(answer, PaymentAnswer::Refused { .. }));
        payments.stop();
    }

    /// The handlers above never check for duplicates: the inbox does.
    #[test]
    fn a_duplicate_charge_counts_once_with_the_inbox_and_twice_without() {
        for (inbox, balances) in [(true, [698].as_slice()), (false, &[698, 1396])] {
            let payments = payments(0.0, inbox);
            for _ in 0..2 {
                let charge = MessageBuilder::new(Charge(order())).id("charge-1".parse().unwrap());
                payments.send(&CHARGE, charge);
            }
            for balance in balances {
                assert_eq!(till_entry(payments.expect(&ANSWERS)).balance, *balance);
            }
            payments.expect_nothing(&ANSWERS);
            payments.stop();
        }
    }
}
