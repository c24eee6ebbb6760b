//! The ready-made service types that keep something: `dedup` and `aggregate`.
//!
//! | where | what |
//! | --- | --- |
//! | `dedup` | what counts as seen before, and for how long |
//! | `closing` | which message and which time closes a group |
//! | `limits` | sizes, and what is too much of something |
//! | `lives` | what one life of an app leaves to the next |
//! | `crash` | `kill -9`, again and again, through the shipped binary |

use brickwork::prelude::*;
use brickwork::testing::{Setup, TestApp};
use brickwork_actors::{Aggregate, Dedup};
use serde_json::Value;

mod closing;
mod crash;
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

/// What of a group doesn't depend on the time.
#[track_caller]
pub(crate) fn expect_group(app: &TestApp, key: Value, closed: &str, messages: Value) {
    let group = app.expect(&OUT);
    let count = messages.as_array().expect("a list").len();
    assert_eq!(group["messages"], messages, "{group}");
    assert_eq!(group["key"], key, "{group}");
    assert_eq!(group["closed"], closed, "{group}");
    assert_eq!(group["count"], count, "{group}");
}
