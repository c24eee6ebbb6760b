//! Supervision policies: decisions about restart, retry, scaling and quarantine, as functions
//! over values.
//!
//! No function here waits, reads a clock, draws random numbers or logs: the caller passes the
//! time and a random number in, and carries the decision out.
//!
//! | policy | decides |
//! | --- | --- |
//! | [`Supervisor`] | which children to stop and start after one has ended |
//! | [`RestartWindow`] | whether there were too many restarts |
//! | [`History`] | when a failed child starts again |
//! | [`RetryPolicy`] | the fate of a message after an attempt |
//! | [`Breaker`] | whether a service may take messages while most attempts fail |
//! | [`Backoff`] | the length of a wait |
//! | [`Autoscaler`] | how many instances a service has |
//! | [`quarantine`] | which messages are suspected of crashes, and which is retried alone |

mod backoff;
mod breaker;
mod elastic;
mod intensity;
pub mod quarantine;
mod restart;
mod retry;
mod spec;
mod strategy;

pub use backoff::Backoff;
pub use breaker::{Breaker, BreakerPhase, BreakerPolicy, OUTAGE_SHARE, Ticket, Verdict};
pub use elastic::{Autoscaler, CHECK_INTERVAL, Instances, Load};
pub use intensity::RestartWindow;
pub use restart::{History, Restart, RestartPolicy};
pub use retry::{Attempt, RetryDecision, RetryPolicy};
pub use spec::{GiveUpPolicy, Intensity, OnPanic, RestartType, Strategy};
pub use strategy::{ChildSpec, DEFAULT_RESTART, Decision, Exit, Steps, Supervisor};
