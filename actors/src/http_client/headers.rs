//! Headers of requests.

use http::header::{ACCEPT_ENCODING, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue};

use super::body::ENCODINGS;

/// Headers that the connection owns: a request that sets one could change its own framing, or
/// reach another virtual host than the checked one.
const OWNED: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Builds the headers of a request.
///
/// # Errors
/// A text that names a header that is not allowed. Values, which may be secret, are not shown.
pub(crate) fn build(headers: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut built = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        let parsed = parse_name(name)?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| format!("the value of the header {name:?} has a control character"))?;
        built.append(parsed, value);
    }
    let defaults = [
        (ACCEPT_ENCODING, ENCODINGS),
        (USER_AGENT, concat!("brickwork/", env!("CARGO_PKG_VERSION"))),
    ];
    for (name, value) in defaults {
        if !built.contains_key(&name) {
            built.insert(name, HeaderValue::from_static(value));
        }
    }
    Ok(built)
}

/// Checks the name of a header.
///
/// # Errors
/// The text is no header name, or the connection owns the header.
pub(crate) fn parse_name(name: &str) -> Result<HeaderName, String> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("{name:?} is not the name of a header"))?;
    if OWNED.contains(&parsed.as_str()) {
        return Err(format!("the header {name:?} can't be set"));
    }
    Ok(parsed)
}
