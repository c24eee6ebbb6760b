//! What a manifest says of an `http-in`, and what can't be meant.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{ByteSize, HumanDuration, Secret};
use brickwork::prelude::*;
use hyper::http::HeaderName;
use serde::Deserialize;

use super::content::ContentTypes;

/// Larger than any body should be: 1 GiB.
const BODY_BYTES_MAX: u64 = 1 << 30;
/// More than a process may have open.
const CONNECTIONS_MAX: usize = 1_000_000;
const IN_FLIGHT_MAX: usize = 1_000_000;

/// Config of `http-in`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpInConfig {
    /// The address to listen on. Only this machine can reach the default; `0.0.0.0:8080`
    /// is every network that it is in.
    pub listen: SocketAddr,
    /// The path that messages are posted to; any other is answered with 404.
    pub path: String,
    /// The largest body; also never larger than `app.max_message`. Others are answered
    /// with 413.
    pub body_max: ByteSize,
    /// Forms of a body that are accepted, as in the header Content-Type; others are
    /// answered with 415. `application/json` includes every type that ends in `+json`; a
    /// body that says to be JSON is checked to be it. `*/*` accepts anything, also
    /// without a type. Mind that any web page can have its visitors' browsers post
    /// `text/plain` and forms, but not JSON: a secret keeps them out.
    pub content_types: Vec<String>,
    /// The request header with the message id, such as `X-GitHub-Delivery`. The same id
    /// means the same message. A request without it is answered with 400. If left out,
    /// every request is a new message.
    pub id_header: Option<String>,
    /// The request header with the message type, such as `X-GitHub-Event`. A request
    /// without it is answered with 400. If left out, the type is `request`.
    pub type_header: Option<String>,
    /// A secret that is shared with the sender: requests must be signed with it as GitHub
    /// does, by `X-Hub-Signature-256: sha256=` and the HMAC-SHA256 of the body in
    /// hexadecimal digits; others are answered with 401.
    pub secret: Option<Secret>,
    /// Whether the caller waits for a service's reply. Then `out` is a request, and the
    /// reply comes back as JSON with 200; 502 means that the service gave the request up,
    /// 504 that no reply came in time.
    pub reply: bool,
    /// How long a caller waits for the reply, or, without `reply`, for the transport to
    /// take its message over (then it is answered with 503).
    pub reply_timeout: HumanDuration,
    /// How many requests may wait for the transport, or for their reply; more are
    /// answered with 503.
    pub in_flight: usize,
    /// How many connections may be open; whoever comes then waits to be accepted.
    pub connections: usize,
    /// How much memory bodies may take that aren't taken over yet, all together; requests
    /// beyond it are answered with 503.
    pub memory_max: ByteSize,
    /// A request's head must be here within this time.
    pub header_timeout: HumanDuration,
    /// A request's body must be here within this time, or is answered with 408.
    pub body_timeout: HumanDuration,
    /// A connection that asks nothing for so long is closed; sooner when many are open.
    pub idle_timeout: HumanDuration,
}

impl Default for HttpInConfig {
    fn default() -> Self {
        const fn seconds(seconds: u64) -> HumanDuration {
            HumanDuration(Duration::from_secs(seconds))
        }
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            path: "/".to_owned(),
            body_max: ByteSize(1 << 20),
            content_types: vec!["application/json".to_owned()],
            id_header: None,
            type_header: None,
            secret: None,
            reply: false,
            reply_timeout: seconds(30),
            in_flight: 256,
            connections: 1024,
            memory_max: ByteSize(64 << 20),
            header_timeout: seconds(10),
            body_timeout: seconds(10),
            idle_timeout: seconds(60),
        }
    }
}

impl HttpInConfig {
    /// Everything that can't be meant.
    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: String| errors.push(ConfigError::new(path, text));
        if !is_path(&self.path) {
            let text = "it starts with / and has no query, no fragment and no spaces";
            wrong("path", text.to_owned());
        }
        if !(1..=BODY_BYTES_MAX).contains(&self.body_max.0) {
            wrong("body_max", "it is from 1B to 1GiB".to_owned());
        }
        if self.memory_max < self.body_max {
            wrong("memory_max", "it has no room for one body".to_owned());
        }
        if let Err(text) = ContentTypes::new(&self.content_types) {
            wrong("content_types", text);
        }
        let headers = [
            ("id_header", &self.id_header),
            ("type_header", &self.type_header),
        ];
        for (key, name) in headers {
            if let Some(name) = name
                && name.parse::<HeaderName>().is_err()
            {
                wrong(key, format!("{name:?} can't be the name of a header"));
            }
        }
        if self.secret.as_ref().is_some_and(|s| s.reveal().is_empty()) {
            let text = "it is empty: everybody could sign with it";
            wrong("secret", text.to_owned());
        }
        for (key, number, max) in [
            ("in_flight", self.in_flight, IN_FLIGHT_MAX),
            ("connections", self.connections, CONNECTIONS_MAX),
        ] {
            if !(1..=max).contains(&number) {
                wrong(key, format!("it is from 1 to {max}"));
            }
        }
        for (key, duration) in [
            ("reply_timeout", self.reply_timeout),
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if duration.0.is_zero() {
                wrong(key, "nothing is done in no time".to_owned());
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

fn is_path(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    text.starts_with('/') && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(config: serde_json::Value) -> Vec<String> {
        let config: HttpInConfig = serde_json::from_value(config).unwrap();
        let errors = config.check().err().unwrap_or_default();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn the_default_is_right_and_on_loopback() {
        assert!(wrong(json!({})).is_empty());
        assert!(HttpInConfig::default().listen.ip().is_loopback());
    }

    #[test]
    fn everything_that_cannot_be_meant_is_reported_with_its_place() {
        let config = json!({
            "path": "hook?x",
            "body_max": "2MiB",
            "memory_max": "1MiB",
            "content_types": ["json"],
            "id_header": "X GitHub",
            "type_header": "",
            "secret": "",
            "in_flight": 0,
            "connections": 0,
            "header_timeout": "0s",
        });
        assert_eq!(
            wrong(config),
            [
                "path",
                "memory_max",
                "content_types",
                "id_header",
                "type_header",
                "secret",
                "in_flight",
                "connections",
                "header_timeout"
            ]
        );
        assert_eq!(
            wrong(json!({"body_max": "2GiB", "memory_max": "4GiB"})),
            ["body_max"]
        );
        assert!(wrong(json!({"path": "/a/b%20c", "content_types": ["*/*"]})).is_empty());
    }
}
