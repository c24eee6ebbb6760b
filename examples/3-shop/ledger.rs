//! `ledger`: double-entry accounts. Each of the three accounts is a [book](mod@crate::book), and
//! the sum of their balances is always 0.
//!
//! The answers of `payments` and `shipping` arrive in any order. So an account may be below 0
//! for a moment, for example when a refund arrives before its payment.

use brickwork::prelude::*;

use crate::book;
use crate::messages::{Booked, Booking, Order, PaymentAnswer, ShippingAnswer};

#[derive(Default)]
pub(crate) struct Ledger;

#[service(summary = "keeps the accounts", store = &[book::BOOKS])]
impl Ledger {
    #[input]
    fn payments(answer: PaymentAnswer, tx: &mut Tx, booked: Out<Booked>) -> Result {
        match answer {
            PaymentAnswer::Charged { order, .. } => {
                booked.emit(transfer(Booking::Deposit, order, tx)?)
            }
            PaymentAnswer::Refunded { order, .. } => {
                booked.emit(transfer(Booking::Return, order, tx)?)
            }
            PaymentAnswer::Refused { .. } | PaymentAnswer::NotCharged { .. } => Ok(()),
        }
    }

    #[input]
    fn shipping(answer: ShippingAnswer, tx: &mut Tx, booked: Out<Booked>) -> Result {
        match answer {
            ShippingAnswer::Shipped { order, .. } => {
                booked.emit(transfer(Booking::Sale, order, tx)?)
            }
            ShippingAnswer::Undeliverable { .. } => Ok(()),
        }
    }
}

fn transfer(what: Booking, order: Order, tx: &Tx<'_>) -> Result<Booked> {
    let (from, to) = match what {
        Booking::Deposit => ("customers", "deposits"),
        Booking::Sale => ("deposits", "sales"),
        Booking::Return => ("deposits", "customers"),
    };
    let from = book::enter(tx, from, &order.id, -order.cents)?;
    let to = book::enter(tx, to, &order.id, order.cents)?;
    Ok(Booked {
        what,
        order,
        from,
        to,
    })
}
