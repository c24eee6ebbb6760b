//! Decisions of supervision, as functions over values.
//!
//! Nothing here waits, counts or logs: whoever carries a decision out does.

mod backoff;
mod restart;
mod retry;
mod spec;

pub use backoff::Backoff;
pub use restart::{History, Restart, RestartPolicy};
pub use retry::{Attempt, Fate, RetryPolicy};
pub use spec::{GiveUp, Intensity, RestartType, Strategy};
