//! The files of a manifest, and places in them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Maximum size of a manifest file and of a file named by `${file:PATH}`, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Time for the whole content of a pipe.
const PIPE_WITHIN: Duration = Duration::from_secs(5);

/// A file, or a command-line value that is reported like a file.
pub(super) struct SourceFile {
    /// Path as given by the user.
    pub(super) name: String,
    /// Base of the relative paths in the file.
    pub(super) folder: PathBuf,
    pub(super) text: String,
}

/// A byte range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    /// Index of the file.
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// The start of a file.
    pub(super) fn top(file: usize) -> Self {
        Self {
            file,
            start: 0,
            end: 0,
        }
    }
}

impl SourceFile {
    /// Reads a file. On failure the text is empty, and the second value is the reason.
    pub(super) fn read(path: &Path) -> (Self, Option<String>) {
        let (text, error) = match read_text(path) {
            Ok(text) => (text, None),
            Err(error) => (String::new(), Some(error)),
        };
        let file = Self {
            name: path.display().to_string(),
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            text,
        };
        (file, error)
    }

    /// Returns line and column of a byte, both from 1. Columns count characters.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// Returns the text at a place, or an empty text if the place is outside this file.
    pub(super) fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }
}

/// Reads a text file of at most `FILE_BYTES_MAX`, or a pipe such as that of `<(command)`.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_file() {
        return read(path);
    }
    // A pipe may have no writer, and then opening it blocks. The thread ends with the process.
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let path = path.to_owned();
    std::thread::spawn(move || sender.send(read(&path)));
    let read = receiver.recv_timeout(PIPE_WITHIN);
    read.unwrap_or_else(|_| Err("it is no file, and nothing writes to it".to_owned()))
}

fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let file = SourceFile {
            name: "app.toml".into(),
            folder: PathBuf::new(),
            text: "a\nbü = 1\n".into(),
        };
        assert_eq!(file.position(0), (1, 1));
        assert_eq!(file.position(2), (2, 1));
        assert_eq!(file.position(5), (2, 3), "after the two bytes of ü");
        assert_eq!(file.position(99), (3, 1));
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.toml");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        let (_, error) = SourceFile::read(&path);
        assert_eq!(error.as_deref(), Some("it is not UTF-8 text"));
        std::fs::write(&path, vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(SourceFile::read(&path).1.is_some());
    }
}
