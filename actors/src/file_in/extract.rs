//! What a line becomes: payload, id and type, taken by JSON pointers.
//!
//! Nothing is dropped for being odd: what can't be taken as the config says is emitted
//! as the line stands, with a header that says why, so that whoever can't read it keeps
//! it in a dead-letter queue.

use std::sync::Arc;

use brickwork::{ID_BYTES_MAX, MessageId, Raw};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::FileInConfig;
use super::lines::Line;
use crate::json::{JsonPointer, JsonText, unescape};

/// The header that says what of a line couldn't be taken.
pub(super) const ERROR_HEADER: &str = "file-in-error";
/// The type of messages if no pointer gives one.
const KIND: &str = "line";
/// The longest type, in bytes (an AMQP short string).
const KIND_BYTES_MAX: usize = 255;

/// Makes messages of lines.
pub(super) struct Extractor<'a> {
    config: &'a FileInConfig,
    /// What ids of lines start with.
    place: String,
    kind: Arc<str>,
}

/// A message to be.
pub(super) struct Extracted {
    pub(super) id: MessageId,
    pub(super) raw: Raw,
    /// What couldn't be taken.
    pub(super) error: Option<String>,
}

impl<'a> Extractor<'a> {
    pub(super) fn new(config: &'a FileInConfig, service: &str) -> Self {
        Self {
            config,
            place: place(service, &config.path),
            kind: KIND.into(),
        }
    }

    /// The message of a line, which has a text, in a round of reading, from 0.
    pub(super) fn take(&self, line: &Line, text: &Bytes, round: u64) -> Extracted {
        let mut taken = Extracted {
            id: self.id_of_place(line.start, round),
            raw: Raw::bytes(self.kind.clone(), text.clone()),
            error: None,
        };
        let config = self.config;
        if config.payload.is_none() && config.id.is_none() && config.kind.is_none() {
            return taken;
        }
        let mut errors = Vec::new();
        match JsonText::check(text) {
            Ok(json) => self.take_parts(json, text, round, &mut taken, &mut errors),
            Err(error) => errors.push(format!("the line is not an envelope: {error}")),
        }
        if !errors.is_empty() {
            let text = errors.join("; ");
            taken
                .raw
                .headers
                .insert(ERROR_HEADER.into(), text.as_str().into());
            taken.error = Some(text);
        }
        taken
    }

    fn take_parts(
        &self,
        json: JsonText<'_>,
        text: &Bytes,
        round: u64,
        taken: &mut Extracted,
        errors: &mut Vec<String>,
    ) {
        if let Some(pointer) = &self.config.payload {
            match json.find(pointer) {
                Some(range) => taken.raw.payload = text.slice(range),
                None => errors.push("the line has no payload where config.payload says".to_owned()),
            }
        }
        if let Some(pointer) = &self.config.id {
            match word(json, pointer).and_then(|text| text.parse::<MessageId>().ok()) {
                // Read again, it is another message.
                Some(id) if round > 0 => taken.id = id.child("file-in", "round", round as u32),
                Some(id) => taken.id = id,
                None => errors.push(format!(
                    "the line has no id of 1 to {ID_BYTES_MAX} bytes where config.id says"
                )),
            }
        }
        if let Some(pointer) = &self.config.kind {
            let fits = |text: &String| (1..=KIND_BYTES_MAX).contains(&text.len());
            match word(json, pointer).filter(fits) {
                Some(kind) => taken.raw.kind = kind.into(),
                None => errors.push(format!(
                    "the line has no type of 1 to {KIND_BYTES_MAX} bytes where config.type says"
                )),
            }
        }
    }

    /// The same on every machine and every time that this line is read.
    fn id_of_place(&self, offset: u64, round: u64) -> MessageId {
        let text = match round {
            0 => format!("{}:{offset}", self.place),
            _ => format!("{}:{offset}:{round}", self.place),
        };
        text.parse()
            .expect("a place leaves room for numbers and has no control characters")
    }
}

/// What ids of lines start with: the service, which is one of its kind in an app, and the
/// file's name, but not its folder, which is another on each machine.
fn place(service: &str, path: &std::path::Path) -> String {
    /// Two numbers and their colons.
    const NUMBERS_BYTES_MAX: usize = 42;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let place = format!("{service}/{name}");
    if place.len() + NUMBERS_BYTES_MAX <= ID_BYTES_MAX && !place.chars().any(char::is_control) {
        return place;
    }
    let hash = Sha256::digest(place.as_bytes());
    hash.iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A text or a number, as text.
fn word(json: JsonText<'_>, pointer: &JsonPointer) -> Option<String> {
    let text = json.at(json.find(pointer)?);
    match text.as_bytes().first()? {
        b'"' => Some(unescape(text).into_owned()),
        b'-' | b'0'..=b'9' => Some(text.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use brickwork::config::ManifestPath;
    use serde_json::json;

    use super::*;

    fn take_in(config: serde_json::Value, text: &str, round: u64) -> Extracted {
        let config: FileInConfig = serde_json::from_value(config).unwrap();
        let line = Line {
            start: 17,
            end: 0,
            text: None,
        };
        let text = Bytes::from(text.to_owned());
        Extractor::new(&config, "intake").take(&line, &text, round)
    }

    fn take(config: serde_json::Value, text: &str) -> Extracted {
        take_in(config, text, 0)
    }

    #[test]
    fn without_pointers_a_line_is_the_payload_as_it_stands() {
        let taken = take(json!({"path": "/tmp/a/data.jsonl"}), "{\"a\": 1.0} ");
        assert_eq!(&taken.raw.payload[..], b"{\"a\": 1.0} ");
        assert_eq!(taken.id.to_string(), "intake/data.jsonl:17");
        assert_eq!(&*taken.raw.kind, "line");
        // Also if it isn't JSON: its readers say so.
        let taken = take(json!({"path": "data.jsonl"}), "nonsense");
        assert_eq!(&taken.raw.payload[..], b"nonsense");
        assert_eq!(taken.error, None);
    }

    #[test]
    fn payload_id_and_type_are_taken_by_pointers() {
        let config = json!({"path": "d", "payload": "/body", "id": "/n", "type": "/head/event"});
        let line = r#"{"n": 7, "head": {"event": "push\u0021"}, "body": {"x": 1.50}}"#;
        let taken = take(config.clone(), line);
        assert_eq!(&taken.raw.payload[..], b"{\"x\": 1.50}");
        assert_eq!((&*taken.raw.kind, &*taken.id.to_string()), ("push!", "7"));
        assert_eq!(taken.error, None);
        assert!(taken.raw.headers.is_empty());
        // Another round makes another message of it.
        assert_ne!(take_in(config.clone(), line, 1).id, taken.id);
        assert_eq!(
            take_in(config.clone(), line, 1).id,
            take_in(config, line, 1).id
        );
    }

    #[test]
    fn what_cannot_be_taken_is_emitted_as_it_stands_with_the_reason() {
        let config = json!({"path": "d", "payload": "/body", "id": "/n", "type": "/event"});
        for (line, reasons) in [
            ("nonsense", &["the line is not an envelope: not JSON"][..]),
            ("{}", &["config.payload", "config.id", "config.type"]),
            (
                r#"{"body":1,"n":"","event":{}}"#,
                &["config.id", "config.type"],
            ),
        ] {
            let taken = take(config.clone(), line);
            let said = &*taken.raw.headers[ERROR_HEADER];
            assert!(reasons.iter().all(|reason| said.contains(reason)), "{said}");
            assert_eq!(taken.error.as_deref(), Some(said));
            assert_eq!(taken.id.to_string(), "intake/d:17");
            assert_eq!(&*taken.raw.kind, "line");
        }
        assert_eq!(&take(config, "nonsense").raw.payload[..], b"nonsense");
    }

    #[test]
    fn every_line_has_an_id_whatever_the_file_is_called() {
        for name in ["x".repeat(255), "a\nb".to_owned(), String::new()] {
            let config = FileInConfig {
                path: ManifestPath(name.clone().into()),
                ..FileInConfig::default()
            };
            let taker = Extractor::new(&config, "intake");
            let id = taker.id_of_place(u64::MAX, u64::MAX);
            assert_ne!(id, taker.id_of_place(u64::MAX, 1), "{name:?}");
        }
    }
}
