//! AMQP 0-9-1 as bytes: publishes messages that no client library would send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A connection with one channel, in confirm mode.
#[derive(Debug)]
pub struct Raw(TcpStream);

/// A place for a text in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The AMQP property.
    ContentType,
    /// A header's name.
    HeaderName,
    /// The value of a header of type long string.
    HeaderValue,
    /// The name of a header in a table that is a header's value.
    NestedName,
    /// The AMQP property.
    CorrelationId,
    /// The AMQP property.
    MessageId,
    /// The AMQP property.
    Type,
    /// The AMQP property.
    AppId,
}

impl Place {
    /// All places.
    pub const ALL: [Self; 8] = [
        Self::ContentType,
        Self::HeaderName,
        Self::HeaderValue,
        Self::NestedName,
        Self::CorrelationId,
        Self::MessageId,
        Self::Type,
        Self::AppId,
    ];
}

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

fn short(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short string is short");
    [&[length], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("a long string isn't as long as that");
    [&length.to_be_bytes(), text].concat()
}

/// A header whose value is an array in an array, and so on.
pub fn nested_header(name: &str, depth: usize) -> Vec<u8> {
    let value = (0..depth).fold(b"V".to_vec(), |inner, _| {
        [b"A".to_vec(), long(&inner)].concat()
    });
    [short(name.as_bytes()), value].concat()
}

/// A header with a text.
pub fn text_header(name: &[u8], text: &[u8]) -> Vec<u8> {
    [short(name), vec![b'S'], long(text)].concat()
}

impl Raw {
    /// Connects to a broker on this machine as `guest`.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it connects");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("it can be set");
        stream.set_write_timeout(patience).expect("it can be set");
        let mut raw = Self(stream);
        raw.write(b"AMQP\x00\x00\x09\x01");
        raw.expect(10, 10);
        let start_ok = [
            long(b""),
            short(b"PLAIN"),
            long(b"\0guest\0guest"),
            short(b"en_US"),
        ];
        raw.method(0, 10, 11, &start_ok.concat());
        raw.expect(10, 30);
        let frame_max = 131_072u32.to_be_bytes();
        raw.method(0, 10, 31, &[&[0, 1], &frame_max[..], &[0, 0]].concat());
        raw.method(0, 10, 40, &[short(b"/"), short(b""), vec![0]].concat());
        raw.expect(10, 41);
        raw.method(1, 20, 10, &short(b""));
        raw.expect(20, 11);
        raw.method(1, 85, 10, &[0]);
        raw.expect(85, 11);
        raw
    }

    /// Publishes a message with `bytes` in these places and waits for its confirm.
    ///
    /// # Panics
    /// If the broker does not confirm it.
    pub fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        places: &[Place],
        bytes: &[u8],
        payload: &[u8],
    ) {
        let has = |place: Place| places.contains(&place);
        let mut table = Vec::new();
        if has(Place::HeaderName) {
            table.extend([short(bytes), vec![b'S'], long(b"value")].concat());
        }
        if has(Place::HeaderValue) {
            table.extend([short(b"name"), vec![b'S'], long(bytes)].concat());
        }
        if has(Place::NestedName) {
            let inner = [short(bytes), vec![b'S'], long(bytes)].concat();
            table.extend([short(b"table"), vec![b'F'], long(&inner)].concat());
        }
        let text = |place: Place| has(place).then(|| short(bytes));
        self.send(exchange, key, &table, text, payload);
    }

    /// Publishes a message with these bytes as table of headers, and waits for its confirm.
    ///
    /// # Panics
    /// If the broker does not confirm it.
    pub fn publish_headers(&mut self, exchange: &str, key: &str, table: &[u8], payload: &[u8]) {
        self.send(exchange, key, table, |_| None, payload);
    }

    /// Publishes a message with these property flags and encoded properties, and waits for its
    /// confirm.
    ///
    /// # Errors
    /// The broker refused it, and may have closed the channel or the connection.
    pub fn try_publish(
        &mut self,
        exchange: &str,
        key: &str,
        flags: u16,
        properties: &[u8],
        payload: &[u8],
    ) -> Result<(), String> {
        const FRAME_BODY_BYTES: usize = 100_000;
        let parts = [
            vec![0, 0],
            short(exchange.as_bytes()),
            short(key.as_bytes()),
            vec![0],
        ];
        let publish = [&[0, 60, 0, 40][..], &parts.concat()].concat();
        let header = [
            &60u16.to_be_bytes()[..],
            &[0, 0],
            &(payload.len() as u64).to_be_bytes(),
            &flags.to_be_bytes(),
            properties,
        ];
        let mut bytes = [
            frame(METHOD, 1, &publish),
            frame(HEADER, 1, &header.concat()),
        ]
        .concat();
        for part in payload.chunks(FRAME_BODY_BYTES) {
            bytes.extend(frame(BODY, 1, part));
        }
        let answered = self.0.write_all(&bytes).and_then(|()| self.read_method());
        let answer = answered.map_err(|error| error.to_string())?;
        match answer.starts_with(&[0, 60, 0, 80]) {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&answer).into_owned()),
        }
    }

    fn send(
        &mut self,
        exchange: &str,
        key: &str,
        table: &[u8],
        text: impl Fn(Place) -> Option<Vec<u8>>,
        payload: &[u8],
    ) {
        let parts = [
            vec![0, 0],
            short(exchange.as_bytes()),
            short(key.as_bytes()),
            vec![0],
        ];
        self.method(1, 60, 40, &parts.concat());
        // In the order of the specification, each with its flag bit.
        let properties = [
            (15, text(Place::ContentType)),
            (13, (!table.is_empty()).then(|| long(table))),
            (12, Some(vec![2])),
            (10, text(Place::CorrelationId)),
            (7, text(Place::MessageId)),
            (5, text(Place::Type)),
            (3, text(Place::AppId)),
        ];
        let mut flags = 0u16;
        let mut values = Vec::new();
        for (flag, value) in properties {
            if let Some(value) = value {
                flags |= 1 << flag;
                values.extend(value);
            }
        }
        let size = payload.len() as u64;
        let header = [
            &60u16.to_be_bytes()[..],
            &[0, 0],
            &size.to_be_bytes(),
            &flags.to_be_bytes(),
            &values,
        ];
        self.frame(HEADER, 1, &header.concat());
        self.frame(BODY, 1, payload);
        self.expect(60, 80);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the broker reads");
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.write(&frame(kind, channel, payload));
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let start = [class.to_be_bytes(), method.to_be_bytes()].concat();
        self.frame(METHOD, channel, &[&start[..], arguments].concat());
    }

    /// Reads a frame, which must carry this method.
    fn expect(&mut self, class: u16, method: u16) {
        let answer = self.read_method().expect("the broker answers");
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&expected), "{text}");
    }

    /// Reads the next frame with a method and returns its content.
    fn read_method(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut start = [0; 7];
            self.0.read_exact(&mut start)?;
            let size = u32::from_be_bytes([start[3], start[4], start[5], start[6]]);
            let mut rest = vec![0; size as usize + 1];
            self.0.read_exact(&mut rest)?;
            // The other frames are heartbeats.
            if start[0] == METHOD {
                return Ok(rest);
            }
        }
    }
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let start = [&[kind][..], &channel.to_be_bytes()].concat();
    [start, long(payload), vec![0xce]].concat()
}
