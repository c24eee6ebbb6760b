//! Decides which acks to send, from the delivery tags of one channel.
//!
//! The broker numbers the deliveries of a channel from 1, and one `multiple` ack covers all
//! deliveries up to its tag. Owns the rule that a `multiple` ack is sent only if every delivery
//! that it covers is settled. The consumer task sends the acks.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::non_crash_redeliveries::MessageKey;

/// The unsettled deliveries of one channel.
#[derive(Debug)]
pub(super) struct AckTracker {
    /// Tag of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Number of slots that are [`State::ToAck`].
    to_ack: usize,
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// `None` in a gap.
    key: Option<MessageKey>,
    received: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsettled,
    /// The service has settled it; its retry, dead letter or reply is not confirmed yet.
    Settling,
    /// Settled here; the ack is not sent yet.
    ToAck,
    /// The broker knows the outcome.
    Settled,
    /// Returns to its queue when the channel closes.
    Kept,
}

impl State {
    /// Returns whether the outcome is not known yet.
    fn is_open(self) -> bool {
        matches!(self, Self::Unsettled | Self::Settling)
    }
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
    pub(super) fn received(&mut self, tag: u64, key: MessageKey, now: Instant) {
        // The broker numbers without gaps; a gap would block `multiple` acks only.
        while self.first + (self.slots.len() as u64) < tag {
            self.slots.push_back(Slot::new(None, now));
        }
        self.slots.push_back(Slot::new(Some(key), now));
    }

    /// Marks a delivery whose settlement has begun.
    pub(super) fn mark_settling(&mut self, tag: u64) {
        self.mark(tag, State::Settling);
    }

    /// Marks a delivery to be acked.
    pub(super) fn mark_to_ack(&mut self, tag: u64) {
        if self.mark(tag, State::ToAck) {
            self.to_ack += 1;
        }
    }

    /// Marks a delivery that was nacked on its own. Returns `false` if it was settled before.
    pub(super) fn mark_settled(&mut self, tag: u64) -> bool {
        self.mark(tag, State::Settled)
    }

    /// Marks a delivery that returns to its queue when the channel closes.
    pub(super) fn keep(&mut self, tag: u64) {
        self.mark(tag, State::Kept);
    }

    /// Changes the state of a delivery. Returns `false` if it was settled or kept before.
    fn mark(&mut self, tag: u64, state: State) -> bool {
        let index = tag.checked_sub(self.first);
        let slot = index.and_then(|index| self.slots.get_mut(index as usize));
        let Some(slot) = slot.filter(|slot| slot.state.is_open()) else {
            return false;
        };
        slot.state = state;
        true
    }

    /// Returns the time at which the oldest unsettled delivery was received.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let oldest = self.slots.iter().find(|slot| slot.state.is_open());
        oldest.map(|slot| slot.received)
    }

    /// Returns the message of a delivery that is not settled.
    pub(super) fn key(&self, tag: u64) -> Option<MessageKey> {
        let index = tag.checked_sub(self.first)?;
        self.slots.get(index as usize)?.key
    }

    /// Returns the deliveries that are not settled yet.
    pub(super) fn open(&self) -> impl Iterator<Item = (u64, MessageKey)> {
        self.with_state(State::is_open)
    }

    /// Returns the deliveries whose settlement has begun and has not ended.
    pub(super) fn settling(&self) -> impl Iterator<Item = (u64, MessageKey)> {
        self.with_state(|state| state == State::Settling)
    }

    /// Returns the deliveries that are done and whose acks were not sent.
    pub(super) fn unsent(&self) -> impl Iterator<Item = (u64, MessageKey)> {
        self.with_state(|state| state == State::ToAck)
    }

    fn with_state(
        &self,
        wanted: impl Fn(State) -> bool,
    ) -> impl Iterator<Item = (u64, MessageKey)> {
        let slots = (self.first..).zip(&self.slots);
        let wanted = slots.filter(move |(_, slot)| wanted(slot.state));
        wanted.filter_map(|(tag, slot)| Some((tag, slot.key?)))
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
            && matches!(slot.state, State::ToAck | State::Settled)
        {
            if slot.state == State::ToAck {
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
            if slot.state == State::ToAck {
                slot.state = State::Settled;
                left -= 1;
                let multiple = false;
                acks.push(Ack { tag, multiple });
            }
        }
        self.to_ack = 0;
        acks
    }
}

impl Slot {
    fn new(key: Option<MessageKey>, received: Instant) -> Self {
        Self {
            state: State::Unsettled,
            key,
            received,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::rabbitmq::non_crash_redeliveries::NonCrashRedeliveries;

    fn key() -> MessageKey {
        NonCrashRedeliveries::default().content_key("q", "content")
    }

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
            tracker.received(tag, key(), Instant::now());
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

    #[test]
    fn a_lost_channel_leaves_unacked_messages_in_three_states() {
        let mut tracker = AckTracker::new();
        for tag in 1..=6 {
            tracker.received(tag, key(), Instant::now());
        }
        tracker.mark_to_ack(1);
        assert_eq!(tracker.take_acks().len(), 1);
        tracker.mark_settling(3);
        tracker.keep(4);
        tracker.mark_to_ack(5);
        assert!(tracker.mark_settled(6) && !tracker.mark_settled(4));
        let tags = |slots: Vec<(u64, MessageKey)>| -> Vec<u64> {
            slots.into_iter().map(|(tag, _)| tag).collect()
        };
        assert_eq!(tags(tracker.open().collect()), [2, 3]);
        assert_eq!(tags(tracker.settling().collect()), [3]);
        assert_eq!(tags(tracker.unsent().collect()), [5]);
        assert!(tracker.key(2).is_some() && tracker.key(1).is_none());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Deliver,
        Ack(prop::sample::Index),
        Requeue(prop::sample::Index),
        Keep(prop::sample::Index),
        Send,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Deliver),
            3 => any::<prop::sample::Index>().prop_map(Step::Ack),
            1 => any::<prop::sample::Index>().prop_map(Step::Requeue),
            1 => any::<prop::sample::Index>().prop_map(Step::Keep),
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
                        tracker.received(received, key(), Instant::now());
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
                    Step::Keep(which) if !open.is_empty() => {
                        tracker.keep(open.remove(which.index(open.len())));
                    }
                    Step::Ack(_) | Step::Requeue(_) | Step::Keep(_) => {}
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
