//! Rate limit of dead-letter work, such as a replay.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::rate_limit::RateLimiter;

/// Delay of a timer that is made up for: without it, no rate above the timer's resolution
/// would be reached.
const CATCH_UP: Duration = Duration::from_millis(10);

/// Maximum number of letters per second; by default unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RateLimit(Option<Duration>);

impl RateLimit {
    /// A limit of letters per second; `None` if the number is not positive.
    pub fn per_second(letters: f64) -> Option<Self> {
        let interval = Duration::try_from_secs_f64(1.0 / letters).ok()?;
        (letters > 0.0).then_some(Self(Some(interval)))
    }

    /// The number of letters that the limit lets pass in this time.
    pub(super) fn letters_in(self, time: Duration) -> usize {
        let Some(interval) = self.0 else {
            return usize::MAX;
        };
        let letters = time.as_nanos() / interval.as_nanos().max(1);
        usize::try_from(letters).unwrap_or(usize::MAX)
    }
}

/// Spaces letters by a [`RateLimit`].
pub(super) struct LetterPacer(Option<RateLimiter>);

impl LetterPacer {
    pub(super) fn new(RateLimit(interval): RateLimit) -> Self {
        Self(interval.map(|interval| RateLimiter::new(interval, CATCH_UP)))
    }

    /// Waits until the next letter may go.
    pub(super) async fn next(&mut self) {
        if let Some(limiter) = &mut self.0 {
            sleep_until(limiter.next(Instant::now())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_even_above_the_resolution_of_the_timer() {
        for per_second in [10.0, 1_500.0, 20_000.0] {
            let mut pacer = LetterPacer::new(RateLimit::per_second(per_second).unwrap());
            let start = Instant::now();
            let mut passed = 0.0;
            while start.elapsed() < Duration::from_secs(2) {
                pacer.next().await;
                passed += 1.0;
            }
            let most = 2.0 * per_second + CATCH_UP.as_secs_f64() * per_second + 1.0;
            assert!((1.9 * per_second..=most).contains(&passed), "{passed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_delay_is_not_made_up_for() {
        let mut pacer = LetterPacer::new(RateLimit::per_second(100.0).unwrap());
        pacer.next().await;
        tokio::time::advance(Duration::from_secs(5)).await;
        let start = Instant::now();
        for _ in 0..10 {
            pacer.next().await;
        }
        assert!(start.elapsed() >= Duration::from_millis(70));
    }

    #[test]
    fn only_a_positive_number_is_a_rate() {
        for wrong in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(RateLimit::per_second(wrong), None, "{wrong}");
        }
    }
}
