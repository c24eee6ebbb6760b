//! The messages of the shop: commands from `orders`, and the answers to them.
//!
//! Every message carries the whole order, so that no service has to request it.

use brickwork::prelude::*;

/// An order of a customer. Money is in cents.
#[message]
#[derive(PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) customer: u32,
    pub(crate) item: String,
    pub(crate) quantity: i64,
    pub(crate) cents: i64,
}

/// A customer places an order.
#[message]
pub(crate) struct Wanted(pub(crate) Order);

/// Command: take the goods from the shelf.
#[message]
pub(crate) struct Reserve(pub(crate) Order);

/// Command: put the goods back on the shelf.
#[message]
pub(crate) struct Release(pub(crate) Order);

/// Command: take the customer's money.
#[message]
pub(crate) struct Charge(pub(crate) Order);

/// Command: refund the money if it was taken; otherwise never take it.
#[message]
pub(crate) struct Refund(pub(crate) Order);

/// Command: send the goods to the customer.
#[message]
pub(crate) struct Ship(pub(crate) Order);

/// Delayed message of `orders` to itself: the time for the payment is over.
#[message]
pub(crate) struct Overdue(pub(crate) Order);

/// Entry of a service's [book](mod@crate::book): proves that the service moved money or goods.
#[message]
#[derive(PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) book: String,
    /// Number of the entry in its book: from 1, without gaps.
    pub(crate) n: i64,
    pub(crate) change: i64,
    /// Balance of the book after this entry.
    pub(crate) balance: i64,
}

/// Answer of `stock`.
#[message]
#[serde(tag = "did", rename_all = "kebab-case")]
pub(crate) enum StockAnswer {
    Reserved { order: Order, entry: Entry },
    SoldOut { order: Order },
    Released { order: Order, entry: Entry },
}

/// Answer of `payments`.
#[message]
#[serde(tag = "did", rename_all = "kebab-case")]
pub(crate) enum PaymentAnswer {
    Charged {
        order: Order,
        entry: Entry,
    },
    Refused {
        order: Order,
    },
    Refunded {
        order: Order,
        entry: Entry,
    },
    /// The money was not taken, and never will be.
    NotCharged {
        order: Order,
    },
}

/// Answer of `shipping`.
#[message]
#[serde(tag = "did", rename_all = "kebab-case")]
pub(crate) enum ShippingAnswer {
    Shipped { order: Order, entry: Entry },
    Undeliverable { order: Order },
}

/// Transfer that `ledger` recorded: the same amount out of one account and into another.
#[message]
pub(crate) struct Booked {
    pub(crate) what: Booking,
    pub(crate) order: Order,
    pub(crate) from: Entry,
    pub(crate) to: Entry,
}

/// Reason of a transfer.
#[message]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Booking {
    /// The customer has paid and the goods are not sent yet.
    Deposit,
    /// The goods are sent: the money belongs to the shop.
    Sale,
    /// The goods won't be sent: the money goes back to the customer.
    Return,
}

/// Final result of an order.
#[message]
#[derive(Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Shipped,
    SoldOut,
    /// The bank refused the payment.
    Refused,
    /// The payment took too long.
    Overdue,
    Undeliverable,
}

/// An order has reached its final result.
#[message]
pub(crate) struct Closed {
    pub(crate) order: Order,
    pub(crate) outcome: Outcome,
}
