//! Which facts there may be of an order, and which are all that there will ever be.
//!
//! An auditor hears of them in any order, and of some never if something is wrong. But as
//! long as everything is right, what it knows of an order is a part of one of these
//! [histories](HISTORIES): a set that is part of none can't become right any more, whatever
//! comes. And when nothing is under way, it is one of them as a whole.

use crate::messages::Outcome;

/// Something that is known of an order.
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
    /// In the ledger.
    Deposit,
    Sale,
    Return,
    Closed(Outcome),
}

impl Fact {
    /// A set of facts is the sum of theirs.
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

/// All that can become of an order.
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
        // The bank was too slow, but has taken the money…
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
        // …or it hadn't, and was told not to do it any more.
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

/// Whether it can still become right.
pub(crate) fn is_possible(facts: u32) -> bool {
    HISTORIES.iter().any(|history| facts & !set(history) == 0)
}

/// Whether nothing is missing.
pub(crate) fn is_complete(facts: u32) -> bool {
    HISTORIES.iter().any(|history| facts == set(history))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_so_far_is_possible_in_whatever_order_it_came() {
        assert!(is_possible(set(&[Fact::Shipped])));
        assert!(is_possible(set(&[Fact::Released, Fact::Charged])));
        assert!(!is_complete(set(&[Fact::Shipped, Fact::Charged])));
        for history in HISTORIES {
            assert!(is_possible(set(history)) && is_complete(set(history)));
        }
    }

    #[test]
    fn what_can_never_become_right_is_impossible_at_once() {
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
