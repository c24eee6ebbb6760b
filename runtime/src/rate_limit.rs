//! Rate limit: events keep an average distance, and small delays are made up for.

use std::time::Duration;

use tokio::time::Instant;

/// Spaces events evenly, at a fixed interval.
///
/// An event that comes late may be made up for within `catch_up`: timers are imprecise, and
/// without it no rate above the resolution of the timer would be reached. A longer delay is
/// not made up for, so a pause is not followed by a burst.
///
/// ```
/// use std::time::Duration;
/// use brickwork::RateLimiter;
/// use tokio::time::Instant;
///
/// let now = Instant::now();
/// let mut limiter = RateLimiter::new(Duration::from_millis(250), Duration::ZERO);
/// assert_eq!(limiter.next(now), now);
/// assert_eq!(limiter.next(now), now + Duration::from_millis(250));
/// ```
#[derive(Debug)]
pub struct RateLimiter {
    interval: Duration,
    catch_up: Duration,
    next: Option<Instant>,
}

impl RateLimiter {
    /// A limiter for one event per `interval`; with an interval of zero, events never wait.
    pub fn new(interval: Duration, catch_up: Duration) -> Self {
        Self {
            interval,
            catch_up,
            next: None,
        }
    }

    /// Returns the time of the next event, which may be in the past, and schedules the one
    /// after it.
    pub fn next(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.catch_up).unwrap_or(now);
        let at = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(at + self.interval);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATCH_UP: Duration = Duration::from_millis(100);

    fn seconds(number: f64) -> Duration {
        Duration::from_secs_f64(number)
    }

    #[test]
    fn events_are_one_interval_apart() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(seconds(0.25), CATCH_UP);
        let times: Vec<_> = (0..4).map(|_| limiter.next(start) - start).collect();
        assert_eq!(times, [0.0, 0.25, 0.5, 0.75].map(seconds));
    }

    #[test]
    fn a_short_delay_is_made_up_for_and_a_long_one_is_not() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(seconds(0.01), CATCH_UP);
        limiter.next(start);
        let late = start + seconds(0.05);
        assert_eq!(limiter.next(late), start + seconds(0.01));
        let later = start + seconds(60.0);
        let due = (0..200).filter(|_| limiter.next(later) <= later).count();
        assert!((10..=11).contains(&due), "{due}");
    }

    #[test]
    fn without_an_interval_nothing_waits() {
        let now = Instant::now();
        let mut limiter = RateLimiter::new(Duration::ZERO, CATCH_UP);
        assert!((0..10).all(|_| limiter.next(now) <= now));
    }
}
