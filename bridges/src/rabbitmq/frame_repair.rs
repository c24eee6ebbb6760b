//! Repairs incoming frames: invalid UTF-8, and headers that are nested too deep.
//!
//! AMQP's short strings (header names, ids, types, routing keys) are UTF-8 by specification,
//! but the broker carries any bytes that a publisher wrote, and lapin 4.12 takes invalid UTF-8
//! for a broken connection. One such message would be delivered, end the connection, be
//! redelivered, and so on forever. So this stream checks incoming bytes before the library sees
//! them and replaces every byte that is part of no character by `?`.
//!
//! The library also reads nested headers by recursion, so that a deep one, or a broken one, ends
//! the process or the connection. A table or array that is too deep or broken becomes a byte
//! array with the same bytes. Lengths don't change, and nothing else does.
//!
//! Owns the necessary part of the AMQP 0-9-1 framing (section 4.2). Bodies and unknown content
//! pass unchanged: rejecting them is up to the library.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::io::{AsyncRead, AsyncWrite};

/// Bytes of a frame's type, channel and length.
const FRAME_START_BYTES: usize = 7;
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
/// Longer frames pass unchecked, so that they aren't buffered. No broker agrees to them.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes per read.
const CHUNK_BYTES: usize = 32 * 1024;
/// Maximum depth of nested tables and arrays. The headers of brokers have three levels.
const DEPTH_MAX: usize = 32;
/// Type of a value that holds any bytes.
const BYTE_ARRAY: u8 = b'x';

/// A stream whose incoming short strings are valid UTF-8.
#[derive(Debug)]
pub(super) struct FrameRepairStream<S> {
    stream: S,
    repairer: FrameRepairer,
}

impl<S> FrameRepairStream<S> {
    pub(super) fn new(stream: S) -> Self {
        let repairer = FrameRepairer::default();
        Self { stream, repairer }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameRepairStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, repairer } = self.get_mut();
        loop {
            let count = repairer.read_ready(into);
            if count > 0 || into.is_empty() {
                return Poll::Ready(Ok(count));
            }
            let spare = repairer.spare();
            let read = Pin::new(&mut *stream).poll_read(cx, spare);
            let count = match read {
                Poll::Ready(Ok(count)) => count,
                other => {
                    repairer.received(0);
                    return other;
                }
            };
            repairer.received(count);
            if count == 0 {
                // A partial frame at the end is useless.
                return Poll::Ready(Ok(0));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameRepairStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Buffered bytes: handed out, then ready, then unchecked.
#[derive(Debug, Default)]
struct FrameRepairer {
    bytes: Vec<u8>,
    given: usize,
    ready: usize,
    /// Used part of `bytes`; the rest is spare.
    filled: usize,
    /// Number of further bytes that pass unchecked.
    passing: usize,
}

impl FrameRepairer {
    /// Hands out ready bytes.
    fn read_ready(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.ready - self.given);
        into[..count].copy_from_slice(&self.bytes[self.given..self.given + count]);
        self.given += count;
        count
    }

    /// Returns the space for the next read.
    fn spare(&mut self) -> &mut [u8] {
        if self.given > 0 {
            self.bytes.copy_within(self.given..self.filled, 0);
            self.ready -= self.given;
            self.filled -= self.given;
            self.given = 0;
        }
        if self.bytes.len() < self.filled + CHUNK_BYTES {
            self.bytes.resize(self.filled + CHUNK_BYTES, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// Checks and repairs `count` more bytes.
    fn received(&mut self, count: usize) {
        self.filled += count;
        loop {
            let passing = self.passing.min(self.filled - self.ready);
            self.passing -= passing;
            self.ready += passing;
            let rest = &mut self.bytes[self.ready..self.filled];
            let Some((start, _)) = rest.split_at_checked(FRAME_START_BYTES) else {
                return;
            };
            let length = u32::from_be_bytes([start[3], start[4], start[5], start[6]]) as usize;
            // Includes the end byte.
            let whole = FRAME_START_BYTES + length + 1;
            let kind = start[0];
            if !matches!(kind, METHOD | CONTENT_HEADER) || length > FRAME_BYTES_MAX {
                self.passing = whole;
                continue;
            }
            let Some(frame) = rest.get_mut(FRAME_START_BYTES..whole - 1) else {
                return;
            };
            // Malformed content stays as it is.
            let _understood = match kind {
                METHOD => repair_method(frame),
                _ => repair_content_header(frame),
            };
            self.passing = whole;
        }
    }
}

/// The unchecked rest of a frame. Methods return `None` if it is malformed.
struct Cursor<'a>(&'a mut [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a mut [u8]> {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn short_number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    fn long_number(&mut self) -> Option<usize> {
        let number = u32::from_be_bytes(*self.take(4)?.first_chunk()?);
        usize::try_from(number).ok()
    }

    fn short_string(&mut self) -> Option<()> {
        let length = self.byte()?;
        repair(self.take(length.into())?);
        Some(())
    }

    /// Repairs the headers of a message. A broken table becomes one byte array.
    fn headers(&mut self) -> Option<()> {
        let length = self.long_number()?;
        let table = self.take(length)?;
        if Cursor(table).entries(0).is_none() {
            replace_by_bytes(table);
        }
        Some(())
    }

    /// Repairs the entries of a table.
    fn entries(&mut self, depth: usize) -> Option<()> {
        while !self.0.is_empty() {
            self.short_string()?;
            self.value(depth)?;
        }
        Some(())
    }

    /// Repairs the values of an array.
    fn values(&mut self, depth: usize) -> Option<()> {
        while !self.0.is_empty() {
            self.value(depth)?;
        }
        Some(())
    }

    /// Skips or repairs a value of one of RabbitMQ's types. A table or array that is too deep or
    /// broken becomes a byte array.
    fn value(&mut self, depth: usize) -> Option<()> {
        let kind = self.take(1)?;
        let count = match kind[0] {
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'D' => 5,
            b'V' => 0,
            // These may hold any bytes.
            b'S' | BYTE_ARRAY => self.long_number()?,
            b'F' | b'A' => {
                let length = self.long_number()?;
                let mut content = Cursor(self.take(length)?);
                let repaired = match kind[0] {
                    _ if depth == DEPTH_MAX => None,
                    b'F' => content.entries(depth + 1),
                    _ => content.values(depth + 1),
                };
                if repaired.is_none() {
                    kind[0] = BYTE_ARRAY;
                }
                return Some(());
            }
            _ => return None,
        };
        self.take(count).map(drop)
    }
}

/// Only `basic.deliver` has short strings that any publisher may choose.
fn repair_method(frame: &mut [u8]) -> Option<()> {
    const BASIC_DELIVER: (u16, u16) = (60, 60);
    let mut rest = Cursor(frame);
    if (rest.short_number()?, rest.short_number()?) != BASIC_DELIVER {
        return Some(());
    }
    rest.short_string()?;
    // The delivery tag and the redelivered flag.
    rest.take(8 + 1)?;
    rest.short_string()?;
    rest.short_string()
}

fn repair_content_header(frame: &mut [u8]) -> Option<()> {
    let mut rest = Cursor(frame);
    // Class, weight, size of the body.
    rest.take(2 + 2 + 8)?;
    let flags = rest.short_number()?;
    // The properties of the class `basic`, in their order.
    for flag in (2..16).rev().filter(|flag| flags & (1 << flag) != 0) {
        match flag {
            13 => rest.headers()?,
            // Delivery mode and priority; the timestamp.
            11 | 12 => drop(rest.take(1)?),
            6 => drop(rest.take(8)?),
            _ => rest.short_string()?,
        }
    }
    Some(())
}

/// Turns a broken table into one with a single nameless entry, which holds the bytes.
fn replace_by_bytes(table: &mut [u8]) {
    const NAME_TYPE_LENGTH: usize = 1 + 1 + 4;
    let length = table.len();
    if let Some(bytes) = length.checked_sub(NAME_TYPE_LENGTH) {
        table[..2].copy_from_slice(&[0, BYTE_ARRAY]);
        table[2..NAME_TYPE_LENGTH].copy_from_slice(&(bytes as u32).to_be_bytes());
    } else if length >= 2 {
        // Too short for bytes: a name and no value.
        table.fill(b'?');
        table[0] = (length - 2) as u8;
        table[length - 1] = b'V';
    }
}

/// Replaces the bytes that are part of no character.
fn repair(text: &mut [u8]) {
    let mut start = 0;
    while let Err(error) = std::str::from_utf8(&text[start..]) {
        let wrong = start + error.valid_up_to();
        let length = error.error_len().unwrap_or(text.len() - wrong);
        text[wrong..wrong + length].fill(b'?');
        start = wrong + length;
    }
}

#[cfg(test)]
mod tests;
