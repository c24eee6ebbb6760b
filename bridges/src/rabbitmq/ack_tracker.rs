//! Which acks to send: a decision over the delivery tags of one channel.
//!
//! The broker numbers a channel's deliveries from 1, and one ack can stand for all up to
//! its number. Owns the rule that it does so only where every one of them is settled.
//! Sending is the pump's.

use std::collections::VecDeque;

/// The deliveries of a channel that the broker waits to hear of.
#[derive(Debug)]
pub(super) struct AckTracker {
    /// The tag of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// How many slots are [`Slot::Decided`].
    decided: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Open,
    /// To be acked.
    Decided,
    /// The broker was told.
    Told,
}

/// An ack to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    /// It stands for all before it, too.
    pub(super) multiple: bool,
}

impl AckTracker {
    pub(super) fn new() -> Self {
        Self {
            first: 1,
            slots: VecDeque::new(),
            decided: 0,
        }
    }

    /// A delivery has come.
    pub(super) fn came(&mut self, tag: u64) {
        let place = (tag - self.first) as usize;
        if self.slots.len() <= place {
            self.slots.resize(place + 1, Slot::Open);
        }
    }

    /// It is to be acked.
    pub(super) fn decide(&mut self, tag: u64) {
        if let Some(slot @ Slot::Open) = self.slot(tag) {
            *slot = Slot::Decided;
            self.decided += 1;
        }
    }

    /// The broker was told of it apart: it was given back. `false` if it was told before.
    pub(super) fn told(&mut self, tag: u64) -> bool {
        match self.slot(tag) {
            Some(slot @ Slot::Open) => {
                *slot = Slot::Told;
                true
            }
            _ => false,
        }
    }

    /// How many wait to be acked.
    pub(super) fn decided(&self) -> usize {
        self.decided
    }

    /// The acks for all that is decided, in the order in which they must be sent: one for
    /// those before the first open delivery, and one each for the others.
    pub(super) fn acks(&mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        if self.decided == 0 {
            return acks;
        }
        let (mut last, mut count) = (None, 0);
        while let Some(slot) = self.slots.front()
            && *slot != Slot::Open
        {
            if *slot == Slot::Decided {
                // The broker must still know the number that stands for the others.
                last = Some(self.first);
                count += 1;
            }
            self.slots.pop_front();
            self.first += 1;
        }
        let multiple = count > 1;
        acks.extend(last.map(|tag| Ack { tag, multiple }));
        let mut left = self.decided - count;
        for (tag, slot) in (self.first..).zip(&mut self.slots) {
            if left == 0 {
                break;
            }
            if *slot == Slot::Decided {
                *slot = Slot::Told;
                left -= 1;
                let multiple = false;
                acks.push(Ack { tag, multiple });
            }
        }
        self.decided = 0;
        acks
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Slot> {
        let place = tag.checked_sub(self.first)?;
        self.slots.get_mut(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Does with acks what a broker does.
    #[derive(Default)]
    struct Broker {
        unacked: BTreeSet<u64>,
        gone: BTreeSet<u64>,
    }

    impl Broker {
        /// `false`: it would close the channel.
        fn ack(&mut self, ack: Ack) -> bool {
            let known = self.unacked.contains(&ack.tag);
            let all: Vec<u64> = match ack.multiple {
                true => self.unacked.range(..=ack.tag).copied().collect(),
                false => vec![ack.tag],
            };
            for tag in all {
                self.unacked.remove(&tag);
                self.gone.insert(tag);
            }
            known
        }
    }

    #[test]
    fn a_settled_prefix_is_one_ack() {
        let mut tags = AckTracker::new();
        for tag in 1..=5 {
            tags.came(tag);
        }
        for tag in [2, 1, 3, 5] {
            tags.decide(tag);
        }
        let multiple = true;
        let single = |tag| Ack {
            tag,
            multiple: false,
        };
        assert_eq!(tags.acks(), [Ack { tag: 3, multiple }, single(5)]);
        assert_eq!(tags.acks(), []);
        tags.decide(4);
        assert_eq!(tags.acks(), [single(4)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Come,
        Decide(prop::sample::Index),
        Requeue(prop::sample::Index),
        Send,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Come),
            3 => any::<prop::sample::Index>().prop_map(Step::Decide),
            1 => any::<prop::sample::Index>().prop_map(Step::Requeue),
            1 => Just(Step::Send),
        ]
    }

    proptest! {
        /// Whatever is decided in whatever order: exactly what was decided is acked, and
        /// no ack is one that makes the broker close the channel.
        #[test]
        fn exactly_what_was_decided_is_acked(steps in prop::collection::vec(step(), 0..200)) {
            let (mut tags, mut broker) = (AckTracker::new(), Broker::default());
            let (mut came, mut open, mut decided) = (0, Vec::new(), BTreeSet::new());
            for step in steps.into_iter().chain([Step::Send]) {
                match step {
                    Step::Come => {
                        came += 1;
                        tags.came(came);
                        broker.unacked.insert(came);
                        open.push(came);
                    }
                    Step::Decide(which) if !open.is_empty() => {
                        let tag = open.remove(which.index(open.len()));
                        tags.decide(tag);
                        decided.insert(tag);
                    }
                    Step::Requeue(which) if !open.is_empty() => {
                        let tag = open.remove(which.index(open.len()));
                        prop_assert!(tags.told(tag));
                        prop_assert!(broker.unacked.remove(&tag));
                    }
                    Step::Decide(_) | Step::Requeue(_) => {}
                    Step::Send => {
                        for ack in tags.acks() {
                            prop_assert!(broker.ack(ack), "{ack:?}");
                        }
                        prop_assert_eq!(&broker.gone, &decided);
                        prop_assert_eq!(tags.decided(), 0);
                    }
                }
            }
        }
    }
}
