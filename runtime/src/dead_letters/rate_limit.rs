//! How fast letters go, at most.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

/// What a timer that comes late may make up for: without it, nothing went faster than the
/// timer ticks.
const SLACK: Duration = Duration::from_millis(10);

/// How fast letters go, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RateLimit(Option<Duration>);

impl RateLimit {
    /// So many a second; `None` if that is no positive number.
    pub fn per_second(letters: f64) -> Option<Self> {
        let gap = Duration::try_from_secs_f64(1.0 / letters).ok()?;
        (letters > 0.0).then_some(Self(Some(gap)))
    }
}

/// Lets letters go one by one.
pub(super) struct RateLimiter {
    gap: Option<Duration>,
    next: Instant,
}

impl RateLimiter {
    pub(super) fn new(RateLimit(gap): RateLimit) -> Self {
        Self {
            gap,
            next: Instant::now(),
        }
    }

    /// Waits for the next one's turn. Time that was lost isn't made up for, but for what
    /// timers lose.
    pub(super) async fn next(&mut self) {
        if let Some(gap) = self.gap {
            sleep_until(self.next).await;
            let now = Instant::now();
            self.next = self.next.max(now.checked_sub(SLACK).unwrap_or(now)) + gap;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_also_when_it_is_faster_than_timers_tick() {
        for per_second in [10.0, 1_500.0, 20_000.0] {
            let mut turns = RateLimiter::new(RateLimit::per_second(per_second).unwrap());
            let began = Instant::now();
            let mut went = 0.0;
            while began.elapsed() < Duration::from_secs(2) {
                turns.next().await;
                went += 1.0;
            }
            let most = 2.0 * per_second + SLACK.as_secs_f64() * per_second + 1.0;
            assert!((1.9 * per_second..=most).contains(&went), "{went}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_was_lost_is_not_made_up_for() {
        let mut turns = RateLimiter::new(RateLimit::per_second(100.0).unwrap());
        turns.next().await;
        tokio::time::advance(Duration::from_secs(5)).await;
        let began = Instant::now();
        for _ in 0..10 {
            turns.next().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(70));
    }

    #[test]
    fn only_a_positive_number_is_a_pace() {
        for wrong in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(RateLimit::per_second(wrong), None, "{wrong}");
        }
    }
}
