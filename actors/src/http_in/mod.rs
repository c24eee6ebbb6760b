//! `http-in`: emits the body of each request that it accepts.
//!
//! Owns one promise: 202 means that the transport has confirmed the message. After another
//! answer, or none, a caller may send again; with `id_header` it is the same message.
//! Everything that a client could exhaust has a bound: connections, time, heads, bodies, the
//! memory of all bodies, requests in flight. Beyond a bound, and under backpressure, requests
//! are refused with 503.
//!
//! ```text
//! brickwork::http ──▶ request ──▶ transport
//! accepts, keeps      validates,
//! the deadlines       answers
//! ```
//!
//! TLS and HTTP/2 are left to a reverse proxy.

mod accept;
mod answer;
mod body;
mod config;
mod content;
mod describe;
mod endpoint;
mod forms;
mod handshake;
mod headers;
mod payload;
mod reply;
mod request;
mod route_config;
mod routes;
mod server;
mod signature;
mod upload;

use std::net::SocketAddr;

use brickwork::HttpRoute;
use brickwork::prelude::*;

pub use config::HttpInConfig;
pub use route_config::{RouteConfig as HttpRouteConfig, RouteEntry as HttpRouteEntry};
pub use signature::SignatureScheme;

/// Emits the body of each request that it accepts.
#[derive(Debug)]
pub struct HttpIn;

impl Source for HttpIn {
    const NAME: &'static str = "http-in";
    const SUMMARY: &'static str = "emits the body of each HTTP request that it accepts";
    const EXAMPLE: &'static str = r#"[services.intake]
use = "http-in"
out = "github.deliveries"
[services.intake.config]
listen = "127.0.0.1:8080"
path = "/github"
id_header = "X-GitHub-Delivery"
type_header = "X-GitHub-Event"
secret = "${GITHUB_WEBHOOK_SECRET}"
"#;
    const FAILURES: &'static [&'static str] = &[
        "restarts, with back-off, when it can't listen on the address",
        "answers requests for another host with 403, invalid ones with 404, 405, 406, 415, 413, 401 or 400, checked in this order, and slow ones with 408",
        "answers 503 with Retry-After under backpressure, while the app stops, when too much is in flight, and when the transport doesn't confirm a message",
        "answers 507 when uploaded files have no more room; a crash may leave a file without a message, which upload_keep removes",
        "with reply: answers 502 when the service fails the request or the route can make no answer of the reply, 504 when no reply comes in time",
        "a caller without an answer can't know whether its message was confirmed: it sends again, with the same id",
    ];
    /// Several processes may listen, behind a load balancer.
    const SINGLE: bool = false;
    type Config = HttpInConfig;

    fn ports(config: &HttpInConfig, ports: &mut SourcePorts) {
        for (name, replies) in config.outputs() {
            if replies {
                ports.request(&Request::<Raw, Raw>::named(name));
            } else {
                ports.output(&Output::<Raw>::named(name));
            }
        }
    }

    fn check(config: &HttpInConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    fn listens(config: &HttpInConfig) -> Option<SocketAddr> {
        Some(config.listen)
    }

    fn http_routes(config: &HttpInConfig) -> Vec<HttpRoute> {
        describe::routes(config)
    }

    fn in_flight(config: &HttpInConfig) -> usize {
        config.in_flight
    }

    async fn run(config: &HttpInConfig, out: &mut SourceContext) -> Result<(), Failure> {
        server::serve(config, out).await
    }
}
