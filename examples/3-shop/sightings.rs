//! Sightings: translates each message into a fact about an order, with the entries that prove it.

use crate::histories::Fact;
use crate::messages::*;

/// A fact that a message states about an order.
pub(crate) struct Sighting {
    pub(crate) fact: Fact,
    pub(crate) order: Order,
    /// Entries that prove the fact, each with the change that it must have.
    pub(crate) entries: Vec<(Entry, i64)>,
}

/// Returns a fact without entries: no money or goods moved.
fn without_entry(fact: Fact, order: Order) -> Sighting {
    Sighting {
        fact,
        order,
        entries: Vec::new(),
    }
}

/// Returns a fact that an entry with this change proves.
fn with_entry(fact: Fact, order: Order, entry: Entry, change: i64) -> Sighting {
    Sighting {
        fact,
        order,
        entries: vec![(entry, change)],
    }
}

impl From<Wanted> for Sighting {
    fn from(Wanted(order): Wanted) -> Self {
        without_entry(Fact::Wanted, order)
    }
}

impl From<Closed> for Sighting {
    fn from(Closed { order, outcome }: Closed) -> Self {
        without_entry(Fact::Closed(outcome), order)
    }
}

impl From<StockAnswer> for Sighting {
    fn from(answer: StockAnswer) -> Self {
        match answer {
            StockAnswer::Reserved { order, entry } => {
                let change = -order.quantity;
                with_entry(Fact::Reserved, order, entry, change)
            }
            StockAnswer::SoldOut { order } => without_entry(Fact::SoldOut, order),
            StockAnswer::Released { order, entry } => {
                let change = order.quantity;
                with_entry(Fact::Released, order, entry, change)
            }
        }
    }
}

impl From<PaymentAnswer> for Sighting {
    fn from(answer: PaymentAnswer) -> Self {
        match answer {
            PaymentAnswer::Charged { order, entry } => {
                let change = order.cents;
                with_entry(Fact::Charged, order, entry, change)
            }
            PaymentAnswer::Refused { order } => without_entry(Fact::Refused, order),
            PaymentAnswer::Refunded { order, entry } => {
                let change = -order.cents;
                with_entry(Fact::Refunded, order, entry, change)
            }
            PaymentAnswer::NotCharged { order } => without_entry(Fact::NotCharged, order),
        }
    }
}

impl From<ShippingAnswer> for Sighting {
    fn from(answer: ShippingAnswer) -> Self {
        match answer {
            ShippingAnswer::Shipped { order, entry } => {
                let change = order.quantity;
                with_entry(Fact::Shipped, order, entry, change)
            }
            ShippingAnswer::Undeliverable { order } => without_entry(Fact::Undeliverable, order),
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
