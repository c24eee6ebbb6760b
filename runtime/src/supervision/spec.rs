//! What a manifest says of supervision, as plain data: the words of Erlang/OTP's child
//! specifications, and how often is too often.

use std::time::Duration;

/// What a supervisor does with its other children when one of them has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Only the one that failed is started again.
    OneForOne,
    /// All are stopped, the last one first, and started again.
    OneForAll,
    /// The one that failed and those after it, in the manifest's order, are stopped, the
    /// last one first, and started again.
    RestForOne,
}

/// How many restarts are too many: more than `max_restarts` within any stretch of time
/// that is `within` long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// So many are allowed; with 0 the first failure is one too many.
    pub max_restarts: u32,
    /// The length of the sliding window.
    pub within: Duration,
}

/// When something that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartType {
    /// Always.
    Permanent,
    /// Only when it has failed.
    Transient,
    /// Never.
    Temporary,
}

/// What becomes of a service that has failed too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// It is down, its messages wait in their queues, the others go on; it is tried again
    /// now and then.
    Isolate,
    /// Its supervisor has failed by it, and does as its own strategy says.
    Escalate,
}
