//! What a request's headers say of its message: id, type, and what is passed on.
//!
//! Refuses to pass on what lets somebody in: headers with credentials end here.

use brickwork::{Headers, ID_BYTES_MAX, MessageId};
use hyper::HeaderMap;
use hyper::http::HeaderName;

/// The message type, if no header names it.
const KIND: &str = "request";
/// The longest message type that every transport takes (an AMQP short string).
const KIND_BYTES_MAX: usize = 255;

/// Say how the request travels, not what it is; the content type is kept elsewhere.
const OF_THE_WAY: [&str; 12] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// A header whose name contains one of these may let somebody in.
const CREDENTIALS: [&str; 8] = [
    "api-key",
    "apikey",
    "authorization",
    "cookie",
    "password",
    "secret",
    "signature",
    "token",
];

/// Names that the runtime gives a meaning.
const RESERVED: &str = "brickwork-";

/// Where id and type are.
#[derive(Debug)]
pub(super) struct Names {
    id: Option<HeaderName>,
    kind: Option<HeaderName>,
}

impl Names {
    /// Names that were checked before; others are as if left out.
    pub(super) fn new(id: Option<&str>, kind: Option<&str>) -> Self {
        let name = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        Self {
            id: name(id),
            kind: name(kind),
        }
    }

    /// The message id: the sender's, or a new one.
    ///
    /// # Errors
    /// What is wrong with the sender's.
    pub(super) fn id(&self, headers: &HeaderMap) -> Result<MessageId, String> {
        let Some(name) = &self.id else {
            return Ok(MessageId::new());
        };
        let text = the_one(headers, name)?;
        text.parse().map_err(|_| {
            format!("the header {name} is no message id: 1 to {ID_BYTES_MAX} bytes of text")
        })
    }

    /// The message type.
    ///
    /// # Errors
    /// What is wrong with the header that names it.
    pub(super) fn kind<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, String> {
        let Some(name) = &self.kind else {
            return Ok(KIND);
        };
        let text = the_one(headers, name)?;
        let fits = (1..=KIND_BYTES_MAX).contains(&text.len());
        if !fits || text.chars().any(char::is_control) {
            let text = format!(
                "the header {name} is no message type: 1 to {KIND_BYTES_MAX} bytes of text"
            );
            return Err(text);
        }
        Ok(text)
    }
}

/// The value of a header that is there once and is text.
fn the_one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, String> {
    let mut values = headers.get_all(name).iter();
    let value = values
        .next()
        .ok_or_else(|| format!("the header {name} is missing"))?;
    if values.next().is_some() {
        return Err(format!("the header {name} is there more than once"));
    }
    std::str::from_utf8(value.as_bytes()).map_err(|_| format!("the header {name} is not text"))
}

/// The headers of the message: those of the request, by their names in lower case, but
/// for credentials, for what only says how it travelled, and for what isn't text.
///
/// How many there are and how large they are is bounded by whoever reads the head.
pub(super) fn passed_on(headers: &HeaderMap) -> Headers {
    let mut passed = Headers::new();
    for name in headers.keys() {
        let text = name.as_str();
        if !passes(text) {
            continue;
        }
        let mut values = headers.get_all(name).iter();
        let mut texts = values.by_ref().map(|v| std::str::from_utf8(v.as_bytes()));
        let value = match (texts.next(), texts.next()) {
            (Some(Ok(only)), None) => only.into(),
            (first, second) => {
                let all = first.into_iter().chain(second).chain(texts);
                let all: Vec<&str> = all.filter_map(Result::ok).collect();
                if all.is_empty() {
                    continue;
                }
                all.join(", ").into()
            }
        };
        passed.insert(text.into(), value);
    }
    passed
}

fn passes(name: &str) -> bool {
    !OF_THE_WAY.contains(&name)
        && !name.starts_with(RESERVED)
        && !CREDENTIALS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, hyper::http::HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn headers_are_passed_on_by_their_names_in_lower_case() {
        let passed = passed_on(&headers(&[
            ("X-GitHub-Event", b"issues"),
            ("Accept", b"a"),
            ("accept", b"b"),
            ("X-Name", "Zoë".as_bytes()),
        ]));
        let passed: Vec<(&str, &str)> = passed.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            passed,
            [
                ("accept", "a, b"),
                ("x-github-event", "issues"),
                ("x-name", "Zoë")
            ]
        );
    }

    #[test]
    fn credentials_are_not_passed_on_nor_is_what_would_be_taken_for_ours() {
        let passed = passed_on(&headers(&[
            ("Authorization", b"Basic x"),
            ("Proxy-Authorization", b"x"),
            ("Cookie", b"x"),
            ("X-Hub-Signature", b"x"),
            ("X-Hub-Signature-256", b"x"),
            ("X-Gitlab-Token", b"x"),
            ("X-Api-Key", b"x"),
            ("Content-Length", b"1"),
            ("Connection", b"close"),
            ("Brickwork-Reason", b"x"),
            ("X-Odd", b"\xff"),
        ]));
        assert!(passed.is_empty(), "{passed:?}");
    }

    #[test]
    fn id_and_type_come_from_the_headers_that_the_config_names() {
        let names = Names::new(Some("X-GitHub-Delivery"), Some("X-GitHub-Event"));
        let all = headers(&[
            ("x-github-delivery", b"72d3162e"),
            ("x-github-event", b"push"),
        ]);
        assert_eq!(names.id(&all).unwrap().to_string(), "72d3162e");
        assert_eq!(names.kind(&all).unwrap(), "push");
        let none = Names::new(None, None);
        assert_ne!(none.id(&all), none.id(&all), "a new id each time");
        assert_eq!(none.kind(&all).unwrap(), KIND);
    }

    #[test]
    fn a_bad_id_or_type_is_refused_in_words_that_name_the_header() {
        let names = Names::new(Some("id"), Some("kind"));
        let long = [b'x'; 256];
        for value in [&b""[..], &long, b"a\tb", b"\xff"] {
            let wrong = headers(&[("id", value), ("kind", value)]);
            assert!(names.id(&wrong).unwrap_err().contains("header id"));
            assert!(names.kind(&wrong).unwrap_err().contains("header kind"));
        }
        let twice = headers(&[("id", b"a"), ("id", b"b")]);
        assert!(names.id(&twice).unwrap_err().contains("more than once"));
        assert!(names.kind(&twice).unwrap_err().contains("missing"));
    }
}
