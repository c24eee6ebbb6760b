//! Encoding of a stored message: a head in JSON, the payload beside it, and a checksum.

use brickwork::{Message, read_head, write_head};
use bytes::Bytes;

/// Columns that are stored beside a payload.
#[derive(Debug, Clone)]
pub(super) struct EncodedRecord {
    /// Head of the message, in JSON.
    pub(super) head: String,
    /// CRC-32 of head and payload.
    pub(super) sum: u32,
}

impl EncodedRecord {
    /// Encodes a message.
    pub(super) fn new(message: &Message) -> Self {
        let head = write_head(message);
        let sum = checksum(head.as_bytes(), &message.payload);
        Self { head, sum }
    }
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(payload);
    sum.finalize()
}

/// Decodes a message.
///
/// # Errors
/// Returns the reason if the row differs from the one that was written.
pub(super) fn decode(head: &[u8], payload: Bytes, stored_sum: i64) -> Result<Message, String> {
    let sum = checksum(head, &payload);
    if i64::from(sum) != stored_sum {
        return Err(format!(
            "its checksum is {sum:08x}, and {stored_sum:08x} was written"
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
    fn every_flipped_bit_is_detected() {
        let mut envelope = Envelope::new("com.example.тип", b"\xff\x00payload".to_vec());
        envelope.headers = [("a\nb".into(), "\u{1}\"x\\".into())].into();
        let message = Message::from(envelope);
        let EncodedRecord { head, sum } = EncodedRecord::new(&message);
        let sum = i64::from(sum);
        let same = decode(head.as_bytes(), message.payload.clone(), sum).expect("it is intact");
        assert_eq!(format!("{same:?}"), format!("{message:?}"));
        let whole = [head.as_bytes(), &message.payload].concat();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let payload = Bytes::copy_from_slice(&damaged[head.len()..]);
            decode(&damaged[..head.len()], payload, sum).expect_err("it is damaged");
        }
    }
}
