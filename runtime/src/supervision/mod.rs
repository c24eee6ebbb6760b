//! Decisions of supervision, as functions over values.
//!
//! Nothing here waits, counts time or logs: whoever carries a decision out does.

mod backoff;
mod elastic;
mod intensity;
pub mod quarantine;
mod restart;
mod retry;
mod spec;
mod strategy;

pub use backoff::Backoff;
pub use elastic::{Autoscaler, Instances, LOOK_EVERY, Load};
pub use intensity::RestartWindow;
pub use restart::{History, Restart, RestartPolicy};
pub use retry::{Attempt, RetryDecision, RetryPolicy};
pub use spec::{GiveUpPolicy, Intensity, RestartType, Strategy};
pub use strategy::{ChildSpec, DEFAULT_RESTART, Decision, Exit, Supervisor};
