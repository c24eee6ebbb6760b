//! Exponential back-off with jitter.

use std::time::Duration;

/// Waits that double from `min` to `max`, each shortened by a random part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// The share of a wait, 0 to 1, of which a random part is subtracted, so that children
    /// that failed together do not restart together.
    pub jitter: f64,
}

impl Backoff {
    /// Returns the `nth` wait, counted from 0. `random` is between 0 and 1.
    ///
    /// ```
    /// use std::time::Duration;
    /// use brickwork::supervision::Backoff;
    ///
    /// let backoff = Backoff {
    ///     min: Duration::from_secs(1),
    ///     max: Duration::from_secs(10),
    ///     jitter: 0.2,
    /// };
    /// assert_eq!(backoff.delay(2, 0.0), Duration::from_secs(4));
    /// assert_eq!(backoff.delay(9, 0.5), Duration::from_secs(9));
    /// ```
    pub fn delay(&self, nth: u32, random: f64) -> Duration {
        let doubled = self.min.saturating_mul(2u32.saturating_pow(nth.min(31)));
        let cut = 1.0 - self.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0);
        doubled.min(self.max).mul_f64(cut)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_at_most_max_and_grows_except_by_jitter(
            min_ms in 1u64..10_000,
            max_ms in 1u64..1_000_000,
            jitter in 0.0f64..=1.0,
            nth in 0u32..1_000,
            random in 0.0f64..=1.0,
        ) {
            let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
            let backoff = Backoff { min, max, jitter };
            let delay = backoff.delay(nth, random);
            prop_assert!(delay <= max);
            prop_assert!(delay <= backoff.delay(nth + 1, 0.0));
            prop_assert!(backoff.delay(nth, 1.0) <= delay);
            prop_assert!(backoff.delay(nth, 0.0) >= min.min(max));
        }
    }
}
