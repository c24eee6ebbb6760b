//! What the services tell each other: commands from `orders`, and the answers to them.
//!
//! Every message carries the whole order, so that nobody has to ask anybody for it.

use brickwork::prelude::*;

/// What a customer wants. Money is in cents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) customer: u32,
    pub(crate) item: String,
    pub(crate) quantity: i64,
    pub(crate) cents: i64,
}

/// A customer orders.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Wanted(pub(crate) Order);

/// Take it from the shelf.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reserve(pub(crate) Order);

/// Put it back on the shelf.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Release(pub(crate) Order);

/// Take the customer's money.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Charge(pub(crate) Order);

/// Give the money back, or don't take it any more.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Refund(pub(crate) Order);

/// Send it to the customer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ship(pub(crate) Order);

/// What `orders` tells itself, later: by now it should be paid.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Overdue(pub(crate) Order);

/// A line of a service's [book](mod@crate::book): proof of what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Entry {
    pub(crate) book: String,
    /// From 1, without gaps.
    pub(crate) n: i64,
    pub(crate) change: i64,
    /// What is there after it.
    pub(crate) balance: i64,
}

/// What `stock` did.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub(crate) enum StockAnswer {
    Reserved { order: Order, entry: Entry },
    SoldOut { order: Order },
    Released { order: Order, entry: Entry },
}

/// What `payments` did.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// There was nothing to give back, and there won't be.
    NotCharged {
        order: Order,
    },
}

/// What `shipping` did.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub(crate) enum ShippingAnswer {
    Shipped { order: Order, entry: Entry },
    Undeliverable { order: Order },
}

/// What `ledger` booked: the same money, out of one account and into another.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Booked {
    pub(crate) what: Booking,
    pub(crate) order: Order,
    pub(crate) from: Entry,
    pub(crate) to: Entry,
}

/// Why money moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Booking {
    /// The customer has paid for what isn't sent yet.
    Deposit,
    /// It is sent: the money is the shop's.
    Sale,
    /// It won't be sent: the money is the customer's.
    Return,
}

/// How an order ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Shipped,
    SoldOut,
    /// The payment was refused.
    Refused,
    /// The payment took too long.
    Overdue,
    Undeliverable,
}

/// An order is done with.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Closed {
    pub(crate) order: Order,
    pub(crate) outcome: Outcome,
}
