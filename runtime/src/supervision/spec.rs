//! What a manifest says of supervision, as plain values.
//!
//! The words and their meaning are those of Erlang/OTP's `supervisor` (Design Principles,
//! "Supervisor Behaviour"), but for what [`GiveUpPolicy`] adds.

use std::time::Duration;

/// Who is restarted when a child has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Only that child.
    #[default]
    OneForOne,
    /// All children: the others are stopped first.
    OneForAll,
    /// That child and those that stand after it in the manifest.
    RestForOne,
}

/// How many restarts are too many: more than `max_restarts` in any stretch of `within`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// So many are borne.
    pub max_restarts: u32,
    /// The length of the sliding window.
    pub within: Duration,
}

/// Whether a service that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartType {
    /// Always.
    #[default]
    Permanent,
    /// When it failed, not when it came to its end.
    Transient,
    /// Never, also not when a strategy restarts those around it.
    Temporary,
}

/// What happens when a service fails more often than its intensity allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GiveUpPolicy {
    /// The service is down and tried again now and then; its messages wait in its queue,
    /// the others go on.
    #[default]
    Isolate,
    /// It has failed: its parent's strategy applies.
    Escalate,
}
