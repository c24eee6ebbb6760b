//! `http-call`: calls an outside API for each message.
//!
//! | module | content |
//! | --- | --- |
//! | `config` | config and its validation |
//! | `request` | the request for a message |
//! | `outcome` | the consequence of a call |
//! | `answer` | the answer as a message |

mod answer;
mod config;
mod outcome;
mod request;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brickwork::prelude::*;
use brickwork::{ConfigError, Limit, Message};

use self::config::{IN_FLIGHT_MAX, OnUnknown, time_of};
use self::outcome::Outcome;
use self::request::RequestPlan;
use crate::expression::{ResponseExpression, Scope};
use crate::http_client::{Answer, CallError, HttpClient, OutsideRequest};
use crate::ports::{OUT, current_message};

pub use config::{BodyFormat, HostBreaker, HttpCallConfig};

/// The input of messages. A caller that asks gets the answer.
const IN: Input<Raw, Raw> = Input::new("in");
/// The output of messages that the other side refuses.
const REJECTED: Output<Raw> = Output::new("rejected");

/// Maximum pause of the input while all hosts wait: a message to another host may come.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Maximum time for which a message waits for the turn of its limit in the service.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Calls an outside API for each message, and emits the answer.
pub struct HttpCall {
    client: Arc<HttpClient>,
    plan: RequestPlan,
    emit: Option<ResponseExpression>,
    outcome: Option<ResponseExpression>,
    kind: Option<Arc<str>>,
    on_unknown: OnUnknown,
    limit: Option<Limit>,
    timeout: Duration,
    /// The warning about a short `handler_timeout` was logged.
    warned: bool,
}

impl Service for HttpCall {
    const NAME: &'static str = "http-call";
    const SUMMARY: &'static str = "calls an outside API for each message, and emits the answer";
    const EXAMPLE: &'static str = r#"[services.charge]
use = "http-call"
in = "orders.placed"
out = { out = "orders.charged", rejected = "orders.refused" }
config.url = "'https://api.example.com/v1/charges/' + msg.order"
config.headers = { "X-Customer" = "meta.headers['customer']" }
config.body = "{'cents': msg.cents}"
config.idempotency_header = "Idempotency-Key"
config.timeout = "10s"
config.allow = ["api.example.com"]
"#;
    const FAILURES: &'static [&'static str] = &[
        "retries a message whose request was not sent, has no complete answer, or is answered with 401, 407, 408, 425, 429 or 5xx; waits as Retry-After says, at most an hour",
        "emits on rejected, or dead-letters with the start of the answer's body, a message that is answered with another status, whose answer is larger than max_response, or whose host or address may not be called",
        "defers messages to a host while its circuit breaker is open or while it has asked to wait (429 or 503 with Retry-After); they spend no attempt, and messages to other hosts go on",
        "defers a message whose turn in its limit has not come; it spends no attempt",
        "with on_unknown = \"reject\", rejects a message whose request is not idempotent and has no complete answer",
        "dead-letters a message for which an expression has no value of the right type",
        "retries all messages while no OAuth 2 token can be had, or a file of tls can't be read",
    ];
    type Config = HttpCallConfig;

    fn ports(_: &HttpCallConfig, ports: &mut Ports<Self>) {
        ports
            .input(&IN)
            .optional_output(&OUT)
            .optional_output(&REJECTED);
    }

    fn check(config: &HttpCallConfig) -> Result<(), Vec<ConfigError>> {
        crate::config_errors::result(config.errors())
    }

    fn concurrency(config: &HttpCallConfig) -> usize {
        config.in_flight.clamp(1, IN_FLIGHT_MAX)
    }

    async fn start(config: &HttpCallConfig, cx: &mut Context) -> Result<Self, Failure> {
        let client = cx
            .shared(async || HttpClient::new(&config.client()))
            .await?;
        Ok(Self {
            client,
            plan: RequestPlan::new(config)?,
            emit: config.emit.clone(),
            outcome: config.outcome.clone(),
            kind: config.kind.as_deref().map(Arc::from),
            on_unknown: config.on_unknown,
            limit: config
                .limit
                .as_deref()
                .map(|name| cx.limit(name))
                .transpose()?,
            timeout: config.timeout.0,
            warned: cx.instance() != 0,
        })
    }
}

impl Handle<Raw, Raw> for HttpCall {
    async fn handle(&mut self, _: Raw, cx: &mut Context) -> Result<Raw, Failure> {
        let (message, attempt) = current_message(cx);
        let message = message.clone();
        let request = self.plan.build(&message, attempt)?;
        let (url, partition) = (request.url.clone(), request.partition.clone());
        let idempotent = request.idempotent;
        let result = self.call(request, &message, cx).await?;
        let now = SystemTime::now();
        let response = match &result {
            Ok(answer) if self.emit.is_some() || self.outcome.is_some() => {
                answer::variable(answer, now)
            }
            _ => String::new(),
        };
        let mut outcome = Outcome::from(self.client.judge(&url, &partition, &result, now));
        if let (Some(expression), Ok(_)) = (&self.outcome, &result) {
            let mut scope = Scope::new(&message, attempt).with_response(&response)?;
            outcome = outcome.overridden_by(&expression.json(&mut scope)?)?;
        }
        if let Err(CallError::Unknown(_)) = &result
            && !idempotent
            && self.on_unknown == OnUnknown::Reject
        {
            outcome = outcome.rejected();
        }
        match outcome {
            Outcome::Done => {
                let answer = result.map_err(Failure::retry)?;
                self.done(&answer, &message, attempt, &response, cx)
            }
            Outcome::Refused(reason) => refuse(
                &message,
                result.ok().map(|answer| answer.status),
                reason,
                cx,
            ),
            Outcome::Failed(failure) => {
                if let Some(wait) = self.client.all_held() {
                    cx.pause(wait.min(PAUSE_MAX));
                }
                Err(failure)
            }
        }
    }
}

impl HttpCall {
    /// Sends the request when its limit lets it.
    ///
    /// # Errors
    /// A defer until the message's turn. A reject, if the limit has a key and the message has none.
    async fn call(
        &mut self,
        mut request: OutsideRequest,
        message: &Message,
        cx: &Context,
    ) -> Result<Result<Answer, CallError>, Failure> {
        if let Some(limit) = &self.limit {
            // A request that will not be sent takes no turn.
            if let Some(error) = self.client.held(&request) {
                return Ok(Err(error));
            }
            // A message that is held holds up those of other keys, and the request needs its time.
            let spare = cx.remaining().map_or(TURN_WAIT_MAX, |left| {
                left.saturating_sub(self.timeout).min(TURN_WAIT_MAX)
            });
            let wait_max = if limit.has_key() {
                Duration::ZERO
            } else {
                spare
            };
            limit.pass(message, wait_max).await?;
        }
        request.within = self.time(cx);
        Ok(self.client.call(request).await)
    }

    /// Returns the time of the request, and warns if the handler has less than `timeout`.
    fn time(&mut self, cx: &Context) -> Option<Duration> {
        let within = time_of(cx.remaining()?);
        if within < self.timeout && !self.warned {
            self.warned = true;
            tracing::warn!(
                service = cx.service(),
                "timeout is longer than the service's handler_timeout allows: requests get less time"
            );
        }
        Some(within)
    }

    fn done(
        &self,
        answer: &Answer,
        message: &Message,
        attempt: u32,
        response: &str,
        cx: &Context,
    ) -> Result<Raw, Failure> {
        let payload = match &self.emit {
            None => None,
            Some(expression) => {
                let mut scope = Scope::new(message, attempt).with_response(response)?;
                Some(expression.json(&mut scope)?)
            }
        };
        let raw = answer::message(answer, message, self.kind.as_ref(), payload);
        let reply = Raw {
            kind: raw.kind.clone(),
            content_type: raw.content_type.clone(),
            headers: [].into(),
            subject: None,
            payload: raw.payload.clone(),
        };
        if cx.is_wired(&OUT) {
            cx.emit(&OUT, raw)?;
        }
        Ok(reply)
    }
}

/// Emits a refused message on `rejected`, or dead-letters it. A caller that asked gets the failure.
fn refuse(
    message: &Message,
    status: Option<u16>,
    reason: String,
    cx: &Context,
) -> Result<Raw, Failure> {
    if message.reply_to.is_some() || !cx.is_wired(&REJECTED) {
        return Err(Failure::reject(reason));
    }
    let raw = answer::refused(message, status, &reason);
    cx.emit(&REJECTED, raw.clone())?;
    Ok(raw)
}
