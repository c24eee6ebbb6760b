//! What the auditor makes of a message: which fact it is of which order, and its proof.

use crate::histories::Fact;
use crate::messages::*;

/// What is seen in a message.
pub(crate) struct Sighting {
    pub(crate) fact: Fact,
    pub(crate) order: Order,
    /// Entries of books that prove it, each with how much it should have moved.
    pub(crate) entries: Vec<(Entry, i64)>,
}

/// Nothing was moved.
fn word(fact: Fact, order: Order) -> Sighting {
    Sighting {
        fact,
        order,
        entries: Vec::new(),
    }
}

/// So much was moved.
fn deed(fact: Fact, order: Order, entry: Entry, change: i64) -> Sighting {
    Sighting {
        fact,
        order,
        entries: vec![(entry, change)],
    }
}

impl From<Wanted> for Sighting {
    fn from(Wanted(order): Wanted) -> Self {
        word(Fact::Wanted, order)
    }
}

impl From<Closed> for Sighting {
    fn from(Closed { order, outcome }: Closed) -> Self {
        word(Fact::Closed(outcome), order)
    }
}

impl From<StockAnswer> for Sighting {
    fn from(answer: StockAnswer) -> Self {
        match answer {
            StockAnswer::Reserved { order, entry } => {
                let change = -order.quantity;
                deed(Fact::Reserved, order, entry, change)
            }
            StockAnswer::SoldOut { order } => word(Fact::SoldOut, order),
            StockAnswer::Released { order, entry } => {
                let change = order.quantity;
                deed(Fact::Released, order, entry, change)
            }
        }
    }
}

impl From<PaymentAnswer> for Sighting {
    fn from(answer: PaymentAnswer) -> Self {
        match answer {
            PaymentAnswer::Charged { order, entry } => {
                let change = order.cents;
                deed(Fact::Charged, order, entry, change)
            }
            PaymentAnswer::Refused { order } => word(Fact::Refused, order),
            PaymentAnswer::Refunded { order, entry } => {
                let change = -order.cents;
                deed(Fact::Refunded, order, entry, change)
            }
            PaymentAnswer::NotCharged { order } => word(Fact::NotCharged, order),
        }
    }
}

impl From<ShippingAnswer> for Sighting {
    fn from(answer: ShippingAnswer) -> Self {
        match answer {
            ShippingAnswer::Shipped { order, entry } => {
                let change = order.quantity;
                deed(Fact::Shipped, order, entry, change)
            }
            ShippingAnswer::Undeliverable { order } => word(Fact::Undeliverable, order),
        }
    }
}

impl From<Booked> for Sighting {
    fn from(booked: Booked) -> Self {
        let fact = match booked.what {
            Booking::Deposit => Fact::Deposit,
            Booking::Sale => Fact::Sale,
            Booking::Return => Fact::Return,
        };
        let cents = booked.order.cents;
        Sighting {
            fact,
            order: booked.order,
            entries: vec![(booked.from, -cents), (booked.to, cents)],
        }
    }
}
