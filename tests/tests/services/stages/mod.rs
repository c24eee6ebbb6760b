//! The service types with state: `dedup` and `aggregate`.
//!
//! | module | promises on |
//! | --- | --- |
//! | `dedup` | duplicates and how long a key is remembered |
//! | `closing` | the message or the time that closes a group |
//! | `limits` | sizes and counts |
//! | `lives` | state that survives a restart |

use brickwork::prelude::*;
use brickwork::testing::{Setup, TestApp};
use brickwork_actors::{Aggregate, Dedup};
use serde_json::Value;

mod closing;
mod dedup;
mod limits;
mod lives;

pub(crate) const IN: Input<Value> = Input::new("in");
pub(crate) const BYTES: Input<Raw> = Input::new("in");
pub(crate) const OUT: Output<Value> = Output::new("out");

pub(crate) fn dedup(config: Value) -> TestApp {
    let config = serde_json::from_value(config).expect("a config");
    TestApp::of::<Dedup>(config)
}

pub(crate) fn aggregate(config: Value) -> TestApp {
    set_up(config).start()
}

pub(crate) fn set_up(config: Value) -> Setup {
    let config = serde_json::from_value(config).expect("a config");
    Setup::of::<Aggregate>(config)
}

pub(crate) fn id(text: &str) -> brickwork::MessageId {
    text.parse().expect("an id")
}

/// Expects a group, without the fields that depend on the time.
#[track_caller]
pub(crate) fn expect_group(app: &TestApp, key: Value, closed: &str, messages: Value) {
    let group = app.expect(&OUT);
    let count = messages.as_array().expect("a list").len();
    assert_eq!(group["messages"], messages, "{group}");
    assert_eq!(group["key"], key, "{group}");
    assert_eq!(group["closed"], closed, "{group}");
    assert_eq!(group["count"], count, "{group}");
}
