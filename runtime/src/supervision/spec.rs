//! The supervision settings of a manifest, as plain values.
//!
//! Words and meaning are those of Erlang/OTP's `supervisor` (Design Principles, "Supervisor
//! Behaviour"), except [`GiveUpPolicy`].

use std::time::Duration;

/// Which children are restarted when one has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Only the failed child.
    #[default]
    OneForOne,
    /// All children; the running ones are stopped first.
    OneForAll,
    /// The failed child and those after it.
    RestForOne,
}

impl Strategy {
    /// All strategies.
    pub const ALL: [Self; 3] = [Self::OneForOne, Self::OneForAll, Self::RestForOne];

    /// Returns the name of the strategy in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneForOne => "one_for_one",
            Self::OneForAll => "one_for_all",
            Self::RestForOne => "rest_for_one",
        }
    }
}

/// Restart intensity: at most `max_restarts` in any period of length `within`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Maximum restarts in the window.
    pub max_restarts: u32,
    /// Length of the sliding window.
    pub within: Duration,
}

/// Whether a service that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartType {
    /// Always.
    #[default]
    Permanent,
    /// When it failed; not when it reached its end.
    Transient,
    /// Never, not even when a strategy restarts its siblings.
    Temporary,
}

/// The consequence when a service fails more often than its intensity allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GiveUpPolicy {
    /// The service is stopped and started again after a while. Its messages wait in its
    /// queues; other services continue.
    #[default]
    Isolate,
    /// The service counts as failed, and its parent's strategy applies.
    Escalate,
}

/// The consequence of a panic in a handler for its service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnPanic {
    /// The instance is rebuilt at once, and nothing counts against the service.
    #[default]
    Instance,
    /// The panic counts as a failure of the service, as in OTP.
    Service,
}
