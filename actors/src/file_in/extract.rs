//! Makes a message of a line: payload, id and type, extracted by JSON pointers.
//!
//! No line is dropped for being malformed: it is emitted unchanged, with a header that holds
//! the error. So a consumer that can't read it dead-letters it.

use std::sync::Arc;

use brickwork::{ID_BYTES_MAX, MessageId, Raw};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::FileInConfig;
use super::lines::Line;
use crate::json::{JsonPointer, JsonText, unescape};

/// Header that says which part of a line could not be extracted.
pub(super) const ERROR_HEADER: &str = "file-in-error";
/// Message type if the config has no pointer to it.
const KIND: &str = "line";
/// Maximum bytes of a message type (an AMQP short string).
const KIND_BYTES_MAX: usize = 255;

/// Makes messages of lines.
pub(super) struct Extractor<'a> {
    config: &'a FileInConfig,
    /// Common beginning of the ids of all lines.
    place: String,
    kind: Arc<str>,
}

/// The message of one line.
pub(super) struct Extracted {
    pub(super) id: MessageId,
    pub(super) raw: Raw,
    /// The parts that could not be extracted.
    pub(super) error: Option<String>,
}

impl<'a> Extractor<'a> {
    /// `key` tells the file apart from others of its name.
    pub(super) fn new(config: &'a FileInConfig, service: &str, key: &str) -> Self {
        Self {
            config,
            place: place(service, &config.path, key),
            kind: KIND.into(),
        }
    }

    /// The message of a line with its text, in a round of reading, from 0.
    pub(super) fn extract(&self, line: &Line, text: &Bytes, round: u64) -> Extracted {
        let mut extracted = Extracted {
            id: self.id_of_place(line.start, round),
            raw: Raw::bytes(self.kind.clone(), text.clone()),
            error: None,
        };
        let config = self.config;
        if config.payload.is_none() && config.id.is_none() && config.kind.is_none() {
            return extracted;
        }
        let mut errors = Vec::new();
        match JsonText::check(text) {
            Ok(json) => self.extract_parts(json, text, round, &mut extracted, &mut errors),
            Err(error) => errors.push(format!("the line is not an envelope: {error}")),
        }
        if !errors.is_empty() {
            let text = errors.join("; ");
            extracted
                .raw
                .headers
                .insert(ERROR_HEADER.into(), text.as_str().into());
            extracted.error = Some(text);
        }
        extracted
    }

    fn extract_parts(
        &self,
        json: JsonText<'_>,
        text: &Bytes,
        round: u64,
        extracted: &mut Extracted,
        errors: &mut Vec<String>,
    ) {
        if let Some(pointer) = &self.config.payload {
            match json.find(pointer) {
                Some(range) => extracted.raw.payload = text.slice(range),
                None => errors.push("the line has no payload where config.payload says".to_owned()),
            }
        }
        if let Some(pointer) = &self.config.id {
            match word(json, pointer).and_then(|text| text.parse::<MessageId>().ok()) {
                // A line that is read again is another message.
                Some(id) if round > 0 => {
                    extracted.id = id.child("file-in", "round", round as u32);
                }
                Some(id) => extracted.id = id,
                None => errors.push(format!(
                    "the line has no id of 1 to {ID_BYTES_MAX} bytes where config.id says"
                )),
            }
        }
        if let Some(pointer) = &self.config.kind {
            let fits = |text: &String| (1..=KIND_BYTES_MAX).contains(&text.len());
            match word(json, pointer).filter(fits) {
                Some(kind) => extracted.raw.kind = kind.into(),
                None => errors.push(format!(
                    "the line has no type of 1 to {KIND_BYTES_MAX} bytes where config.type says"
                )),
            }
        }
    }

    /// The id of a line: the same each time that the line is read.
    fn id_of_place(&self, offset: u64, round: u64) -> MessageId {
        let text = match round {
            0 => format!("{}:{offset}", self.place),
            _ => format!("{}:{offset}:{round}", self.place),
        };
        text.parse()
            .expect("a place leaves room for the numbers and has no control characters")
    }
}

/// The common beginning of ids: the service, whose label is unique in the app, the name of the
/// file and its key.
fn place(service: &str, path: &std::path::Path, key: &str) -> String {
    /// Two numbers with their colons.
    const NUMBERS_BYTES_MAX: usize = 42;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let place = format!("{service}/{name}:{key}");
    if place.len() + NUMBERS_BYTES_MAX <= ID_BYTES_MAX && !place.chars().any(char::is_control) {
        return place;
    }
    let hash = Sha256::digest(place.as_bytes());
    hash.iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A JSON string or number, as text.
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

    fn extract_in_round(config: serde_json::Value, text: &str, round: u64) -> Extracted {
        let config: FileInConfig = serde_json::from_value(config).unwrap();
        let line = Line {
            start: 17,
            end: 0,
            text: None,
        };
        let text = Bytes::from(text.to_owned());
        Extractor::new(&config, "intake", "key").extract(&line, &text, round)
    }

    fn extract(config: serde_json::Value, text: &str) -> Extracted {
        extract_in_round(config, text, 0)
    }

    #[test]
    fn without_pointers_a_line_is_the_payload_unchanged() {
        let extracted = extract(json!({"path": "/tmp/a/data.jsonl"}), "{\"a\": 1.0} ");
        assert_eq!(&extracted.raw.payload[..], b"{\"a\": 1.0} ");
        assert_eq!(extracted.id.to_string(), "intake/data.jsonl:key:17");
        assert_eq!(&*extracted.raw.kind, "line");
        // A line that is not JSON is no error either: consumers dead-letter it.
        let extracted = extract(json!({"path": "data.jsonl"}), "nonsense");
        assert_eq!(&extracted.raw.payload[..], b"nonsense");
        assert_eq!(extracted.error, None);
    }

    #[test]
    fn payload_id_and_type_are_extracted_by_pointers() {
        let config = json!({"path": "d", "payload": "/body", "id": "/n", "type": "/head/event"});
        let line = r#"{"n": 7, "head": {"event": "push\u0021"}, "body": {"x": 1.50}}"#;
        let first = extract(config.clone(), line);
        assert_eq!(&first.raw.payload[..], b"{\"x\": 1.50}");
        assert_eq!((&*first.raw.kind, &*first.id.to_string()), ("push!", "7"));
        assert_eq!(first.error, None);
        assert!(first.raw.headers.is_empty());
        // In another round the line is another message.
        let second = extract_in_round(config.clone(), line, 1);
        assert_ne!(second.id, first.id);
        assert_eq!(second.id, extract_in_round(config, line, 1).id);
    }

    #[test]
    fn a_malformed_line_is_emitted_unchanged_with_the_reason() {
        let config = json!({"path": "d", "payload": "/body", "id": "/n", "type": "/event"});
        for (line, reasons) in [
            ("nonsense", &["the line is not an envelope: not JSON"][..]),
            ("{}", &["config.payload", "config.id", "config.type"]),
            (
                r#"{"body":1,"n":"","event":{}}"#,
                &["config.id", "config.type"],
            ),
        ] {
            let extracted = extract(config.clone(), line);
            let reason = &*extracted.raw.headers[ERROR_HEADER];
            assert!(reasons.iter().all(|part| reason.contains(part)), "{reason}");
            assert_eq!(extracted.error.as_deref(), Some(reason));
            assert_eq!(extracted.id.to_string(), "intake/d:key:17");
            assert_eq!(&*extracted.raw.kind, "line");
        }
        assert_eq!(&extract(config, "nonsense").raw.payload[..], b"nonsense");
    }

    #[test]
    fn every_line_has_an_id_for_any_name_of_the_file() {
        for name in ["x".repeat(255), "a\nb".to_owned(), String::new()] {
            let config = FileInConfig {
                path: ManifestPath(name.clone().into()),
                ..FileInConfig::default()
            };
            let extractor = Extractor::new(&config, "intake", "key");
            let id = extractor.id_of_place(u64::MAX, u64::MAX);
            assert_ne!(id, extractor.id_of_place(u64::MAX, 1), "{name:?}");
        }
    }
}
