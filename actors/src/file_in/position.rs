//! The saved position of a file, and whether it is still the same file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::in_flight::LinePosition;

/// Bytes at the start of a file by which it is recognised.
const HEAD_BYTES_MAX: u64 = 1024;

/// The saved position of a file. Stored as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Number of times that the file was read to its end before.
    round: u64,
    /// Offset of the next line.
    offset: u64,
    /// Number of bytes at the start of the file that `head` covers.
    head_bytes: u64,
    /// SHA-256 of these bytes.
    head: String,
}

/// The first bytes of a file.
#[derive(Debug)]
pub(super) struct Head(Vec<u8>);

impl Head {
    /// Reads the head. Changes the file's position: seek before reading on.
    pub(super) fn of(mut file: &File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        let mut head = Vec::new();
        file.take(HEAD_BYTES_MAX).read_to_end(&mut head)?;
        Ok(Self(head))
    }

    /// The position to save. Only bytes before the position identify the file: later ones may
    /// still be written.
    pub(super) fn position(&self, at: LinePosition) -> Position {
        let known = match at.round {
            0 => at.offset,
            _ => HEAD_BYTES_MAX,
        };
        let bytes = (self.0.len() as u64).min(known);
        Position {
            round: at.round,
            offset: at.offset,
            head_bytes: bytes,
            head: hash(&self.0[..bytes as usize]),
        }
    }
}

impl Position {
    /// The position to continue from in a file of this head and length; `None` if the file was
    /// replaced.
    pub(super) fn in_file(&self, head: &Head, length: u64) -> Option<LinePosition> {
        let bytes = usize::try_from(self.head_bytes).ok()?;
        let same = self.offset <= length && hash(head.0.get(..bytes)?) == self.head;
        same.then_some(LinePosition {
            round: self.round,
            offset: self.offset,
        })
    }
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> LinePosition {
        LinePosition { round: 0, offset }
    }

    fn head(text: &str) -> Head {
        Head(text.as_bytes()[..text.len().min(HEAD_BYTES_MAX as usize)].to_vec())
    }

    #[test]
    fn a_file_that_grew_is_the_same_file() {
        let saved = head("one\ntwo\n").position(at(8));
        let grown = "one\ntwo\nthree\n";
        assert_eq!(saved.in_file(&head(grown), grown.len() as u64), Some(at(8)));
        // Its last line may have been incomplete when it was read.
        let saved = head("one\ntw").position(at(4));
        assert_eq!(saved.in_file(&head(grown), grown.len() as u64), Some(at(4)));
    }

    #[test]
    fn a_replaced_file_is_noticed() {
        let saved = head("one\ntwo\n").position(at(8));
        for other in ["", "one\n", "uno\ndue\ntre\n"] {
            assert_eq!(
                saved.in_file(&head(other), other.len() as u64),
                None,
                "{other:?}"
            );
        }
        let long = "x".repeat(4000);
        let saved = head(&long).position(at(4000));
        assert_eq!(saved.in_file(&head(&long), 3999), None);
        assert_eq!(saved.in_file(&head(&long), 4000), Some(at(4000)));
    }

    #[test]
    fn the_start_of_a_later_round_identifies_its_file() {
        let start = LinePosition {
            round: 1,
            offset: 0,
        };
        let saved = head("one\n").position(start);
        assert_eq!(saved.in_file(&head("one\n"), 4), Some(start));
        assert_eq!(saved.in_file(&head("uno\n"), 4), None);
    }

    #[test]
    fn a_head_is_the_first_bytes_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        let head = Head::of(&File::open(path).unwrap()).unwrap();
        assert_eq!(head.0.len() as u64, HEAD_BYTES_MAX);
    }
}
