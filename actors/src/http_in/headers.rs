//! The headers of a request: message id, message type, and the headers passed on, with those
//! for method, path and query and their parameters.
//!
//! Headers and parameters with credentials are not passed on. Signatures are, unless they are
//! checked here.

use brickwork::{Headers, ID_BYTES_MAX, MessageId};
use hyper::http::HeaderName;
use hyper::{HeaderMap, Method, Request};

/// Message type if no header names it.
const KIND: &str = "request";
/// Maximum bytes of a message type on every transport (an AMQP short string).
const KIND_BYTES_MAX: usize = 255;

/// Headers about the transfer, not the message; the content type is kept elsewhere.
const TRANSFER_HEADERS: [&str; 12] = [
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

/// Parts of names of headers that may contain credentials.
const CREDENTIALS: [&str; 7] = [
    "api-key",
    "apikey",
    "authorization",
    "cookie",
    "password",
    "secret",
    "token",
];

/// Parts of names of headers with signatures. A token of GitLab serves as one.
const SIGNATURES: [&str; 3] = ["hmac", "signature", "x-gitlab-token"];

/// Headers of a message with the method, the path and the query of its request.
const METHOD_HEADER: &str = "http-method";
const PATH_HEADER: &str = "http-path";
const QUERY_HEADER: &str = "http-query";
/// Prefixes of headers of a message with a parameter of the path, and of the query.
const PARAMETER_HEADER: &str = "http-param-";
const QUERY_PARAMETER_HEADER: &str = "http-query-";

/// Prefix of headers with a meaning to the runtime.
const RESERVED: &str = "brickwork-";

/// Names of the headers with id and type.
#[derive(Debug)]
pub(super) struct Names {
    id: Option<HeaderName>,
    kind: Option<HeaderName>,
}

impl Names {
    /// The names must be valid; an invalid one counts as absent.
    pub(super) fn new(id: Option<&str>, kind: Option<&str>) -> Self {
        let name = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        Self {
            id: name(id),
            kind: name(kind),
        }
    }

    /// The sender's message id, or a new one.
    ///
    /// # Errors
    /// The header is missing, occurs twice, or is not a valid id.
    pub(super) fn id(&self, headers: &HeaderMap) -> Result<MessageId, String> {
        let Some(name) = &self.id else {
            return Ok(MessageId::new());
        };
        let text = single_value(headers, name)?;
        text.parse().map_err(|_| {
            format!("the header {name} is not a message id: 1 to {ID_BYTES_MAX} bytes of text")
        })
    }

    /// The message type.
    ///
    /// # Errors
    /// The header is missing, occurs twice, or is not a valid type.
    pub(super) fn kind<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, String> {
        let Some(name) = &self.kind else {
            return Ok(KIND);
        };
        let text = single_value(headers, name)?;
        let fits = (1..=KIND_BYTES_MAX).contains(&text.len());
        if !fits || text.chars().any(char::is_control) {
            let text = format!(
                "the header {name} is not a message type: 1 to {KIND_BYTES_MAX} bytes of text"
            );
            return Err(text);
        }
        Ok(text)
    }
}

/// The value of a header that occurs once and is text.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, String> {
    let mut values = headers.get_all(name).iter();
    let value = values
        .next()
        .ok_or_else(|| format!("the header {name} is missing"))?;
    if values.next().is_some() {
        return Err(format!("the header {name} occurs more than once"));
    }
    std::str::from_utf8(value.as_bytes()).map_err(|_| format!("the header {name} is not text"))
}

/// The headers of the message: those of the request, and its method, path and query.
pub(super) fn of_message(request: &Request<()>, signature_is_checked: bool) -> Headers {
    let mut headers = passed_on(request.headers(), signature_is_checked);
    // A HEAD is served as a GET.
    let method = match request.method() {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    headers.insert(METHOD_HEADER.into(), method.as_str().into());
    headers.insert(PATH_HEADER.into(), request.uri().path().into());
    // The sender does not choose it: a header of this name is replaced or removed.
    headers.remove(QUERY_HEADER);
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let passed = pairs.filter(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = name.to_ascii_lowercase().replace('_', "-");
        passes(&name, signature_is_checked)
    });
    let query = passed.collect::<Vec<_>>().join("&");
    if !query.is_empty() {
        headers.insert(QUERY_HEADER.into(), query.into());
    }
    headers
}

/// The headers of the request, with lower-case names, except credentials, headers about the
/// transfer, and values that are not text. Signatures that were checked are left out.
///
/// Hyper bounds their number and size when it reads the head.
fn passed_on(headers: &HeaderMap, signature_is_checked: bool) -> Headers {
    let mut passed = Headers::new();
    for name in headers.keys() {
        let text = name.as_str();
        if !passes(text, signature_is_checked) {
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

/// Adds the parameters of the path, and those of the query that a route names. Of a repeated one,
/// the first value is added. Control characters are refused: not every transport can carry them.
///
/// # Errors
/// The text of the problem.
pub(super) fn add_parameters(
    headers: &mut Headers,
    path: &[(String, String)],
    query: &[(String, String)],
    wanted: &[String],
) -> Result<(), String> {
    let mut add = |prefix: &str, name: &str, value: &str| {
        if value.chars().any(char::is_control) {
            return Err(format!("the parameter {name} has control characters"));
        }
        let header = format!("{prefix}{}", name.to_ascii_lowercase());
        headers.entry(header.into()).or_insert_with(|| value.into());
        Ok(())
    };
    for (name, value) in path {
        add(PARAMETER_HEADER, name, value)?;
    }
    for (name, value) in query.iter().filter(|(name, _)| wanted.contains(name)) {
        add(QUERY_PARAMETER_HEADER, name, value)?;
    }
    Ok(())
}

fn passes(name: &str, signature_is_checked: bool) -> bool {
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let is_ours = [RESERVED, PARAMETER_HEADER, QUERY_PARAMETER_HEADER]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    if is_ours || TRANSFER_HEADERS.contains(&name) {
        return false;
    }
    if has(&SIGNATURES) {
        return !signature_is_checked;
    }
    !has(&CREDENTIALS)
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
    fn headers_are_passed_on_with_lower_case_names() {
        let pairs = headers(&[
            ("X-GitHub-Event", b"issues"),
            ("Accept", b"a"),
            ("accept", b"b"),
            ("X-Name", "Zoë".as_bytes()),
        ]);
        let passed = passed_on(&pairs, false);
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
    fn credentials_and_reserved_headers_are_not_passed_on() {
        let pairs = headers(&[
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
        ]);
        let passed = passed_on(&pairs, true);
        assert!(passed.is_empty(), "{passed:?}");
        // A service can check a signature that is not checked here.
        let passed = passed_on(&pairs, false);
        let names: Vec<&str> = passed.keys().map(|name| &**name).collect();
        assert_eq!(
            names,
            ["x-gitlab-token", "x-hub-signature", "x-hub-signature-256"]
        );
    }

    #[test]
    fn method_path_and_query_are_headers_without_credentials() {
        let of = |uri: &str| {
            let request = Request::put(uri).header("http-query", "forged");
            of_message(&request.body(()).unwrap(), true)
        };
        let headers = of("/a%20b?shop=7&api_key=x&Token=x&x-amz-signature=x&page=2");
        let pairs: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (&**k, &**v)).collect();
        let expected = [
            ("http-method", "PUT"),
            ("http-path", "/a%20b"),
            ("http-query", "shop=7&page=2"),
        ];
        assert_eq!(pairs, expected);
        assert_eq!(of("/?token=x").get("http-query"), None);
    }

    #[test]
    fn parameters_are_headers_that_no_sender_can_forge() {
        let request = Request::get("/").header("http-param-id", "forged");
        let request = request
            .header("Http-Query-Page", "forged")
            .body(())
            .unwrap();
        let mut headers = of_message(&request, true);
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs.map(|(a, b)| ((*a).into(), (*b).into())).collect()
        };
        let query = pairs(&[("Page", "2"), ("Page", "3"), ("other", "4")]);
        let wanted = ["Page".to_owned()];
        add_parameters(&mut headers, &pairs(&[("orderId", "7")]), &query, &wanted).unwrap();
        assert_eq!(&*headers["http-param-orderid"], "7");
        assert_eq!(&*headers["http-query-page"], "2");
        assert_eq!(headers.len(), 4, "{headers:?}");
        let odd = pairs(&[("id", "a\nb")]);
        assert!(add_parameters(&mut headers, &odd, &[], &[]).is_err());
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
    fn a_bad_id_or_type_is_refused_with_the_name_of_the_header() {
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
