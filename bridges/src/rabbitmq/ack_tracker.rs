//! Decides which acks to send, from the delivery tags of one channel.
//!
//! The broker numbers the deliveries of a channel from 1, and one `multiple` ack covers all
//! deliveries up to its tag. Owns the rule that a `multiple` ack is sent only if every delivery
//! that it covers is settled. The consumer task sends the acks.

use std::collections::VecDeque;

/// The unsettled deliveries of one channel.
#[derive(Debug)]
pub(super) struct AckTracker {
    /// Tag of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Number of slots that are [`Slot::ToAck`].
    to_ack: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Unsettled,
    /// Settled here; the ack is not sent yet.
    ToAck,
    /// The broker knows the outcome.
    Settled,
}

/// An ack for the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    /// Also covers every delivery with a lower tag.
    pub(super) multiple: bool,
}

impl AckTracker {
    pub(super) fn new() -> Self {
        Self {
            first: 1,
            slots: VecDeque::new(),
            to_ack: 0,
        }
    }

    /// Registers a delivery.
    pub(super) fn received(&mut self, tag: u64) {
        let index = (tag - self.first) as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::Unsettled);
        }
    }

    /// Marks a delivery to be acked.
    pub(super) fn mark_to_ack(&mut self, tag: u64) {
        if let Some(slot @ Slot::Unsettled) = self.slot(tag) {
            *slot = Slot::ToAck;
            self.to_ack += 1;
        }
    }

    /// Marks a delivery that was nacked on its own. Returns `false` if it was settled before.
    pub(super) fn mark_settled(&mut self, tag: u64) -> bool {
        match self.slot(tag) {
            Some(slot @ Slot::Unsettled) => {
                *slot = Slot::Settled;
                true
            }
            _ => false,
        }
    }

    /// Number of deliveries whose ack is not sent yet.
    pub(super) fn to_ack(&self) -> usize {
        self.to_ack
    }

    /// Returns the acks to send, in sending order: one for the settled prefix, then one for
    /// each delivery behind an unsettled one.
    pub(super) fn take_acks(&mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        if self.to_ack == 0 {
            return acks;
        }
        let (mut last, mut count) = (None, 0);
        while let Some(slot) = self.slots.front()
            && *slot != Slot::Unsettled
        {
            if *slot == Slot::ToAck {
                // The ack must name a delivery that the broker still holds.
                last = Some(self.first);
                count += 1;
            }
            self.slots.pop_front();
            self.first += 1;
        }
        let multiple = count > 1;
        acks.extend(last.map(|tag| Ack { tag, multiple }));
        let mut left = self.to_ack - count;
        for (tag, slot) in (self.first..).zip(&mut self.slots) {
            if left == 0 {
                break;
            }
            if *slot == Slot::ToAck {
                *slot = Slot::Settled;
                left -= 1;
                let multiple = false;
                acks.push(Ack { tag, multiple });
            }
        }
        self.to_ack = 0;
        acks
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Slot> {
        let index = tag.checked_sub(self.first)?;
        self.slots.get_mut(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Applies acks as a broker does.
    #[derive(Default)]
    struct Broker {
        unacked: BTreeSet<u64>,
        gone: BTreeSet<u64>,
    }

    impl Broker {
        /// Returns `false` if a broker would close the channel.
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
    fn a_settled_prefix_takes_one_multiple_ack() {
        let mut tracker = AckTracker::new();
        for tag in 1..=5 {
            tracker.received(tag);
        }
        for tag in [2, 1, 3, 5] {
            tracker.mark_to_ack(tag);
        }
        let multiple = true;
        let single = |tag| Ack {
            tag,
            multiple: false,
        };
        assert_eq!(tracker.take_acks(), [Ack { tag: 3, multiple }, single(5)]);
        assert_eq!(tracker.take_acks(), []);
        tracker.mark_to_ack(4);
        assert_eq!(tracker.take_acks(), [single(4)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Deliver,
        Ack(prop::sample::Index),
        Requeue(prop::sample::Index),
        Send,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Deliver),
            3 => any::<prop::sample::Index>().prop_map(Step::Ack),
            1 => any::<prop::sample::Index>().prop_map(Step::Requeue),
            1 => Just(Step::Send),
        ]
    }

    proptest! {
        /// For any order of settlements: the broker acks exactly the deliveries marked to ack,
        /// and no ack makes it close the channel.
        #[test]
        fn the_broker_acks_exactly_the_deliveries_marked_to_ack(steps in prop::collection::vec(step(), 0..200)) {
            let (mut tracker, mut broker) = (AckTracker::new(), Broker::default());
            let (mut received, mut open, mut acked) = (0, Vec::new(), BTreeSet::new());
            for step in steps.into_iter().chain([Step::Send]) {
                match step {
                    Step::Deliver => {
                        received += 1;
                        tracker.received(received);
                        broker.unacked.insert(received);
                        open.push(received);
                    }
                    Step::Ack(which) if !open.is_empty() => {
                        let tag = open.remove(which.index(open.len()));
                        tracker.mark_to_ack(tag);
                        acked.insert(tag);
                    }
                    Step::Requeue(which) if !open.is_empty() => {
                        let tag = open.remove(which.index(open.len()));
                        prop_assert!(tracker.mark_settled(tag));
                        prop_assert!(broker.unacked.remove(&tag));
                    }
                    Step::Ack(_) | Step::Requeue(_) => {}
                    Step::Send => {
                        for ack in tracker.take_acks() {
                            prop_assert!(broker.ack(ack), "{ack:?}");
                        }
                        prop_assert_eq!(&broker.gone, &acked);
                        prop_assert_eq!(tracker.to_ack(), 0);
                    }
                }
            }
        }
    }
}
