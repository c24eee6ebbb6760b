//! The wall clock that services see: the machine's, or a virtual one in tests.
//!
//! Owns the wall clock and the text form of times. Durations and timers are tokio's, which a test
//! can pause.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Wall clock.
///
/// A virtual clock starts at a given time and moves with tokio's clock: a test that pauses tokio's
/// clock pauses both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock(Option<(SystemTime, Instant)>);

impl Clock {
    /// The machine's clock.
    pub const SYSTEM: Self = Self(None);

    /// Creates a clock that reads `start` now and moves with tokio's clock.
    pub fn virtual_from(start: SystemTime) -> Self {
        Self(Some((start, Instant::now())))
    }

    /// Returns the current time.
    pub fn now(&self) -> SystemTime {
        match self.0 {
            None => SystemTime::now(),
            Some((start, origin)) => start + origin.elapsed(),
        }
    }

    /// Returns milliseconds since 1970-01-01 UTC.
    pub fn unix_ms(&self) -> u64 {
        unix_ms(self.now())
    }
}

/// Returns the instant after this duration, a hundred years from now at most: instants have a
/// maximum, durations of callers have none.
pub(crate) fn later(duration: Duration) -> Instant {
    const MAX: Duration = Duration::from_secs(36_500 * 86_400);
    Instant::now() + duration.min(MAX)
}

/// Returns milliseconds since 1970-01-01 UTC; 0 for an earlier time.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// A time in the form of RFC 3339, in UTC with milliseconds: `2026-11-22T23:32:03.123Z`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rfc3339 {
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) unix_ms: u64,
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.unix_ms / 86_400_000, self.unix_ms % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        let ms = ms % 1_000;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
        )
    }
}

/// Returns the date that is `days` days after 1970-01-01, as (year, month, day).
///
/// Howard Hinnant's algorithm (chrono-compatible low-level date algorithms): years begin in March,
/// so that the leap day is the last day of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_form_of_rfc_3339_even_on_leap_days_and_at_turns_of_centuries() {
        // Taken from `date -u -d TIME +%s`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.123Z"),
            (951_782_399, "2000-02-28T23:59:59.123Z"),
            (951_782_400, "2000-02-29T00:00:00.123Z"),
            (951_868_800, "2000-03-01T00:00:00.123Z"),
            (1_709_164_800, "2024-02-29T00:00:00.123Z"),
            (1_795_390_323, "2026-11-22T23:32:03.123Z"),
            (4_107_542_400, "2100-03-01T00:00:00.123Z"),
        ] {
            let unix_ms = seconds * 1_000 + 123;
            assert_eq!(Rfc3339 { unix_ms }.to_string(), text);
        }
    }
}
