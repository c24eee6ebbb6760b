//! The parts of the link with acks.

use brickwork::{Message, read_head, write_head};
use bytes::Bytes;

use super::wire::encode;

/// First part of every message: the protocol and its version.
const PROTOCOL: &[u8] = b"brickwork1";

/// A message of the sending end.
#[derive(Debug)]
pub(super) enum FromSender {
    Message(Box<Message>),
    Ping,
}

/// A message of the receiving end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromReceiver {
    Ack(String),
    Later(String, String),
    Refused(String, String),
    Pong,
}

impl FromSender {
    /// # Errors
    /// The parts are not of this protocol.
    pub(super) fn parse(parts: &[Bytes]) -> Result<Self, String> {
        match parts {
            [protocol, ping] if protocol == PROTOCOL && &ping[..] == b"ping" => Ok(Self::Ping),
            [protocol, msg, head, payload] if protocol == PROTOCOL && &msg[..] == b"msg" => {
                let head = std::str::from_utf8(head).map_err(|error| error.to_string())?;
                let message =
                    read_head(head, payload.clone()).map_err(|error| error.to_string())?;
                Ok(Self::Message(Box::new(message)))
            }
            _ => Err("the parts are not those of a link with acks".to_owned()),
        }
    }
}

/// Returns the id of a message whose payload was too large to be read.
///
/// # Errors
/// The parts are not of this protocol.
pub(super) fn id_of_too_large(parts: &[Bytes]) -> Result<String, String> {
    let mut parts = parts.to_vec();
    parts.push(Bytes::new());
    match FromSender::parse(&parts)? {
        FromSender::Message(message) => Ok(message.id.to_string()),
        FromSender::Ping => Err("a ping without an end".to_owned()),
    }
}

/// The frames of a message.
pub(super) fn message(message: &Message) -> Bytes {
    let (mut bytes, head) = (Vec::new(), write_head(message));
    encode(
        &[PROTOCOL, b"msg", head.as_bytes(), &message.payload],
        &mut bytes,
    );
    bytes.into()
}

/// The frames of a ping.
pub(super) fn ping() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&[PROTOCOL, b"ping"], &mut bytes);
    bytes
}

impl FromReceiver {
    /// The frames of this message.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Ack(id) => encode(&[PROTOCOL, b"ack", id.as_bytes()], &mut bytes),
            Self::Later(id, text) => encode(
                &[PROTOCOL, b"later", id.as_bytes(), text.as_bytes()],
                &mut bytes,
            ),
            Self::Refused(id, text) => encode(
                &[PROTOCOL, b"refused", id.as_bytes(), text.as_bytes()],
                &mut bytes,
            ),
            Self::Pong => encode(&[PROTOCOL, b"pong"], &mut bytes),
        }
        bytes
    }

    /// Reads a message; `None` if it is not of this protocol.
    pub(super) fn parse(parts: &[Bytes]) -> Option<Self> {
        let [protocol, act, rest @ ..] = parts else {
            return None;
        };
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).ok();
        match (&act[..], rest) {
            _ if protocol != PROTOCOL => None,
            (b"ack", [id]) => Some(Self::Ack(text(id)?)),
            (b"later", [id, why]) => Some(Self::Later(text(id)?, text(why)?)),
            (b"refused", [id, why]) => Some(Self::Refused(text(id)?, text(why)?)),
            (b"pong", []) => Some(Self::Pong),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;
    use bytes::BytesMut;

    use super::super::wire::{Incoming, Parser};
    use super::*;

    fn parts(bytes: &[u8]) -> Vec<Bytes> {
        match Parser::new(1 << 20).next(&mut BytesMut::from(bytes)) {
            Ok(Some(Incoming::Message(parts))) => parts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_ends_understand_each_other() {
        let mut envelope = Envelope::new("order", r#"{"n":1.50}"#);
        envelope.headers.insert("k".into(), "v".into());
        let sent = Message::from(envelope);
        match FromSender::parse(&parts(&message(&sent))).unwrap() {
            FromSender::Message(got) => {
                assert_eq!(
                    (&got.id, &got.kind, &got.payload),
                    (&sent.id, &sent.kind, &sent.payload)
                );
                assert_eq!(got.headers, sent.headers);
            }
            FromSender::Ping => panic!("a ping"),
        }
        assert!(matches!(
            FromSender::parse(&parts(&ping())),
            Ok(FromSender::Ping)
        ));
        for answer in [
            FromReceiver::Ack("a".into()),
            FromReceiver::Later("b".into(), "full".into()),
            FromReceiver::Refused("c".into(), "ü".into()),
            FromReceiver::Pong,
        ] {
            assert_eq!(FromReceiver::parse(&parts(&answer.encode())), Some(answer));
        }
    }

    #[test]
    fn other_parts_are_refused() {
        for wrong in [
            &[][..],
            &[&b"hello"[..]],
            &[PROTOCOL, b"msg", b"{}"],
            &[PROTOCOL, b"msg", b"nonsense", b""],
            &[PROTOCOL, b"msg", b"\xff", b""],
            &[b"brickwork2", b"ping"],
        ] {
            let parts: Vec<Bytes> = wrong
                .iter()
                .map(|part| Bytes::copy_from_slice(part))
                .collect();
            assert!(FromSender::parse(&parts).is_err(), "{wrong:?}");
            assert!(FromReceiver::parse(&parts).is_none(), "{wrong:?}");
        }
    }
}
