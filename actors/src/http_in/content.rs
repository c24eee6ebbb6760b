//! Accepted content types.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// Maximum bytes of a content type in a message (an AMQP short string).
const TYPE_BYTES_MAX: usize = 255;

/// The content types that a config accepts.
#[derive(Debug)]
pub(super) struct ContentTypes {
    accepted: Vec<String>,
    anything: bool,
    json: bool,
}

/// The format of one body, as its request declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// The body must be valid JSON. `Some` for another content type than `application/json`.
    Json(Option<Arc<str>>),
    /// A form, which becomes a JSON object.
    Form,
    /// No body: the query becomes a JSON object.
    Query,
    /// The body is not read. Contains the content type.
    Other(Arc<str>),
}

impl ContentTypes {
    /// The accepted media types.
    pub(super) fn names(&self) -> &[String] {
        &self.accepted
    }

    /// # Errors
    /// An entry is not a media type, or the list is empty.
    pub(super) fn new(accepted: &[String]) -> Result<Self, String> {
        if accepted.is_empty() {
            return Err("it is empty: add a media type such as application/json".to_owned());
        }
        for text in accepted {
            let whole = |part: &str| !part.is_empty() && part.bytes().all(is_token);
            if !text
                .split_once('/')
                .is_some_and(|(a, b)| whole(a) && whole(b))
            {
                return Err(format!(
                    "{text:?} is not a media type such as application/json"
                ));
            }
        }
        let accepted: Vec<String> = accepted.iter().map(|t| t.to_ascii_lowercase()).collect();
        Ok(Self {
            anything: accepted.iter().any(|text| text == "*/*"),
            json: accepted.iter().any(|text| text == JSON),
            accepted,
        })
    }

    /// The format of a request's body, if its content type is accepted.
    pub(super) fn format(&self, headers: &HeaderMap) -> Option<BodyFormat> {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        let value = values.next();
        if values.next().is_some() {
            return None;
        }
        let Some(value) = value else {
            return self
                .anything
                .then(|| BodyFormat::Other("application/octet-stream".into()));
        };
        // Fast path for the most common value.
        if self.json && *value == HeaderValue::from_static(JSON) {
            return Some(BodyFormat::Json(None));
        }
        self.other(value.to_str().ok()?)
    }

    fn other(&self, value: &str) -> Option<BodyFormat> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        let is_json = essence == JSON || essence.ends_with("+json");
        let accepted = self.anything || self.json && is_json || self.accepted.contains(&essence);
        if !accepted || essence.is_empty() || value.len() > TYPE_BYTES_MAX {
            return None;
        }
        Some(match essence.as_str() {
            JSON => BodyFormat::Json(None),
            FORM => BodyFormat::Form,
            _ if is_json => BodyFormat::Json(Some(value.into())),
            _ => BodyFormat::Other(value.into()),
        })
    }
}

impl BodyFormat {
    /// The content type of the body.
    pub(super) fn content_type(&self) -> &str {
        match self {
            Self::Json(None) | Self::Query => JSON,
            Self::Form => FORM,
            Self::Json(Some(text)) | Self::Other(text) => text,
        }
    }
}

impl std::fmt::Display for ContentTypes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.accepted.join(", "))
    }
}

/// Whether a byte may stand in a token of HTTP (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(accepted: &[&str], value: Option<&str>) -> Option<BodyFormat> {
        let accepted: Vec<String> = accepted.iter().map(|text| (*text).to_owned()).collect();
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
        }
        ContentTypes::new(&accepted).unwrap().format(&headers)
    }

    #[test]
    fn json_is_accepted_in_all_its_variants() {
        for (value, kept) in [
            ("application/json", None),
            ("application/json; charset=utf-8", None),
            ("Application/JSON", None),
            (
                "application/cloudevents+json; v=1",
                Some("application/cloudevents+json; v=1"),
            ),
        ] {
            let expected = BodyFormat::Json(kept.map(Arc::from));
            assert_eq!(format(&[JSON], Some(value)), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_type_that_is_not_in_the_list_is_refused() {
        for value in [
            None,
            Some("text/plain"),
            Some(FORM),
            Some(""),
            Some("application/jsonx"),
        ] {
            assert_eq!(format(&[JSON], value), None, "{value:?}");
        }
    }

    #[test]
    fn a_form_is_recognised_and_other_types_pass_unchecked_when_the_list_has_them() {
        for value in [FORM, "Application/X-WWW-Form-URLencoded; charset=utf-8"] {
            assert_eq!(format(&[FORM], Some(value)), Some(BodyFormat::Form));
            assert_eq!(format(&["*/*"], Some(value)), Some(BodyFormat::Form));
        }
        let text = "text/plain; charset=utf-8";
        let other = |text: &str| Some(BodyFormat::Other(text.into()));
        assert_eq!(format(&["text/plain"], Some(text)), other(text));
        assert_eq!(format(&["text/plain"], Some(JSON)), None);
        assert_eq!(format(&["*/*"], None), other("application/octet-stream"));
        assert_eq!(format(&["*/*"], Some(JSON)), Some(BodyFormat::Json(None)));
    }

    #[test]
    fn two_content_types_are_refused() {
        let types = ContentTypes::new(&[JSON.to_owned()]).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_TYPE, JSON.parse().unwrap());
        headers.append(CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(types.format(&headers), None);
    }
}
