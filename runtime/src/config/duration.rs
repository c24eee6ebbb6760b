//! Durations such as `250ms`, `5s`, `1m`, `2h`, `1d`.

use std::fmt;
use std::time::Duration;

use super::text_format::{largest_unit, parse_with_unit, text_format};

/// Units in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Maximum duration: 100 years.
const DAYS_MAX: u64 = 36_500;

/// A duration in a config: a whole number and a unit.
///
/// ```
/// use std::time::Duration;
/// use brickwork::config::parse_duration;
///
/// assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
/// assert!(parse_duration("5").is_err());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// Reads a duration.
///
/// # Errors
/// Returns a text that says how the value is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is not a duration such as 250ms, 5s, 1m, 2h or 1d");
    match parse_with_unit(text, &UNITS).ok_or_else(expected)? {
        Some(ms) if ms <= DAYS_MAX * 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is longer than {DAYS_MAX}d")),
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() as u64 {
            0 => f.write_str("0s"),
            ms => {
                let (number, unit) = largest_unit(ms, &UNITS);
                write!(f, "{number}{unit}")
            }
        }
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

text_format!(
    HumanDuration,
    "Duration",
    "^[0-9]+(ms|s|m|h|d)$",
    parse_duration
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_prints_as_it_was_written() {
        for text in ["0s", "1ms", "1500ms", "5s", "90s", "1m", "2h", "1d"] {
            assert_eq!(
                HumanDuration(parse_duration(text).unwrap()).to_string(),
                text
            );
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1S",
            "99999999999999999999s",
            "40000d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
