//! Where a file was left, and whether it is still the same file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::in_flight::LinePosition;

/// How much of a file's start tells it from others.
const HEAD_BYTES_MAX: u64 = 1024;

/// Where a file was left. Kept on disk as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// How often the file had been read to its end.
    round: u64,
    /// Where the next line starts.
    offset: u64,
    /// How many bytes of the file's start are in `head`.
    head_bytes: u64,
    /// Their SHA-256.
    head: String,
}

/// The start of a file.
#[derive(Debug)]
pub(super) struct Head(Vec<u8>);

impl Head {
    /// Reads it. The file is left where it is afterwards: seek before reading on.
    pub(super) fn of(mut file: &File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        let mut head = Vec::new();
        file.take(HEAD_BYTES_MAX).read_to_end(&mut head)?;
        Ok(Self(head))
    }

    /// The position at a mark of this file. Only what stands before the mark tells the
    /// file from others: what follows may still be written.
    pub(super) fn position(&self, mark: LinePosition) -> Position {
        let known = match mark.round {
            0 => mark.offset,
            _ => HEAD_BYTES_MAX,
        };
        let bytes = (self.0.len() as u64).min(known);
        Position {
            round: mark.round,
            offset: mark.offset,
            head_bytes: bytes,
            head: hash(&self.0[..bytes as usize]),
        }
    }
}

impl Position {
    /// The mark to go on from in a file of this head and length; `None` if it is another
    /// file than the one that was left.
    pub(super) fn mark_in(&self, head: &Head, length: u64) -> Option<LinePosition> {
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

    fn mark(offset: u64) -> LinePosition {
        LinePosition { round: 0, offset }
    }

    fn head(text: &str) -> Head {
        Head(text.as_bytes()[..text.len().min(HEAD_BYTES_MAX as usize)].to_vec())
    }

    #[test]
    fn a_file_that_grew_is_gone_on_with() {
        let left = head("one\ntwo\n").position(mark(8));
        let grown = "one\ntwo\nthree\n";
        assert_eq!(
            left.mark_in(&head(grown), grown.len() as u64),
            Some(mark(8))
        );
        // Also one that was read when only half of its last line was there.
        let left = head("one\ntw").position(mark(4));
        assert_eq!(
            left.mark_in(&head(grown), grown.len() as u64),
            Some(mark(4))
        );
    }

    #[test]
    fn another_file_is_noticed() {
        let left = head("one\ntwo\n").position(mark(8));
        for other in ["", "one\n", "uno\ndue\ntre\n"] {
            assert_eq!(
                left.mark_in(&head(other), other.len() as u64),
                None,
                "{other:?}"
            );
        }
        let long = "x".repeat(4000);
        let left = head(&long).position(mark(4000));
        assert_eq!(left.mark_in(&head(&long), 3999), None);
        assert_eq!(left.mark_in(&head(&long), 4000), Some(mark(4000)));
    }

    #[test]
    fn the_start_of_a_later_round_knows_its_file() {
        let start = LinePosition {
            round: 1,
            offset: 0,
        };
        let left = head("one\n").position(start);
        assert_eq!(left.mark_in(&head("one\n"), 4), Some(start));
        assert_eq!(left.mark_in(&head("uno\n"), 4), None);
    }

    #[test]
    fn a_head_is_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        let head = Head::of(&File::open(path).unwrap()).unwrap();
        assert_eq!(head.0.len() as u64, HEAD_BYTES_MAX);
    }
}
