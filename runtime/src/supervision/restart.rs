//! Whether and when something that failed is started again.
//!
//! The first restart is at once: most failures don't repeat. From the second in a row
//! each waits, longer and longer, until there is a success or a quiet time.

use std::time::Duration;

use super::Backoff;

/// How a service's instances are started again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    /// The waits from the second restart in a row.
    pub backoff: Backoff,
    /// After this long without a failure, the next one is the first again.
    pub reset_after: Duration,
}

/// What happened so far. Times are counted from any fixed point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Failures without a success or a quiet time in between.
    pub in_a_row: u32,
    /// When the last failure was.
    pub last_failure: Option<Duration>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Start it again at once.
    Now,
    /// Start it again after this time.
    After(Duration),
}

impl Restart {
    /// How long to wait before.
    pub fn wait(self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::After(wait) => wait,
        }
    }
}

impl History {
    /// After something went well.
    pub fn success(&mut self) {
        self.in_a_row = 0;
    }

    /// Decides after a failure at `now`; `random` is between 0 and 1.
    #[must_use]
    pub fn failure(self, policy: &RestartPolicy, now: Duration, random: f64) -> (Restart, Self) {
        let quiet = self
            .last_failure
            .is_some_and(|last| now.saturating_sub(last) >= policy.reset_after);
        let in_a_row = if quiet { 0 } else { self.in_a_row };
        let restart = match in_a_row {
            0 => Restart::Now,
            n => Restart::After(policy.backoff.delay(n - 1, random)),
        };
        (
            restart,
            Self {
                in_a_row: in_a_row.saturating_add(1),
                last_failure: Some(now),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> RestartPolicy {
        let backoff = Backoff {
            min: SECOND,
            max: 4 * SECOND,
            jitter: 0.0,
        };
        RestartPolicy {
            backoff,
            reset_after: 60 * SECOND,
        }
    }

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_back_off() {
        let mut history = History::default();
        let mut restarts = Vec::new();
        for second in 0..5 {
            let (restart, next) = history.failure(&policy(), second * SECOND, 0.5);
            restarts.push(restart);
            history = next;
        }
        let after = |seconds| Restart::After(seconds * SECOND);
        assert_eq!(
            restarts,
            [Restart::Now, after(1), after(2), after(4), after(4)]
        );
    }

    #[test]
    fn a_success_or_a_quiet_time_makes_the_next_failure_the_first_again() {
        let (_, mut history) = History::default().failure(&policy(), SECOND, 0.5);
        history.success();
        let (restart, history) = history.failure(&policy(), 2 * SECOND, 0.5);
        assert_eq!(restart, Restart::Now);
        let (restart, _) = history.failure(&policy(), 62 * SECOND, 0.5);
        assert_eq!(restart, Restart::Now);
        let (restart, _) = history.failure(&policy(), 61 * SECOND, 0.5);
        assert_eq!(restart, Restart::After(SECOND));
    }
}
