//! Times as text, in the form of RFC 3339: what `cloudEvents_time` carries.
//!
//! Owns the calendar that this takes. Leap seconds are read as the second after.

/// Milliseconds since 1970-01-01 UTC as text: `2026-11-23T00:30:30.041Z`.
pub(super) fn format(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / MS_A_DAY, unix_ms % MS_A_DAY);
    let (year, month, day) = date(days as i64);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The last moment that can be written: years have four digits.
const MS_MAX: u64 = 253_402_300_799_999;

/// A timestamp of AMQP in milliseconds; `None` for one that no date can be made of. (One
/// in milliseconds, a common mistake, is such.)
pub(super) fn of_seconds(unix_seconds: u64) -> Option<u64> {
    let unix_ms = unix_seconds.checked_mul(1000)?;
    (unix_ms <= MS_MAX).then_some(unix_ms)
}

/// What [`format`] wrote, or anybody else; `None` for a time before 1970 or no time.
pub(super) fn parse(text: &str) -> Option<u64> {
    let (year, rest) = text.split_at_checked(4)?;
    let (month, rest) = after(rest, &['-'])?;
    let (day, rest) = after(rest, &['-'])?;
    let (hour, rest) = after(rest, &['T', 't', ' '])?;
    let (minute, rest) = after(rest, &[':'])?;
    let (second, rest) = after(rest, &[':'])?;
    let (ms, rest) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let end = fraction.find(|c: char| !c.is_ascii_digit())?;
            let (digits, rest) = fraction.split_at(end);
            let first_three = format!("{digits:0<3}");
            (digits_of(first_three.get(..3)?)?, rest)
        }
        None => (0, rest),
    };
    let offset_minutes = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.chars().next()? {
                '+' => 1,
                '-' => -1,
                _ => return None,
            };
            let (hours, rest) = after(rest, &['+', '-'])?;
            let (minutes, rest) = after(rest, &[':'])?;
            if !rest.is_empty() || hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 60 + minutes)
        }
    };
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    if !in_range || second > 60 {
        return None;
    }
    let minutes = days(digits_of(year)?, month, day) * 1440 + hour * 60 + minute - offset_minutes;
    u64::try_from((minutes * 60 + second) * 1000 + ms).ok()
}

const MS_A_DAY: u64 = 86_400_000;

/// Two digits after one of `separators`, and what follows.
fn after<'a>(text: &'a str, separators: &[char]) -> Option<(i64, &'a str)> {
    let text = text.strip_prefix(separators)?;
    let (digits, rest) = text.split_at_checked(2)?;
    Some((digits_of(digits)?, rest))
}

fn digits_of(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

// Both ways between days and dates: Howard Hinnant, "chrono-compatible low-level date
// algorithms". Years start in March there, so that the leap day is the last one.

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
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
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format(ms), text);
            assert_eq!(parse(text), Some(ms));
        }
    }

    #[test]
    fn other_programs_write_times_in_other_ways() {
        for (text, ms) in [
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01 00:00:01z", Some(1000)),
            ("1970-01-01T00:00:00.5Z", Some(500)),
            ("1970-01-01T00:00:00.123456789Z", Some(123)),
            ("1969-12-31T23:30:00-01:00", Some(1_800_000)),
            ("1969-12-31T23:30:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01", None),
            ("yesterday", None),
            ("", None),
            ("ÄÄ-01-01T00:00:00Z", None),
        ] {
            assert_eq!(parse(text), ms, "{text}");
        }
    }
}
