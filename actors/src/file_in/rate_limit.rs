//! The pace of a source: at most so many messages a second.

use std::time::Duration;

use tokio::time::Instant;

/// What was missed is made up for within this time, not later: a source that was held up
/// for an hour doesn't flood the app afterwards.
const CATCH_UP: Duration = Duration::from_millis(100);

/// Says when the next message may go.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// A pace of so many a second; as fast as possible without.
    pub(super) fn new(rate: Option<f64>) -> Self {
        let every = rate.map_or(Duration::ZERO, |rate| {
            // Slower than once in a hundred years is a mistake, but no panic.
            Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::from_secs(3_000_000_000))
        });
        Self { every, next: None }
    }

    /// When the next message may go.
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let at = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(at + self.every);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: f64) -> Duration {
        Duration::from_secs_f64(number)
    }

    #[test]
    fn messages_go_as_often_as_the_rate_says() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(4.0));
        let times: Vec<_> = (0..4).map(|_| pace.next(start) - start).collect();
        assert_eq!(times, [0.0, 0.25, 0.5, 0.75].map(seconds));
    }

    #[test]
    fn a_little_delay_is_made_up_for_and_a_long_one_is_not() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(100.0));
        pace.next(start);
        let late = start + seconds(0.05);
        assert_eq!(pace.next(late), start + seconds(0.01));
        let later = start + seconds(60.0);
        let due = (0..200).filter(|_| pace.next(later) <= later).count();
        assert!((10..=11).contains(&due), "{due}");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(None);
        assert!((0..10).all(|_| pace.next(now) <= now));
    }
}
