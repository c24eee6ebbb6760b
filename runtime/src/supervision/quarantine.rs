//! Quarantine: the rules for messages that were in flight when their process crashed.
//!
//! A process that crashes had many messages in flight and died of one of them, or of
//! something else. So the rules look for the culprit step by step, and blame no message for
//! a crash that another message may have caused:
//!
//! 1. A message that was in flight during [`SUSPECT_AFTER`] crashes is a *suspect*. It
//!    leaves its queue for the quarantine.
//! 2. A process tries one suspect at a time, oldest first ([`TrialOrder`]). Of several
//!    queues, only those with a consumer take part.
//! 3. The first trial runs beside normal work ([`DeliveryMode::Concurrent`]). After
//!    [`ISOLATE_AFTER`] crashes the suspect is tried alone ([`DeliveryMode::Exclusive`]):
//!    the other messages in flight get [`DRAIN_TIMEOUT`] to end, and no queue hands out
//!    anything else ([`Isolation`]).
//! 4. A handler that asks waits for another handler. The queues in which a handler asked
//!    stay open until it has its answer. A suspect that asks is tried *with dependents*
//!    from then on ([`DeliveryMode::WithDependents`]).
//! 5. A crash during an exclusive trial counts as a failed attempt of the suspect. A crash
//!    with dependents counts only after [`BLAME_IN_COMPANY_AFTER`] crashes: a dependent that
//!    caused the earlier ones is a suspect itself by then, and no longer handed out beside
//!    this one. No other crash counts.
//! 6. A message that is blamed for a crash and has no attempts left is given up
//!    ([`is_given_up`]).
//!
//! A suspect that is requeued, or whose connection is lost, is not blamed.
//!
//! The types here are values: transports store the [`CrashRecord`] of each message, carry
//! the decisions out, and wait.

use std::time::Duration;

mod crash_record;
mod isolation;
#[cfg(test)]
mod tests;
mod trial_order;

pub use crash_record::{CrashRecord, DeliveryMode, is_given_up};
pub use isolation::Isolation;
pub use trial_order::TrialOrder;

/// A message that was in flight during this many crashes is a suspect.
pub const SUSPECT_AFTER: u32 = 2;
/// A suspect that was in flight during this many crashes is tried alone.
pub const ISOLATE_AFTER: u32 = 3;
/// A suspect that was in flight during this many crashes is blamed for the next one even
/// if it has dependents.
pub const BLAME_IN_COMPANY_AFTER: u32 = ISOLATE_AFTER + 2;
/// How long a transport waits for messages in flight before it tries a suspect alone. A
/// handler that takes longer hangs, and has a deadline of its own.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a new consumer waits until the suspects of its queue are checked. The check
/// takes longer while another suspect is tried.
pub const SUSPECT_CHECK_TIMEOUT: Duration = Duration::from_secs(1);
