//! The messages of the shop: commands from `orders`, and the answers to them.
//!
//! Every message carries the whole order, so that no service has to request it.

use brickwork::prelude::*;

/// An order of a customer. Money is in cents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) customer: u32,
    pub(crate) item: String,
    pub(crate) quantity: i64,
    pub(crate) cents: i64,
}

/// A customer places an order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Wanted(pub(crate) Order);

/// Command: take the goods from the shelf.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reserve(pub(crate) Order);

/// Command: put the goods back on the shelf.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Release(pub(crate) Order);

/// Command: take the customer's money.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Charge(pub(crate) Order);

/// Command: refund the money if it was taken; otherwise never take it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Refund(pub(crate) Order);

/// Command: send the goods to the customer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ship(pub(crate) Order);

/// Delayed message of `orders` to itself: the time for the payment is over.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Overdue(pub(crate) Order);

/// Entry of a service's [book](mod@crate::book): proves that the service moved money or goods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Entry {
    pub(crate) book: String,
    /// Number of the entry in its book: from 1, without gaps.
    pub(crate) n: i64,
    pub(crate) change: i64,
    /// Balance of the book after this entry.
    pub(crate) balance: i64,
}

/// Answer of `stock`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub(crate) enum StockAnswer {
    Reserved { order: Order, entry: Entry },
    SoldOut { order: Order },
    Released { order: Order, entry: Entry },
}

/// Answer of `payments`.
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
    /// The money was not taken, and never will be.
    NotCharged {
        order: Order,
    },
}

/// Answer of `shipping`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub(crate) enum ShippingAnswer {
    Shipped { order: Order, entry: Entry },
    Undeliverable { order: Order },
}

/// Transfer that `ledger` recorded: the same amount out of one account and into another.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Booked {
    pub(crate) what: Booking,
    pub(crate) order: Order,
    pub(crate) from: Entry,
    pub(crate) to: Entry,
}

/// Reason of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Closed {
    pub(crate) order: Order,
    pub(crate) outcome: Outcome,
}
