//! Handles one request: validates it, submits or asks, and maps the outcome to a response.
//!
//! The checks run in a fixed order, and the first failed one is answered: path (404), method
//! (405), content type and encoding (415), announced length (413), missing signature (401), backpressure
//! or stop (503). Then the body is read: 408, 413, 503; then signature (401), id, type and
//! JSON (400). 202 is sent only after the transport has confirmed the message.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::transport::AskError;
use brickwork::{Clock, MessageId, TrySubmitError};
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, EXPECT};
use hyper::http::request::Parts;
use hyper::{Method, Request as HttpRequest, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::HttpInConfig;
use super::answer::{self, Answer, Refusal};
use super::body::{self, BodyError, MemoryBudget, Reservation};
use super::content::{ContentTypes, Form};
use super::headers::{Names, passed_on};
use super::signature::{SignatureCheck, Signed};
use crate::json::JsonText;
use crate::ports::OUT;

/// The port of requests that wait for a reply.
pub(super) const ASK: Request<Raw, Raw> = Request::new("out");

/// Settings and state for handling requests.
pub(super) struct RequestHandler {
    out: SourceContext,
    path: String,
    content_types: ContentTypes,
    body_bytes_max: usize,
    body_timeout: Duration,
    memory: MemoryBudget,
    signatures: Option<SignatureCheck>,
    names: Names,
    /// Permits for requests that wait for a reply; `None` without `reply`.
    asks: Option<Semaphore>,
    reply_timeout: Duration,
}

impl RequestHandler {
    pub(super) fn new(config: &HttpInConfig, out: &SourceContext) -> Result<Self, Failure> {
        let body_max = usize::try_from(config.body_max.0).unwrap_or(usize::MAX);
        Ok(Self {
            path: config.path.clone(),
            content_types: ContentTypes::new(&config.content_types).map_err(Failure::reject)?,
            // The runtime refuses larger payloads, so reading them is useless.
            body_bytes_max: body_max.min(out.payload_bytes_max()),
            body_timeout: config.body_timeout.0,
            memory: MemoryBudget::new(config.memory_max.0),
            signatures: config.signature_check().map_err(Failure::reject)?,
            names: Names::new(config.id_header.as_deref(), config.type_header.as_deref()),
            asks: config.reply.then(|| Semaphore::new(config.in_flight)),
            reply_timeout: config.reply_timeout.0,
            out: out.clone(),
        })
    }

    /// Answers a request. The connection can be used again unless the response says close.
    pub(super) async fn answer(&self, request: HttpRequest<Incoming>) -> Answer {
        let (parts, mut body) = request.into_parts();
        match self.handle(&parts, &mut body).await {
            Ok(answer) => answer,
            Err(refusal) => {
                debug!(
                    status = refusal.status.as_u16(),
                    why = refusal.text,
                    "request refused"
                );
                let late = refusal.status == StatusCode::REQUEST_TIMEOUT;
                // With `Expect: 100-continue`, the client has not sent the body.
                let unsent = parts.headers.contains_key(EXPECT);
                let mut answer = refusal.into_answer();
                if !body.is_end_stream() && (late || unsent || !body::discard(&mut body).await) {
                    answer::close(&mut answer);
                }
                answer
            }
        }
    }

    async fn handle(&self, parts: &Parts, body: &mut Incoming) -> Result<Answer, Refusal> {
        let (form, signature) = self.check_head(parts, body)?;
        self.check_ready()?;
        let mut memory = self.memory.reserve_nothing();
        let payload = self.read(body, &mut memory).await?;
        if let (Some(check), Some(signed)) = (&self.signatures, signature)
            && !check.matches(&payload, &signed)
        {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "the signature does not match this body and the secret",
            ));
        }
        let (id, raw) = self.message(parts, form, payload)?;
        let answer = match &self.asks {
            None => self.submit(id, raw).await,
            Some(asks) => self.ask(asks, id, raw).await,
        };
        drop(memory);
        answer
    }

    /// The checks before the body is read.
    fn check_head(
        &self,
        parts: &Parts,
        body: &Incoming,
    ) -> Result<(Form, Option<Signed>), Refusal> {
        if parts.uri.path() != self.path {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing here"));
        }
        if parts.method != Method::POST {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "messages are posted: use POST",
            ));
        }
        let form = self.content_types.form(&parts.headers).ok_or_else(|| {
            let text = format!("the content type is not one of: {}", self.content_types);
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
        })?;
        if let Some(coding) = parts.headers.get(CONTENT_ENCODING)
            && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            let text = "a body with a Content-Encoding isn't decoded here: send it without";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        if body::length(body).is_some_and(|length| length > self.body_bytes_max as u64) {
            return Err(self.too_large());
        }
        let signature = match &self.signatures {
            None => None,
            Some(check) => {
                let now_s = Clock::SYSTEM.unix_ms() / 1000;
                let signed = check.read(&parts.headers, now_s);
                Some(signed.map_err(|text| Refusal::new(StatusCode::UNAUTHORIZED, text))?)
            }
        };
        Ok((form, signature))
    }

    /// Whether the app can take a message now.
    fn check_ready(&self) -> Result<(), Refusal> {
        if self.out.is_stopping() {
            return Err(Refusal::busy("the app is stopping"));
        }
        if let Some(reasons) = self.out.paused_because() {
            return Err(Refusal::busy(reasons));
        }
        Ok(())
    }

    async fn read(&self, body: &mut Incoming, memory: &mut Reservation) -> Result<Bytes, Refusal> {
        let read = body::read(body, self.body_bytes_max, self.body_timeout, memory).await;
        read.map_err(|error| match error {
            BodyError::TooLarge => self.too_large(),
            BodyError::TooSlow => {
                Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body didn't come in time")
            }
            BodyError::NoMemory => Refusal::busy("too many bodies are being received"),
            BodyError::Broken => Refusal::new(StatusCode::BAD_REQUEST, "the body is broken"),
        })
    }

    fn too_large(&self) -> Refusal {
        let text = format!("a body has at most {} bytes", self.body_bytes_max);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    fn message(
        &self,
        parts: &Parts,
        form: Form,
        payload: Bytes,
    ) -> Result<(MessageId, Raw), Refusal> {
        let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
        let id = self.names.id(&parts.headers).map_err(bad)?;
        let kind = self.names.kind(&parts.headers).map_err(bad)?;
        if form.is_json {
            JsonText::check_readable(&payload).map_err(|text| bad(format!("the body: {text}")))?;
        }
        let mut raw = Raw::bytes(kind, payload);
        raw.content_type = form.content_type;
        raw.headers = passed_on(&parts.headers, self.signatures.is_some());
        Ok((id, raw))
    }

    /// Submits the message and waits for the transport's confirm.
    async fn submit(&self, id: MessageId, raw: Raw) -> Result<Answer, Refusal> {
        let message = MessageBuilder::new(raw).id(id.clone());
        let confirm = self
            .out
            .try_submit(&OUT, message)
            .map_err(|error| match error {
                // Raw bytes can only be too large.
                TrySubmitError::Refused(_) => self.too_large(),
                busy => Refusal::busy(busy.to_string()),
            })?;
        match timeout(self.reply_timeout, confirm).await {
            Ok(Ok(())) => Ok(answer::accepted(&id)),
            Ok(Err(error)) => {
                if self.out.is_paused() {
                    // A transport that is down was logged once, not for every request.
                    debug!(%id, %error, "message not confirmed by the transport");
                } else {
                    warn!(%id, %error, "message not confirmed by the transport");
                }
                Err(Refusal::busy("the message was not confirmed"))
            }
            Err(_) => {
                warn!(%id, "message not confirmed by the transport in time");
                Err(Refusal::busy("the message was not confirmed in time"))
            }
        }
    }

    /// Asks a service and waits for its reply.
    async fn ask(&self, asks: &Semaphore, id: MessageId, raw: Raw) -> Result<Answer, Refusal> {
        self.check_ready()?;
        let Ok(_permit) = asks.try_acquire() else {
            return Err(Refusal::busy("too many requests wait for a reply"));
        };
        let message = MessageBuilder::new(raw).id(id.clone());
        match self.out.ask(&ASK, message, self.reply_timeout).await {
            Ok(reply) => Ok(answer::replied(reply.payload)),
            Err(AskError::Timeout(_)) => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "no reply came in time",
            )),
            Err(AskError::Unavailable(why)) => {
                warn!(%id, why, "no service can answer the request");
                Err(Refusal::busy("no service can answer now"))
            }
            Err(AskError::Transport(error)) => {
                warn!(%id, %error, "request could not be sent");
                Err(Refusal::busy("the request couldn't be sent"))
            }
            // The details are for the log, not for strangers.
            Err(error @ (AskError::Failed(_) | AskError::Decode(_))) => {
                warn!(%id, %error, "request got no reply");
                let text = "the request failed";
                Err(Refusal::new(StatusCode::BAD_GATEWAY, text))
            }
        }
    }
}
