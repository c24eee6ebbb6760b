//! ZMTP 3.0 with the mechanism NULL (RFC 23): greeting, handshake and frames.
//!
//! Owned here, not by a crate, because a peer must not be able to end the process: `zeromq` 0.7
//! reserves as many bytes as the header of a frame claims, and has no bound for the parts of a
//! message. Here a frame is refused before memory is taken for it.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Time for the greeting and the handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Length of a greeting.
const GREETING_BYTES: usize = 64;
/// Maximum bytes of a command.
const COMMAND_BYTES_MAX: usize = 4096;
/// Maximum parts of a message.
const PARTS_MAX: usize = 16;
/// Maximum bytes of a last part that is skipped.
const SKIPPED_BYTES_MAX: usize = 1 << 30;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The type of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Push,
    Pull,
    Pub,
    Sub,
    Dealer,
    Router,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Push => "PUSH",
            Self::Pull => "PULL",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
        }
    }

    /// Returns the types of sockets that this one may be connected to.
    fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Push => &["PULL"],
            Self::Pull => &["PUSH"],
            Self::Pub => &["SUB", "XSUB"],
            Self::Sub => &["PUB", "XPUB"],
            Self::Dealer => &["ROUTER"],
            Self::Router => &["DEALER"],
        }
    }
}

/// A message or a command of the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Message(Vec<Bytes>),
    /// The parts of a message before the last one, which is too large and was skipped.
    TooLarge(Vec<Bytes>),
    Command(Bytes),
}

fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Splits the bytes of a peer into messages and commands.
#[derive(Debug)]
pub(super) struct Parser {
    bytes_max: usize,
    parts: Vec<Bytes>,
    parts_bytes: usize,
    /// Maximum bytes of a last part that is skipped because it is too large.
    skipped_max: usize,
    /// Bytes that are still to be skipped.
    skip: usize,
}

impl Parser {
    /// Messages may have `bytes_max` bytes in all their parts.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            parts: Vec::new(),
            parts_bytes: 0,
            skipped_max: 0,
            skip: 0,
        }
    }

    /// Skips a last part that is too large, instead of an error.
    pub(super) fn skipping(self) -> Self {
        Self {
            skipped_max: SKIPPED_BYTES_MAX,
            ..self
        }
    }

    /// Takes the next message or command from the buffer; `None` if it is not complete.
    ///
    /// # Errors
    /// The bytes are not frames, or the message is too large. The connection is of no use then.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Incoming>> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(buffer.len());
                buffer.advance(skipped);
                self.skip -= skipped;
                return Ok((self.skip == 0).then(|| Incoming::TooLarge(self.take())));
            }
            let Some((flags, head, length)) = self.head(buffer)? else {
                return Ok(None);
            };
            if length > self.max(flags) {
                buffer.advance(head);
                self.skip = length;
                continue;
            }
            if buffer.len() - head < length {
                // Bounded by the check above.
                buffer.reserve(head + length - buffer.len());
                return Ok(None);
            }
            buffer.advance(head);
            let body = take_part(buffer, length);
            if flags & COMMAND != 0 {
                return Ok(Some(Incoming::Command(body)));
            }
            self.parts_bytes += body.len();
            self.parts.push(body);
            if flags & MORE == 0 {
                return Ok(Some(Incoming::Message(self.take())));
            }
        }
    }

    /// Takes the parts of the message that ends here.
    fn take(&mut self) -> Vec<Bytes> {
        self.parts_bytes = 0;
        std::mem::take(&mut self.parts)
    }

    /// Returns the maximum length of the next frame.
    fn max(&self, flags: u8) -> usize {
        match flags & COMMAND {
            0 => self.bytes_max.saturating_sub(self.parts_bytes),
            _ => COMMAND_BYTES_MAX,
        }
    }

    /// Reads the head of a frame: its flags, its own length, and the length of the body.
    fn head(&self, buffer: &BytesMut) -> io::Result<Option<(u8, usize, usize)>> {
        let Some(flags) = buffer.first().copied() else {
            return Ok(None);
        };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & COMMAND != 0 && flags & MORE != 0 {
            return Err(wrong(format!(
                "the flags {flags:#x} of a frame are unknown"
            )));
        }
        let (head, length) = match flags & LONG {
            0 => (2, buffer.get(1).map(|length| u64::from(*length))),
            _ => (
                9,
                buffer
                    .get(1..9)
                    .map(|bytes| u64::from_be_bytes(bytes.try_into().expect("8 bytes"))),
            ),
        };
        let Some(length) = length else {
            return Ok(None);
        };
        let max = match flags & (COMMAND | MORE) {
            0 => self.max(flags).max(self.skipped_max),
            _ => self.max(flags),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= max);
        let too_many = flags & COMMAND == 0 && self.parts.len() >= PARTS_MAX;
        match length.filter(|_| !too_many) {
            Some(length) => Ok(Some((flags, head, length))),
            None => Err(wrong(
                "the peer sent a message or a command that is too large",
            )),
        }
    }
}

/// Takes a part out of the buffer. A short one is copied: it would keep the whole buffer in
/// memory for as long as its message waits.
fn take_part(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length >= buffer.capacity() / 2 {
        return buffer.split_to(length).freeze();
    }
    let part = Bytes::copy_from_slice(&buffer[..length]);
    buffer.advance(length);
    part
}

/// Appends a message.
pub(super) fn encode(parts: &[&[u8]], bytes: &mut Vec<u8>) {
    for (nth, part) in parts.iter().enumerate() {
        let more = if nth + 1 < parts.len() { MORE } else { 0 };
        frame(more, part, bytes);
    }
}

/// Appends a command.
pub(super) fn encode_command(name: &str, data: &[u8], bytes: &mut Vec<u8>) {
    let mut body = vec![name.len() as u8];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    frame(COMMAND, &body, bytes);
}

fn frame(flags: u8, body: &[u8], bytes: &mut Vec<u8>) {
    match u8::try_from(body.len()) {
        Ok(length) => bytes.extend_from_slice(&[flags, length]),
        Err(_) => {
            bytes.push(flags | LONG);
            bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(body);
}

/// Splits a command into its name and its data.
pub(super) fn command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Greets the peer and agrees on the types of sockets. Returns the bytes that came after.
///
/// # Errors
/// The peer does not speak ZMTP 3 without encryption, its socket does not fit, or it takes too
/// long.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    kind: Kind,
) -> io::Result<BytesMut> {
    let shaken = async {
        let mut ours = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
        ours.extend_from_slice(b"NULL");
        ours.resize(GREETING_BYTES, 0);
        let mut ready = vec![11];
        ready.extend_from_slice(b"Socket-Type");
        ready.extend_from_slice(&(kind.name().len() as u32).to_be_bytes());
        ready.extend_from_slice(kind.name().as_bytes());
        encode_command("READY", &ready, &mut ours);
        stream.write_all(&ours).await?;
        let mut greeting = [0; GREETING_BYTES];
        stream.read_exact(&mut greeting).await?;
        check_greeting(&greeting)?;
        let (mut buffer, mut parser) = (BytesMut::new(), Parser::new(0));
        loop {
            match parser.next(&mut buffer)? {
                Some(Incoming::Command(body)) => {
                    check_ready(&body, kind)?;
                    return Ok(buffer);
                }
                Some(_) => return Err(wrong("a message before READY")),
                None if stream.read_buf(&mut buffer).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        }
    };
    match timeout(HANDSHAKE_WITHIN, shaken).await {
        Ok(shaken) => shaken,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer did not finish the handshake in time",
        )),
    }
}

fn check_greeting(greeting: &[u8; GREETING_BYTES]) -> io::Result<()> {
    if greeting[0] != 0xff || greeting[9] & 1 != 1 || greeting[10] < 3 {
        return Err(wrong("the peer does not speak ZMTP 3"));
    }
    let mechanism = greeting[12..32].split(|byte| *byte == 0).next();
    if mechanism != Some(b"NULL") {
        return Err(wrong("the peer wants encryption, which is not supported"));
    }
    Ok(())
}

fn check_ready(body: &[u8], kind: Kind) -> io::Result<()> {
    let (name, mut data) = command(body).ok_or_else(|| wrong("a command without a name"))?;
    if name != b"READY" {
        let text = String::from_utf8_lossy(data);
        return Err(wrong(format!("the peer refused: {}", text.escape_debug())));
    }
    while let Some((name, value, rest)) = property(data) {
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            let peer = String::from_utf8_lossy(value);
            return match kind.peers().contains(&&*peer) {
                true => Ok(()),
                false => Err(wrong(format!(
                    "the peer is a {}, this end needs {}",
                    peer.escape_debug(),
                    kind.peers().join(" or ")
                ))),
            };
        }
        data = rest;
    }
    Err(wrong("the peer does not name its type of socket"))
}

fn property(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, data) = command(data)?;
    let (length, data) = data.split_at_checked(4)?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let (value, rest) = data.split_at_checked(usize::try_from(length).ok()?)?;
    Some((name, value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], max: usize) -> io::Result<Vec<Incoming>> {
        let (mut buffer, mut parser) = (BytesMut::from(bytes), Parser::new(max));
        let mut read = Vec::new();
        while let Some(incoming) = parser.next(&mut buffer)? {
            read.push(incoming);
        }
        Ok(read)
    }

    #[test]
    fn frames_are_read_as_they_were_written_whatever_their_length() {
        let long = vec![7; 300];
        let mut bytes = Vec::new();
        encode(&[b"a", &long, b""], &mut bytes);
        encode_command("PING", b"x", &mut bytes);
        let parts = [&b"a"[..], &long, b""].map(Bytes::copy_from_slice);
        let expected = [
            Incoming::Message(parts.into()),
            Incoming::Command(Bytes::from_static(b"\x04PINGx")),
        ];
        assert_eq!(read(&bytes, 400).unwrap(), expected);
        // Cut at every byte, a frame is read when the rest comes.
        for cut in 0..bytes.len() {
            let (mut buffer, mut parser) = (BytesMut::from(&bytes[..cut]), Parser::new(400));
            let mut all = Vec::new();
            while let Some(incoming) = parser.next(&mut buffer).unwrap() {
                all.push(incoming);
            }
            buffer.extend_from_slice(&bytes[cut..]);
            while let Some(incoming) = parser.next(&mut buffer).unwrap() {
                all.push(incoming);
            }
            assert_eq!(all, expected, "{cut}");
        }
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused_before_memory_is_taken() {
        let mut claim = vec![LONG];
        claim.extend_from_slice(&(1_u64 << 62).to_be_bytes());
        assert!(read(&claim, 1 << 20).is_err());
        // Many small parts, and many empty ones, are refused as well.
        let part = [MORE, 4, 1, 2, 3, 4];
        assert!(read(&part.repeat(3), 10).is_err());
        assert!(read(&[MORE, 0].repeat(PARTS_MAX + 1), 10).is_err());
        assert!(read(&[0x80, 0], 10).is_err());
    }

    #[test]
    fn a_last_part_that_is_too_large_is_skipped_if_the_receiver_can_answer() {
        let (mut bytes, large) = (Vec::new(), [7; 500]);
        encode(&[b"id", &large], &mut bytes);
        encode(&[b"next"], &mut bytes);
        assert!(read(&bytes, 100).is_err());
        let mut parser = Parser::new(100).skipping();
        let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
        // Byte by byte: no memory is taken for the part.
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            all.extend(parser.next(&mut buffer).unwrap());
            assert!(buffer.capacity() < 200, "{}", buffer.capacity());
        }
        let parts = |text: &'static str| vec![Bytes::from_static(text.as_bytes())];
        assert_eq!(
            all,
            [
                Incoming::TooLarge(parts("id")),
                Incoming::Message(parts("next"))
            ]
        );
        // A part before the last one is not skipped.
        let mut early = Vec::new();
        encode(&[&large, b"id"], &mut early);
        assert!(
            Parser::new(100)
                .skipping()
                .next(&mut BytesMut::from(&early[..]))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn bytes_are_read_alike_however_they_arrive(
            bytes in vec(prop_oneof![0_u8..8, any::<u8>()], 0..400),
            chunk in 1_usize..50,
            skips: bool,
        ) {
            let parser = || match skips {
                true => Parser::new(64).skipping(),
                false => Parser::new(64),
            };
            let drain = |parser: &mut Parser, buffer: &mut BytesMut, all: &mut Vec<Incoming>| {
                loop {
                    match parser.next(buffer) {
                        Ok(Some(incoming)) => all.push(incoming),
                        Ok(None) => return true,
                        Err(_) => return false,
                    }
                }
            };
            let (mut whole, mut pieces) = (Vec::new(), Vec::new());
            drain(&mut parser(), &mut BytesMut::from(&bytes[..]), &mut whole);
            let (mut parser, mut buffer) = (parser(), BytesMut::new());
            for piece in bytes.chunks(chunk) {
                buffer.extend_from_slice(piece);
                if !drain(&mut parser, &mut buffer, &mut pieces) {
                    break;
                }
            }
            prop_assert_eq!(&whole, &pieces);
            for incoming in &whole {
                if let Incoming::Message(parts) = incoming {
                    prop_assert!(parts.iter().map(Bytes::len).sum::<usize>() <= 64);
                    prop_assert!(parts.len() <= PARTS_MAX);
                }
            }
        }
    }

    #[tokio::test]
    async fn only_sockets_that_fit_shake_hands() {
        for (here, there, fits) in [
            (Kind::Push, Kind::Pull, true),
            (Kind::Sub, Kind::Pub, true),
            (Kind::Dealer, Kind::Router, true),
            (Kind::Push, Kind::Sub, false),
        ] {
            let (mut a, mut b) = tokio::io::duplex(1024);
            let (a, b) = tokio::join!(handshake(&mut a, here), handshake(&mut b, there));
            assert_eq!((a.is_ok(), b.is_ok()), (fits, fits), "{here:?} {there:?}");
        }
        let (mut a, mut b) = tokio::io::duplex(1024);
        b.write_all(&[b'x'; 64]).await.unwrap();
        assert!(handshake(&mut a, Kind::Pull).await.is_err());
    }
}
