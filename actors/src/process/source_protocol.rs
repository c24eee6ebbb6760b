//! The lines of the protocol of sources: messages of a child, and their acks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use brickwork::MessageId;
use brickwork::prelude::*;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::protocol::{index_of, present};
use crate::log::shown;

/// Maximum bytes of a wrong line in an error.
const SHOWN_BYTES_MAX: usize = 200;

/// Beginning of the names of headers that only the runtime sets.
const RESERVED: &str = "brickwork-";

/// A position of a child: any JSON value, as the child spelled it.
pub(super) type ChildPosition = Box<RawValue>;

/// A line of the child.
#[derive(Debug)]
pub(super) struct SourceLine {
    /// `None` in a line with a position alone.
    pub(super) message: Option<SourceMessage>,
    /// The position after this line, if the child wrote one.
    pub(super) position: Option<ChildPosition>,
}

/// A message that the child sends.
#[derive(Debug)]
pub(super) struct SourceMessage {
    /// The child's id, for the ack.
    pub(super) id: Box<str>,
    /// The id of the message: the child's after the label of the service.
    pub(super) message_id: MessageId,
    /// The index of the output.
    pub(super) output: usize,
    pub(super) raw: Raw,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    port: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    msg: Option<&'a RawValue>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(borrow, default, deserialize_with = "present")]
    position: Option<&'a RawValue>,
}

/// Parses a line without its line break. `service` is the label of the service, `outputs` are
/// the names of its outputs.
///
/// # Errors
/// The line breaks the protocol: the text of the error.
pub(super) fn parse(line: &[u8], service: &str, outputs: &[String]) -> Result<SourceLine, String> {
    let wrong = |error: String| {
        let line = shown(line, SHOWN_BYTES_MAX);
        format!("it wrote a line that is not a message ({error}; logs belong on stderr): {line}")
    };
    let parsed: Line<'_> = std::str::from_utf8(line)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string()))
        .map_err(wrong)?;
    let position = parsed.position.map(ToOwned::to_owned);
    let message = match (&parsed.id, parsed.msg) {
        (Some(id), Some(msg)) => Some(message(id, msg, &parsed, service, outputs).map_err(wrong)?),
        (None, None) if position.is_some() && parsed.port.is_none() => None,
        (None, None) => return Err(wrong("it has neither id and msg nor a position".to_owned())),
        (Some(_), None) => return Err(wrong("it has an id and no msg".to_owned())),
        (None, Some(_)) => return Err(wrong("it has a msg and no id".to_owned())),
    };
    Ok(SourceLine { message, position })
}

fn message(
    id: &str,
    msg: &RawValue,
    line: &Line<'_>,
    service: &str,
    outputs: &[String],
) -> Result<SourceMessage, String> {
    let output = match &line.port {
        Some(port) => index_of(port, outputs, "sent", "outputs")?,
        None => 0,
    };
    if id.is_empty() {
        return Err("its id is empty".to_owned());
    }
    if let Some(name) = line.headers.keys().find(|name| name.starts_with(RESERVED)) {
        return Err(format!("headers like {name:?} are set by the runtime"));
    }
    let message_id: MessageId = format!("{service}/{id}")
        .parse()
        .map_err(|error| format!("the id after {service}/ can't be used: {error}"))?;
    let kind: Arc<str> = match &line.kind {
        Some(kind) => kind.as_str().into(),
        None => outputs[output].as_str().into(),
    };
    let headers = line.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str().into(), value.as_str().into()));
    Ok(SourceMessage {
        id: id.into(),
        message_id,
        output,
        raw: Raw {
            kind,
            content_type: None,
            headers: headers.collect(),
            subject: line.subject.as_deref().map(Arc::from),
            payload: Bytes::copy_from_slice(msg.get().as_bytes()),
        },
    })
}

/// A line to the child.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ToChild<'a> {
    /// The first line: the position to continue from.
    Start { position: Option<&'a RawValue> },
    /// This message and all messages before it were accepted, except refused ones.
    Ack { ack: &'a str },
    /// This message can never be sent.
    Refused { refused: &'a str, error: &'a str },
}

impl ToChild<'_> {
    /// Appends the line and its line break.
    pub(super) fn append_to(&self, lines: &mut Vec<u8>) {
        serde_json::to_writer(&mut *lines, self).expect("writing to memory succeeds");
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<SourceLine, String> {
        let outputs = ["out", "other"].map(str::to_owned);
        parse(line.as_bytes(), "clock", &outputs)
    }

    #[test]
    fn a_message_has_the_id_of_the_child_after_the_label_and_its_payload_unchanged() {
        let line = parsed(
            r#"{"id":"7","port":"other","msg":{"n":1.50},"type":"t","subject":"s","headers":{"k":"v"},"position":{"p": 12345678901234567890123}}"#,
        )
        .unwrap();
        let message = line.message.unwrap();
        assert_eq!((&*message.id, message.output), ("7", 1));
        assert_eq!(message.message_id.to_string(), "clock/7");
        assert_eq!(
            (&*message.raw.kind, &message.raw.payload[..]),
            ("t", &br#"{"n":1.50}"#[..])
        );
        assert_eq!(message.raw.subject.as_deref(), Some("s"));
        assert_eq!(
            message.raw.headers.get("k").map(|value| &**value),
            Some("v")
        );
        let position = line.position.unwrap();
        assert_eq!(position.get(), r#"{"p": 12345678901234567890123}"#);
        // The first output and its name are the defaults.
        let message = parsed(r#"{"id":"7","msg":null}"#).unwrap().message.unwrap();
        assert_eq!((message.output, &*message.raw.kind), (0, "out"));
    }

    #[test]
    fn a_position_may_come_alone() {
        let line = parsed(r#"{"position":3}"#).unwrap();
        assert!(line.message.is_none());
        assert_eq!(line.position.unwrap().get(), "3");
    }

    #[test]
    fn a_line_that_is_no_message_is_refused_with_a_reason() {
        let long = format!(r#"{{"id":"{}","msg":1}}"#, "x".repeat(300));
        let cases = [
            ("ready!", "logs belong on stderr): ready!"),
            ("", "not a message"),
            ("{}", "neither id and msg nor a position"),
            (r#"{"msg":1}"#, "a msg and no id"),
            (r#"{"id":"1"}"#, "an id and no msg"),
            (r#"{"id":"","msg":1}"#, "its id is empty"),
            (
                r#"{"id":"1","msg":1,"headers":{"brickwork-attempt":"9"}}"#,
                "set by the runtime",
            ),
            (
                r#"{"id":"1","msg":1,"port":"up"}"#,
                "\"up\", which is not one of its outputs (out, other)",
            ),
            (
                r#"{"id":"a\nb","msg":1}"#,
                "a message id has 1 to 255 bytes",
            ),
            (&long, "a message id has 1 to 255 bytes"),
            (r#"{"id":"1","msg":1,"more":1}"#, "unknown field `more`"),
            (r#"{"id":1,"msg":1}"#, "not a message"),
        ];
        for (line, text) in cases {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(text) && error.len() < 500, "{error}");
        }
    }

    #[test]
    fn lines_to_the_child_are_json() {
        let mut lines = Vec::new();
        let position = RawValue::from_string("{\"p\":1}".to_owned()).unwrap();
        let start = ToChild::Start {
            position: Some(&position),
        };
        for line in [
            start,
            ToChild::Start { position: None },
            ToChild::Ack { ack: "a\"" },
            ToChild::Refused {
                refused: "b",
                error: "too\nlarge",
            },
        ] {
            line.append_to(&mut lines);
        }
        let expected = "{\"position\":{\"p\":1}}\n{\"position\":null}\n{\"ack\":\"a\\\"\"}\n{\"refused\":\"b\",\"error\":\"too\\nlarge\"}\n";
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
    }
}
