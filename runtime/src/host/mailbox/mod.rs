//! The mailbox: the bounded queue in front of a service.
//!
//! The core is generic over its items and takes its lock from `sync`, so that tests can run the
//! same file under a model checker.

mod core;
mod sync;

pub(crate) use self::core::{Mailbox, Pulled, Rank};

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::core::FIRST_IN_A_ROW;
    use super::{Mailbox, Pulled, Rank};

    const CAPACITY: usize = 5;

    /// A step of a random run.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push(Rank),
        Pull,
        /// Pulls an item and puts it back.
        PutBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Push(Rank::Ordinary)),
            4 => Just(Step::Push(Rank::First)),
            5 => Just(Step::Pull),
            1 => Just(Step::PutBack),
        ]
    }

    proptest! {
        #[test]
        fn first_items_go_before_others_and_starve_none(
            steps in proptest::collection::vec(step(), 0..300),
        ) {
            let mailbox: Mailbox<(Rank, u32)> = Mailbox::new(CAPACITY);
            let mut cx = Context::from_waker(Waker::noop());
            // The items in the mailbox, by rank.
            let mut waiting = [VecDeque::new(), VecDeque::new()];
            // First items that went before an ordinary one that waited.
            let mut overtook = 0;
            for (number, step) in (0..).zip(steps) {
                let pulled = match step {
                    Step::Push(rank) => {
                        let queue = &mut waiting[rank as usize];
                        let room = CAPACITY - queue.len();
                        // One rank takes no room from the other.
                        match mailbox.poll_room(&mut cx, rank) {
                            Poll::Ready(found) => prop_assert_eq!(found, room),
                            Poll::Pending => prop_assert_eq!(room, 0),
                        }
                        let mut items = VecDeque::from([(rank, number)]);
                        let pushed = mailbox.poll_push(&mut cx, rank, &mut items);
                        prop_assert_eq!(pushed.is_ready(), room > 0);
                        if room > 0 {
                            queue.push_back(number);
                        }
                        continue;
                    }
                    Step::Pull | Step::PutBack => mailbox.poll_pull(&mut cx, 0),
                };
                let Poll::Ready(Pulled::Item((rank, number))) = pulled else {
                    prop_assert!(waiting.iter().all(VecDeque::is_empty));
                    continue;
                };
                prop_assert_eq!(waiting[rank as usize].front(), Some(&number));
                let others = [waiting[Rank::First as usize].len(), waiting[0].len()];
                if rank == Rank::Ordinary {
                    // Either no first item waited, or the ordinary one had its turn.
                    prop_assert!(others[0] == 0 || overtook >= FIRST_IN_A_ROW);
                }
                if let Step::PutBack = step {
                    mailbox.put_back((rank, number), rank);
                    if rank == Rank::Ordinary {
                        overtook = FIRST_IN_A_ROW;
                    }
                    continue;
                }
                waiting[rank as usize].pop_front();
                overtook = match rank {
                    Rank::First if others[1] > 0 => overtook + 1,
                    Rank::First | Rank::Ordinary => 0,
                };
                prop_assert!(overtook <= FIRST_IN_A_ROW);
            }
        }
    }

    #[test]
    fn repeated_waits_take_no_more_memory() {
        let mailbox: Mailbox<u32> = Mailbox::new(4);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1_000 {
            for slot in 0..3 {
                assert!(mailbox.poll_pull(&mut cx, slot).is_pending());
                mailbox.pass_on(slot, false);
            }
        }
        assert!(mailbox.idle_entries() <= 3, "{}", mailbox.idle_entries());
    }
}
