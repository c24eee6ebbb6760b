//! How long a channel must stay open, so that what was said on it reaches its queue.
//!
//! A channel of the broker passes on some commands at a time to a quorum queue
//! (`quorum_commands_soft_limit`, 32 in RabbitMQ 3.10 to 4.x) and keeps the others until the
//! queue has applied some of them. When it is closed meanwhile, it forgets those: what was
//! acked is delivered again. Nothing on the channel tells how far it is, not even the answer
//! to what is asked after them. So a channel on which much was said lately stays open for a
//! moment.

use std::time::Duration;

use tokio::time::Instant;

/// So many commands are passed on at once: half of what the broker does, which counts some
/// of its own among them.
const FEW: u32 = 16;
/// A queue has applied what it was told after this time; one that is slower may deliver
/// again.
const APPLIED_WITHIN: Duration = Duration::from_millis(200);

/// What was said on one channel.
#[derive(Debug, Default)]
pub(super) struct CommandRate {
    /// So many commands, without a pause.
    count: u32,
    last: Option<Instant>,
}

impl CommandRate {
    /// A command was sent.
    pub(super) fn said(&mut self, now: Instant) {
        if self.is_applied(now) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// How long the channel is to stay open.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        match self.last {
            Some(last) if self.count > FEW => {
                (last + APPLIED_WITHIN).saturating_duration_since(now)
            }
            _ => Duration::ZERO,
        }
    }

    fn is_applied(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.duration_since(last) >= APPLIED_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_stays_open_after_much_was_said_without_a_pause() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut saying = CommandRate::default();
        assert_eq!(saying.wait(start), Duration::ZERO);
        for _ in 0..FEW {
            saying.said(start);
            assert_eq!(saying.wait(start), Duration::ZERO);
        }
        saying.said(at(150));
        assert_eq!(saying.wait(at(200)), Duration::from_millis(150));
        assert_eq!(saying.wait(at(350)), Duration::ZERO);
        // After a pause it begins anew.
        saying.said(at(350));
        assert_eq!(saying.wait(at(350)), Duration::ZERO);
    }
}
