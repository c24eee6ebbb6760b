//! Makes the answer to a request of a service's reply, by the expressions of the route.
//!
//! In these expressions `msg` is the reply, and `meta` the envelope of the request.

use brickwork::prelude::*;
use brickwork::{Envelope, Message, MessageId};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::Value;

use super::answer::{self, Answer};
use super::route_config::RouteConfig;
use crate::expression::{Expression, Scope};

/// Headers that the server itself sets.
const OF_THE_SERVER: [&str; 9] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-message-id",
];

/// The expressions of a route for its answers.
#[derive(Debug, Default)]
pub(super) struct AnswerTemplate {
    status: Option<Expression>,
    headers: Vec<(HeaderName, Expression)>,
    body: Option<Expression>,
}

/// # Errors
/// The text is no name of a header that a route may set.
pub(super) fn check_header(name: &str) -> Result<(), String> {
    let name: HeaderName = name
        .parse()
        .map_err(|_| format!("{name:?} can't be the name of a header"))?;
    match OF_THE_SERVER.contains(&name.as_str()) {
        true => Err(format!("the server itself sets the header {name}")),
        false => Ok(()),
    }
}

impl AnswerTemplate {
    /// The names of headers must be valid; an invalid one is left out.
    pub(super) fn new(route: &RouteConfig) -> Self {
        let headers = route.headers.iter();
        let headers = headers.filter_map(|(name, value)| Some((name.parse().ok()?, value.clone())));
        Self {
            status: route.status.clone(),
            headers: headers.collect(),
            body: route.body.clone(),
        }
    }

    /// Whether answers are the unchanged replies.
    pub(super) fn is_empty(&self) -> bool {
        self.status.is_none() && self.headers.is_empty() && self.body.is_none()
    }

    /// Whether answers may have another content type than JSON.
    pub(super) fn sets_content_type(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == CONTENT_TYPE)
    }

    /// The status of all answers; `None` if it depends on the reply.
    pub(super) fn fixed_status(&self) -> Option<u16> {
        match &self.status {
            None => Some(200),
            Some(status) => status.source().trim().parse().ok(),
        }
    }

    /// Whether the body of answers is the reply.
    pub(super) fn keeps_body(&self) -> bool {
        self.body.is_none() && !self.sets_content_type()
    }

    /// Makes the answer of a reply to this request.
    ///
    /// # Errors
    /// The text of the problem: an expression fails on the reply, or its value fits no answer.
    pub(super) fn answer(
        &self,
        id: &MessageId,
        request: Raw,
        reply: Bytes,
    ) -> Result<Answer, String> {
        let message = Message::from(Envelope {
            id: id.clone(),
            headers: request.headers,
            ..Envelope::new(request.kind, reply.clone())
        });
        let mut scope = Scope::new(&message, 1);
        let mut value = |expression: &Expression| {
            let json = expression.json(&mut scope);
            json.map_err(|failure| failure.text().to_owned())
        };
        let status = match &self.status {
            None => StatusCode::OK,
            Some(status) => status_of(&value(status)?)?,
        };
        let mut headers = Vec::new();
        for (name, expression) in &self.headers {
            if let Some(value) = header_of(name, &value(expression)?)? {
                headers.push((name.clone(), value));
            }
        }
        let body = match &self.body {
            None => Some(reply),
            Some(body) => Some(Bytes::from(value(body)?)).filter(|json| &json[..] != b"null"),
        };
        // These have no body (RFC 9110, sections 15.3.5 and 15.4.5).
        let body =
            body.filter(|_| !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
        let Some(body) = body else {
            let headers = headers.into_iter().filter(|(name, _)| name != CONTENT_TYPE);
            return Ok(answer::shaped(status, headers, None));
        };
        let content_type = headers.iter().find(|(name, _)| name == CONTENT_TYPE);
        let is_text = content_type.is_some_and(|(_, value)| !is_json(value));
        let body = match is_text {
            true => unquoted(body),
            false => body,
        };
        Ok(answer::shaped(status, headers, Some(body)))
    }
}

fn status_of(json: &str) -> Result<StatusCode, String> {
    let status = json
        .parse()
        .ok()
        .filter(|status| (200..600).contains(status));
    status
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| format!("the status {json} is not from 200 to 599"))
}

fn header_of(name: &HeaderName, json: &str) -> Result<Option<HeaderValue>, String> {
    let text = match serde_json::from_str(json) {
        Ok(Value::Null) => return Ok(None),
        Ok(Value::String(text)) => text,
        // A number keeps its digits.
        Ok(Value::Number(_) | Value::Bool(_)) => json.to_owned(),
        _ => return Err(format!("the value of the header {name} is not a text")),
    };
    let value = HeaderValue::try_from(text);
    value
        .map(Some)
        .map_err(|_| format!("the value of the header {name} has control characters"))
}

fn is_json(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// The characters of a JSON text; other JSON as it is.
fn unquoted(json: Bytes) -> Bytes {
    match serde_json::from_slice::<String>(&json) {
        Ok(text) => text.into(),
        Err(_) => json,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    fn answer(route: Value, reply: &'static str) -> Result<(u16, String, String), String> {
        let mut route = route;
        route["out"] = json!("orders");
        let route: RouteConfig = serde_json::from_value(route).unwrap();
        let mut request = Raw::bytes("request", "{}");
        request.headers.insert("http-param-id".into(), "17".into());
        let template = AnswerTemplate::new(&route);
        let answer = template.answer(&MessageId::new(), request, reply.into())?;
        let (head, body) = answer.into_parts();
        let body = futures_executor(body.collect());
        let mut headers: Vec<String> = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Ok((head.status.as_u16(), headers.join("; "), body))
    }

    fn futures_executor(
        body: impl Future<Output = Result<http_body_util::Collected<Bytes>, std::convert::Infallible>>,
    ) -> Bytes {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(body).unwrap().to_bytes()
    }

    #[test]
    fn status_headers_and_body_come_from_the_reply() {
        let route = json!({
            "status": "has(msg.error) ? 404 : 201",
            "headers": {
                "Location": "has(msg.id) ? '/orders/' + msg.id : null",
                "X-Asked": "meta.headers['http-param-id']",
                "X-Left": "has(msg.left) ? msg.left : null",
            },
            "body": "has(msg.error) ? {'error': msg.error} : msg.order",
        });
        let made = answer(
            route.clone(),
            r#"{"id":"7","order":{"a":1},"left":12345678901234567890}"#,
        );
        let headers = "content-type: application/json; location: /orders/7; x-asked: 17; \
                       x-left: 12345678901234567890";
        assert_eq!(
            made.unwrap(),
            (201, headers.to_owned(), r#"{"a":1}"#.to_owned())
        );
        let missing = answer(route, r#"{"error":"no such order"}"#).unwrap();
        assert_eq!(
            (missing.0, &*missing.2),
            (404, r#"{"error":"no such order"}"#)
        );
        assert_eq!(missing.1, "content-type: application/json; x-asked: 17");
    }

    #[test]
    fn a_text_of_another_type_is_sent_as_it_is() {
        let route = json!({ "headers": { "content-type": "'text/html'" }, "body": "msg.page" });
        let made = answer(route, r#"{"page":"<p>\"ü\"</p>"}"#).unwrap();
        assert_eq!(
            made,
            (
                200,
                "content-type: text/html".to_owned(),
                "<p>\"ü\"</p>".to_owned()
            )
        );
    }

    #[test]
    fn an_answer_without_a_body_has_no_content_type() {
        for route in [json!({ "status": "204" }), json!({ "body": "null" })] {
            let (status, headers, body) = answer(route, r#"{"a":1}"#).unwrap();
            assert!(matches!(status, 200 | 204));
            assert_eq!((&*headers, &*body), ("", ""));
        }
    }

    #[test]
    fn a_value_that_fits_no_answer_is_an_error() {
        for (route, expected) in [
            (json!({ "status": "msg.status" }), "\"status\" is missing"),
            (
                json!({ "status": "101" }),
                "the status 101 is not from 200 to 599",
            ),
            (json!({ "status": "'200'" }), "is not from 200 to 599"),
            (json!({ "status": "200.5" }), "is not from 200 to 599"),
            (
                json!({ "headers": { "a": "[1]" } }),
                "the header a is not a text",
            ),
            (
                json!({ "headers": { "a": "'x\\r\\nb: c'" } }),
                "control characters",
            ),
        ] {
            let error = answer(route, "{}").unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(check_header("Content-Length").is_err());
        assert!(check_header("a b").is_err());
        assert!(check_header("Location").is_ok());
    }
}
