//! The lines of the protocol: messages to a child, its answers, its requests and their replies.
//!
//! Owns their format and reports errors in the lines of a child. Payloads pass through
//! unchanged, including the spelling of numbers and escapes.

use std::borrow::Cow;
use std::sync::Arc;

use brickwork::Message;
use brickwork::config::HumanDuration;
use brickwork::prelude::*;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
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
    Failed(Failure),
}

/// A line of a child.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChildLine {
    Answer(Answer),
    Ask(Ask),
}

/// A request that a child sends while it handles a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// The child's id for the request, for the reply.
    pub(super) id: Box<str>,
    /// The index of the request's port.
    pub(super) port: usize,
    /// The type, if the child named one; otherwise that of the handled message.
    pub(super) kind: Option<Arc<str>>,
    pub(super) payload: Bytes,
}

/// The ports that a child may name.
#[derive(Debug, Default)]
pub(super) struct ChildPorts {
    pub(super) outputs: Vec<String>,
    pub(super) asks: Vec<String>,
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

/// The line with the reply to a request, with its line break. The reply must be JSON without
/// line breaks.
pub(super) fn reply(message: &str, ask: &str, reply: &Result<Vec<u8>, String>) -> Vec<u8> {
    let mut line = Vec::new();
    line.extend_from_slice(b"{\"id\":");
    write_string(&mut line, message);
    line.extend_from_slice(b",\"ask\":");
    write_string(&mut line, ask);
    match reply {
        Ok(json) => {
            line.extend_from_slice(b",\"reply\":");
            line.extend_from_slice(json);
        }
        Err(text) => {
            line.extend_from_slice(b",\"error\":");
            write_string(&mut line, text);
        }
    }
    line.extend_from_slice(b"}\n");
    line
}

/// The payload of a reply on one line, as [`reply`] takes it.
///
/// # Errors
/// The payload is not JSON.
pub(super) fn one_line(payload: &[u8]) -> Result<Vec<u8>, String> {
    if payload.is_empty() {
        return Ok(b"null".to_vec());
    }
    let mut line = Vec::with_capacity(payload.len());
    JsonText::check(payload)?.compact_into(&mut line);
    Ok(line)
}

/// A line of a child as it stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    emit: Option<Vec<EmitLine<'a>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    reply: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    retry: Option<bool>,
    #[serde(default)]
    after: Option<HumanDuration>,
    #[serde(default)]
    defer: Option<HumanDuration>,
    #[serde(borrow, default)]
    ask: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    port: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    msg: Option<&'a RawValue>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Line<'_> {
    fn has_answer(&self) -> bool {
        self.emit.is_some() || self.reply.is_some() || self.error.is_some() || self.has_delay()
    }

    fn has_delay(&self) -> bool {
        self.retry.is_some() || self.after.is_some() || self.defer.is_some()
    }

    fn has_request(&self) -> bool {
        self.port.is_some() || self.msg.is_some() || self.kind.is_some()
    }
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

/// Parses a line without its line break. Returns the id of the message that it belongs to.
///
/// # Errors
/// The line breaks the protocol.
pub(super) fn parse<'a>(
    line: &'a [u8],
    ports: &ChildPorts,
) -> Result<(Cow<'a, str>, ChildLine), Broken> {
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
    let content = match &parsed.ask {
        Some(id) => ask(id, &parsed, ports).map(ChildLine::Ask),
        None => answer(&parsed, ports).map(ChildLine::Answer),
    };
    match content {
        Ok(content) => Ok((parsed.id, content)),
        Err(text) => Err(Broken {
            id: Some(parsed.id.into_owned()),
            text: format!("{text}: {}", shown(line, SHOWN_BYTES_MAX)),
        }),
    }
}

fn ask(id: &str, line: &Line<'_>, ports: &ChildPorts) -> Result<Ask, String> {
    let (Some(port), Some(msg)) = (&line.port, line.msg) else {
        return Err("it wrote a request without port and msg".to_owned());
    };
    if line.has_answer() {
        return Err("it wrote a request that is an answer, too".to_owned());
    }
    Ok(Ask {
        id: id.into(),
        port: index_of(port, &ports.asks, "asked", "asks")?,
        kind: line.kind.as_deref().map(Arc::from),
        payload: payload_of(msg),
    })
}

fn answer(line: &Line<'_>, ports: &ChildPorts) -> Result<Answer, String> {
    if line.has_request() {
        return Err("it wrote port, msg or type without ask".to_owned());
    }
    match (&line.emit, &line.error) {
        (Some(emit), None) if !line.has_delay() => {
            let emitted = emit.iter().map(|emit| emitted(emit, &ports.outputs));
            Ok(Answer::Done {
                emitted: emitted.collect::<Result<_, _>>()?,
                reply: line.reply.map(payload_of),
            })
        }
        (None, Some(text)) if line.reply.is_none() => failure(line, text).map(Answer::Failed),
        _ => Err("it wrote an answer without exactly one of emit and error".to_owned()),
    }
}

/// Returns the failure of a message. A delay implies a retry.
fn failure(line: &Line<'_>, text: &str) -> Result<Failure, String> {
    match (line.retry, line.after, line.defer) {
        (Some(false), None, None) => Ok(Failure::reject(text)),
        (None | Some(true), None, None) => Ok(Failure::retry(text)),
        (None | Some(true), Some(after), None) => Ok(Failure::after(after.0, text)),
        (None | Some(true), None, Some(defer)) => Ok(Failure::defer(defer.0, text)),
        _ => Err("it wrote more than one of \"retry\":false, after and defer".to_owned()),
    }
}

fn emitted(emit: &EmitLine<'_>, outputs: &[String]) -> Result<Emitted, String> {
    Ok(Emitted {
        output: index_of(&emit.port, outputs, "emitted", "outputs")?,
        kind: emit.kind.as_deref().map(Arc::from),
        payload: payload_of(emit.msg),
    })
}

/// Returns the index of a port among those that the config names.
pub(super) fn index_of(
    port: &str,
    known: &[String],
    act: &str,
    config: &str,
) -> Result<usize, String> {
    known.iter().position(|name| name == port).ok_or_else(|| {
        let port = shown(port.as_bytes(), SHOWN_BYTES_MAX);
        let known = known.join(", ");
        format!("it {act} on {port:?}, which is not one of its {config} ({known})")
    })
}

fn payload_of(json: &RawValue) -> Bytes {
    Bytes::copy_from_slice(json.get().as_bytes())
}

/// Reads a value that may be `null`: present, unlike one that is left out.
pub(super) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
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
mod tests;
