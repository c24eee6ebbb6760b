//! Policy: how long a channel stays open so that its last commands reach the queue.
//!
//! A channel of the broker passes a limited number of commands to a quorum queue
//! (`quorum_commands_soft_limit`, 32 in RabbitMQ 3.10 to 4.x) and keeps the others until the
//! queue has applied some. If the channel closes in between, the kept commands are lost and the
//! broker redelivers acked messages. No reply on the channel shows the progress, not even the
//! reply to a later request. So a channel that has just sent many commands stays open for a
//! moment.

use std::time::Duration;

use tokio::time::Instant;

/// Commands that the broker surely passes on at once: half of its own limit, because it counts
/// some of its own commands, too.
const COMMANDS_MAX: u32 = 16;
/// Time in which a queue applies its commands. A slower queue may redeliver.
const APPLY_TIME: Duration = Duration::from_millis(200);

/// Counts the recent commands of one channel.
#[derive(Debug, Default)]
pub(super) struct CommandRate {
    /// Commands since the last pause.
    count: u32,
    last: Option<Instant>,
}

impl CommandRate {
    /// Records a command.
    pub(super) fn sent(&mut self, now: Instant) {
        if self.is_applied(now) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// Returns how long the channel must stay open.
    pub(super) fn close_delay(&self, now: Instant) -> Duration {
        match self.last {
            Some(last) if self.count > COMMANDS_MAX => {
                (last + APPLY_TIME).saturating_duration_since(now)
            }
            _ => Duration::ZERO,
        }
    }

    fn is_applied(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.duration_since(last) >= APPLY_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_stays_open_after_many_commands_without_a_pause() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rate = CommandRate::default();
        assert_eq!(rate.close_delay(start), Duration::ZERO);
        for _ in 0..COMMANDS_MAX {
            rate.sent(start);
            assert_eq!(rate.close_delay(start), Duration::ZERO);
        }
        rate.sent(at(150));
        assert_eq!(rate.close_delay(at(200)), Duration::from_millis(150));
        assert_eq!(rate.close_delay(at(350)), Duration::ZERO);
        // A pause resets the count.
        rate.sent(at(350));
        assert_eq!(rate.close_delay(at(350)), Duration::ZERO);
    }
}
