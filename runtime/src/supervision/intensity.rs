//! Counting restarts in a sliding window.

use std::collections::VecDeque;
use std::time::Duration;

use super::Intensity;

/// The restarts that still count. Times are counted from any fixed point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartWindow(VecDeque<Duration>);

impl RestartWindow {
    /// Counts a restart at `now` and says whether that many are borne.
    ///
    /// As in OTP, one that is exactly `within` old still counts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use brickwork::supervision::{Intensity, Window};
    ///
    /// let intensity = Intensity { max_restarts: 1, within: Duration::from_secs(5) };
    /// let mut window = Window::default();
    /// assert!(window.restart(&intensity, Duration::from_secs(0)));
    /// assert!(window.restart(&intensity, Duration::from_secs(6)));
    /// assert!(!window.restart(&intensity, Duration::from_secs(11)));
    /// ```
    pub fn restart(&mut self, intensity: &Intensity, now: Duration) -> bool {
        self.0.push_back(now);
        while let Some(oldest) = self.0.front() {
            let old = now.saturating_sub(*oldest) > intensity.within;
            // Not more is kept than it takes to know.
            if old || self.0.len() > intensity.max_restarts as usize + 1 {
                self.0.pop_front();
            } else {
                break;
            }
        }
        self.0.len() <= intensity.max_restarts as usize
    }

    /// How many restarts count at the moment of the last one.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none counts.
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
        fn it_gives_up_exactly_when_a_window_holds_too_many(
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
                let borne = window.restart(&intensity, Duration::from_millis(now));
                prop_assert_eq!(borne, counted <= max_restarts as usize);
                prop_assert!(window.len() <= max_restarts as usize + 1);
            }
        }
    }
}
