//! HTTP responses of `http-in`: a status and a small JSON body.

use brickwork::MessageId;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// The response to a request.
pub(super) type Answer = Response<Full<Bytes>>;

/// Seconds before a caller should retry.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const POST: HeaderValue = HeaderValue::from_static("POST");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }

    /// 503: the request is valid, but the app can't take it now.
    pub(super) fn busy(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    pub(super) fn into_answer(self) -> Answer {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        let status = self.status;
        let mut answer = json(status, &Body { error: self.text });
        let headers = answer.headers_mut();
        match status {
            StatusCode::METHOD_NOT_ALLOWED => headers.insert(ALLOW, POST),
            StatusCode::SERVICE_UNAVAILABLE => headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS),
            _ => None,
        };
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

/// Marks the last response of a connection.
pub(super) fn close(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, CLOSE);
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("an object with one string can be written");
    response(status, body.into())
}

fn response(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}
