//! Config of `http-call`: defaults and validation.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{ByteSize, HumanDuration, LimitName, Secret};
use brickwork::supervision::BreakerPolicy;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::request::{MethodRule, check_header_name};
use crate::expression::{Expression, ResponseExpression};
use crate::http_client::{AllowList, AuthSettings, ClientSettings, TlsSettings};

/// Maximum of `in_flight`.
pub(super) const IN_FLIGHT_MAX: usize = 1024;
/// Maximum of `max_response`.
const RESPONSE_BYTES_MAX: u64 = 256 << 20;

/// Config of `http-call`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpCallConfig {
    /// HTTP method such as `GET`, or an expression over `msg` and `meta` for it.
    pub method: String,
    /// Expression over `msg` and `meta` for the URL: `'https://api.example.com/v1/' + msg.id`.
    /// The host must be in `allow`.
    pub url: Option<Expression>,
    /// Headers, each with the expression for its value. A header whose value is null is left out.
    pub headers: BTreeMap<String, Expression>,
    /// Expression for the body. By default the payload, for POST, PUT and PATCH; other methods
    /// have no body.
    pub body: Option<Expression>,
    /// Form of the body: `json`; `form`, for which the value is an object; `text`, for which it is
    /// a text; `raw`, the payload unchanged with its content type, without `body`.
    pub format: BodyFormat,
    /// Content type of the body, if it is not that of `format`.
    pub content_type: Option<String>,
    /// Expression over `msg`, `meta` and `response` for the emitted payload. By default the body of
    /// the answer. `response` has `status`, `headers`, `body` (the JSON or the text) and `time`
    /// (seconds since 1970, by the clock of the other side).
    pub emit: Option<ResponseExpression>,
    /// Expression over `msg`, `meta` and `response` for the outcome, for services whose status
    /// does not tell it: `'ok'`, `'retry'`, `'reject'`, a number of seconds to wait without
    /// spending an attempt, or null for the usual meaning of the status.
    pub outcome: Option<ResponseExpression>,
    /// Message type of the answer; by default that of the message.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Hosts that may be called: `api.example.com`, `*.example.com`, `api.example.com:8443`, `*`
    /// for every public host. These allow `https`; `http://api.example.com` allows `http`.
    /// Private addresses are refused unless an entry names them as address or network:
    /// `10.1.2.3:8080`, `10.0.0.0/8`, `localhost:8080`. By default the host with which `url`
    /// begins, if it begins with a text.
    pub allow: Vec<String>,
    /// Time for a request and its whole answer. It must be shorter than `handler_timeout`.
    pub timeout: HumanDuration,
    /// Time for name resolution, connect and TLS handshake, at most `timeout`. By default 5s, or
    /// `timeout` if that is shorter.
    pub connect_timeout: Option<HumanDuration>,
    /// Maximum size of an answer's body, before and after decompression.
    pub max_response: ByteSize,
    /// Maximum redirects that are followed, each checked as `allow` says. 0 refuses redirects.
    pub max_redirects: u32,
    /// URL of an HTTP proxy, such as `http://user:password@proxy:3128`. Targets are checked before
    /// the proxy gets them.
    pub proxy: Option<Secret>,
    /// Certificates for `https`.
    pub tls: TlsSettings,
    /// Credentials. Every host of `allow` gets them: use a service for each credential.
    pub auth: Option<AuthSettings>,
    /// Whether a request may be sent again after an unknown outcome. By default as the method says
    /// (GET, PUT and DELETE may), or with `idempotency_header`.
    pub idempotent: Option<bool>,
    /// Header that gets the message's id, such as `Idempotency-Key`: the same for all attempts and
    /// replays.
    pub idempotency_header: Option<String>,
    /// Consequence of a request that is not idempotent and has no complete answer: `retry`, after
    /// which the other side may have done it twice, or `reject`.
    pub on_unknown: OnUnknown,
    /// Name of a limit of the manifest, `[limits.NAME]`: the rate of requests. A message waits for
    /// its turn in the service for up to 5s, or outside of it for no attempt if the limit has a key.
    pub limit: Option<LimitName>,
    /// Circuit breaker of each host, and of each tenant at a host.
    pub breaker: HostBreaker,
    /// Maximum requests in flight of an instance.
    pub in_flight: usize,
    /// Maximum requests in flight to one host, of all instances in a process. By default three
    /// quarters of `in_flight`: other hosts go on while one is slow.
    pub in_flight_per_host: Option<usize>,
    /// Whether a host that becomes slow gets fewer requests at once, and more when it is fast
    /// again.
    pub adaptive: bool,
}

/// Form of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BodyFormat {
    /// JSON.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// Plain text.
    Text,
    /// The payload, unchanged.
    Raw,
}

/// Consequence of an unknown outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnknown {
    /// Send the request again.
    #[default]
    Retry,
    /// Emit on `rejected`, or dead-letter the message.
    Reject,
}

/// When the breaker of a host opens.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostBreaker {
    /// Whether there is one.
    pub enabled: bool,
    /// Share of failed requests, above 0 and at most 1, at which it opens.
    pub failure_rate: f64,
    /// Minimum requests with a result before it opens.
    pub min_messages: u32,
    /// Time for which a result counts.
    pub within: HumanDuration,
    /// Shortest and first pause before one request is tried.
    pub pause_min: HumanDuration,
    /// Longest pause.
    pub pause_max: HumanDuration,
}

impl Default for HostBreaker {
    fn default() -> Self {
        let policy = BreakerPolicy::default();
        Self {
            enabled: true,
            failure_rate: policy.failure_rate,
            min_messages: 5,
            within: policy.within.into(),
            pause_min: policy.pause_min.into(),
            pause_max: policy.pause_max.into(),
        }
    }
}

impl Default for HttpCallConfig {
    fn default() -> Self {
        let client = ClientSettings::default();
        Self {
            method: "POST".to_owned(),
            url: None,
            headers: BTreeMap::new(),
            body: None,
            format: BodyFormat::default(),
            content_type: None,
            emit: None,
            outcome: None,
            kind: None,
            allow: Vec::new(),
            timeout: client.timeout.into(),
            connect_timeout: None,
            max_response: ByteSize(client.max_response as u64),
            max_redirects: client.max_redirects,
            proxy: None,
            tls: TlsSettings::default(),
            auth: None,
            idempotent: None,
            idempotency_header: None,
            on_unknown: OnUnknown::default(),
            limit: None,
            breaker: HostBreaker::default(),
            in_flight: 16,
            in_flight_per_host: None,
            adaptive: true,
        }
    }
}

impl HostBreaker {
    fn policy(&self) -> Option<BreakerPolicy> {
        self.enabled.then_some(BreakerPolicy {
            failure_rate: self.failure_rate,
            min_messages: self.min_messages,
            within: self.within.0,
            pause_min: self.pause_min.0,
            pause_max: self.pause_max.0,
        })
    }

    fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !(self.failure_rate > 0.0 && self.failure_rate <= 1.0) {
            return Some(("failure_rate", "it is above 0 and at most 1"));
        }
        if self.min_messages == 0 {
            return Some(("min_messages", "it is at least 1"));
        }
        if self.within.0.is_zero() {
            return Some(("within", "it is longer than 0s"));
        }
        if self.pause_min.0.is_zero() || self.pause_min > self.pause_max {
            return Some(("pause_min", "it is longer than 0s and at most pause_max"));
        }
        None
    }
}

impl HttpCallConfig {
    /// Returns the settings of the client.
    pub(super) fn client(&self) -> ClientSettings {
        ClientSettings {
            allow: self.allowed(),
            connect_timeout: self.connect_timeout(),
            timeout: self.timeout.0,
            max_response: self.max_response.0 as usize,
            max_redirects: self.max_redirects,
            proxy: self.proxy.clone(),
            tls: self.tls.clone(),
            auth: self.auth.clone(),
            breaker: self.breaker.policy(),
            max_in_flight: self.per_host(),
            adaptive: self.adaptive,
            ..ClientSettings::default()
        }
    }

    fn connect_timeout(&self) -> Duration {
        let usual = ClientSettings::default().connect_timeout;
        let own = self.connect_timeout.map(|own| own.0);
        own.unwrap_or(usual.min(self.timeout.0))
    }

    fn per_host(&self) -> usize {
        let usual = (self.in_flight * 3).div_ceil(4);
        self.in_flight_per_host.unwrap_or(usual).max(1)
    }

    /// Returns the hosts that may be called.
    fn allowed(&self) -> Vec<String> {
        if !self.allow.is_empty() {
            return self.allow.clone();
        }
        let url = self.url.as_ref();
        url.and_then(|url| literal_origin(url.source()))
            .into_iter()
            .collect()
    }

    /// Validates the config.
    pub(super) fn errors(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: String| errors.push(ConfigError::new(path, text));
        if let Err(text) = MethodRule::parse(&self.method) {
            wrong("method", text);
        }
        if self.url.is_none() {
            let text = "it is missing: an expression such as 'https://api.example.com/' + msg.id";
            wrong("url", text.to_owned());
        } else if self.allowed().is_empty() {
            let text = "name the hosts that may be called, because url does not begin with one";
            wrong("allow", text.to_owned());
        }
        if let Err((index, text)) = AllowList::parse(&self.allow) {
            wrong(&format!("allow.{index}"), text);
        }
        for name in self.headers.keys().chain(&self.idempotency_header) {
            if let Err(text) = check_header_name(name) {
                wrong("headers", text);
            }
        }
        if self.format == BodyFormat::Raw && self.body.is_some() {
            wrong("body", "raw sends the payload: leave body out".to_owned());
        }
        if self.timeout.0.is_zero() {
            wrong("timeout", "it is longer than 0s".to_owned());
        }
        if self
            .connect_timeout
            .is_some_and(|own| own.0.is_zero() || own > self.timeout)
        {
            let text = "it is longer than 0s and at most timeout";
            wrong("connect_timeout", text.to_owned());
        }
        if !(1..=RESPONSE_BYTES_MAX).contains(&self.max_response.0) {
            wrong("max_response", "it is from 1B to 256MiB".to_owned());
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight) {
            wrong("in_flight", format!("it is from 1 to {IN_FLIGHT_MAX}"));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            wrong("tls", "certificate and key need each other".to_owned());
        }
        if let Some((key, text)) = self.breaker.problem() {
            wrong(&format!("breaker.{key}"), text.to_owned());
        }
        errors.extend(
            self.client()
                .problem()
                .map(|(path, text)| ConfigError::new(path, text)),
        );
        errors.extend(self.auth.iter().flat_map(AuthSettings::check));
        errors
    }

    /// Whether a request may be sent again after an unknown outcome.
    pub(super) fn idempotent(&self) -> Option<bool> {
        let by_key = self.idempotency_header.is_some().then_some(true);
        self.idempotent.or(by_key)
    }
}

/// Returns scheme, host and port of the text with which an expression begins.
fn literal_origin(source: &str) -> Option<String> {
    let source = source.trim_start();
    let quote = source.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (text, _) = source[1..].split_once(quote)?;
    if text.contains('\\') {
        return None;
    }
    let url = Url::parse(text).ok().filter(Url::has_host)?;
    matches!(url.scheme(), "http" | "https").then(|| url.origin().ascii_serialization())
}

/// Returns the time of a request for a handler that has this time left: some is left for the rest.
pub(super) fn time_of(remaining: Duration) -> Duration {
    remaining - remaining / 10
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problems(config: Value) -> Vec<String> {
        let config: HttpCallConfig = serde_json::from_value(config).unwrap();
        config
            .errors()
            .iter()
            .map(|error| format!("{error:?}"))
            .collect()
    }

    #[test]
    fn a_url_that_begins_with_a_host_allows_it() {
        for (source, expected) in [
            (
                "'https://api.example.com/v1/' + msg.id",
                Some("https://api.example.com"),
            ),
            ("\"http://127.0.0.1:8080/x\"", Some("http://127.0.0.1:8080")),
            (
                "  'https://API.example.com'",
                Some("https://api.example.com"),
            ),
            ("msg.url", None),
            ("'https://' + msg.host", None),
            ("'ftp://example.com/'", None),
        ] {
            assert_eq!(literal_origin(source).as_deref(), expected, "{source}");
        }
    }

    #[test]
    fn the_time_to_connect_is_at_most_that_of_the_call() {
        for (config, expected) in [
            (json!({"timeout": "20s"}), 5_000),
            (json!({"timeout": "1s"}), 1_000),
            (json!({"timeout": "20s", "connect_timeout": "7s"}), 7_000),
        ] {
            let mut with_url = config.clone();
            with_url["url"] = json!("'https://api.example.com/'");
            assert_eq!(problems(with_url), [""; 0], "{config}");
            let config: HttpCallConfig = serde_json::from_value(config).unwrap();
            let settings = config.client();
            assert_eq!(settings.connect_timeout, Duration::from_millis(expected));
        }
    }

    #[test]
    fn a_wrong_config_is_refused_at_its_place() {
        let url = "'https://api.example.com/'";
        for (config, place) in [
            (json!({}), "url"),
            (json!({"url": "msg.url"}), "allow"),
            (json!({"url": url, "allow": ["x y"]}), "allow.0"),
            (json!({"url": url, "method": "CONNECT"}), "method"),
            (json!({"url": url, "method": "msg."}), "method"),
            (json!({"url": url, "headers": {"a b": "1"}}), "headers"),
            (json!({"url": url, "headers": {"Host": "1"}}), "headers"),
            (json!({"url": url, "format": "raw", "body": "msg"}), "body"),
            (json!({"url": url, "timeout": "0s"}), "timeout"),
            (
                json!({"url": url, "timeout": "1s", "connect_timeout": "2s"}),
                "connect_timeout",
            ),
            (json!({"url": url, "max_response": "0B"}), "max_response"),
            (json!({"url": url, "in_flight": 0}), "in_flight"),
            (json!({"url": url, "tls": {"key": "k.pem"}}), "tls"),
            (
                json!({"url": url, "breaker": {"failure_rate": 0.0}}),
                "breaker.failure_rate",
            ),
            (json!({"url": url, "proxy": "socks5://x"}), "proxy"),
            (json!({"url": url, "auth": {}}), "auth"),
            (
                json!({"url": url, "auth": {"token": "t", "user": "u", "password": "p"}}),
                "auth",
            ),
            (
                json!({"url": url, "auth": {"oauth2": {"client_id": "i", "token_url": "x"}}}),
                "auth.oauth2.token_url",
            ),
        ] {
            let config_text = config.to_string();
            let problems = problems(config);
            assert!(
                problems.iter().any(|problem| problem.contains(place)),
                "{config_text}: {problems:?}"
            );
        }
        assert!(problems(json!({"url": url})).is_empty());
    }
}
