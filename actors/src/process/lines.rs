//! Lines from a pipe, none longer than a bound.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// How much is read from a pipe at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    pipe: BufReader<R>,
    line: Vec<u8>,
    bytes_max: usize,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<'a> {
    /// A line, without its line break.
    Line(&'a [u8]),
    /// So much of a line that is longer than the bound, or that the pipe's end cut off.
    /// What comes next is the rest of it.
    Part(&'a [u8]),
    /// There is no more.
    End,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(pipe: R, bytes_max: usize) -> Self {
        Self {
            pipe: BufReader::with_capacity(CHUNK_BYTES, pipe),
            line: Vec::new(),
            bytes_max,
        }
    }

    pub(super) async fn next(&mut self) -> io::Result<Read<'_>> {
        /// A rare long line must not keep its memory for good.
        const KEPT_BYTES_MAX: usize = 64 * 1024;
        self.line.clear();
        self.line.shrink_to(KEPT_BYTES_MAX);
        // One more, for the line break.
        let bytes_max = self.bytes_max as u64 + 1;
        let mut pipe = (&mut self.pipe).take(bytes_max);
        pipe.read_until(b'\n', &mut self.line).await?;
        Ok(match self.line.strip_suffix(b"\n") {
            Some(line) => Read::Line(line.strip_suffix(b"\r").unwrap_or(line)),
            None if self.line.is_empty() => Read::End,
            None => Read::Part(&self.line),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded() {
        let mut lines = Lines::new(&b"abc\n\nabcd\r\nabcdef\nab"[..], 4);
        let mut read = Vec::new();
        loop {
            read.push(match lines.next().await.unwrap() {
                Read::Line(line) => format!("line {}", String::from_utf8_lossy(line)),
                Read::Part(part) => format!("part {}", String::from_utf8_lossy(part)),
                Read::End => break,
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
}
