//! Answers: a status, a little JSON, and what the caller is to do.

use brickwork::MessageId;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// What goes back to the caller.
pub(super) type Answer = Response<Full<Bytes>>;

/// How long a caller should wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const POST: HeaderValue = HeaderValue::from_static("POST");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Why a request isn't accepted.
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

    /// 503: the request is right, the time is not.
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

/// 202: the transport has it.
pub(super) fn accepted(id: &MessageId) -> Answer {
    #[derive(Serialize)]
    struct Body {
        id: String,
    }
    let id = id.to_string();
    json(StatusCode::ACCEPTED, &Body { id })
}

/// 200: what the services replied, as it is.
pub(super) fn replied(payload: Bytes) -> Answer {
    whole(StatusCode::OK, payload)
}

/// This is the last answer of its connection.
pub(super) fn close(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, CLOSE);
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("a text in an object can be written");
    whole(status, body.into())
}

fn whole(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}
