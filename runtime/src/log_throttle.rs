//! Rate limit for repeated log lines.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Minimum time between two log lines about the same event.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides whether an event that happens often is logged now.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Option<LastLogged>>);

#[derive(Debug)]
struct LastLogged {
    at: Instant,
    /// Events since then that were not logged.
    suppressed: u64,
}

impl LogThrottle {
    /// Counts an event. Returns `Some` if the event may be logged now, with the number of
    /// events that were not logged before it.
    pub fn event(&self) -> Option<u64> {
        let now = Instant::now();
        let mut last = self.0.lock();
        match &mut *last {
            Some(last) if now.saturating_duration_since(last.at) < INTERVAL => {
                last.suppressed += 1;
                None
            }
            other => {
                let before = other.replace(LastLogged {
                    at: now,
                    suppressed: 0,
                });
                Some(before.map_or(0, |last| last.suppressed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_event_is_logged_and_later_ones_once_per_interval_with_their_number() {
        let throttle = LogThrottle::default();
        assert_eq!(throttle.event(), Some(0));
        assert_eq!(throttle.event(), None);
        assert_eq!(throttle.event(), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(throttle.event(), Some(2));
        assert_eq!(throttle.event(), None);
    }
}
