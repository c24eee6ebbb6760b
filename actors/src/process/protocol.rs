//! The lines of the protocol: requests to a child, and its answers.
//!
//! Owns the format of both and reports errors in an answer. Payloads pass through
//! unchanged, including the spelling of numbers and escapes.

use std::borrow::Cow;
use std::sync::Arc;

use brickwork::Message;
use brickwork::prelude::*;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::JsonText;
use crate::log::shown;

/// Maximum bytes of a wrong line in an error.
const SHOWN_BYTES_MAX: usize = 200;

/// The answer to one message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The message is handled: messages to emit, and the reply for a caller that asked.
    Done {
        emitted: Vec<Emitted>,
        reply: Option<Bytes>,
    },
    /// The message failed.
    Failed { text: String, retry: bool },
}

/// A message that a child emits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Emitted {
    /// The index of the output.
    pub(super) output: usize,
    /// The type, if the child named one; otherwise that of the handled message.
    pub(super) kind: Option<Arc<str>>,
    pub(super) payload: Bytes,
}

/// A line that breaks the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The id in the line, if it has one.
    pub(super) id: Option<String>,
    pub(super) text: String,
}

/// The request for a message: one line, with its line break.
///
/// # Errors
/// The payload is not JSON.
pub(super) fn request(id: &str, message: &Message, attempt: u32) -> Result<Vec<u8>, Failure> {
    let payload = &message.payload[..];
    let json = JsonText::check(payload)
        .map_err(|text| Failure::reject(format!("the payload can't be sent to a child: {text}")))?;
    let mut line = Vec::with_capacity(payload.len() + 256);
    line.extend_from_slice(b"{\"id\":");
    write_string(&mut line, id);
    line.extend_from_slice(b",\"topic\":");
    write_string(&mut line, &message.topic);
    line.extend_from_slice(b",\"type\":");
    write_string(&mut line, &message.kind);
    line.extend_from_slice(b",\"attempt\":");
    line.extend_from_slice(attempt.to_string().as_bytes());
    line.extend_from_slice(b",\"headers\":{");
    for (nth, (name, value)) in message.headers.iter().enumerate() {
        if nth > 0 {
            line.push(b',');
        }
        write_string(&mut line, name);
        line.push(b':');
        write_string(&mut line, value);
    }
    line.extend_from_slice(b"},\"msg\":");
    if payload.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        json.compact_into(&mut line);
    } else {
        line.extend_from_slice(payload);
    }
    line.extend_from_slice(b"}\n");
    Ok(line)
}

fn write_string(line: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(line, text).expect("writing to memory succeeds");
}

/// An answer as it stands in the line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    emit: Option<Vec<EmitLine<'a>>>,
    #[serde(borrow, default)]
    reply: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    retry: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmitLine<'a> {
    #[serde(borrow)]
    port: Cow<'a, str>,
    #[serde(borrow)]
    msg: &'a RawValue,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

/// Parses the answer in a line without its line break. `outputs` are the names of the outputs.
///
/// # Errors
/// The line breaks the protocol.
pub(super) fn answer<'a>(
    line: &'a [u8],
    outputs: &[String],
) -> Result<(Cow<'a, str>, Answer), Broken> {
    let parsed: Line<'a> = std::str::from_utf8(line)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string()))
        .map_err(|error| Broken {
            id: id_of(line),
            text: format!(
                "it wrote a line that is not an answer ({error}; logs belong on stderr): {}",
                shown(line, SHOWN_BYTES_MAX)
            ),
        })?;
    let broken = |text: String| Broken {
        id: Some(parsed.id.clone().into_owned()),
        text,
    };
    let reply = parsed.reply.map(payload_of);
    let answer = match (parsed.emit, parsed.error) {
        (Some(emit), None) if parsed.retry.is_none() => {
            let emitted = emit.into_iter().map(|emit| emitted(&emit, outputs));
            let emitted = emitted.collect::<Result<_, _>>().map_err(&broken)?;
            Answer::Done { emitted, reply }
        }
        (None, Some(text)) if reply.is_none() => Answer::Failed {
            text,
            retry: parsed.retry.unwrap_or(true),
        },
        _ => {
            let line = shown(line, SHOWN_BYTES_MAX);
            return Err(broken(format!(
                "it wrote an answer without exactly one of emit and error: {line}"
            )));
        }
    };
    Ok((parsed.id, answer))
}

fn emitted(emit: &EmitLine<'_>, outputs: &[String]) -> Result<Emitted, String> {
    let output = outputs.iter().position(|name| *name == emit.port);
    let output = output.ok_or_else(|| {
        let port = shown(emit.port.as_bytes(), SHOWN_BYTES_MAX);
        format!(
            "it emitted on {port:?}, which is not one of its outputs ({})",
            outputs.join(", ")
        )
    })?;
    Ok(Emitted {
        output,
        kind: emit.kind.as_deref().map(Arc::from),
        payload: payload_of(emit.msg),
    })
}

fn payload_of(json: &RawValue) -> Bytes {
    Bytes::copy_from_slice(json.get().as_bytes())
}

/// The id in a line that is wrong otherwise.
fn id_of(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let id: Id = serde_json::from_slice(line).ok()?;
    Some(id.id)
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;
    use serde_json::{Value, json};

    use super::*;

    fn outputs() -> Vec<String> {
        ["out", "urgent"].map(str::to_owned).into()
    }

    #[test]
    fn a_request_is_one_line_with_the_payload_unchanged() {
        let mut envelope = Envelope::new("is\"sue", "{ \"n\" :\n 1.50, \"s\": \"a\\nb\" }");
        envelope.topic = "issues.opened".into();
        envelope.headers.insert("a\n".into(), "ü".into());
        envelope.headers.insert("b".into(), "".into());
        let line = request("id-1", &envelope.into(), 3).unwrap();
        let text = std::str::from_utf8(&line).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(
            text.ends_with("\"msg\":{\"n\":1.50,\"s\":\"a\\nb\"}}\n"),
            "{text}"
        );
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            value,
            json!({
                "id": "id-1", "topic": "issues.opened", "type": "is\"sue", "attempt": 3,
                "headers": {"a\n": "ü", "b": ""}, "msg": {"n": 1.5, "s": "a\nb"},
            })
        );
    }

    #[test]
    fn a_payload_that_is_not_json_is_rejected() {
        let message = Envelope::new("t", "nonsense").into();
        let failure = request("i", &message, 1).unwrap_err();
        assert_eq!(failure.kind(), brickwork::FailureKind::Reject);
    }

    #[test]
    fn emitted_payloads_are_taken_unchanged() {
        let line = br#"{"emit":[{"port":"urgent","msg":{"n":1.50}},{"port":"out","type":"t","msg":null}],"id":"i\u0031"}"#;
        let (id, answer) = answer(line, &outputs()).unwrap();
        assert_eq!(id, "i1");
        let emitted = |output, kind: Option<&str>, payload: &'static str| Emitted {
            output,
            kind: kind.map(Arc::from),
            payload: payload.into(),
        };
        let expected = vec![
            emitted(1, None, r#"{"n":1.50}"#),
            emitted(0, Some("t"), "null"),
        ];
        let reply = None;
        let emitted = expected;
        assert_eq!(answer, Answer::Done { emitted, reply });
    }

    #[test]
    fn a_reply_stands_beside_the_emitted_messages() {
        let line = br#"{"id":"i","emit":[],"reply":{"n":1.50}}"#;
        let (_, answer) = answer(line, &outputs()).unwrap();
        let (emitted, reply) = (Vec::new(), Some(r#"{"n":1.50}"#.into()));
        assert_eq!(answer, Answer::Done { emitted, reply });
    }

    #[test]
    fn a_failed_message_is_retried_unless_the_answer_says_no() {
        for (more, retry) in [
            ("", true),
            (r#","retry":true"#, true),
            (r#","retry":false"#, false),
        ] {
            let line = format!(r#"{{"id":"i","error":"no"{more}}}"#);
            let (_, answer) = answer(line.as_bytes(), &outputs()).unwrap();
            let text = "no".to_owned();
            assert_eq!(answer, Answer::Failed { text, retry });
        }
    }

    #[test]
    fn a_line_that_is_not_an_answer_is_refused_with_the_id_of_its_message_if_it_has_one() {
        let cases: [(&[u8], Option<&str>, &str); 10] = [
            (b"ready!", None, "logs belong on stderr"),
            (b"", None, "not an answer"),
            (b"\xff", None, "utf-8"),
            (b"[]", None, "not an answer"),
            (br#"{"emit":[]}"#, None, "missing field `id`"),
            (
                br#"{"id":"i"}"#,
                Some("i"),
                "without exactly one of emit and error",
            ),
            (
                br#"{"id":"i","emit":[],"error":"x"}"#,
                Some("i"),
                "without exactly one",
            ),
            (
                br#"{"id":"i","error":"x","reply":1}"#,
                Some("i"),
                "without exactly one",
            ),
            (
                br#"{"id":"i","emit":[],"more":1}"#,
                Some("i"),
                "unknown field `more`",
            ),
            (
                br#"{"id":"i","emit":[{"port":"up","msg":1}]}"#,
                Some("i"),
                "\"up\", which is not one of its outputs (out, urgent)",
            ),
        ];
        for (line, id, text) in cases {
            let broken = answer(line, &outputs()).unwrap_err();
            assert_eq!(broken.id.as_deref(), id, "{broken:?}");
            assert!(broken.text.contains(text), "{broken:?}");
        }
    }

    #[test]
    fn a_long_wrong_line_is_cut_in_the_error() {
        let broken = answer(&vec![b'x'; 100_000], &outputs()).unwrap_err();
        assert!(broken.text.len() < 500, "{}", broken.text.len());
    }
}
