//! The time that services see: real, or a test's own.
//!
//! Owns the wall clock only. Durations and timers are tokio's, which a test pauses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Tells the wall-clock time.
///
/// A virtual clock starts at a given time and then moves with tokio's clock, so a
/// test that pauses tokio's clock moves both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock(Option<(SystemTime, Instant)>);

impl Clock {
    /// The machine's clock.
    pub const SYSTEM: Self = Self(None);

    /// A clock that reads `start` now and goes on with tokio's clock.
    pub fn virtual_from(start: SystemTime) -> Self {
        Self(Some((start, Instant::now())))
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        match self.0 {
            None => SystemTime::now(),
            Some((start, origin)) => start + origin.elapsed(),
        }
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn unix_ms(&self) -> u64 {
        unix_ms(self.now())
    }
}

/// Milliseconds since 1970-01-01 UTC; 0 for a time before.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// The time that `milliseconds` since 1970-01-01 UTC stand for.
pub(crate) fn from_unix_ms(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds)
}
