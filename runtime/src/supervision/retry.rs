//! What happens to a message after an attempt to handle it.

use std::time::Duration;

use super::Backoff;
use crate::dead_letter::Reason;
use crate::failure::FailureKind;

/// How often, and when, a failed message is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// After this many attempts it is dead-lettered.
    pub attempts: u32,
    /// The waits between them.
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

/// What happens to the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// It is done.
    Ack,
    /// It is delivered again, as this attempt.
    Retry {
        /// After this time.
        after: Duration,
        /// The number of the next attempt.
        attempt: u32,
    },
    /// It is given up.
    DeadLetter(Reason),
}

impl RetryPolicy {
    /// Decides about attempt number `attempt` (from 1); `random` is between 0 and 1.
    pub fn fate(&self, outcome: Attempt, attempt: u32, random: f64) -> RetryDecision {
        let (wait, reason) = match outcome {
            Attempt::Ok => return RetryDecision::Ack,
            Attempt::Failed(FailureKind::Reject) => {
                return RetryDecision::DeadLetter(Reason::Reject);
            }
            Attempt::Failed(FailureKind::Defer(after)) => {
                return RetryDecision::Retry { after, attempt };
            }
            Attempt::Failed(FailureKind::After(after)) => (Some(after), Reason::Error),
            Attempt::Failed(FailureKind::Retry) => (None, Reason::Error),
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
            Just(Attempt::Failed(FailureKind::After(wait))),
            Just(Attempt::Failed(FailureKind::Defer(wait))),
            Just(Attempt::Panicked),
            Just(Attempt::TimedOut),
        ]
    }

    proptest! {
        #[test]
        fn every_message_ends_after_its_attempts_and_deferring_costs_none(
            attempts in 1u32..20,
            outcomes in prop::collection::vec(outcomes(), 0..100),
        ) {
            let policy = policy(attempts);
            let mut attempt = 1;
            for outcome in outcomes {
                match policy.fate(outcome, attempt, 0.5) {
                    RetryDecision::Ack => prop_assert!(false, "a failure is no success"),
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
    fn a_rejected_message_is_given_up_at_once() {
        let fate = policy(5).fate(Attempt::Failed(FailureKind::Reject), 1, 0.0);
        assert_eq!(fate, RetryDecision::DeadLetter(Reason::Reject));
    }
}
