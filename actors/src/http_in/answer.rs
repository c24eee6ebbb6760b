//! HTTP responses of `http-in`: a status and a small JSON body. Refusals are problem details
//! (RFC 9457).

use brickwork::MessageId;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// The response to a request.
pub(super) type Answer = Response<Full<Bytes>>;

/// Seconds before a caller should retry.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The header with the id of the message that a request became.
const MESSAGE_ID: HeaderName = HeaderName::from_static("x-message-id");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
    /// The methods that the path has, with 405.
    allow: Option<String>,
    /// Whether no message was sent. Otherwise a service may still handle it.
    pub(super) is_unsent: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        let allow = None;
        Self {
            status,
            text,
            allow,
            is_unsent: false,
        }
    }

    /// States that no message was sent.
    pub(super) fn unsent(self) -> Self {
        Self {
            is_unsent: true,
            ..self
        }
    }

    /// 405: the path has these methods.
    pub(super) fn method(allow: String) -> Self {
        let text = format!("this path takes {allow}");
        let allow = Some(allow);
        Self {
            allow,
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, text)
        }
    }

    /// 503: the request is valid, but the app can't take it now.
    pub(super) fn busy(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    pub(super) fn into_answer(self) -> Answer {
        #[derive(Serialize)]
        struct Problem {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: String,
        }
        let status = self.status;
        let mut answer = json(
            status,
            &Problem {
                r#type: "about:blank",
                title: status.canonical_reason().unwrap_or("Error"),
                status: status.as_u16(),
                detail: self.text,
            },
        );
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM);
        if let Some(Ok(allow)) = self.allow.map(HeaderValue::try_from) {
            headers.insert(ALLOW, allow);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        answer
    }
}

/// 202: the transport has confirmed the message.
pub(super) fn accepted(id: &MessageId) -> Answer {
    #[derive(Serialize)]
    struct Body {
        id: String,
    }
    let id = id.to_string();
    json(StatusCode::ACCEPTED, &Body { id })
}

/// 200: the unchanged reply of the service.
pub(super) fn replied(payload: Bytes) -> Answer {
    response(StatusCode::OK, payload)
}

/// The answer that a route makes of a reply. JSON, unless the headers say otherwise.
pub(super) fn shaped(
    status: StatusCode,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    body: Option<Bytes>,
) -> Answer {
    let mut answer = match body {
        Some(body) => response(status, body),
        None => empty(status),
    };
    for (name, value) in headers {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// 204: the methods of a path, for OPTIONS.
pub(super) fn options(allow: &str) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    if let Ok(allow) = HeaderValue::try_from(allow) {
        answer.headers_mut().insert(ALLOW, allow);
    }
    answer
}

/// 200: the challenge of Slack.
pub(super) fn slack_challenge(challenge: String) -> Answer {
    #[derive(Serialize)]
    struct Body {
        challenge: String,
    }
    json(StatusCode::OK, &Body { challenge })
}

/// 200: the challenge of a handshake by GET, as text.
pub(super) fn challenge(challenge: String) -> Answer {
    let mut answer = response(StatusCode::OK, challenge.into());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, TEXT);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Adds the id of the request's message.
pub(super) fn set_id(answer: &mut Answer, id: &MessageId) {
    if let Ok(id) = HeaderValue::from_bytes(id.to_string().as_bytes()) {
        answer.headers_mut().insert(MESSAGE_ID, id);
    }
}

/// Marks the last response of a connection.
pub(super) fn close(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, CLOSE);
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("an object of plain fields can be written");
    response(status, body.into())
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn response(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = Full::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}
