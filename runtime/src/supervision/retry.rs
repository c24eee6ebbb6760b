//! Retry policy: the fate of a message after an attempt to handle it.

use std::time::Duration;

use super::Backoff;
use crate::dead_letter::Reason;
use crate::failure::FailureKind;

/// How often a failed message is retried, and after which waits.
///
/// ```
/// use std::time::Duration;
/// use brickwork::{FailureKind, Reason};
/// use brickwork::supervision::{Attempt, Backoff, RetryDecision, RetryPolicy};
///
/// let second = Duration::from_secs(1);
/// let backoff = Backoff { min: second, max: 60 * second, jitter: 0.0 };
/// let policy = RetryPolicy { attempts: 2, backoff };
/// let failed = Attempt::Failed(FailureKind::Retry);
/// let retry = RetryDecision::Retry { after: second, attempt: 2 };
/// assert_eq!(policy.decide(failed, 1, 0.0), retry);
/// assert_eq!(policy.decide(failed, 2, 0.0), RetryDecision::DeadLetter(Reason::Error));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Maximum attempts; a message that fails the last one is dead-lettered.
    pub attempts: u32,
    /// Waits between attempts.
    pub backoff: Backoff,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The handler succeeded.
    Ok,
    /// The handler returned a failure.
    Failed(FailureKind),
    /// The handler panicked.
    Panicked,
    /// The handler was cancelled at its deadline.
    TimedOut,
}

/// The fate of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// The message is acked.
    Ack,
    /// The message is delivered again.
    Retry {
        /// Delay of the delivery.
        after: Duration,
        /// Number of the next attempt.
        attempt: u32,
    },
    /// The message is dead-lettered.
    DeadLetter(Reason),
}

impl RetryPolicy {
    /// Decides after attempt number `attempt`, counted from 1. `random` is between 0 and 1.
    ///
    /// A deferred message is delivered again with the same attempt number.
    pub fn decide(&self, outcome: Attempt, attempt: u32, random: f64) -> RetryDecision {
        let (wait, reason) = match outcome {
            Attempt::Ok => return RetryDecision::Ack,
            Attempt::Failed(FailureKind::Reject) => {
                return RetryDecision::DeadLetter(Reason::Reject);
            }
            Attempt::Failed(FailureKind::Defer(after)) => {
                return RetryDecision::Retry { after, attempt };
            }
            Attempt::Failed(FailureKind::After(after)) => (Some(after), Reason::Error),
            Attempt::Failed(FailureKind::Retry | FailureKind::Restart) => (None, Reason::Error),
            Attempt::Panicked => (None, Reason::Panic),
            Attempt::TimedOut => (None, Reason::Timeout),
        };
        if attempt >= self.attempts {
            return RetryDecision::DeadLetter(reason);
        }
        let wait = wait.unwrap_or_else(|| self.backoff.delay(attempt.saturating_sub(1), random));
        RetryDecision::Retry {
            after: wait,
            attempt: attempt + 1,
        }
    }

    /// Decides as [`decide`](Self::decide), except that an error, a panic or a timeout does not use
    /// up the last attempt. So decides the probe of a circuit breaker: most messages fail, so the
    /// failure is hardly the fault of this one.
    pub fn decide_sparing(&self, outcome: Attempt, attempt: u32, random: f64) -> RetryDecision {
        match self.decide(outcome, attempt, random) {
            RetryDecision::DeadLetter(Reason::Error | Reason::Panic | Reason::Timeout) => {
                RetryDecision::Retry {
                    after: self.backoff.delay(attempt.saturating_sub(1), random),
                    attempt,
                }
            }
            decision => decision,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(attempts: u32) -> RetryPolicy {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(300));
        RetryPolicy {
            attempts,
            backoff: Backoff {
                min,
                max,
                jitter: 0.2,
            },
        }
    }

    fn outcomes() -> impl Strategy<Value = Attempt> {
        let wait = Duration::from_secs(3);
        prop_oneof![
            Just(Attempt::Failed(FailureKind::Retry)),
            Just(Attempt::Failed(FailureKind::Restart)),
            Just(Attempt::Failed(FailureKind::After(wait))),
            Just(Attempt::Failed(FailureKind::Defer(wait))),
            Just(Attempt::Panicked),
            Just(Attempt::TimedOut),
        ]
    }

    proptest! {
        #[test]
        fn every_message_ends_within_its_attempts_and_a_deferral_costs_none(
            attempts in 1u32..20,
            outcomes in prop::collection::vec(outcomes(), 0..100),
        ) {
            let policy = policy(attempts);
            let mut attempt = 1;
            for outcome in outcomes {
                match policy.decide(outcome, attempt, 0.5) {
                    RetryDecision::Ack => prop_assert!(false, "a failed attempt is not acked"),
                    RetryDecision::Retry { attempt: next, .. } => {
                        let deferred = matches!(outcome, Attempt::Failed(FailureKind::Defer(_)));
                        prop_assert_eq!(next, if deferred { attempt } else { attempt + 1 });
                        prop_assert!(next <= attempts);
                        attempt = next;
                    }
                    RetryDecision::DeadLetter(_) => {
                        prop_assert_eq!(attempt, attempts);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_rejected_message_is_dead_lettered_at_once() {
        let decision = policy(5).decide(Attempt::Failed(FailureKind::Reject), 1, 0.0);
        assert_eq!(decision, RetryDecision::DeadLetter(Reason::Reject));
    }
    #[test]
    fn a_sparing_decision_differs_at_the_last_attempt_only() {
        let policy = policy(3);
        let panicked = Attempt::Panicked;
        for attempt in 1..3 {
            let decision = policy.decide_sparing(panicked, attempt, 0.0);
            assert_eq!(decision, policy.decide(panicked, attempt, 0.0));
        }
        let last = policy.decide_sparing(panicked, 3, 0.0);
        assert!(
            matches!(last, RetryDecision::Retry { attempt: 3, .. }),
            "{last:?}"
        );
        let reject = Attempt::Failed(FailureKind::Reject);
        let decision = policy.decide_sparing(reject, 3, 0.0);
        assert_eq!(decision, RetryDecision::DeadLetter(Reason::Reject));
    }
}
