//! Times in the format of RFC 3339, for `cloudEvents_time`.
//!
//! Owns the valid range: from 1970 to the end of the year 9999, the last year with four digits.

use chrono::{DateTime, SecondsFormat};

/// The last valid time.
pub(super) const MS_MAX: u64 = 253_402_300_799_999;

/// Formats milliseconds since 1970-01-01 UTC: `2026-11-23T00:30:30.041Z`. Later times become
/// [`MS_MAX`].
pub(super) fn format(unix_ms: u64) -> String {
    let unix_ms = i64::try_from(unix_ms.min(MS_MAX)).unwrap_or_default();
    let time = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Converts an AMQP timestamp to milliseconds. Returns `None` if it is out of range, such as
/// one in milliseconds, a common mistake.
pub(super) fn from_seconds(unix_seconds: u64) -> Option<u64> {
    writable(unix_seconds.checked_mul(1000)?)
}

/// Parses a time into milliseconds. A leap second becomes the following second. Returns `None`
/// for invalid times and for times that [`format`] can't write.
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
    fn known_times_parse_as_they_are_formatted() {
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
    fn times_after_the_year_9999_become_its_last_millisecond() {
        for ms in [MS_MAX + 1, u64::MAX] {
            assert_eq!(parse(&format(ms)), Some(MS_MAX));
        }
        assert_eq!(from_seconds(MS_MAX / 1000), Some(MS_MAX - 999));
        assert_eq!(from_seconds(MS_MAX / 1000 + 1), None);
        assert_eq!(from_seconds(u64::MAX), None);
    }

    #[test]
    fn times_of_other_programs_parse() {
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
