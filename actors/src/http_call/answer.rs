//! The answer to a message: as a message, and as the variable `response` of expressions.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use brickwork::{Headers, JSON, Message, Raw};
use serde_json::{Value, json};

use crate::http_client::Answer;
use crate::json::JsonText;

/// Header with the status of the answer.
pub(super) const STATUS_HEADER: &str = "http-status";
/// Header with the reason of a refusal.
pub(super) const ERROR_HEADER: &str = "http-error";

/// Maximum bytes of a reason in a header.
const ERROR_BYTES_MAX: usize = 1024;

/// Headers of an answer that are not passed on: those of the transfer, and credentials.
const NOT_PASSED_ON: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "www-authenticate",
];

/// Prefix of headers with a meaning to the runtime.
const RESERVED: &str = "brickwork-";

/// Returns the message for `out`, without a payload of its own the body of the answer. Headers of
/// the message stay; those of the answer replace headers of the same name.
pub(super) fn message(
    answer: &Answer,
    of: &Message,
    kind: Option<&Arc<str>>,
    payload: Option<String>,
) -> Raw {
    let (content_type, payload) = match payload {
        Some(payload) => (None, payload.into()),
        None if answer.body.is_empty() => (None, "null".into()),
        None => (content_type(answer), answer.body.clone()),
    };
    Raw {
        kind: kind.unwrap_or(&of.kind).clone(),
        content_type,
        headers: headers(answer, of),
        subject: of.subject.clone(),
        payload,
    }
}

/// Returns the message for `rejected`: unchanged, with status and reason as headers.
pub(super) fn refused(of: &Message, status: Option<u16>, reason: &str) -> Raw {
    let mut headers = of.headers.clone();
    if let Some(status) = status {
        headers.insert(STATUS_HEADER.into(), status.to_string().into());
    }
    let cut = reason.floor_char_boundary(ERROR_BYTES_MAX);
    headers.insert(ERROR_HEADER.into(), reason[..cut].into());
    Raw {
        kind: of.kind.clone(),
        content_type: of.content_type.clone(),
        headers,
        subject: of.subject.clone(),
        payload: of.payload.clone(),
    }
}

/// Returns the variable `response` as JSON.
pub(super) fn variable(answer: &Answer, now: SystemTime) -> String {
    let mut headers = serde_json::Map::new();
    for (name, value) in &answer.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        match headers.get_mut(name.as_str()) {
            Some(Value::String(known)) => {
                known.push_str(", ");
                known.push_str(&value);
            }
            _ => {
                headers.insert(name.as_str().to_owned(), value.into());
            }
        }
    }
    let body = match JsonText::check_readable(&answer.body) {
        Ok(json) if json.fits_inside(1) => String::from_utf8_lossy(&answer.body).into_owned(),
        _ => Value::from(String::from_utf8_lossy(&answer.body)).to_string(),
    };
    let date = answer
        .header("date")
        .and_then(|date| httpdate::parse_http_date(date).ok());
    let time = date
        .unwrap_or(now)
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // The body is spliced in as text, so that its numbers keep their digits.
    format!(
        r#"{{"status":{},"headers":{},"time":{},"body":{body}}}"#,
        answer.status,
        json!(headers),
        time.as_secs()
    )
}

fn headers(answer: &Answer, of: &Message) -> Headers {
    let mut headers = of.headers.clone();
    for name in answer.headers.keys() {
        let passed =
            !NOT_PASSED_ON.contains(&name.as_str()) && !name.as_str().starts_with(RESERVED);
        if let Some(value) = answer.header(name.as_str()).filter(|_| passed) {
            headers.insert(name.as_str().into(), value.into());
        }
    }
    headers.insert(STATUS_HEADER.into(), answer.status.to_string().into());
    headers
}

/// Returns the content type; `None` for JSON.
fn content_type(answer: &Answer) -> Option<Arc<str>> {
    let full = answer.header("content-type")?;
    let bare = full.split(';').next().unwrap_or_default().trim();
    (!bare.is_empty() && !bare.eq_ignore_ascii_case(JSON)).then(|| full.into())
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn answer(headers: &[(&'static str, &'static str)], body: &'static str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        Answer {
            status: 201,
            headers: map,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn an_answer_becomes_a_message() {
        let mut envelope = Envelope::new("order", "{}");
        envelope.headers.insert("own".into(), "1".into());
        envelope.headers.insert("x-id".into(), "old".into());
        let of: Message = envelope.into();
        let json = [
            ("content-type", "application/json; charset=utf-8"),
            ("x-id", "7"),
            ("set-cookie", "s=1"),
            ("brickwork-attempt", "9"),
        ];
        let raw = message(&answer(&json, "[1]"), &of, None, None);
        assert_eq!((&*raw.kind, &raw.payload[..]), ("order", &b"[1]"[..]));
        assert_eq!(raw.content_type, None);
        let headers: Vec<_> = raw
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(
            headers,
            [("http-status", "201"), ("own", "1"), ("x-id", "7")]
        );
        let text = message(
            &answer(&[("content-type", "text/csv")], "a,b"),
            &of,
            None,
            None,
        );
        assert_eq!(text.content_type.as_deref(), Some("text/csv"));
        let empty = message(&answer(&[], ""), &of, Some(&"done".into()), None);
        assert_eq!((&*empty.kind, &empty.payload[..]), ("done", &b"null"[..]));
    }

    #[test]
    fn the_variable_has_the_json_or_the_text_of_the_body() {
        let headers = [
            ("x-a", "1"),
            ("x-a", "2"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ];
        let big = r#"{"n":123456789012345678901234567890}"#;
        let text = variable(&answer(&headers, big), UNIX_EPOCH);
        assert_eq!(
            text,
            format!(
                r#"{{"status":201,"headers":{{"date":"Sun, 06 Nov 1994 08:49:37 GMT","x-a":"1, 2"}},"time":784111777,"body":{big}}}"#
            )
        );
        let text = variable(&answer(&[], "not \"JSON\""), UNIX_EPOCH);
        assert!(
            text.ends_with(r#""time":0,"body":"not \"JSON\""}"#),
            "{text}"
        );
    }
}
