//! Config of `http-in`: defaults and validation.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{ByteSize, HumanDuration, Secret};
use brickwork::prelude::*;
use hyper::http::HeaderName;
use hyper::http::uri::Authority;
use serde::Deserialize;

use super::content::ContentTypes;
use super::endpoint::{Endpoints, RouteError};
use super::route_config::{RouteConfig, RouteEntry};
use super::routes::check_path;
use super::signature::{SignatureCheck, SignatureScheme};

/// Maximum of `body_max`: 1 GiB.
const BODY_BYTES_MAX: u64 = 1 << 30;
/// Maximum of `connections`: more than a process can have open.
const CONNECTIONS_MAX: usize = 1_000_000;
/// Maximum of `in_flight`.
const IN_FLIGHT_MAX: usize = 1_000_000;

const DEFAULT_PATH: &str = "/";
/// The output without routes.
const OUTPUT: &str = "out";

/// Config of `http-in`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpInConfig {
    /// Address to listen on. The default is reachable only from this machine; `0.0.0.0:8080`
    /// listens on all networks.
    pub listen: SocketAddr,
    /// Path that messages are posted to; other paths are answered with 404. A path that ends in
    /// `/*` stands for all paths below it. Expressions read the path of a message as
    /// `meta.headers['http-path']`, beside `http-method` and `http-query`.
    pub path: String,
    /// Several paths instead of `path`, each with the output of its messages:
    /// `{ "/orders" = "orders", "GET /orders/{id}" = "lookups", "PUT /items/*" = "items" }`. The
    /// method is POST unless the key names GET, PUT, PATCH or DELETE; HEAD is served as a GET with
    /// a reply. A parameter in braces stands for one segment, which messages have as
    /// `meta.headers['http-param-id']`. The payload of a GET or DELETE without a body is an object
    /// of its query and the parameters of the path. A route may be a table: `out`, `reply`,
    /// `query` (parameters of the query that become headers such as `http-query-page`), `status`,
    /// `headers` and `body` (the answer, by expressions in which `msg` is the reply and `meta` the
    /// envelope of the request), `content_types`, `upload` and `summary`.
    pub routes: BTreeMap<String, RouteEntry>,
    /// Accepted names in the header Host, besides those of this machine and names without a dot,
    /// such as that of a reverse proxy; others are answered with 403. By default the host is
    /// checked on loopback without a secret: so no web page can send by a name that resolves to
    /// this machine.
    pub hosts: Vec<String>,
    /// Maximum size of a body, also limited by `app.max_message`; larger ones are answered
    /// with 413.
    pub body_max: ByteSize,
    /// Maximum size of the body of a route with `upload = true`. Its file is durable before the
    /// answer. It lies in `app.data`, in `files/` and the label of the service, on the machine of
    /// this process: services that read it run there, or share the folder.
    pub upload_max: ByteSize,
    /// Maximum size of all uploaded files together; more are answered with 507. A service may
    /// remove a file that it has handled.
    pub uploads_max: ByteSize,
    /// Age at which uploaded files are removed, whether their messages were handled or not. By
    /// default never.
    pub upload_keep: Option<HumanDuration>,
    /// Accepted values of the header Content-Type; others are answered with 415.
    /// `application/json` includes every type that ends in `+json`; such a body must be valid
    /// JSON. `application/x-www-form-urlencoded` becomes an object of texts; a repeated name has
    /// a list. `*/*` accepts any type, and a request without one. Any web page can make its
    /// visitors' browsers post `text/plain` and forms, but not JSON: a secret prevents that.
    pub content_types: Vec<String>,
    /// Request header with the message id, such as `X-GitHub-Delivery`. Requests with the
    /// same id are the same message. A request without the header is answered with 400. By
    /// default every request is a new message.
    pub id_header: Option<String>,
    /// Request header with the message type, such as `X-GitHub-Event`. A request without it
    /// is answered with 400. By default the type is `request`.
    pub type_header: Option<String>,
    /// Secret shared with the sender. Requests must be signed with it, in the format of
    /// `signature`; others are answered with 401. Without a secret, headers with signatures are
    /// passed on, so that a service can check them.
    pub secret: Option<Secret>,
    /// The secret before the last change: signatures made with it are accepted, too.
    pub previous_secret: Option<Secret>,
    /// Format of the signature: that of the sender, or `standard` for Standard Webhooks; Meta
    /// signs as `github`. With `slack`, the challenge of Slack's handshake is sent back.
    pub signature: SignatureScheme,
    /// URL by which senders reach this endpoint, without the path, such as
    /// `https://hooks.example.com`. Twilio signs it.
    pub public_url: Option<String>,
    /// Token of the handshake by GET that Meta and WebSub begin with (`hub.verify_token`): the
    /// challenge of a request with this token is sent back, others are answered with 403.
    pub verify_token: Option<Secret>,
    /// Maximum difference between the time that the sender signed and the time here, for the
    /// formats that sign a time.
    pub signature_tolerance: HumanDuration,
    /// Whether the caller waits for a service's reply. Then `out` is a request; the reply is
    /// returned as JSON with 200, unless the route makes another answer of it. 406 means that the
    /// caller does not accept JSON, 502 that the service failed or no answer can be made of its
    /// reply, 504 that the reply did not come in time.
    pub reply: bool,
    /// Time to wait for the reply or, without `reply`, for the transport's confirm; without a
    /// confirm in time the request is answered with 503.
    pub reply_timeout: HumanDuration,
    /// Maximum requests that wait for the transport or for a reply; more are answered with
    /// 503.
    pub in_flight: usize,
    /// Maximum open connections; further clients wait to be accepted.
    pub connections: usize,
    /// Maximum memory of all bodies that are not confirmed yet; requests beyond it are
    /// answered with 503.
    pub memory_max: ByteSize,
    /// Time for the head of a request to arrive.
    pub header_timeout: HumanDuration,
    /// Time for the body of a request to arrive; a late one is answered with 408.
    pub body_timeout: HumanDuration,
    /// Time after which an idle connection is closed; shorter when many are open.
    pub idle_timeout: HumanDuration,
}

impl Default for HttpInConfig {
    fn default() -> Self {
        const fn seconds(seconds: u64) -> HumanDuration {
            HumanDuration(Duration::from_secs(seconds))
        }
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            path: DEFAULT_PATH.to_owned(),
            routes: BTreeMap::new(),
            hosts: Vec::new(),
            body_max: ByteSize(1 << 20),
            upload_max: ByteSize(1 << 30),
            uploads_max: ByteSize(10 << 30),
            upload_keep: None,
            content_types: vec!["application/json".to_owned()],
            id_header: None,
            type_header: None,
            secret: None,
            previous_secret: None,
            signature: SignatureScheme::default(),
            public_url: None,
            verify_token: None,
            signature_tolerance: seconds(300),
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
    /// The check of signatures; `None` without a secret.
    ///
    /// # Errors
    /// A secret does not fit the format.
    pub(super) fn signature_check(&self) -> Result<Option<SignatureCheck>, &'static str> {
        if self.secret.is_none() {
            return Ok(None);
        }
        let secrets = self.secret.iter().chain(&self.previous_secret);
        let url = self.public_url.as_deref().unwrap_or_default();
        SignatureCheck::new(self.signature, secrets, self.signature_tolerance.0, url).map(Some)
    }

    /// The keys of the routes and the routes, or the one route of `path`.
    pub(super) fn route_table(&self) -> Vec<(&str, RouteConfig)> {
        if self.routes.is_empty() {
            let out = OUTPUT.to_owned();
            let route = RouteConfig {
                out,
                ..RouteConfig::default()
            };
            return vec![(&self.path, route)];
        }
        let routes = self.routes.iter();
        routes
            .map(|(key, entry)| (key.as_str(), entry.0.clone()))
            .collect()
    }

    /// Each output once, in the order of the routes, and whether its messages get replies.
    pub(super) fn outputs(&self) -> Vec<(String, bool)> {
        let mut outputs: Vec<(String, bool)> = Vec::new();
        for (_, route) in self.route_table() {
            if !outputs.iter().any(|(name, _)| *name == route.out) {
                outputs.push((route.out, route.reply.unwrap_or(self.reply)));
            }
        }
        outputs
    }

    /// Whether any route has a reply.
    pub(super) fn replies(&self) -> bool {
        self.outputs().iter().any(|(_, replies)| *replies)
    }

    /// The paths, for the log.
    pub(super) fn path_list(&self) -> String {
        let routes: Vec<&str> = self.routes.keys().map(String::as_str).collect();
        match routes.is_empty() {
            true => self.path.clone(),
            false => routes.join(", "),
        }
    }

    /// The names that the header Host may have besides those of loopback; `None` if it may have
    /// any.
    pub(super) fn accepted_hosts(&self) -> Option<Vec<String>> {
        let is_open = self.listen.ip().is_loopback() && self.secret.is_none();
        (is_open || !self.hosts.is_empty()).then(|| self.hosts.clone())
    }

    fn check_public_url(&self) -> Result<(), &'static str> {
        let is_twilio = self.signature == SignatureScheme::Twilio && self.secret.is_some();
        match self.public_url.as_deref() {
            None if is_twilio => Err("Twilio signs it: set https://NAME"),
            Some(_) if !is_twilio => Err("it has no effect without a secret of Twilio"),
            Some(url) if !is_public_url(url) => {
                Err("it is https://NAME, without query, fragment or spaces")
            }
            _ => Ok(()),
        }
    }

    fn check_routes(&self, wrong: &mut impl FnMut(&str, String)) {
        // A wrong `path` is reported at its own place.
        if self.routes.is_empty() && check_path(&self.path).is_err() {
            return;
        }
        let place = match self.routes.is_empty() {
            true => "path",
            false => "routes",
        };
        for RouteError { key, setting, text } in Endpoints::new(self).err().unwrap_or_default() {
            let setting = match setting.is_empty() {
                true => String::new(),
                false => format!("{setting}: "),
            };
            wrong(place, format!("{key:?}: {setting}{text}"));
        }
    }

    /// Validates the config.
    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: String| errors.push(ConfigError::new(path, text));
        if let Err(text) = check_path(&self.path) {
            wrong("path", text);
        }
        if !self.routes.is_empty() && self.path != DEFAULT_PATH {
            wrong("path", "path and routes exclude each other".to_owned());
        }
        self.check_routes(&mut wrong);
        let takes_query = |key: &String| key.starts_with("GET ") || key.starts_with("DELETE ");
        if self.secret.is_some()
            && !self.signature.covers_query()
            && self.routes.keys().any(takes_query)
        {
            let text = "GET and DELETE take the query as payload, and these signatures don't \
                        cover it: use another method, or an http-in without a secret";
            wrong("routes", text.to_owned());
        }
        for (index, host) in self.hosts.iter().enumerate() {
            if !host.parse().is_ok_and(|it: Authority| it.host() == host) {
                let text = "it is not the name of a host, without a port".to_owned();
                wrong(&format!("hosts.{index}"), text);
            }
        }
        if let Err(text) = self.check_public_url() {
            wrong("public_url", text.to_owned());
        }
        if !(1..=BODY_BYTES_MAX).contains(&self.body_max.0) {
            wrong("body_max", "it is from 1B to 1GiB".to_owned());
        }
        if !(1..=self.uploads_max.0).contains(&self.upload_max.0) {
            let text = "it is from 1B to uploads_max";
            wrong("upload_max", text.to_owned());
        }
        if self.memory_max < self.body_max {
            wrong("memory_max", "it is smaller than body_max".to_owned());
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
        for (key, secret) in [
            ("secret", &self.secret),
            ("previous_secret", &self.previous_secret),
        ] {
            if let Some(secret) = secret
                && let Err(text) = self.signature.key_of(secret)
            {
                wrong(key, text.to_owned());
            }
        }
        if self
            .verify_token
            .as_ref()
            .is_some_and(|it| it.reveal().is_empty())
        {
            wrong(
                "verify_token",
                "it is empty: anyone could send it".to_owned(),
            );
        }
        if self.previous_secret.is_some() && self.secret.is_none() {
            let text = "it has no effect without secret";
            wrong("previous_secret", text.to_owned());
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
            ("upload_keep", self.upload_keep.unwrap_or(self.idle_timeout)),
        ] {
            if duration.0.is_zero() {
                wrong(key, "it is zero: set a time, such as 10s".to_owned());
            }
        }
        crate::config_errors::result(errors)
    }
}

fn is_public_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or(url.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && check_path(&format!("/{rest}")).is_ok()
    })
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
    fn the_default_is_valid_and_on_loopback() {
        assert!(wrong(json!({})).is_empty());
        assert!(HttpInConfig::default().listen.ip().is_loopback());
    }

    #[test]
    fn every_error_is_reported_with_its_place() {
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
        let config = json!({"upload_max": "2MiB", "uploads_max": "1MiB", "upload_keep": "0s"});
        assert_eq!(wrong(config), ["upload_max", "upload_keep"]);
        let config = json!({
            "path": "/a",
            "routes": { "HEAD /a": "a" },
            "hosts": ["hooks.example.com", "hooks.example.com:80", ""],
            "public_url": "https://hooks.example.com",
            "verify_token": "",
        });
        assert_eq!(
            wrong(config),
            [
                "path",
                "routes",
                "hosts.1",
                "hosts.2",
                "public_url",
                "verify_token"
            ]
        );
    }

    #[test]
    fn twilio_needs_the_public_url() {
        let twilio = |url: Option<&str>| {
            wrong(json!({ "secret": "x", "signature": "twilio", "public_url": url }))
        };
        for url in [
            None,
            Some("example.com"),
            Some("https://"),
            Some("https://a?b"),
        ] {
            assert_eq!(twilio(url), ["public_url"], "{url:?}");
        }
        assert!(twilio(Some("https://hooks.example.com/below/")).is_empty());
    }

    #[test]
    fn a_query_that_is_not_signed_is_no_payload_beside_a_secret() {
        let routes = json!({ "/a": "a", "GET /a": "a" });
        let config = |more: serde_json::Value| {
            let mut config = json!({ "routes": routes });
            let entries = more.as_object().unwrap().clone();
            config.as_object_mut().unwrap().extend(entries);
            wrong(config)
        };
        assert_eq!(config(json!({ "secret": "x" })), ["routes"]);
        assert!(config(json!({})).is_empty());
        assert!(config(json!({ "secret": "x", "signature": "gitlab" })).is_empty());
    }

    #[test]
    fn the_host_is_checked_on_loopback_without_a_secret_and_wherever_names_are_set() {
        let hosts = |config: serde_json::Value| {
            let config: HttpInConfig = serde_json::from_value(config).unwrap();
            config.accepted_hosts().map(|hosts| hosts.join(","))
        };
        let names = Some("a.example".to_owned());
        assert_eq!(hosts(json!({})), Some(String::new()));
        assert_eq!(hosts(json!({"secret": "x"})), None);
        assert_eq!(hosts(json!({"secret": "x", "hosts": ["a.example"]})), names);
        assert_eq!(hosts(json!({"listen": "0.0.0.0:80"})), None);
        let open = json!({"listen": "0.0.0.0:80", "hosts": ["a.example"]});
        assert_eq!(hosts(open), names);
    }
}
