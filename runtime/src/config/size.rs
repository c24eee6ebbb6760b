//! Sizes such as `512B`, `64KiB`, `1MiB`, `2GiB`.

use std::fmt;

use super::text_format::written_as_text;

const UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A number of bytes in a config.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Reads a size, in bytes.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is not a size such as 512B, 64KiB, 1MiB or 2GiB");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(expected)?;
    number
        .checked_mul(*scale)
        .ok_or_else(|| format!("{text:?} is too large"))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = match self.0 {
            0 => ("B", 1),
            bytes => *UNITS
                .iter()
                .rev()
                .find(|(_, s)| bytes % s == 0)
                .expect("1 divides all"),
        };
        write!(f, "{}{unit}", self.0 / scale)
    }
}

written_as_text!(ByteSize, "Size", "^[0-9]+(B|KiB|MiB|GiB)$", parse_size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_prints_as_it_is_read() {
        for text in ["0B", "512B", "64KiB", "1MiB", "2GiB"] {
            assert_eq!(ByteSize(parse_size(text).unwrap()).to_string(), text);
        }
        for text in ["", "1", "MiB", "1MB", "1 KiB", "99999999999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
