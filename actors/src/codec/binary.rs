//! gzip and base64: bytes to bytes.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// Writes padding and does not need it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Decompresses bytes, up to a bound.
pub(super) fn unzip(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut decoded = Vec::new();
    let limit = bytes_max as u64 + 1;
    let read = MultiGzDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut decoded);
    if decoded.len() > bytes_max {
        return Err(format!(
            "gzip: more than {bytes_max} bytes when decompressed"
        ));
    }
    match read {
        Ok(_) => Ok(decoded),
        Err(error) => Err(format!(
            "gzip: {error}, after {} decompressed bytes",
            decoded.len()
        )),
    }
}

pub(super) fn zip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map_err(|error| format!("gzip: {error}"))
}

/// Reads both alphabets, with line breaks and other white space.
pub(super) fn from_base64(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let letters = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    let letters: Vec<u8> = letters
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    BASE64.decode(&letters).map_err(|error| {
        let base64::DecodeError::InvalidByte(letter, _) = error else {
            return format!("base64: {error}");
        };
        let mut places = bytes.iter().enumerate();
        let mut places = places
            .by_ref()
            .filter(|(_, byte)| !byte.is_ascii_whitespace());
        let at = places.nth(letter).map_or(letter, |(at, _)| at);
        format!(
            "base64: a character that is not of its alphabet at byte {}",
            at + 1
        )
    })
}

pub(super) fn to_base64(bytes: &[u8]) -> Vec<u8> {
    BASE64.encode(bytes).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_stopped_at_its_bound() {
        let zeros = vec![0; 50 << 20];
        let bomb = zip(&zeros).unwrap();
        assert!(bomb.len() < 100_000);
        // Without the bytes, which a failure would print.
        let unzip = |bytes_max| unzip(&bomb, bytes_max).map(|bytes| bytes.len());
        let error = unzip(1 << 20).unwrap_err();
        assert_eq!(error, "gzip: more than 1048576 bytes when decompressed");
        assert_eq!(unzip(50 << 20), Ok(50 << 20));
    }

    #[test]
    fn wrong_bytes_are_refused_with_their_place() {
        assert!(unzip(b"nonsense", 100).unwrap_err().starts_with("gzip: "));
        let mut cut = zip(b"hello").unwrap();
        cut.truncate(cut.len() - 6);
        assert!(
            unzip(&cut, 100)
                .unwrap_err()
                .contains("after 5 decompressed bytes")
        );
        let error = from_base64(b"aGVs\nbG8!").unwrap_err();
        assert_eq!(
            error,
            "base64: a character that is not of its alphabet at byte 9"
        );
        assert!(from_base64(b"a").is_err());
    }

    #[test]
    fn base64_is_read_in_every_common_form() {
        for text in ["_-8=", "/+8", "/+\n8=\n"] {
            assert_eq!(
                from_base64(text.as_bytes()).unwrap(),
                [0xff, 0xef],
                "{text}"
            );
        }
    }
}
