//! Lines from a stream, none longer than a bound.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Bytes per read: the capacity of a pipe on Linux.
const CHUNK_BYTES: usize = 64 * 1024;

/// Splits a stream into lines and bounds the memory that a line may take.
#[derive(Debug)]
pub struct BoundedLines<R> {
    stream: BufReader<R>,
    line: Vec<u8>,
    /// Whether `line` was returned: the next call starts with an empty line.
    returned: bool,
    bytes_max: usize,
}

/// The result of one read.
#[derive(Debug, PartialEq, Eq)]
pub enum BoundedLine<'a> {
    /// A whole line, without its line break.
    Line(&'a [u8]),
    /// A piece of a line: longer than the bound, or cut off by the end of the stream. The
    /// next read returns the rest of the line.
    Part(&'a [u8]),
    /// The end of the stream.
    End,
}

impl<R: AsyncRead + Unpin> BoundedLines<R> {
    /// Reads lines of at most `bytes_max` bytes, without the line break.
    pub fn new(stream: R, bytes_max: usize) -> Self {
        Self {
            stream: BufReader::with_capacity(CHUNK_BYTES, stream),
            line: Vec::new(),
            returned: false,
            bytes_max,
        }
    }

    /// Returns the maximum bytes of a line.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The stream, for writing. Bytes that were read from it already stay in the buffer.
    pub fn get_mut(&mut self) -> &mut R {
        self.stream.get_mut()
    }

    /// Reads the next line. Cancel safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// The stream can't be read.
    pub async fn next(&mut self) -> io::Result<BoundedLine<'_>> {
        /// A rare long line must not keep its memory for good.
        const KEPT_BYTES_MAX: usize = 64 * 1024;
        if std::mem::take(&mut self.returned) {
            self.line.clear();
            self.line.shrink_to(KEPT_BYTES_MAX);
        }
        loop {
            let chunk = self.stream.fill_buf().await?;
            // One more than the bound, for the line break.
            let room = self.bytes_max.saturating_add(1) - self.line.len();
            let chunk = &chunk[..chunk.len().min(room)];
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(chunk.len(), |end| end + 1);
            self.line.extend_from_slice(&chunk[..taken]);
            self.stream.consume(taken);
            if end.is_some() || taken == 0 || self.line.len() > self.bytes_max {
                break;
            }
        }
        self.returned = true;
        Ok(match self.line.strip_suffix(b"\n") {
            Some(line) => BoundedLine::Line(line.strip_suffix(b"\r").unwrap_or(line)),
            None if self.line.is_empty() => BoundedLine::End,
            None => BoundedLine::Part(&self.line),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded() {
        let mut lines = BoundedLines::new(&b"abc\n\nabcd\r\nabcdef\nab"[..], 4);
        let mut read = Vec::new();
        loop {
            read.push(match lines.next().await.unwrap() {
                BoundedLine::Line(line) => format!("line {}", String::from_utf8_lossy(line)),
                BoundedLine::Part(part) => format!("part {}", String::from_utf8_lossy(part)),
                BoundedLine::End => break,
            });
        }
        assert_eq!(
            read,
            [
                "line abc",
                "line ",
                "part abcd\r",
                "line ",
                "part abcde",
                "line f",
                "part ab"
            ]
        );
    }

    #[tokio::test]
    async fn a_read_that_is_dropped_loses_nothing() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut lines = BoundedLines::new(reader, 100);
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"ab")
            .await
            .unwrap();
        let moment = std::time::Duration::from_millis(10);
        tokio::time::timeout(moment, lines.next())
            .await
            .unwrap_err();
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"c\n")
            .await
            .unwrap();
        assert_eq!(lines.next().await.unwrap(), BoundedLine::Line(b"abc"));
    }
}
