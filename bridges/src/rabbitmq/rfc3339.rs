//! Times as text, in the form of RFC 3339: what `cloudEvents_time` carries.
//!
//! Owns which times can be said so: those from 1970 to the end of the year 9999, after which
//! years have more than four digits.

use chrono::{DateTime, SecondsFormat};

/// The last moment that can be written.
pub(super) const MS_MAX: u64 = 253_402_300_799_999;

/// Milliseconds since 1970-01-01 UTC as text: `2026-11-23T00:30:30.041Z`. What is later than
/// [`MS_MAX`] is written as that.
pub(super) fn format(unix_ms: u64) -> String {
    let unix_ms = i64::try_from(unix_ms.min(MS_MAX)).unwrap_or_default();
    let time = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A timestamp of AMQP in milliseconds; `None` for one that no date can be made of. (One
/// in milliseconds, a common mistake, is such.)
pub(super) fn from_seconds(unix_seconds: u64) -> Option<u64> {
    writable(unix_seconds.checked_mul(1000)?)
}

/// What [`format`] wrote, or anybody else, in milliseconds; a leap second is the second after.
/// `None` for what isn't a time, or one that [`format`] couldn't write: before 1970, or in the
/// year 9999 only where its clock is.
pub(super) fn parse(text: &str) -> Option<u64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    writable(u64::try_from(time.timestamp_millis()).ok()?)
}

fn writable(unix_ms: u64) -> Option<u64> {
    (unix_ms <= MS_MAX).then_some(unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_read_as_they_are_written() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_393_830_041, "2026-11-23T00:30:30.041Z"),
            (MS_MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format(ms), text);
            assert_eq!(parse(text), Some(ms));
        }
    }

    #[test]
    fn what_no_year_of_four_digits_has_is_the_last_moment_of_the_last_one() {
        for ms in [MS_MAX + 1, u64::MAX] {
            assert_eq!(parse(&format(ms)), Some(MS_MAX));
        }
        assert_eq!(from_seconds(MS_MAX / 1000), Some(MS_MAX - 999));
        assert_eq!(from_seconds(MS_MAX / 1000 + 1), None);
        assert_eq!(from_seconds(u64::MAX), None);
    }

    #[test]
    fn other_programs_write_times_in_other_ways() {
        for (text, ms) in [
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01 00:00:01z", Some(1000)),
            ("1970-01-01T00:00:00.5Z", Some(500)),
            ("1970-01-01T00:00:00.123456789Z", Some(123)),
            ("1969-12-31T23:30:00-01:00", Some(1_800_000)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800_000)),
            ("9999-12-31T23:59:59.999Z", Some(MS_MAX)),
            ("9999-12-31T23:59:59-23:59", None),
            ("9999-12-31T23:59:60Z", None),
            ("1969-12-31T23:30:00Z", None),
            ("0000-01-01T00:00:00Z", None),
            ("2026-02-30T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01", None),
            ("yesterday", None),
            ("", None),
            ("ÄÄ-01-01T00:00:00Z", None),
        ] {
            assert_eq!(parse(text), ms, "{text}");
        }
    }
}
