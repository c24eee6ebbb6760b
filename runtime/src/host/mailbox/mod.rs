//! The mailbox: the bounded queue in front of a service.
//!
//! The core is generic over its items and takes its lock from `sync`, so that tests can run the
//! same file under a model checker.

mod core;
mod sync;

pub(crate) use self::core::{Mailbox, Pulled};

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::Mailbox;

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
