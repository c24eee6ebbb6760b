//! The door: which requests come in, and what the others are told.
//!
//! When several things are wrong, the first of these is answered: the path (404), the
//! method (405), the content type (415), a length that is announced (413), a signature
//! that is missing (401), an app that can take nothing now (503). Only then the body is
//! read: 408, 413, 503; then 401, 400. 202 is said when the transport has the message,
//! never sooner.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::transport::AskError;
use brickwork::{MessageId, TrySubmitError};
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
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
use super::signature::{HmacKey, SignatureHeader};
use crate::json::JsonText;
use crate::ports::OUT;

/// Where requests go that are answered with a reply.
pub(super) const ASK: Request<Raw, Raw> = Request::new("out");

/// Everything that decides on a request.
pub(super) struct RequestHandler {
    out: SourceContext,
    path: String,
    content_types: ContentTypes,
    body_bytes_max: usize,
    body_timeout: Duration,
    memory: MemoryBudget,
    key: Option<HmacKey>,
    names: Names,
    /// How many may wait for a reply, if that is what they get.
    asks: Option<Semaphore>,
    reply_timeout: Duration,
}

impl RequestHandler {
    pub(super) fn new(config: &HttpInConfig, out: &SourceContext) -> Result<Self, Failure> {
        let body_max = usize::try_from(config.body_max.0).unwrap_or(usize::MAX);
        Ok(Self {
            path: config.path.clone(),
            content_types: ContentTypes::new(&config.content_types).map_err(Failure::reject)?,
            // The runtime refuses what is larger, so there is no use in reading it.
            body_bytes_max: body_max.min(out.payload_bytes_max()),
            body_timeout: config.body_timeout.0,
            memory: MemoryBudget::new(config.memory_max.0),
            key: config.secret.as_ref().map(HmacKey::new),
            names: Names::new(config.id_header.as_deref(), config.type_header.as_deref()),
            asks: config.reply.then(|| Semaphore::new(config.in_flight)),
            reply_timeout: config.reply_timeout.0,
            out: out.clone(),
        })
    }

    /// Answers a request; the connection may be used again unless the answer says close.
    pub(super) async fn answer(&self, request: HttpRequest<Incoming>) -> Answer {
        let (parts, mut body) = request.into_parts();
        match self.take(&parts, &mut body).await {
            Ok(answer) => answer,
            Err(refusal) => {
                debug!(
                    status = refusal.status.as_u16(),
                    why = refusal.text,
                    "refused"
                );
                let late = refusal.status == StatusCode::REQUEST_TIMEOUT;
                // A client that asks first whether to send a body isn't told to.
                let unsent = parts.headers.contains_key(EXPECT);
                let mut answer = refusal.into_answer();
                if !body.is_end_stream() && (late || unsent || !body::discard(&mut body).await) {
                    answer::close(&mut answer);
                }
                answer
            }
        }
    }

    async fn take(&self, parts: &Parts, body: &mut Incoming) -> Result<Answer, Refusal> {
        let (form, claim) = self.check_head(parts, body)?;
        self.check_time()?;
        let mut memory = self.memory.nothing();
        let payload = self.read(body, &mut memory).await?;
        if let (Some(key), Some(claim)) = (&self.key, claim)
            && !key.signed(&payload, &claim)
        {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "the signature is not that of this body and our secret",
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

    /// What can be said before the body is read.
    fn check_head(
        &self,
        parts: &Parts,
        body: &Incoming,
    ) -> Result<(Form, Option<SignatureHeader>), Refusal> {
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
        if body::length(body).is_some_and(|length| length > self.body_bytes_max as u64) {
            return Err(self.too_large());
        }
        let claim = match self.key {
            None => None,
            Some(_) => Some(SignatureHeader::of(&parts.headers).ok_or_else(|| {
                Refusal::new(
                    StatusCode::UNAUTHORIZED,
                    "a signature is needed: X-Hub-Signature-256: sha256=HEX",
                )
            })?),
        };
        Ok((form, claim))
    }

    /// Whether there is any use in reading a body now.
    fn check_time(&self) -> Result<(), Refusal> {
        if self.out.is_stopping() {
            return Err(Refusal::busy("the app is stopping"));
        }
        if self.out.is_paused() {
            return Err(Refusal::busy("the app has too much to do"));
        }
        Ok(())
    }

    async fn read(&self, body: &mut Incoming, memory: &mut Reservation) -> Result<Bytes, Refusal> {
        let read = body::read(body, self.body_bytes_max, self.body_timeout, memory).await;
        read.map_err(|unread| match unread {
            BodyError::TooLarge => self.too_large(),
            BodyError::TooSlow => {
                Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body didn't come in time")
            }
            BodyError::NoMemory => Refusal::busy("too many bodies are under way"),
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
            JsonText::check(&payload).map_err(|text| bad(format!("the body: {text}")))?;
        }
        let mut raw = Raw::bytes(kind, payload);
        raw.content_type = form.content_type;
        raw.headers = passed_on(&parts.headers);
        Ok((id, raw))
    }

    /// Hands the message to the transport and waits until it has it.
    async fn submit(&self, id: MessageId, raw: Raw) -> Result<Answer, Refusal> {
        let draft = MessageBuilder::new(raw).id(id.clone());
        let ticket = self
            .out
            .try_submit(&OUT, draft)
            .map_err(|error| match error {
                // Only its size can be wrong with bytes.
                TrySubmitError::Refused(_) => self.too_large(),
                busy => Refusal::busy(busy.to_string()),
            })?;
        match timeout(self.reply_timeout, ticket).await {
            Ok(Ok(())) => Ok(answer::accepted(&id)),
            Ok(Err(error)) => {
                if self.out.is_paused() {
                    // The transport is down, and has said so: not for every request.
                    debug!(%id, %error, "the transport didn't take a message over");
                } else {
                    warn!(%id, %error, "the transport didn't take a message over");
                }
                Err(Refusal::busy("the message was not taken over"))
            }
            Err(_) => {
                warn!(%id, "the transport didn't take a message over in time");
                Err(Refusal::busy("the message was not taken over in time"))
            }
        }
    }

    /// Asks the services, and waits for what they reply.
    async fn ask(&self, asks: &Semaphore, id: MessageId, raw: Raw) -> Result<Answer, Refusal> {
        self.check_time()?;
        let Ok(_place) = asks.try_acquire() else {
            return Err(Refusal::busy("too many requests wait for a reply"));
        };
        let draft = MessageBuilder::new(raw).id(id.clone());
        match self.out.ask(&ASK, draft, self.reply_timeout).await {
            Ok(reply) => Ok(answer::replied(reply.payload)),
            Err(AskError::Timeout(_)) => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "no reply came in time",
            )),
            Err(AskError::Transport(error)) => {
                warn!(%id, %error, "a request couldn't be sent");
                Err(Refusal::busy("the request couldn't be sent"))
            }
            // What went wrong in there is for the log, not for strangers.
            Err(error @ (AskError::Failed(_) | AskError::Decode(_))) => {
                warn!(%id, %error, "a request got no reply");
                let text = "the request was given up";
                Err(Refusal::new(StatusCode::BAD_GATEWAY, text))
            }
        }
    }
}
