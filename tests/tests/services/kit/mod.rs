//! The test kit: its dialogue with services, its faults, and the failures that it reports.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

mod conversation;
mod failing;
mod faults;
mod stock;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Returns the text with which `test` panics.
pub(crate) fn panic_of(test: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(test)).expect_err("it panics");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| {
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
    })
    .expect("a text")
}

/// Asserts that a text contains all of these parts.
#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
