//! Restart delay: when a failed child starts again.
//!
//! The first restart is immediate, since most failures do not repeat. Further restarts in a row
//! wait longer and longer, until there is a success or a quiet time.

use std::time::Duration;

use super::Backoff;

/// The delays between restarts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    /// Waits before the second and later restarts in a row.
    pub backoff: Backoff,
    /// Time without a failure after which the next failure counts as the first.
    pub reset_after: Duration,
}

/// The failures so far. Times count from any fixed point of the caller's choice.
///
/// ```
/// use std::time::Duration;
/// use brickwork::supervision::{DEFAULT_RESTART, History, Restart};
///
/// let history = History::default();
/// let (first, history) = history.failure(&DEFAULT_RESTART, Duration::from_secs(1), 0.0);
/// let (second, _) = history.failure(&DEFAULT_RESTART, Duration::from_secs(2), 0.0);
/// assert_eq!(first, Restart::Now);
/// assert_eq!(second, Restart::After(Duration::from_millis(100)));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Failures since the last success or quiet time.
    pub in_a_row: u32,
    /// Time of the last failure.
    pub last_failure: Option<Duration>,
}

/// When to restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// At once.
    Now,
    /// After this time.
    After(Duration),
}

impl Restart {
    /// The delay; zero for [`Now`](Self::Now).
    pub fn wait(self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::After(wait) => wait,
        }
    }
}

impl History {
    /// Resets the count: the next failure is the first again.
    pub fn success(&mut self) {
        self.in_a_row = 0;
    }

    /// Decides after a failure at `now`. `random` is between 0 and 1.
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
    fn the_first_restart_is_immediate_and_the_next_ones_back_off() {
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
    fn after_a_success_or_a_quiet_time_the_next_failure_counts_as_the_first() {
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
