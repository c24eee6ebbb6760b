//! Encoding of a group as one payload, and an upper bound of its size.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};

use super::Form;

/// Levels of nesting around a message in the payload.
pub(super) const LEVELS: usize = 2;

/// Upper bound of the object's bytes except key and messages: names, numbers, times.
const FRAME_BYTES: usize = 192;

/// The rule that closes a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    Count,
    Size,
    Within,
    Idle,
    Until,
    /// One more message would make it larger than `app.max_message`.
    Full,
    /// Too many groups are open.
    Room,
}

impl CloseReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Size => "size",
            Self::Within => "within",
            Self::Idle => "idle",
            Self::Until => "until",
            Self::Full => "full",
            Self::Room => "room",
        }
    }
}

/// The details of a group, beside its messages.
#[derive(Debug)]
pub(super) struct Head<'a> {
    /// The key, as JSON.
    pub(super) key: &'a str,
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    pub(super) reason: CloseReason,
}

impl Form {
    /// Upper bound of the payload's bytes, for a number of messages and their total bytes.
    pub(super) fn bytes(self, key: &str, count: i64, bytes: i64) -> i64 {
        let around = match self {
            Self::Object => FRAME_BYTES + key.len(),
            Self::List => 2,
            Self::Lines => 0,
        };
        // Each message may have a comma or a line feed.
        around as i64 + bytes + count
    }

    /// The content type of the payload; `None` means JSON.
    pub(super) fn content_type(self) -> Option<Arc<str>> {
        (self == Self::Lines).then(|| "application/x-ndjson".into())
    }

    /// Writes the payload.
    pub(super) fn write(self, head: &Head<'_>, bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = Vec::new();
        if self == Self::Lines {
            for body in bodies {
                payload.extend_from_slice(body);
                payload.push(b'\n');
            }
            return payload;
        }
        if self == Self::Object {
            let Head { key, reason, .. } = head;
            let (count, reason) = (bodies.len(), reason.as_str());
            let (first, last) = (time(head.first_ms), time(head.last_ms));
            let head = format!(
                r#"{{"key":{key},"count":{count},"first":"{first}","last":"{last}","closed":"{reason}","messages":"#
            );
            payload.extend_from_slice(head.as_bytes());
        }
        payload.push(b'[');
        for (nth, body) in bodies.iter().enumerate() {
            if nth > 0 {
                payload.push(b',');
            }
            payload.extend_from_slice(body);
        }
        payload.push(b']');
        if self == Self::Object {
            payload.push(b'}');
        }
        payload
    }
}

fn time(unix_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(unix_ms).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn write(form: Form, key: &str, bodies: &[&str], unix_ms: i64) -> Vec<u8> {
        let bodies: Vec<Vec<u8>> = bodies.iter().map(|body| body.as_bytes().into()).collect();
        let head = Head {
            key,
            first_ms: unix_ms,
            last_ms: unix_ms,
            reason: CloseReason::Within,
        };
        let payload = form.write(&head, &bodies);
        let bytes = bodies.iter().map(|body| body.len() as i64).sum();
        let bound = form.bytes(key, bodies.len() as i64, bytes);
        assert!(payload.len() as i64 <= bound, "{} > {bound}", payload.len());
        payload
    }

    #[test]
    fn a_group_is_an_object_or_a_list() {
        let object: Value =
            serde_json::from_slice(&write(Form::Object, "\"a\"", &["1", "{}"], 0)).unwrap();
        let time = "1970-01-01T00:00:00.000Z";
        let expected = json!({
            "key": "a", "count": 2, "first": time, "last": time, "closed": "within",
            "messages": [1, {}],
        });
        assert_eq!(object, expected);
        assert_eq!(write(Form::List, "\"a\"", &["1", "{}"], 0), b"[1,{}]");
        assert_eq!(write(Form::Lines, "\"a\"", &["1", "{}"], 0), b"1\n{}\n");
    }

    #[test]
    fn a_payload_is_never_larger_than_its_bound() {
        // The latest possible time has the longest text.
        for unix_ms in [
            0,
            i64::MAX,
            DateTime::<chrono::Utc>::MAX_UTC.timestamp_millis(),
        ] {
            let many = vec!["1"; 10_000];
            for bodies in [&["1"][..], &many] {
                write(Form::Object, "[1,2]", bodies, unix_ms);
                write(Form::List, "[1,2]", bodies, unix_ms);
                write(Form::Lines, "[1,2]", bodies, unix_ms);
            }
        }
    }
}
