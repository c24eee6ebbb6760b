//! Restart intensity: counts restarts in a sliding window.

use std::collections::VecDeque;
use std::time::Duration;

use super::Intensity;

/// The restarts within the window of an [`Intensity`].
///
/// Times count from any fixed point of the caller's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartWindow(VecDeque<Duration>);

impl RestartWindow {
    /// Counts a restart at `now`. Returns false if there are too many in the window.
    ///
    /// As in OTP, a restart that is exactly `within` old still counts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use brickwork::supervision::{Intensity, RestartWindow};
    ///
    /// let intensity = Intensity { max_restarts: 1, within: Duration::from_secs(5) };
    /// let mut window = RestartWindow::default();
    /// assert!(window.restart(&intensity, Duration::from_secs(0)));
    /// assert!(window.restart(&intensity, Duration::from_secs(6)));
    /// assert!(!window.restart(&intensity, Duration::from_secs(11)));
    /// ```
    pub fn restart(&mut self, intensity: &Intensity, now: Duration) -> bool {
        self.0.push_back(now);
        while let Some(oldest) = self.0.front() {
            let old = now.saturating_sub(*oldest) > intensity.within;
            // One more than the maximum is enough to decide.
            if old || self.0.len() > intensity.max_restarts as usize + 1 {
                self.0.pop_front();
            } else {
                break;
            }
        }
        self.0.len() <= intensity.max_restarts as usize
    }

    /// Number of restarts in the window, as of the last call of [`restart`](Self::restart).
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no restart is in the window.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_refuses_exactly_when_the_window_holds_too_many(
            gaps in prop::collection::vec(0u64..3_000, 1..200),
            max_restarts in 0u32..10,
            within_ms in 1u64..10_000,
        ) {
            let intensity = Intensity { max_restarts, within: Duration::from_millis(within_ms) };
            let mut window = RestartWindow::default();
            let mut all: Vec<u64> = Vec::new();
            for gap in gaps {
                let now = all.last().copied().unwrap_or(0) + gap;
                all.push(now);
                let counted = all.iter().filter(|at| now - **at <= within_ms).count();
                let allowed = window.restart(&intensity, Duration::from_millis(now));
                prop_assert_eq!(allowed, counted <= max_restarts as usize);
                prop_assert!(window.len() <= max_restarts as usize + 1);
            }
        }
    }
}
