//! `poll`: reads an HTTP API again and again, and emits the records that are new.
//!
//! | file | content |
//! | --- | --- |
//! | `cursor` | values of a cursor |
//! | `decision` | new records and the position, with the invariants |
//! | `request`, `answer` | one page |
//! | `poller` | the loop |
//!
//! Each record is sent at least once. Its message id is made of the record, so a record that is
//! sent again after a crash is the same message: a service with a store, or `dedup`, handles it
//! once.

mod answer;
mod config;
mod cursor;
mod decision;
mod poller;
mod request;

use brickwork::prelude::*;

pub use config::{CursorConfig, PagesConfig, PollConfig, Verb as PollMethod};
pub use cursor::CursorForm;

use crate::ports::OUT;

/// Maximum messages in flight.
const IN_FLIGHT: usize = 256;

/// Emits the new records of an HTTP API.
#[derive(Debug)]
pub struct Poll;

impl Source for Poll {
    const NAME: &'static str = "poll";
    const SUMMARY: &'static str =
        "reads an HTTP API on a schedule and emits the records that are new";
    const EXAMPLE: &'static str = r#"[services.orders]
use = "poll"
out = "orders"
[services.orders.config]
every = "1m"
url = "'https://api.example.com/orders'"
query = { updated_since = "msg.cursor", limit = "100" }
records = "msg.orders"
id = "msg.number"
cursor = { field = "msg.updated_at", form = "time", lag = "10s", start = "2026-01-01T00:00:00Z" }
pages.next_url = "msg.next"
allow = ["api.example.com"]
"#;
    const FAILURES: &'static [&'static str] = &[
        "tries again, with back-off or after Retry-After, when the API fails: nothing of that poll is skipped",
        "tries again while no OAuth 2 token can be had, or the credentials are refused",
        "tries again when an answer isn't JSON, an expression fails or a page repeats, with the reason in the log",
        "emits records again under the same ids when it is killed before its position is saved",
        "loses a record that becomes visible later than config.cursor.lag after its cursor value",
        "skips a record larger than app.max_message, with an error in the log",
        "without a durable transport, starts from config.cursor.start each time",
    ];
    type Config = PollConfig;

    fn ports(_: &PollConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn check(config: &PollConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    fn in_flight(_: &PollConfig) -> usize {
        IN_FLIGHT
    }

    async fn run(config: &PollConfig, out: &mut SourceContext) -> Result<(), Failure> {
        poller::Poller::new(config, out)?.run().await
    }
}

#[cfg(test)]
mod tests;
