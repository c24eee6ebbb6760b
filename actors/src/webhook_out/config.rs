//! Config of `webhook-out`: defaults and validation.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{ByteSize, HumanDuration, Secret};
use brickwork::prelude::*;

use crate::expression::Expression;
use crate::http_client::{AllowList, ClientSettings, TlsSettings};
use crate::standard_webhooks::SigningKey;

/// Maximum of `in_flight`.
const IN_FLIGHT_MAX: usize = 1024;
/// Maximum secrets: receivers try as many signatures.
const SECRETS_MAX: usize = 8;
/// Maximum entries of `schedule`.
const SCHEDULE_MAX: usize = 100;

/// Config of `webhook-out`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookOutConfig {
    /// URL to post to: an expression over `msg` and `meta`.
    pub url: Expression,
    /// Hosts that may be called: `hooks.example.com`, `*.example.com`, `http://10.1.2.3:8080`, or
    /// `*` for every public host by `https`. Private addresses must be named.
    pub allow: Vec<String>,
    /// Secrets that sign; each gives a signature, so that a new one can be added before the old
    /// one is removed. A secret may begin with `whsec_`; the rest is base64.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// Secret of the message's receiver, instead of `secrets`: an expression whose value is a text
    /// or a list of texts.
    #[serde(default)]
    pub secret: Option<Expression>,
    /// Body: an expression; by default the payload, unchanged.
    #[serde(default)]
    pub body: Option<Expression>,
    /// Further headers, each with an expression.
    #[serde(default)]
    pub headers: BTreeMap<String, Expression>,
    /// Name of the endpoint whose failures count together: an expression; by default the URL
    /// without its query.
    #[serde(default)]
    pub endpoint: Option<Expression>,
    /// Waits between tries. After the last try the message is dead-lettered. `retry.attempts` does
    /// not count them. Each wait is up to a tenth longer, so that tries spread.
    #[serde(default = "default_schedule")]
    pub schedule: Vec<HumanDuration>,
    /// Time of failures without a success between them after which an endpoint is disabled. Its
    /// messages are then dead-lettered without a try. An answer with status 410 disables it at
    /// once.
    #[serde(default = "default_disable_after")]
    pub disable_after: HumanDuration,
    /// Whether the service has the input `enable`: a message `{"endpoint": "NAME"}` there enables
    /// a disabled endpoint. Its dead letters can then be replayed.
    #[serde(default)]
    pub enable: bool,
    /// Time for a request with connect and the whole answer; less than `handler_timeout`.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// Maximum requests in flight.
    #[serde(default = "default_in_flight")]
    pub in_flight: usize,
    /// Maximum size of an answer.
    #[serde(default = "default_max_response")]
    pub max_response: ByteSize,
    /// URL of an HTTP proxy.
    #[serde(default)]
    pub proxy: Option<Secret>,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsSettings,
}

/// The waits that Standard Webhooks recommends.
fn default_schedule() -> Vec<HumanDuration> {
    let seconds = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
    let waits = seconds.map(|seconds| HumanDuration(Duration::from_secs(seconds)));
    waits.to_vec()
}

fn default_disable_after() -> HumanDuration {
    HumanDuration(Duration::from_secs(5 * 86_400))
}

fn default_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(15))
}

fn default_in_flight() -> usize {
    16
}

fn default_max_response() -> ByteSize {
    ByteSize(64 * 1024)
}

impl Default for WebhookOutConfig {
    fn default() -> Self {
        Self {
            url: Expression::default(),
            allow: Vec::new(),
            secrets: Vec::new(),
            secret: None,
            body: None,
            headers: BTreeMap::new(),
            endpoint: None,
            schedule: default_schedule(),
            disable_after: default_disable_after(),
            enable: false,
            timeout: default_timeout(),
            in_flight: default_in_flight(),
            max_response: default_max_response(),
            proxy: None,
            tls: TlsSettings::default(),
        }
    }
}

impl WebhookOutConfig {
    pub(super) fn client_settings(&self) -> ClientSettings {
        ClientSettings {
            allow: self.allow.clone(),
            timeout: self.timeout.0,
            connect_timeout: ClientSettings::default()
                .connect_timeout
                .min(self.timeout.0),
            max_response: usize::try_from(self.max_response.0).unwrap_or(usize::MAX),
            proxy: self.proxy.clone(),
            tls: self.tls.clone(),
            max_in_flight: self.in_flight,
            ..ClientSettings::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: String| errors.push(ConfigError::new(path, text));
        if self.allow.is_empty() {
            let text = "it is empty: add the hosts that may be called";
            wrong("allow", text.to_owned());
        }
        if let Err((index, text)) = AllowList::parse(&self.allow) {
            wrong(&format!("allow.{index}"), text);
        }
        match (self.secrets.len(), &self.secret) {
            (0, None) => {
                let text = "there is no secret to sign with: set secrets, or secret";
                wrong("secrets", text.to_owned());
            }
            (1.., Some(_)) => {
                let text = "secrets and secret exclude each other: leave one out";
                wrong("secret", text.to_owned());
            }
            (count, _) if count > SECRETS_MAX => {
                wrong("secrets", format!("there are at most {SECRETS_MAX}"));
            }
            _ => {}
        }
        for (index, secret) in self.secrets.iter().enumerate() {
            if let Err(text) = SigningKey::new(secret.reveal()) {
                wrong(&format!("secrets.{index}"), text.to_owned());
            }
        }
        for name in self.headers.keys() {
            if let Err(text) = super::request::check_header(name) {
                wrong("headers", text);
            }
        }
        if self.schedule.len() > SCHEDULE_MAX {
            wrong("schedule", format!("it has at most {SCHEDULE_MAX} waits"));
        }
        for (index, wait) in self.schedule.iter().enumerate() {
            if wait.0.is_zero() {
                let text = "it is zero: set a time, such as 5s";
                wrong(&format!("schedule.{index}"), text.to_owned());
            }
        }
        for (key, duration) in [
            ("disable_after", self.disable_after),
            ("timeout", self.timeout),
        ] {
            if duration.0.is_zero() {
                wrong(key, "it is zero: set a time, such as 10s".to_owned());
            }
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight) {
            wrong("in_flight", format!("it is from 1 to {IN_FLIGHT_MAX}"));
        }
        crate::config_errors::result(errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_error_is_reported_with_its_place() {
        let wrong = |config: serde_json::Value| -> Vec<String> {
            let config: WebhookOutConfig = serde_json::from_value(config).unwrap();
            let errors = config.check().err().unwrap_or_default();
            errors.into_iter().map(|error| error.path).collect()
        };
        let config = json!({
            "url": "msg.url", "allow": [], "secrets": ["whsec_%", "a"], "secret": "msg.secret",
            "headers": { "Webhook-Id": "'x'" }, "schedule": ["5s", "0s"], "timeout": "0s",
            "in_flight": 0,
        });
        let expected = [
            "allow",
            "secret",
            "secrets.0",
            "headers",
            "schedule.1",
            "timeout",
            "in_flight",
        ];
        assert_eq!(wrong(config), expected);
        let config = json!({ "url": "msg.url", "allow": ["*", "a b"] });
        assert_eq!(wrong(config), ["allow.1", "secrets"]);
        let config = json!({ "url": "msg.url", "allow": ["*"], "secrets": ["a", "whsec_YWJj"] });
        assert!(wrong(config).is_empty());
        let error = serde_json::from_value::<WebhookOutConfig>(json!({ "allow": [] }));
        assert_eq!(error.unwrap_err().to_string(), "missing field `url`");
    }

    #[test]
    fn the_client_gets_its_settings() {
        let config: WebhookOutConfig = serde_json::from_value(json!({
            "url": "msg.url", "allow": ["a.example"], "secrets": ["a"], "timeout": "2s",
            "max_response": "1KiB", "proxy": "http://proxy.example:3128", "in_flight": 3,
            "tls": { "ca": "ca.pem" },
        }))
        .unwrap();
        let settings = config.client_settings();
        assert_eq!(settings.allow, ["a.example"]);
        assert_eq!(settings.timeout, Duration::from_secs(2));
        assert_eq!(settings.connect_timeout, Duration::from_secs(2));
        assert_eq!((settings.max_response, settings.max_in_flight), (1024, 3));
        assert_eq!(settings.proxy, config.proxy);
        assert!(settings.tls.ca.is_some());
    }
}
