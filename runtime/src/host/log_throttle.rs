//! What happens a thousand times is said once in a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// As often as a person wants to read the same.
const EVERY: Duration = Duration::from_secs(10);

/// Says when something may be said again.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<Option<LastLogged>>);

#[derive(Debug)]
struct LastLogged {
    at: Instant,
    /// How often it happened since.
    since: u64,
}

impl LogThrottle {
    /// It has happened: how often it did before without being said, if it may be said now.
    pub(crate) fn happened(&self) -> Option<u64> {
        let now = Instant::now();
        let mut said = self.0.lock();
        match &mut *said {
            Some(said) if now.saturating_duration_since(said.at) < EVERY => {
                said.since += 1;
                None
            }
            other => {
                let before = other.replace(LastLogged { at: now, since: 0 });
                Some(before.map_or(0, |said| said.since))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_said_and_later_how_many_were_not() {
        let seldom = LogThrottle::default();
        assert_eq!(seldom.happened(), Some(0));
        assert_eq!(seldom.happened(), None);
        assert_eq!(seldom.happened(), None);
        tokio::time::advance(EVERY).await;
        assert_eq!(seldom.happened(), Some(2));
        assert_eq!(seldom.happened(), None);
    }
}
