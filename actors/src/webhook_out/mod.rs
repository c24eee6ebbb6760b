//! `webhook-out`: posts each message to a receiver, signed by Standard Webhooks.
//!
//! The queue carries the retries: a message whose try failed is deferred by the schedule, so
//! `retry.attempts` and the breaker of the service don't count it. The store counts the tries,
//! and knows the endpoints that fail.
//!
//! | module | content |
//! | --- | --- |
//! | `config` | settings |
//! | `request` | from messages to signed requests |
//! | `policy` | answers, waits and dead endpoints, as functions over values |
//! | `endpoints` | the store |

mod config;
mod endpoints;
mod policy;
mod request;

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use brickwork::prelude::*;
use tracing::{debug, info, warn};

pub use config::WebhookOutConfig;
pub use endpoints::EndpointDisabled;
use endpoints::{AfterFailure, Failed, Known};
use policy::{Outcome, next_wait, outcome, resends};
use request::{RequestMaker, Unsigned};

use crate::http_client::{Answer, CallError, HttpClient};
use crate::ports::{IN, current_message};

/// Output of messages that a receiver took.
const DELIVERED: Output<Raw> = Output::new("delivered");
/// Output of endpoints that were disabled.
const DISABLED: Output<EndpointDisabled> = Output::new("disabled");
/// Input of endpoints to enable.
const ENABLE: Input<EnableEndpoint> = Input::new("enable");
/// Emits events of disabled endpoints.
const TELL: Tick = Tick::new("tell");
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Time between the end of a try and the deadline of the handler.
const RESERVE: Duration = Duration::from_millis(500);

/// Posts each message to a receiver, signed by Standard Webhooks.
pub struct WebhookOut {
    shared: Arc<Shared>,
}

struct Shared {
    client: HttpClient,
    maker: RequestMaker,
    schedule: Vec<Duration>,
    disable_after: Duration,
}

/// A message of the input `enable`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnableEndpoint {
    /// Name of the endpoint.
    pub endpoint: String,
}

impl Service for WebhookOut {
    const NAME: &'static str = "webhook-out";
    const SUMMARY: &'static str =
        "posts each message to a receiver, signed by Standard Webhooks, and retries for days";
    const EXAMPLE: &'static str = r#"[services.notify]
use = "webhook-out"
store = true
in = "orders.placed"
[services.notify.config]
url = "msg.customer.hook"
allow = ["*"]
secrets = ["${WEBHOOK_SECRET}"]
body = "{'type': meta.type, 'timestamp': meta.time, 'data': msg}"
"#;
    const FAILURES: &'static [&'static str] = &[
        "defers a message whose try failed by `schedule`: any answer but 200 to 299, or none; dead-letters it after the last try",
        "disables an endpoint that has failed for `disable_after`, or answered 410: logs a warning, emits on `disabled`, and dead-letters its messages until it is enabled",
        "defers a message while the breaker of its endpoint is open, without a try",
        "dead-letters a message whose URL is not allowed, whose expressions fail, or whose secret is malformed",
        "a receiver may get a message more than once, with the same webhook-id: after an answer that got lost",
    ];
    const STORE: &'static [Migration] = &[endpoints::TABLES];
    type Config = WebhookOutConfig;

    fn ports(config: &WebhookOutConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
        if config.enable {
            ports.input(&ENABLE).first();
        }
        ports
            .optional_output(&DELIVERED)
            .optional_output(&DISABLED)
            .tick(TELL, TELL_EVERY);
    }

    fn check(config: &WebhookOutConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    fn concurrency(config: &WebhookOutConfig) -> usize {
        config.in_flight
    }

    async fn start(config: &WebhookOutConfig, cx: &mut Context) -> Result<Self, Failure> {
        let make = async || {
            let schedule: Vec<Duration> = config.schedule.iter().map(|wait| wait.0).collect();
            let longest = schedule.iter().sum::<Duration>() + config.disable_after.0;
            let clean = move |tx: &mut Tx<'_>| endpoints::clean(tx, longest * 2);
            cx.store()?.transact_apart(clean).await?;
            Ok(Shared {
                client: HttpClient::new(&config.client_settings())?,
                maker: RequestMaker::new(config)?,
                schedule,
                disable_after: config.disable_after.0,
            })
        };
        let shared = cx.shared(make).await?;
        Ok(Self { shared })
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        if !cx.is_wired(&DISABLED) || !cx.store()?.read(endpoints::has_untold).await? {
            return Ok(());
        }
        let tell = |tx: &mut Tx<'_>| {
            let disabled = endpoints::untold(tx)?;
            disabled
                .into_iter()
                .try_for_each(|endpoint| tx.emit(&DISABLED, endpoint))
        };
        cx.store()?.transact(tell).await
    }
}

impl Handle<Raw> for WebhookOut {
    async fn handle(&mut self, raw: Raw, cx: &mut Context) -> Result<(), Failure> {
        let (message, attempt) = current_message(cx);
        let id = message.id.to_string();
        let request = self.shared.maker.make(message, attempt)?;
        let keys = (id.clone(), request.endpoint.clone());
        let read = move |store: &_| endpoints::known(store, &keys.0, &keys.1);
        let known = cx.store()?.read(read).await?;
        let endpoint = &request.endpoint;
        if let Some(error) = &known.disabled {
            let text = format!(
                "the endpoint {endpoint} is disabled: enable it, then replay its dead letters; \
                 its last error: {error}"
            );
            return self.give_up(cx, id, text).await;
        }
        match self.send(&request, cx).await {
            Outcome::Delivered => delivered(cx, raw, &request, known).await,
            Outcome::Failed {
                reason,
                after,
                is_gone,
            } => {
                let failed = Failed {
                    message: id.clone(),
                    endpoint: endpoint.clone(),
                    error: reason.clone(),
                    is_gone,
                    disable_after: self.shared.disable_after,
                };
                self.failed(cx, failed, after).await
            }
            Outcome::Waits { reason, after } => Err(Failure::defer(after, reason)),
            Outcome::Refused { reason } => self.give_up(cx, id, reason).await,
        }
    }
}

impl WebhookOut {
    /// Sends the request, and once more if nothing of it was sent.
    async fn send(&self, request: &Unsigned, cx: &Context) -> Outcome {
        let started = Instant::now();
        let mut result = self.call(request, cx).await;
        if resends(&result, started.elapsed()) {
            debug!(
                service = cx.service(),
                endpoint = request.endpoint,
                "sending again: nothing was sent"
            );
            result = self.call(request, cx).await;
        }
        outcome(&result, cx.now())
    }

    async fn call(&self, request: &Unsigned, cx: &Context) -> Result<Answer, CallError> {
        let now = cx.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let call = self.shared.client.call(request.sign(now.as_secs()));
        // A handler that runs out of time would spend an attempt.
        let left = cx.remaining().unwrap_or(Duration::MAX);
        match tokio::time::timeout(left.saturating_sub(RESERVE), call).await {
            Ok(result) => result,
            Err(_) => {
                let text = "no answer came before the end of handler_timeout";
                Err(CallError::Unknown(text.to_owned()))
            }
        }
    }

    /// Records a failed try, and defers the message or gives it up.
    async fn failed(
        &self,
        cx: &Context,
        failed: Failed,
        asked: Option<Duration>,
    ) -> Result<(), Failure> {
        let (id, endpoint) = (failed.message.clone(), failed.endpoint.clone());
        let reason = failed.error.clone();
        let record = move |tx: &mut Tx<'_>| endpoints::failed(tx, &failed);
        let AfterFailure { tries, is_disabled } = cx.store()?.transact_apart(record).await?;
        if is_disabled {
            let service = cx.service();
            warn!(
                service,
                endpoint,
                error = reason,
                "endpoint disabled: its messages become dead letters until it is enabled"
            );
            let text = format!("the endpoint {endpoint} is disabled now: {reason}");
            return self.give_up(cx, id, text).await;
        }
        match next_wait(&self.shared.schedule, tries, asked, fastrand::f64()) {
            Some(wait) => {
                let text = format!("try {tries} failed: {reason}");
                Err(Failure::defer(wait, text))
            }
            None => {
                let text = format!("try {tries} failed, which was the last one: {reason}");
                self.give_up(cx, id, text).await
            }
        }
    }

    /// Forgets the tries of a message, so that a replay starts anew, and dead-letters it.
    async fn give_up(&self, cx: &Context, id: String, text: String) -> Result<(), Failure> {
        let forget = move |tx: &mut Tx<'_>| endpoints::forget(tx, &id);
        cx.store()?.transact_apart(forget).await?;
        Err(Failure::reject(text))
    }
}

/// Forgets the failures of a message and its endpoint, and passes the message on.
async fn delivered(
    cx: &Context,
    raw: Raw,
    request: &Unsigned,
    known: Known,
) -> Result<(), Failure> {
    let is_wired = cx.is_wired(&DELIVERED);
    if known == Known::default() {
        return match is_wired {
            true => cx.emit(&DELIVERED, raw),
            false => Ok(()),
        };
    }
    let (id, endpoint) = (
        current_message(cx).0.id.to_string(),
        request.endpoint.clone(),
    );
    let settle = move |tx: &mut Tx<'_>| {
        endpoints::forget(tx, &id)?;
        endpoints::recovered(tx, &endpoint)?;
        match is_wired {
            true => tx.emit(&DELIVERED, raw),
            false => Ok(()),
        }
    };
    cx.store()?.transact(settle).await
}

impl Handle<EnableEndpoint> for WebhookOut {
    async fn handle(&mut self, enable: EnableEndpoint, cx: &mut Context) -> Result<(), Failure> {
        let name = enable.endpoint.clone();
        let enabling = move |tx: &mut Tx<'_>| endpoints::recovered(tx, &name);
        let was_disabled = cx.store()?.transact(enabling).await?;
        let (service, endpoint) = (cx.service(), enable.endpoint);
        match was_disabled {
            true => info!(service, endpoint, "endpoint enabled"),
            false => info!(service, endpoint, "endpoint was not disabled"),
        }
        Ok(())
    }
}
