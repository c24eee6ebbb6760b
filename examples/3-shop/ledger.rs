//! `ledger`: double-entry accounts. Each of the three accounts is a [book](mod@crate::book), and
//! the sum of their balances is always 0.
//!
//! The answers of `payments` and `shipping` arrive in any order. So an account may be below 0
//! for a moment, for example when a refund arrives before its payment.

use brickwork::prelude::*;

use crate::book;
use crate::messages::{Booked, Booking, Order, PaymentAnswer, ShippingAnswer};

const PAYMENTS: Input<PaymentAnswer> = Input::new("payments");
const SHIPPING: Input<ShippingAnswer> = Input::new("shipping");
const BOOKED: Output<Booked> = Output::new("booked");

pub(crate) struct Ledger;

impl Service for Ledger {
    const NAME: &'static str = "ledger";
    const SUMMARY: &'static str = "keeps the accounts";
    const STORE: &'static [Migration] = &[book::BOOKS];
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&PAYMENTS).input(&SHIPPING).output(&BOOKED);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<PaymentAnswer> for Ledger {
    async fn handle(&mut self, answer: PaymentAnswer, cx: &mut Context) -> Result<(), Failure> {
        match answer {
            PaymentAnswer::Charged { order, .. } => book(Booking::Deposit, order, cx).await,
            PaymentAnswer::Refunded { order, .. } => book(Booking::Return, order, cx).await,
            PaymentAnswer::Refused { .. } | PaymentAnswer::NotCharged { .. } => Ok(()),
        }
    }
}

impl Handle<ShippingAnswer> for Ledger {
    async fn handle(&mut self, answer: ShippingAnswer, cx: &mut Context) -> Result<(), Failure> {
        match answer {
            ShippingAnswer::Shipped { order, .. } => book(Booking::Sale, order, cx).await,
            ShippingAnswer::Undeliverable { .. } => Ok(()),
        }
    }
}

async fn book(what: Booking, order: Order, cx: &mut Context) -> Result<(), Failure> {
    let (from, to) = match what {
        Booking::Deposit => ("customers", "deposits"),
        Booking::Sale => ("deposits", "sales"),
        Booking::Return => ("deposits", "customers"),
    };
    let record = move |tx: &mut Tx<'_>| {
        let from = book::enter(tx, from, &order.id, -order.cents)?;
        let to = book::enter(tx, to, &order.id, order.cents)?;
        let booked = Booked {
            what,
            order,
            from,
            to,
        };
        tx.emit(&BOOKED, booked)
    };
    cx.store()?.transact(record).await
}
