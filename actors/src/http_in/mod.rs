//! `http-in`: emits the body of each request that is posted to it.
//!
//! Owns the promise that 202 means: the transport has the message. Whoever gets another
//! answer, or none, may send again; with `id_header` it is the same message. Everything
//! that a client could use up has a bound: connections, time, heads, bodies, the memory
//! of all bodies together, requests in flight. What can't be taken now is refused with
//! 503, and the app's pressure is one such reason.
//!
//! ```text
//! server ─▶ connection ─▶ door ─▶ transport
//! accepts   watches the   checks, answers
//!           time
//! ```
//!
//! Refuses TLS and HTTP/2, which are the business of a proxy in front.

mod answer;
mod body;
mod config;
mod connection;
mod content;
mod headers;
mod io_deadline;
mod request;
mod server;
mod signature;

use brickwork::prelude::*;

use crate::ports::OUT;
pub use config::HttpInConfig;
use request::ASK;

/// Emits the body of each request that is posted to it.
#[derive(Debug)]
pub struct HttpIn;

impl Source for HttpIn {
    const NAME: &'static str = "http-in";
    const SUMMARY: &'static str = "emits the body of each request that is posted to it";
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
        "runs again, after the restart back-off, when the address can't be listened on",
        "answers 404, 405, 415, 413, 401 or 400 to requests that are wrong, in this order; 408 to those that are slow",
        "answers 503 with Retry-After while the app is under pressure or stops, when too much is in flight, and when the transport doesn't take a message over",
        "with reply: answers 502 when the service gave the request up, 504 when no reply came in time",
        "a caller without an answer can't know whether its message was taken over: it sends again, under the same id",
    ];
    /// Each process may listen, with a load balancer in front.
    const SINGLE: bool = false;
    type Config = HttpInConfig;

    fn ports(config: &HttpInConfig, ports: &mut SourcePorts) {
        if config.reply {
            ports.request(&ASK);
        } else {
            ports.output(&OUT);
        }
    }

    fn check(config: &HttpInConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    fn in_flight(config: &HttpInConfig) -> usize {
        config.in_flight
    }

    async fn run(config: &HttpInConfig, out: &mut SourceContext) -> Result<(), Failure> {
        server::serve(config, out).await
    }
}
