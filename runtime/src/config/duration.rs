//! Durations such as `250ms`, `5s`, `1m`, `2h`, `1d`.

use std::fmt;
use std::time::Duration;

use super::text_format::written_as_text;

/// Milliseconds of each unit.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Longer than anyone means: 100 years.
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
/// What is wrong, in words.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is not a duration such as 250ms, 5s, 1m, 2h or 1d");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(expected)?;
    match number.checked_mul(*scale) {
        Some(ms) if ms <= DAYS_MAX * 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is longer than {DAYS_MAX}d")),
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        let (unit, scale) = match ms {
            0 => ("s", 1),
            _ => *UNITS
                .iter()
                .rev()
                .find(|(_, scale)| ms.is_multiple_of(*scale))
                .expect("1 divides all"),
        };
        write!(f, "{}{unit}", ms / scale)
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

written_as_text!(
    HumanDuration,
    "Duration",
    "^[0-9]+(ms|s|m|h|d)$",
    parse_duration
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_prints_as_it_is_read() {
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
