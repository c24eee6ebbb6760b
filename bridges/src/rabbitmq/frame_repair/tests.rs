use futures_util::task::noop_waker;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Yields bytes in pieces of these sizes.
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
    let mut stream = FrameRepairStream::new(Pieces {
        bytes: bytes.to_vec(),
        sizes: sizes.to_vec(),
        turn: 0,
    });
    let (waker, mut read) = (noop_waker(), Vec::new());
    let mut buffer = vec![0; into];
    loop {
        let polled = Pin::new(&mut stream).poll_read(&mut Context::from_waker(&waker), &mut buffer);
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

/// A delivery with `text` wherever a publisher may write one.
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
fn invalid_utf8_is_replaced_and_nothing_else_changes() {
    for (text, mended) in [
        (&b"caf\xe9"[..], &b"caf?"[..]),
        (b"\xff\xfe", b"??"),
        (b"ab\xc3", b"ab?"),
        (b"\xf0\x9f\x98 x", b"??? x"),
        ("né 😀".as_bytes(), "né 😀".as_bytes()),
        (b"", b""),
    ] {
        // Other strings may hold any bytes.
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

/// Returns the headers of a frame that passed the repair.
fn repaired_headers(table: &[u8]) -> Vec<u8> {
    let start = [&[0, 60, 0, 0][..], &[0; 8], &(1u16 << 13).to_be_bytes()].concat();
    let sent = frame(CONTENT_HEADER, &[&start[..], &long(table)].concat());
    let got = read(&sent, &[usize::MAX], 4096);
    assert_eq!(got.len(), sent.len(), "lengths don't change");
    got[FRAME_START_BYTES + start.len() + 4..got.len() - 1].to_vec()
}

fn nested(depth: usize, innermost: &[u8]) -> Vec<u8> {
    let values = (0..depth).fold(innermost.to_vec(), |inner, _| {
        [b"A".to_vec(), long(&inner)].concat()
    });
    [short(b"deep"), values].concat()
}

#[test]
fn a_value_that_is_nested_too_deep_or_broken_becomes_bytes_and_the_rest_is_repaired() {
    let next = |text: &[u8]| [short(text), b"V".to_vec()].concat();
    let cut = |depth: usize| {
        let inner = nested(depth, b"V")[5 + 5 * DEPTH_MAX..].to_vec();
        let bytes = [&[BYTE_ARRAY][..], &inner[1..]].concat();
        nested(DEPTH_MAX, &bytes)
    };
    assert_eq!(
        repaired_headers(&nested(DEPTH_MAX, b"V")),
        nested(DEPTH_MAX, b"V")
    );
    for depth in [DEPTH_MAX + 1, 100, 4000] {
        let table = [nested(depth, b"V"), next(b"caf\xe9")].concat();
        let expected = [cut(depth), next(b"caf?")].concat();
        assert_eq!(repaired_headers(&table), expected, "{depth}");
    }
    // A type that does not exist.
    let broken = [nested(1, b"?"), next(b"caf\xe9")].concat();
    let bytes = [short(b"deep"), b"x".to_vec(), long(b"?"), next(b"caf?")].concat();
    assert_eq!(repaired_headers(&broken), bytes);
    // The table itself is broken.
    let table = b"\x04name?text";
    assert_eq!(repaired_headers(table), b"\0x\0\0\0\x04text");
    assert_eq!(repaired_headers(b"\xff\xff\xff"), b"\x01?V");
}

#[test]
fn a_frame_over_the_limit_is_not_buffered() {
    let mut stream = FrameRepairStream::new(Pieces {
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
    fn the_result_does_not_depend_on_the_sizes_of_reads(
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
    fn any_bytes_are_read_to_the_end(bytes in vec(any::<u8>(), 0..400), sizes in vec(1usize..50, 1..4)) {
        let got = read(&bytes, &sizes, 64);
        // A partial frame at the end is kept back.
        prop_assert!(got.len() <= bytes.len());
    }

    #[test]
    fn malformed_frames_pass_unchanged(
        kind in 1u8..3, payload in vec(any::<u8>(), 0..300), more in vec(any::<u8>(), 0..40)
    ) {
        let sent = [frame(kind, &payload), frame(3, &more)].concat();
        let got = read(&sent, &[usize::MAX], 4096);
        prop_assert_eq!(got.len(), sent.len());
        prop_assert!(got.ends_with(&frame(3, &more)));
    }
}
