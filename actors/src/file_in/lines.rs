//! Reads a file line by line, in chunks.
//!
//! Owns the offsets of each line. A line that is longer than any message may be is reported
//! without its text and never held in memory.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;

/// Bytes per read.
const CHUNK_BYTES: usize = 128 * 1024;
/// Maximum bytes of a line.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// UTF-8 byte order mark: some editors write it at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line that is not blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Offset of the first byte.
    pub(super) start: u64,
    /// Offset past the line break.
    pub(super) end: u64,
    /// The line without its line break; `None` if it is longer than [`LINE_BYTES_MAX`].
    pub(super) text: Option<Bytes>,
}

/// An open file, read line by line.
#[derive(Debug)]
pub(super) struct LineReader<R = File> {
    file: R,
    /// The beginning of a line whose end was not read yet.
    buffer: Vec<u8>,
    /// Length of the part of the buffer that has no line break.
    searched: usize,
    /// Offset of the current line, including its skipped bytes.
    start: u64,
    /// Bytes of the current line that were dropped because it is too long.
    skipped: u64,
    chunk_bytes: u64,
    line_bytes_max: usize,
    ended: bool,
    /// Whether the end of the file ends its last line, too.
    takes_unterminated: bool,
}

impl LineReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?))
    }

    /// Takes the end of the file as the end of its last line, though it has no line break.
    pub(super) fn take_unterminated(&mut self) {
        self.takes_unterminated = true;
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl<R: Read + Seek> LineReader<R> {
    fn new(file: R) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            searched: 0,
            start: 0,
            skipped: 0,
            chunk_bytes: CHUNK_BYTES as u64,
            line_bytes_max: LINE_BYTES_MAX,
            ended: false,
            takes_unterminated: false,
        }
    }

    /// Whether bytes without a line break are left at the end of the file.
    pub(super) fn is_torn(&self) -> bool {
        self.ended && (self.skipped > 0 || !self.buffer.iter().all(u8::is_ascii_whitespace))
    }

    /// Continues at an offset at which a line starts.
    pub(super) fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.buffer.clear();
        (self.searched, self.start, self.skipped) = (0, offset, 0);
        self.ended = false;
        Ok(())
    }

    /// Whether the whole file was read.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns the lines that end in the next chunk; there may be none.
    pub(super) fn read(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut chunk = (&mut self.file).take(self.chunk_bytes);
        self.ended = chunk.read_to_end(&mut self.buffer)? == 0;
        let buffer = std::mem::take(&mut self.buffer);
        let (mut from, mut at) = (0, self.searched);
        while let Some(length) = line_length(&buffer[at..]) {
            let end = at + length;
            lines.extend(self.line(&buffer[from..end], 1));
            (from, at) = (end + 1, end + 1);
        }
        self.buffer = buffer;
        self.buffer.drain(..from);
        if self.ended && self.takes_unterminated {
            let rest = std::mem::take(&mut self.buffer);
            lines.extend(self.line(&rest, 0));
        } else if self.buffer.len() > self.line_bytes_max {
            self.skipped += self.buffer.len() as u64;
            self.buffer = Vec::new();
        }
        self.searched = self.buffer.len();
        Ok(lines)
    }

    /// Finishes the current line; `None` if it is blank.
    fn line(&mut self, text: &[u8], line_break: u64) -> Option<Line> {
        let start = self.start;
        let end = start + self.skipped + text.len() as u64 + line_break;
        let too_long = self.skipped > 0 || text.len() > self.line_bytes_max;
        (self.start, self.skipped) = (end, 0);
        if too_long {
            let text = None;
            return Some(Line { start, end, text });
        }
        let mut text = text.strip_suffix(b"\r").unwrap_or(text);
        if start == 0 {
            text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        // A copy: a slice would keep the whole chunk in memory.
        let text = Some(Bytes::copy_from_slice(text));
        Some(Line { start, end, text })
    }
}

/// The number of bytes before the first line break.
fn line_length(bytes: &[u8]) -> Option<usize> {
    // The standard library's search reads whole words; `position` compares single bytes.
    let mut rest = bytes;
    let through = rest.skip_until(b'\n').expect("memory can be read");
    let length = through.checked_sub(1)?;
    (bytes[length] == b'\n').then_some(length)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    type Memory = Cursor<Vec<u8>>;

    fn reader(content: &[u8]) -> LineReader<Memory> {
        LineReader::new(Cursor::new(content.to_vec()))
    }

    /// A file that is complete without a line break at its end.
    fn complete(content: &[u8]) -> LineReader<Memory> {
        let mut reader = reader(content);
        reader.takes_unterminated = true;
        reader
    }

    fn rest(reader: &mut LineReader<Memory>) -> Vec<(u64, u64, Option<String>)> {
        let mut all = Vec::new();
        while !reader.is_ended() {
            all.extend(reader.read().unwrap());
        }
        all.into_iter()
            .map(|line| {
                let text = line
                    .text
                    .map(|text| String::from_utf8(text.to_vec()).unwrap());
                (line.start, line.end, text)
            })
            .collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn every_line_but_blank_ones_is_read_with_its_offsets() {
        // The same for every position of the chunk boundaries.
        for chunk_bytes in 1..30 {
            let mut reader = complete(b"\xef\xbb\xbf{}\n\n  \r\nb\r\n\xc3\xa4\n last");
            reader.chunk_bytes = chunk_bytes;
            assert_eq!(
                rest(&mut reader),
                [
                    (0, 6, some("{}")),
                    (11, 14, some("b")),
                    (14, 17, some("ä")),
                    (17, 22, some(" last")),
                ]
            );
        }
        assert!(rest(&mut complete(b"")).is_empty());
        assert!(rest(&mut complete(b"\n\n")).is_empty());
    }

    #[test]
    fn a_line_without_its_line_break_waits_for_it() {
        for chunk_bytes in 1..10 {
            let mut reader = reader(b"one\ntw");
            reader.chunk_bytes = chunk_bytes;
            assert_eq!(rest(&mut reader), [(0, 4, some("one"))]);
            assert!(reader.is_torn());
        }
        let mut reader = reader(b"one\n \n ");
        assert_eq!(rest(&mut reader), [(0, 4, some("one"))]);
        assert!(!reader.is_torn(), "blanks are no line");
    }

    #[test]
    fn reading_can_continue_at_any_line() {
        let content = b"one\ntwo\nthree\n";
        let all = rest(&mut reader(content));
        for (number, (start, ..)) in all.iter().enumerate() {
            let mut reader = reader(content);
            reader.seek(*start).unwrap();
            assert_eq!(rest(&mut reader), all[number..]);
        }
    }

    #[test]
    fn a_line_longer_than_a_chunk_is_read_whole() {
        let long = "x".repeat(CHUNK_BYTES * 3 + 7);
        let content = format!("a\n{long}\nb\n{long}");
        let lines = rest(&mut complete(content.as_bytes()));
        let texts: Vec<String> = lines.into_iter().filter_map(|line| line.2).collect();
        assert_eq!(texts.join("\n"), content);
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_without_being_kept_in_memory() {
        let huge = "x".repeat(CHUNK_BYTES * 5);
        for ending in ["", "\n"] {
            let content = format!("a\n{huge}\nb\n{huge}{ending}");
            let mut reader = complete(content.as_bytes());
            reader.line_bytes_max = CHUNK_BYTES;
            let mut lines = Vec::new();
            while !reader.is_ended() {
                lines.extend(reader.read().unwrap());
                assert!(reader.buffer.capacity() <= 4 * CHUNK_BYTES);
            }
            let texts: Vec<_> = lines.iter().map(|line| line.text.as_deref()).collect();
            assert_eq!(texts, [Some(&b"a"[..]), None, Some(b"b"), None]);
            let huge = huge.len() as u64;
            assert_eq!((lines[1].start, lines[1].end), (2, 3 + huge));
            assert_eq!((lines[2].start, lines[2].end), (3 + huge, 5 + huge));
        }
    }
}
