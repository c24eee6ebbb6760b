//! What the broker sends, with every text made a text.
//!
//! AMQP's short strings (names of headers, ids, types, routing keys) are UTF-8 by
//! specification, but the broker carries whatever bytes a publisher wrote, and the client
//! library takes bytes that are no UTF-8 for a broken connection: one such message would be
//! delivered, end the connection, be delivered again, and so on for ever. So what comes is
//! looked at before the library sees it, and a byte that is part of no character is
//! replaced by `?`. Lengths don't change, and nothing else does.
//!
//! Owns the framing of AMQP 0-9-1 (section 4.2) as far as that takes. Bodies pass
//! untouched, and so does everything that isn't understood: to refuse it is the library's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::io::{AsyncRead, AsyncWrite};

/// A type, a channel, a length.
const FRAME_START_BYTES: usize = 7;
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
/// Longer frames than any broker agrees to: not looked at, so that they aren't held.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// How much is read at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// Tables in tables deeper than this aren't looked into.
const DEPTH_MAX: usize = 64;

/// A connection whose incoming texts are texts.
#[derive(Debug)]
pub(super) struct Utf8RepairStream<S> {
    stream: S,
    repairer: FrameRepairer,
}

impl<S> Utf8RepairStream<S> {
    pub(super) fn new(stream: S) -> Self {
        let repairer = FrameRepairer::default();
        Self { stream, repairer }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Utf8RepairStream<S> {
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
                // Half a frame at the end is as good as none.
                return Poll::Ready(Ok(0));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Utf8RepairStream<S> {
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

/// Bytes on their way: given out, then ready, then not yet looked at.
#[derive(Debug, Default)]
struct FrameRepairer {
    bytes: Vec<u8>,
    given: usize,
    ready: usize,
    /// What is in `bytes`; behind it there is room.
    filled: usize,
    /// So many of the next bytes need no look.
    passing: usize,
}

impl FrameRepairer {
    /// Hands out what is ready.
    fn read_ready(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.ready - self.given);
        into[..count].copy_from_slice(&self.bytes[self.given..self.given + count]);
        self.given += count;
        count
    }

    /// Where the next bytes go.
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

    /// So many have come.
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
            // With the byte that ends it.
            let whole = FRAME_START_BYTES + length + 1;
            let kind = start[0];
            if !matches!(kind, METHOD | CONTENT_HEADER) || length > FRAME_BYTES_MAX {
                self.passing = whole;
                continue;
            }
            let Some(frame) = rest.get_mut(FRAME_START_BYTES..whole - 1) else {
                return;
            };
            // What isn't as it should be is left as it is.
            let _understood = match kind {
                METHOD => repair_method(frame),
                _ => repair_content_header(frame),
            };
            self.passing = whole;
        }
    }
}

/// What is left to be looked at; `None` when it isn't what it should be.
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

    fn table(&mut self, depth: usize) -> Option<()> {
        let length = self.long_number()?;
        let mut entries = Cursor(self.take(length)?);
        while !entries.0.is_empty() {
            entries.short_string()?;
            entries.value(depth)?;
        }
        Some(())
    }

    /// A value of RabbitMQ's types, after its type.
    fn value(&mut self, depth: usize) -> Option<()> {
        let count = match self.byte()? {
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'D' => 5,
            b'V' => 0,
            // These needn't be UTF-8.
            b'S' | b'x' => self.long_number()?,
            b'F' if depth < DEPTH_MAX => return self.table(depth + 1),
            b'A' if depth < DEPTH_MAX => {
                let length = self.long_number()?;
                let mut values = Cursor(self.take(length)?);
                while !values.0.is_empty() {
                    values.value(depth + 1)?;
                }
                return Some(());
            }
            _ => return None,
        };
        self.take(count).map(drop)
    }
}

/// Of all methods only `basic.deliver` has texts that any publisher may choose.
fn repair_method(frame: &mut [u8]) -> Option<()> {
    const BASIC_DELIVER: (u16, u16) = (60, 60);
    let mut rest = Cursor(frame);
    if (rest.short_number()?, rest.short_number()?) != BASIC_DELIVER {
        return Some(());
    }
    rest.short_string()?;
    // The tag, and whether it comes again.
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
            13 => rest.table(0)?,
            // Delivery mode and priority; the timestamp.
            11 | 12 => drop(rest.take(1)?),
            6 => drop(rest.take(8)?),
            _ => rest.short_string()?,
        }
    }
    Some(())
}

/// Replaces what is part of no character.
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
mod tests {
    use futures_util::task::noop_waker;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Gives bytes in pieces of these sizes.
    struct Pieces {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
        turn: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let size = self.sizes[self.turn % self.sizes.len()];
            self.turn += 1;
            let count = size.min(into.len()).min(self.bytes.len());
            into[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes.drain(..count);
            Poll::Ready(Ok(count))
        }
    }

    fn read(bytes: &[u8], sizes: &[usize], into: usize) -> Vec<u8> {
        let mut stream = Utf8RepairStream::new(Pieces {
            bytes: bytes.to_vec(),
            sizes: sizes.to_vec(),
            turn: 0,
        });
        let (waker, mut read) = (noop_waker(), Vec::new());
        let mut buffer = vec![0; into];
        loop {
            let polled =
                Pin::new(&mut stream).poll_read(&mut Context::from_waker(&waker), &mut buffer);
            match polled {
                Poll::Ready(Ok(0)) => return read,
                Poll::Ready(Ok(count)) => read.extend(&buffer[..count]),
                other => panic!("{other:?}"),
            }
        }
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], &length[..], payload, &[0xce]].concat()
    }

    fn short(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8], text].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    /// A delivery with `text` wherever a publisher may write one, and its body.
    fn delivery(text: &[u8], body: &[u8]) -> Vec<u8> {
        let deliver = [
            &[0, 60, 0, 60][..],
            &short(b"consumer"),
            &[0, 0, 0, 0, 0, 0, 0, 0xff, 1],
            &short(text),
            &short(text),
        ];
        let inner = [short(text), b"S".to_vec(), long(b"\xff")].concat();
        let array = [b"t\x01F".to_vec(), long(&inner), b"V".to_vec()].concat();
        let table = [
            [short(text), b"S".to_vec(), long(b"\xff\xfe")].concat(),
            [short(b"a"), b"A".to_vec(), long(&array)].concat(),
            [short(b"d"), b"D\x02\xff\xff\xff\xff".to_vec()].concat(),
            [short(text), b"T\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()].concat(),
        ]
        .concat();
        // Content type, headers, delivery mode, correlation id, id, timestamp, type, app id.
        let flags: u16 = [15, 13, 12, 10, 7, 6, 5, 3]
            .map(|flag| 1 << flag)
            .iter()
            .sum();
        let header = [
            &[0, 60, 0, 0][..],
            &(body.len() as u64).to_be_bytes(),
            &flags.to_be_bytes(),
            &short(text),
            &long(&table),
            &[2],
            &short(text),
            &short(text),
            &[0xff; 8],
            &short(text),
            &short(text),
        ];
        [
            frame(METHOD, &deliver.concat()),
            frame(CONTENT_HEADER, &header.concat()),
            frame(3, body),
        ]
        .concat()
    }

    #[test]
    fn every_text_becomes_one_and_nothing_else_changes() {
        for (text, mended) in [
            (&b"caf\xe9"[..], &b"caf?"[..]),
            (b"\xff\xfe", b"??"),
            (b"ab\xc3", b"ab?"),
            (b"\xf0\x9f\x98 x", b"??? x"),
            ("né 😀".as_bytes(), "né 😀".as_bytes()),
            (b"", b""),
        ] {
            // What isn't a short string may be any bytes.
            let body = b"\xff\x01\x02\xce\x02";
            let heartbeat = frame(8, b"");
            let sent = [delivery(text, body), heartbeat, delivery(text, body)].concat();
            let expected = [
                delivery(mended, body),
                frame(8, b""),
                delivery(mended, body),
            ];
            assert_eq!(read(&sent, &[usize::MAX], 4096), expected.concat());
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_not_held() {
        let mut stream = Utf8RepairStream::new(Pieces {
            bytes: frame(METHOD, &[7; FRAME_BYTES_MAX + 1]),
            sizes: vec![usize::MAX],
            turn: 0,
        });
        let (waker, mut buffer) = (noop_waker(), [0; 64]);
        let polled = Pin::new(&mut stream).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        assert!(matches!(polled, Poll::Ready(Ok(64))));
        assert!(stream.repairer.bytes.len() <= CHUNK_BYTES);
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_what_comes_is_the_same(
            texts in vec(vec(any::<u8>(), 0..40), 1..4),
            body in vec(any::<u8>(), 0..200),
            sizes in vec(1usize..100, 1..6),
            into in 1usize..300,
        ) {
            let sent: Vec<u8> = texts.iter().flat_map(|text| delivery(text, &body)).collect();
            let whole = read(&sent, &[usize::MAX], 1 << 20);
            prop_assert_eq!(whole.len(), sent.len());
            prop_assert_eq!(read(&sent, &sizes, into), whole);
        }

        #[test]
        fn whatever_comes_it_goes_on(bytes in vec(any::<u8>(), 0..400), sizes in vec(1usize..50, 1..4)) {
            let got = read(&bytes, &sizes, 64);
            // Half a frame at the end is kept back: nobody could make anything of it.
            prop_assert!(got.len() <= bytes.len());
        }

        #[test]
        fn frames_that_are_not_understood_pass(
            kind in 1u8..3, payload in vec(any::<u8>(), 0..300), more in vec(any::<u8>(), 0..40)
        ) {
            let sent = [frame(kind, &payload), frame(3, &more)].concat();
            let got = read(&sent, &[usize::MAX], 4096);
            prop_assert_eq!(got.len(), sent.len());
            prop_assert!(got.ends_with(&frame(3, &more)));
        }
    }
}
