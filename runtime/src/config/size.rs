//! Sizes such as `512B`, `64KiB`, `1MiB`, `2GiB`.

use std::fmt;

use super::text_format::{largest_unit, parse_with_unit, text_format};

/// Units in bytes.
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
/// Returns a text that says how the value is wrong.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is not a size such as 512B, 64KiB, 1MiB or 2GiB");
    parse_with_unit(text, &UNITS)
        .ok_or_else(expected)?
        .ok_or_else(|| format!("{text:?} is too large"))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            bytes => {
                let (number, unit) = largest_unit(bytes, &UNITS);
                write!(f, "{number}{unit}")
            }
        }
    }
}

text_format!(ByteSize, "Size", "^[0-9]+(B|KiB|MiB|GiB)$", parse_size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_prints_as_it_was_written() {
        for text in ["0B", "512B", "64KiB", "1MiB", "2GiB"] {
            assert_eq!(ByteSize(parse_size(text).unwrap()).to_string(), text);
        }
        for text in ["", "1", "MiB", "1MB", "1 KiB", "99999999999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
