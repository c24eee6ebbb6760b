//! Accepted content types.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};

const JSON: &str = "application/json";
/// Maximum bytes of a content type in a message (an AMQP short string).
const TYPE_BYTES_MAX: usize = 255;

/// The content types that a config accepts.
#[derive(Debug)]
pub(super) struct ContentTypes {
    accepted: Vec<String>,
    anything: bool,
    json: bool,
}

/// The content type of one body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// The request declares JSON, so the body must be valid JSON.
    pub(super) is_json: bool,
    /// The message's content type; `None` means JSON.
    pub(super) content_type: Option<Arc<str>>,
}

impl ContentTypes {
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

    /// The content type of a request, if it is accepted.
    pub(super) fn form(&self, headers: &HeaderMap) -> Option<Form> {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        let value = values.next();
        if values.next().is_some() {
            return None;
        }
        let Some(value) = value else {
            return self.anything.then(|| Form {
                is_json: false,
                content_type: Some("application/octet-stream".into()),
            });
        };
        // Fast path for the most common value.
        if self.json && *value == HeaderValue::from_static(JSON) {
            return Some(Form {
                is_json: true,
                content_type: None,
            });
        }
        self.other(value.to_str().ok()?)
    }

    fn other(&self, value: &str) -> Option<Form> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        let is_json = essence == JSON || essence.ends_with("+json");
        let accepted = self.anything || self.json && is_json || self.accepted.contains(&essence);
        if !accepted || essence.is_empty() || value.len() > TYPE_BYTES_MAX {
            return None;
        }
        Some(Form {
            is_json,
            content_type: (essence != JSON).then(|| value.into()),
        })
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

    fn form(accepted: &[&str], value: Option<&str>) -> Option<Form> {
        let accepted: Vec<String> = accepted.iter().map(|text| (*text).to_owned()).collect();
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
        }
        ContentTypes::new(&accepted).unwrap().form(&headers)
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
            let form = form(&["application/json"], Some(value)).unwrap();
            assert!(form.is_json, "{value}");
            assert_eq!(form.content_type.as_deref(), kept, "{value}");
        }
    }

    #[test]
    fn a_type_that_is_not_in_the_list_is_refused() {
        for value in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some(""),
            Some("application/jsonx"),
        ] {
            assert_eq!(form(&["application/json"], value), None, "{value:?}");
        }
    }

    #[test]
    fn other_types_pass_unchecked_when_the_list_has_them() {
        let text = form(&["text/plain"], Some("text/plain; charset=utf-8")).unwrap();
        assert!(!text.is_json);
        assert_eq!(
            text.content_type.as_deref(),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(form(&["text/plain"], Some("application/json")), None);
        let nothing = form(&["*/*"], None).unwrap();
        assert_eq!(
            nothing.content_type.as_deref(),
            Some("application/octet-stream")
        );
        assert!(form(&["*/*"], Some("application/json")).unwrap().is_json);
    }

    #[test]
    fn two_content_types_are_refused() {
        let types = ContentTypes::new(&[JSON.to_owned()]).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_TYPE, JSON.parse().unwrap());
        headers.append(CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(types.form(&headers), None);
    }
}
