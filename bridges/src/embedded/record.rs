//! A message as it is kept: its head, its payload beside it, and a sum over both.

use brickwork::{Message, read_head, write_head};
use bytes::Bytes;

/// What is written beside a payload.
#[derive(Debug, Clone)]
pub(super) struct EncodedRecord {
    /// The head of the message, in JSON.
    pub(super) head: String,
    /// The CRC-32 of head and payload.
    pub(super) sum: u32,
}

impl EncodedRecord {
    pub(super) fn of(message: &Message) -> Self {
        let head = write_head(message);
        let sum = sum(head.as_bytes(), &message.payload);
        Self { head, sum }
    }
}

fn sum(head: &[u8], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(payload);
    sum.finalize()
}

/// The message that was written so.
///
/// # Errors
/// It isn't what was written, and why.
pub(super) fn read(head: &[u8], payload: Bytes, written: i64) -> Result<Message, String> {
    let found = sum(head, &payload);
    if i64::from(found) != written {
        return Err(format!(
            "its checksum is {found:08x}, and {written:08x} was written"
        ));
    }
    let head = std::str::from_utf8(head).map_err(|error| error.to_string())?;
    read_head(head, payload).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;

    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let mut envelope = Envelope::new("com.example.тип", b"\xff\x00payload".to_vec());
        envelope.headers = [("a\nb".into(), "\u{1}\"x\\".into())].into();
        let message = Message::from(envelope);
        let EncodedRecord { head, sum } = EncodedRecord::of(&message);
        let sum = i64::from(sum);
        let same = read(head.as_bytes(), message.payload.clone(), sum).expect("it is read");
        assert_eq!(format!("{same:?}"), format!("{message:?}"));
        let whole = [head.as_bytes(), &message.payload].concat();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let payload = Bytes::copy_from_slice(&damaged[head.len()..]);
            read(&damaged[..head.len()], payload, sum).expect_err("it is damaged");
        }
    }
}
