//! The identity of a file, its saved position, and whether it is still the same file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::in_flight::LinePosition;

/// Bytes at the start of a file, and before a position, by which the file is recognised.
const SAMPLE_BYTES_MAX: u64 = 1024;

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
    /// SHA-256 of the bytes before the offset; older positions have none.
    #[serde(default)]
    tail: Option<String>,
    /// Number of files that were replaced at this path before.
    #[serde(default)]
    replaced: u32,
}

/// A file that can be read again: its first bytes, and the number of files before it.
#[derive(Debug)]
pub(super) struct Identity {
    file: File,
    head: Vec<u8>,
    replaced: u32,
}

impl Identity {
    /// Reads the identity of a regular file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self {
            head: sample(file, 0, SAMPLE_BYTES_MAX)?,
            file: file.try_clone()?,
            replaced: 0,
        })
    }

    /// Returns the position at which reading goes on, or `None` if the file was replaced, or
    /// if the position is not at the start of a line of it.
    pub(super) fn resume(&mut self, saved: &Position) -> io::Result<Option<LinePosition>> {
        self.replaced = saved.replaced;
        if self.is_of(saved)? {
            return Ok(Some(LinePosition {
                round: saved.round,
                offset: saved.offset,
            }));
        }
        self.replaced += 1;
        Ok(None)
    }

    fn is_of(&self, saved: &Position) -> io::Result<bool> {
        let head = usize::try_from(saved.head_bytes).ok();
        let head = head.and_then(|bytes| self.head.get(..bytes));
        if saved.offset > self.file.metadata()?.len()
            || head.is_none_or(|head| hash(head) != saved.head)
        {
            return Ok(false);
        }
        match &saved.tail {
            None => Ok(true),
            Some(tail) => Ok(hash(&self.tail(saved.offset)?) == *tail),
        }
    }

    /// Returns the position to save. Only bytes before the position identify the file: later
    /// ones may still be written.
    pub(super) fn position(&self, at: LinePosition) -> io::Result<Position> {
        let known = match at.round {
            0 => at.offset,
            _ => SAMPLE_BYTES_MAX,
        };
        let bytes = (self.head.len() as u64).min(known);
        Ok(Position {
            round: at.round,
            offset: at.offset,
            head_bytes: bytes,
            head: hash(&self.head[..bytes as usize]),
            tail: Some(hash(&self.tail(at.offset)?)),
            replaced: self.replaced,
        })
    }

    /// Returns the bytes before an offset.
    fn tail(&self, offset: u64) -> io::Result<Vec<u8>> {
        let start = offset.saturating_sub(SAMPLE_BYTES_MAX);
        sample(&self.file, start, offset - start)
    }

    /// Returns a text that tells the file apart from others of its name: of its first line, and
    /// the number of files before it. It stays the same while the file grows, and is the same
    /// for a copy on another machine.
    pub(super) fn key(&self) -> String {
        let line = self.head.split(|byte| *byte == b'\n').next();
        let line = line.unwrap_or_default();
        let mut digest = Sha256::new();
        digest.update(self.replaced.to_be_bytes());
        digest.update(line);
        hex(&digest.finalize()[..8])
    }
}

/// Reads up to `bytes` bytes at an offset.
fn sample(file: &File, mut offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut sample = vec![0; bytes as usize];
    let mut filled = 0;
    while filled < sample.len() {
        match file.read_at(&mut sample[filled..], offset) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    sample.truncate(filled);
    Ok(sample)
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    /// A file of this name in a new folder.
    struct Written(TempDir);

    impl Written {
        fn new(text: &str) -> Self {
            let written = Self(TempDir::new().unwrap());
            std::fs::write(written.path(), text).unwrap();
            written
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("f")
        }

        fn identity(&self) -> Identity {
            Identity::of(&File::open(self.path()).unwrap()).unwrap()
        }

        fn saved(&self, offset: u64) -> Position {
            self.identity().position(at(offset)).unwrap()
        }

        /// Returns where reading goes on after the file has this text, in the same file or in
        /// another one.
        fn then(&self, saved: &Position, text: &str) -> Option<LinePosition> {
            std::fs::write(self.path(), text).unwrap();
            let same = self.identity().resume(saved).unwrap();
            let copied = self.0.path().join("copied");
            std::fs::write(&copied, text).unwrap();
            std::fs::rename(&copied, self.path()).unwrap();
            assert_eq!(self.identity().resume(saved).unwrap(), same);
            same
        }
    }

    fn at(offset: u64) -> LinePosition {
        LinePosition { round: 0, offset }
    }

    #[test]
    fn a_file_that_grew_is_the_same_file() {
        let file = Written::new("one\ntwo\n");
        let saved = file.saved(8);
        assert_eq!(file.then(&saved, "one\ntwo\nthree\n"), Some(at(8)));
        // Its last line was incomplete when it was read.
        let file = Written::new("one\ntw");
        let saved = file.saved(4);
        assert_eq!(file.then(&saved, "one\ntwo\n"), Some(at(4)));
    }

    #[test]
    fn a_replaced_file_is_noticed() {
        let file = Written::new("one\ntwo\n");
        let saved = file.saved(8);
        for other in ["", "one\n", "uno\ndue\ntre\n"] {
            assert_eq!(file.then(&saved, other), None, "{other:?}");
        }
        let long = "x".repeat(4000);
        let file = Written::new(&long);
        let saved = file.saved(4000);
        assert_eq!(file.then(&saved, &long[1..]), None);
        assert_eq!(file.then(&saved, &long), Some(at(4000)));
        // The same beginning, and another content before the position.
        let header = "h".repeat(1100);
        let file = Written::new(&format!("{header}\nold\n"));
        let saved = file.saved(1105);
        assert_eq!(file.then(&saved, &format!("{header}\nnew\nnew\n")), None);
        assert_eq!(file.then(&saved, &format!("{header}\nlonger\n")), None);
    }

    #[test]
    fn the_start_of_a_later_round_identifies_its_file() {
        let start = LinePosition {
            round: 1,
            offset: 0,
        };
        let file = Written::new("one\n");
        let saved = file.identity().position(start).unwrap();
        assert_eq!(file.then(&saved, "one\n"), Some(start));
        assert_eq!(file.then(&saved, "uno\n"), None);
    }

    #[test]
    fn the_key_of_a_file_stays_while_it_grows_and_is_another_for_another_file() {
        let file = Written::new("one\n");
        let key = file.identity().key();
        let saved = file.saved(4);
        assert_eq!(file.then(&saved, "one\ntwo\n"), Some(at(4)));
        assert_eq!(file.identity().key(), key, "a copy");
        std::fs::write(file.path(), "uno\n").unwrap();
        assert_ne!(file.identity().key(), key, "it was replaced");
        // Replaced by a file with the same first line.
        std::fs::write(file.path(), "one\n2\n").unwrap();
        let saved = file.saved(6);
        std::fs::write(file.path(), "one\n3\n").unwrap();
        let mut identity = file.identity();
        let before = identity.key();
        assert_eq!(identity.resume(&saved).unwrap(), None);
        assert_ne!(identity.key(), before);
    }
}
