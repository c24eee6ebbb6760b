//! Handles one request: validates it, submits or asks, and maps the outcome to a response.
//!
//! The checks run in a fixed order, and the first failed one is answered: host (400, 403), path
//! (400, 404), method (405), accepted type of the answer (406), content type and encoding (415), announced length (413), missing
//! signature (401), backpressure or stop (503). Then the body is read: 408, 413, 503; then
//! signature (401), id, type and JSON (400). 202 is sent only after the transport has confirmed
//! the message.

use std::time::Duration;

use brickwork::config::Secret;
use brickwork::http::{HostProblem, IsAccepted, check_host};
use brickwork::prelude::*;
use brickwork::transport::AskError;
use brickwork::{Clock, MessageId, TrySubmitError};
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, EXPECT};
use hyper::{Method, Request as HttpRequest, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::HttpInConfig;
use super::accept::takes_json;
use super::answer::{self, Answer, Refusal};
use super::body::{self, BodyError, MemoryBudget, Reservation};
use super::content::BodyFormat;
use super::endpoint::{Endpoint, Endpoints};
use super::forms;
use super::handshake::{self, Handshake};
use super::headers::{Names, add_parameters, of_message};
use super::payload::{payload_of, query_payload};
use super::routes::NoRoute;
use super::server::STOP_WITHIN;
use super::signature::{SignatureCheck, SignatureScheme, Signed};
use super::upload::{UploadError, Uploads};

/// Time from the start of a stop to the answers of requests whose outcome isn't known by then.
const ANSWER_WITHIN: Duration = STOP_WITHIN.saturating_sub(Duration::from_millis(500));

/// Settings and state for handling requests.
pub(super) struct RequestHandler {
    out: SourceContext,
    /// Accepted names in the header Host; `None` accepts any.
    hosts: Option<Vec<String>>,
    endpoints: Endpoints,
    verify_token: Option<Secret>,
    answers_slack: bool,
    uploads: Option<Uploads>,
    body_bytes_max: usize,
    body_timeout: Duration,
    memory: MemoryBudget,
    signatures: Option<SignatureCheck>,
    names: Names,
    /// Permits for requests that wait for a reply.
    asks: Semaphore,
    reply_timeout: Duration,
}

impl RequestHandler {
    pub(super) fn new(config: &HttpInConfig, out: &SourceContext) -> Result<Self, Failure> {
        let body_max = usize::try_from(config.body_max.0).unwrap_or(usize::MAX);
        let endpoints = Endpoints::new(config).map_err(|errors| {
            let texts = errors.into_iter().map(|error| error.text);
            Failure::reject(texts.collect::<Vec<_>>().join("; "))
        })?;
        let (one, all) = (config.upload_max.0, config.uploads_max.0);
        let keep = config.upload_keep.map(|keep| keep.0);
        let open = || Uploads::open(&out.files(), one, all, keep);
        Ok(Self {
            hosts: config.accepted_hosts(),
            uploads: endpoints.upload().then(open).transpose()?,
            endpoints,
            verify_token: config.verify_token.clone(),
            answers_slack: config.signature == SignatureScheme::Slack,
            // The runtime refuses larger payloads, so reading them is useless.
            body_bytes_max: body_max.min(out.payload_bytes_max()),
            body_timeout: config.body_timeout.0,
            memory: MemoryBudget::new(config.memory_max.0),
            signatures: config.signature_check().map_err(Failure::reject)?,
            names: Names::new(config.id_header.as_deref(), config.type_header.as_deref()),
            asks: Semaphore::new(config.in_flight),
            reply_timeout: config.reply_timeout.0,
            out: out.clone(),
        })
    }

    /// Answers a request. The connection can be used again unless the response says close.
    pub(super) async fn answer(&self, request: HttpRequest<Incoming>) -> Answer {
        let (parts, mut body) = request.into_parts();
        let request = HttpRequest::from_parts(parts, ());
        match self.handle(&request, &mut body).await {
            Ok(answer) => answer,
            Err(refusal) => {
                let late = refusal.status == StatusCode::REQUEST_TIMEOUT;
                // With `Expect: 100-continue`, the client has not sent the body.
                let unsent = request.headers().contains_key(EXPECT);
                let mut answer = refuse(refusal);
                if !body.is_end_stream() && (late || unsent || !body::discard(&mut body).await) {
                    answer::close(&mut answer);
                }
                answer
            }
        }
    }

    async fn handle(
        &self,
        request: &HttpRequest<()>,
        body: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        self.check_host(request)?;
        let path = request.uri().path();
        let found = self.endpoints.find(request.method(), path);
        let is_known = !matches!(found, Err(NoRoute::Path));
        if is_known && let Some(answer) = self.handshake(request) {
            return answer;
        }
        if is_known && request.method() == Method::OPTIONS {
            return Ok(answer::options(&self.endpoints.allow(path)));
        }
        let (endpoint, found) = found.map_err(|error| self.no_route(path, error))?;
        let template = &endpoint.template;
        if endpoint.replies && !template.sets_content_type() && !takes_json(request.headers()) {
            let text = "the answer is application/json, which Accept excludes";
            return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, text));
        }
        let (format, signature) = self.check_head(request, body, endpoint)?;
        self.check_ready()?;
        let mut memory = self.memory.reserve_nothing();
        if let Some(uploads) = self.uploads.as_ref().filter(|_| endpoint.uploads) {
            let content_type = format.content_type().to_owned();
            // Before the body: a request without an id need not send it.
            let no_payload = (BodyFormat::Query, Bytes::new());
            let (id, mut raw) = self.message(request, no_payload, endpoint, &found.params)?;
            let upload = uploads.receive(body, self.body_timeout, &mut memory).await;
            let upload = upload.map_err(|error| self.no_upload(error, uploads))?;
            raw.payload = upload.payload(&content_type);
            let delivered = self.deliver(endpoint, &id, raw).await;
            // A message that may have been sent needs its file.
            if delivered.as_ref().is_err_and(|refusal| refusal.is_unsent) {
                uploads.discard(upload).await;
            }
            return Ok(finished(delivered, &id));
        }
        let payload = self.read(body, &mut memory).await?;
        let is_form = format == BodyFormat::Form;
        if let (Some(check), Some(signed)) = (&self.signatures, signature)
            && !check.matches(&payload, is_form, &signed)
        {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "the signature does not match this body and the secret",
            ));
        }
        if self.answers_slack
            && let Some(challenge) = handshake::slack_challenge(&payload)
        {
            return Ok(answer::slack_challenge(challenge));
        }
        let (id, raw) = self.message(request, (format, payload), endpoint, &found.params)?;
        let delivered = self.deliver(endpoint, &id, raw).await;
        drop(memory);
        Ok(finished(delivered, &id))
    }

    /// Submits the message or asks a service.
    async fn deliver(
        &self,
        endpoint: &Endpoint,
        id: &MessageId,
        raw: Raw,
    ) -> Result<Answer, Refusal> {
        let outcome = async {
            match endpoint.replies {
                false => self.submit(&endpoint.output, id.clone(), raw).await,
                true => self.ask(endpoint, id.clone(), raw).await,
            }
        };
        tokio::select! {
            biased;
            answer = outcome => answer,
            () = self.stop_is_near() => Err(Refusal::busy("the app stops")),
        }
    }

    /// Removes old uploads, for ever.
    pub(super) async fn clean_uploads(&self) {
        match &self.uploads {
            Some(uploads) => uploads.clean_for_ever().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the connections are about to be cut by the stop.
    async fn stop_is_near(&self) {
        self.out.stopping().await;
        tokio::time::sleep(ANSWER_WITHIN).await;
    }

    fn no_route(&self, path: &str, error: NoRoute) -> Refusal {
        match error {
            NoRoute::Path => Refusal::new(StatusCode::NOT_FOUND, "there is nothing here"),
            NoRoute::Method(_) => Refusal::method(self.endpoints.allow(path)),
            NoRoute::Parameter(name) => {
                let text = format!("the parameter {name} of the path is not UTF-8 text");
                Refusal::new(StatusCode::BAD_REQUEST, text)
            }
        }
    }

    fn check_host(&self, request: &HttpRequest<()>) -> Result<(), Refusal> {
        let accepted = |name: &str| {
            let mut hosts = self.hosts.iter().flatten();
            is_local(name) || hosts.any(|host| host.eq_ignore_ascii_case(name))
        };
        let accepted: Option<IsAccepted<'_>> = self.hosts.as_ref().map(|_| &accepted as _);
        check_host(request, accepted).map_err(|problem| {
            let text = match problem {
                HostProblem::Foreign => {
                    "this host is not one of this endpoint: see config.hosts of http-in"
                }
                HostProblem::Missing | HostProblem::Repeated => {
                    "a request has exactly one header Host"
                }
            };
            Refusal::new(problem.status(), text)
        })
    }

    /// Answers a GET that begins a handshake.
    fn handshake(&self, request: &HttpRequest<()>) -> Option<Result<Answer, Refusal>> {
        let token = self.verify_token.as_ref()?;
        if request.method() != Method::GET {
            return None;
        }
        let query = request.uri().query().unwrap_or_default();
        Some(match handshake::by_get(query, token)? {
            Handshake::Challenge(challenge) => Ok(answer::challenge(challenge)),
            Handshake::Refused => {
                let text =
                    "the handshake needs hub.verify_token, hub.challenge and the mode subscribe";
                Err(Refusal::new(StatusCode::FORBIDDEN, text))
            }
        })
    }

    /// The checks before the body is read.
    fn check_head(
        &self,
        request: &HttpRequest<()>,
        body: &Incoming,
        endpoint: &Endpoint,
    ) -> Result<(BodyFormat, Option<Signed>), Refusal> {
        let headers = request.headers();
        let may_be_query = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::DELETE
        );
        let format = match may_be_query && body.is_end_stream() {
            true => Some(BodyFormat::Query),
            false => endpoint.content_types.format(headers),
        };
        let format = format.ok_or_else(|| {
            let text = format!("the content type is not one of: {}", endpoint.content_types);
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
        })?;
        if let Some(coding) = headers.get(CONTENT_ENCODING)
            && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            let text = "a body with a Content-Encoding isn't decoded here: send it without";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let bytes_max = self.body_bytes_max(endpoint);
        if body::length(body).is_some_and(|length| length > bytes_max) {
            return Err(too_large(bytes_max));
        }
        let signature = match &self.signatures {
            None => None,
            Some(check) => {
                let now_s = Clock::SYSTEM.unix_ms() / 1000;
                let signed = check.read(request, now_s);
                Some(signed.map_err(|text| Refusal::new(StatusCode::UNAUTHORIZED, text))?)
            }
        };
        Ok((format, signature))
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
        read.map_err(|error| no_body(error, self.body_bytes_max as u64))
    }

    fn body_bytes_max(&self, endpoint: &Endpoint) -> u64 {
        match self.uploads.as_ref().filter(|_| endpoint.uploads) {
            Some(uploads) => uploads.file_bytes_max(),
            None => self.body_bytes_max as u64,
        }
    }

    fn no_upload(&self, error: UploadError, uploads: &Uploads) -> Refusal {
        match error {
            UploadError::Body(error) => no_body(error, uploads.file_bytes_max()),
            UploadError::Full => {
                warn!(
                    service = self.out.service(),
                    "uploads have no more room: see uploads_max"
                );
                let text = "there is no room for more files";
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, text)
            }
            UploadError::Disk(error) => {
                warn!(service = self.out.service(), %error, "upload could not be written");
                Refusal::busy("the file could not be written")
            }
        }
    }

    fn message(
        &self,
        request: &HttpRequest<()>,
        (format, payload): (BodyFormat, Bytes),
        endpoint: &Endpoint,
        params: &[(String, String)],
    ) -> Result<(MessageId, Raw), Refusal> {
        let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
        let id = self.names.id(request.headers()).map_err(bad)?;
        let kind = self.names.kind(request.headers()).map_err(bad)?;
        let needs_query = format == BodyFormat::Query || !endpoint.query.is_empty();
        let query = match request.uri().query().filter(|_| needs_query) {
            None => Vec::new(),
            Some(query) => forms::parse(query.as_bytes()).map_err(bad)?,
        };
        let mut headers = of_message(request, self.signatures.is_some());
        add_parameters(&mut headers, params, &query, &endpoint.query).map_err(bad)?;
        let (payload, content_type) = match format {
            BodyFormat::Query => (query_payload(query, params), None),
            format => payload_of(format, payload).map_err(bad)?,
        };
        let mut raw = Raw::bytes(kind, payload);
        raw.content_type = content_type;
        raw.headers = headers;
        Ok((id, raw))
    }

    /// Submits the message and waits for the transport's confirm.
    async fn submit(&self, output: &str, id: MessageId, raw: Raw) -> Result<Answer, Refusal> {
        let message = MessageBuilder::new(raw).id(id.clone());
        let confirm = self
            .out
            .try_submit(&Output::named(output), message)
            .map_err(|error| match error {
                // Raw bytes can only be too large.
                TrySubmitError::Refused(_) => too_large(self.body_bytes_max as u64).unsent(),
                busy => Refusal::busy(busy.to_string()).unsent(),
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

    /// Asks a service, waits for its reply, and makes the answer of it.
    async fn ask(&self, endpoint: &Endpoint, id: MessageId, raw: Raw) -> Result<Answer, Refusal> {
        self.check_ready().map_err(Refusal::unsent)?;
        let Ok(_permit) = self.asks.try_acquire() else {
            return Err(Refusal::busy("too many requests wait for a reply").unsent());
        };
        let asked = (!endpoint.template.is_empty()).then(|| Raw {
            payload: Bytes::new(),
            ..raw.clone()
        });
        let message = MessageBuilder::new(raw).id(id.clone());
        let request = Request::<Raw, Raw>::named(endpoint.output.as_str());
        match self.out.ask(&request, message, self.reply_timeout).await {
            Ok(reply) => match asked {
                None => Ok(answer::replied(reply.payload)),
                Some(asked) => {
                    let answer = endpoint.template.answer(&id, asked, reply.payload);
                    answer.map_err(|error| {
                        warn!(%id, error, "reply fits no answer of the route");
                        Refusal::new(StatusCode::BAD_GATEWAY, "the request failed")
                    })
                }
            },
            Err(AskError::Timeout(_)) => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "no reply came in time",
            )),
            Err(AskError::Unavailable(why)) => {
                warn!(%id, why, "no service can answer the request");
                Err(Refusal::busy("no service can answer now").unsent())
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

/// Whether a name has no dot, as names of containers and of a local network. The owner of a web
/// page can't have such a name resolve to this machine.
fn is_local(name: &str) -> bool {
    !name.contains(['.', ':'])
}

fn too_large(bytes_max: u64) -> Refusal {
    let text = format!("a body has at most {bytes_max} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

fn no_body(error: BodyError, bytes_max: u64) -> Refusal {
    match error {
        BodyError::TooLarge => too_large(bytes_max),
        BodyError::TooSlow => {
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body didn't come in time")
        }
        BodyError::NoMemory => Refusal::busy("too many bodies are being received"),
        BodyError::Broken => Refusal::new(StatusCode::BAD_REQUEST, "the body is broken"),
    }
}

/// The answer to a request that became a message.
fn finished(delivered: Result<Answer, Refusal>, id: &MessageId) -> Answer {
    let mut answer = delivered.unwrap_or_else(refuse);
    answer::set_id(&mut answer, id);
    answer
}

/// Logs a refusal and turns it into an answer.
fn refuse(refusal: Refusal) -> Answer {
    let (status, why) = (refusal.status.as_u16(), &refusal.text);
    debug!(status, why, "request refused");
    refusal.into_answer()
}
