//! Reads a file line by line, a chunk at a time.
//!
//! Owns where each line starts and ends. Refuses to hold a line in memory that is longer
//! than any message may be: it is skipped, and said so.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;

/// How much is read at a time.
const CHUNK_BYTES: usize = 128 * 1024;
/// The longest line that is read.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What some editors put before the first line of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line that isn't blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The offset of its first byte.
    pub(super) start: u64,
    /// The offset past its line break.
    pub(super) end: u64,
    /// Without its line break; `None` if it is longer than [`LINE_BYTES_MAX`].
    pub(super) text: Option<Bytes>,
}

/// An open file and how far it was read.
#[derive(Debug)]
pub(super) struct LineReader<R = File> {
    file: R,
    /// The start of a line whose end hasn't been read.
    buffer: Vec<u8>,
    /// How much of the buffer has no line break in it.
    searched: usize,
    /// The offset of the first byte of the buffer's line, skipped bytes included.
    start: u64,
    /// How much of this line was thrown away for being too long.
    skipped: u64,
    chunk_bytes: u64,
    line_bytes_max: usize,
    ended: bool,
}

impl LineReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?))
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
        }
    }

    /// Goes on at an offset at which a line starts.
    pub(super) fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.buffer.clear();
        (self.searched, self.start, self.skipped) = (0, offset, 0);
        self.ended = false;
        Ok(())
    }

    /// Whether everything was read.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The lines of the next chunk; there may be none in it. The last line of a file
    /// needs no line break.
    pub(super) fn read(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut chunk = (&mut self.file).take(self.chunk_bytes);
        self.ended = chunk.read_to_end(&mut self.buffer)? == 0;
        let buffer = std::mem::take(&mut self.buffer);
        let (mut from, mut at) = (0, self.searched);
        while let Some(length) = buffer[at..].iter().position(|byte| *byte == b'\n') {
            let end = at + length;
            lines.extend(self.line(&buffer[from..end], 1));
            (from, at) = (end + 1, end + 1);
        }
        self.buffer = buffer;
        self.buffer.drain(..from);
        if self.ended {
            let rest = std::mem::take(&mut self.buffer);
            lines.extend(self.line(&rest, 0));
        } else if self.buffer.len() > self.line_bytes_max {
            self.skipped += self.buffer.len() as u64;
            self.buffer = Vec::new();
        }
        self.searched = self.buffer.len();
        Ok(lines)
    }

    /// Ends the line that is being read; `None` if it is blank.
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
        // A copy: a slice would keep the whole chunk in memory as long as its line.
        let text = Some(Bytes::copy_from_slice(text));
        Some(Line { start, end, text })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    type Memory = Cursor<Vec<u8>>;

    fn reader(content: &[u8]) -> LineReader<Memory> {
        LineReader::new(Cursor::new(content.to_vec()))
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
    fn every_line_is_read_with_its_place_and_blank_ones_are_not() {
        // Wherever the chunks end.
        for chunk_bytes in 1..30 {
            let mut reader = reader(b"\xef\xbb\xbf{}\n\n  \r\nb\r\n\xc3\xa4\n last");
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
        assert!(rest(&mut self::reader(b"")).is_empty());
        assert!(rest(&mut self::reader(b"\n\n")).is_empty());
    }

    #[test]
    fn reading_goes_on_at_a_line_that_was_left() {
        let content = b"one\ntwo\nthree\n";
        let all = rest(&mut reader(content));
        for (number, (start, ..)) in all.iter().enumerate() {
            let mut reader = reader(content);
            reader.seek(*start).unwrap();
            assert_eq!(rest(&mut reader), all[number..]);
        }
    }

    #[test]
    fn lines_longer_than_a_chunk_are_read_whole() {
        let long = "x".repeat(CHUNK_BYTES * 3 + 7);
        let content = format!("a\n{long}\nb\n{long}");
        let lines = rest(&mut reader(content.as_bytes()));
        let texts: Vec<String> = lines.into_iter().filter_map(|line| line.2).collect();
        assert_eq!(texts.join("\n"), content);
    }

    #[test]
    fn a_line_that_no_message_could_hold_is_skipped_without_being_kept() {
        let huge = "x".repeat(CHUNK_BYTES * 5);
        for ending in ["", "\n"] {
            let content = format!("a\n{huge}\nb\n{huge}{ending}");
            let mut reader = reader(content.as_bytes());
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
