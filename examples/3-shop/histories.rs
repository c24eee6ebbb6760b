//! Valid histories of an order: each is the full set of facts of one possible course.
//!
//! The auditor learns facts in any order. While no rule is violated, the known facts of an
//! order are a subset of one of the [histories](HISTORIES). Facts that fit no history are a
//! violation that no later fact can repair. When no message is in flight, the facts of each
//! order equal a history.

use crate::messages::Outcome;

/// A fact about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    Wanted,
    Reserved,
    SoldOut,
    Released,
    Charged,
    Refused,
    Refunded,
    NotCharged,
    Shipped,
    Undeliverable,
    /// The ledger recorded a deposit.
    Deposit,
    /// The ledger recorded a sale.
    Sale,
    /// The ledger recorded a return.
    Return,
    Closed(Outcome),
}

impl Fact {
    /// Bit of this fact in a set of facts.
    pub(crate) const fn bit(self) -> u32 {
        let place = match self {
            Self::Wanted => 0,
            Self::Reserved => 1,
            Self::SoldOut => 2,
            Self::Released => 3,
            Self::Charged => 4,
            Self::Refused => 5,
            Self::Refunded => 6,
            Self::NotCharged => 7,
            Self::Shipped => 8,
            Self::Undeliverable => 9,
            Self::Deposit => 10,
            Self::Sale => 11,
            Self::Return => 12,
            Self::Closed(Outcome::Shipped) => 13,
            Self::Closed(Outcome::SoldOut) => 14,
            Self::Closed(Outcome::Refused) => 15,
            Self::Closed(Outcome::Overdue) => 16,
            Self::Closed(Outcome::Undeliverable) => 17,
        };
        1 << place
    }
}

/// All valid histories.
const HISTORIES: &[&[Fact]] = {
    use Fact::*;
    &[
        &[
            Wanted,
            Reserved,
            Charged,
            Deposit,
            Shipped,
            Sale,
            Closed(Outcome::Shipped),
        ],
        &[Wanted, SoldOut, Closed(Outcome::SoldOut)],
        &[
            Wanted,
            Reserved,
            Refused,
            Released,
            Closed(Outcome::Refused),
        ],
        &[
            Wanted,
            Reserved,
            Charged,
            Deposit,
            Undeliverable,
            Refunded,
            Return,
            Released,
            Closed(Outcome::Undeliverable),
        ],
        // Overdue: the bank took the money late, and the shop refunded it.
        &[
            Wanted,
            Reserved,
            Charged,
            Deposit,
            Refunded,
            Return,
            Released,
            Closed(Outcome::Overdue),
        ],
        // Overdue: the refund came before the charge, and the charge was refused.
        &[
            Wanted,
            Reserved,
            NotCharged,
            Refused,
            Released,
            Closed(Outcome::Overdue),
        ],
    ]
};

fn set(history: &[Fact]) -> u32 {
    history.iter().fold(0, |set, fact| set | fact.bit())
}

/// Whether the facts are part of a valid history.
pub(crate) fn is_possible(facts: u32) -> bool {
    HISTORIES.iter().any(|history| facts & !set(history) == 0)
}

/// Whether the facts are a whole valid history.
pub(crate) fn is_complete(facts: u32) -> bool {
    HISTORIES.iter().any(|history| facts == set(history))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_valid_history_is_possible() {
        assert!(is_possible(set(&[Fact::Shipped])));
        assert!(is_possible(set(&[Fact::Released, Fact::Charged])));
        assert!(!is_complete(set(&[Fact::Shipped, Fact::Charged])));
        for history in HISTORIES {
            assert!(is_possible(set(history)) && is_complete(set(history)));
        }
    }

    #[test]
    fn contradictory_facts_are_impossible() {
        let shipped = Fact::Closed(Outcome::Shipped);
        for wrong in [
            [Fact::Shipped, Fact::Refused],
            [Fact::Shipped, Fact::NotCharged],
            [Fact::Shipped, Fact::Refunded],
            [Fact::Charged, Fact::SoldOut],
            [Fact::Charged, Fact::NotCharged],
            [Fact::Released, shipped],
            [Fact::Closed(Outcome::Refused), shipped],
        ] {
            assert!(!is_possible(set(&wrong)), "{wrong:?}");
        }
    }
}
