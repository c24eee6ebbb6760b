//! The consequence of a call for its message.

use std::time::Duration;

use brickwork::Failure;
use serde_json::Value;

use crate::http_client::Verdict;

/// Longest wait that an expression can ask for.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The consequence of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The other side has done it.
    Done,
    /// The other side will never do it, for this reason.
    Refused(String),
    /// The message is retried or deferred.
    Failed(Failure),
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Succeeded => Self::Done,
            Verdict::Rejected { reason } => Self::Refused(reason),
            Verdict::Later {
                after,
                spends_attempt,
                reason,
            } => Self::Failed(match (after, spends_attempt) {
                (None, _) => Failure::retry(reason),
                (Some(after), true) => Failure::after(spread(after), reason),
                (Some(after), false) => Failure::defer(spread(after), reason),
            }),
        }
    }
}

impl Outcome {
    /// Returns the outcome that the value of an expression names: `"ok"`, `"retry"`, `"reject"`, a
    /// number of seconds, or `null` for this one.
    ///
    /// # Errors
    /// A reject, if the value is another one.
    pub(super) fn overridden_by(self, json: &str) -> Result<Self, Failure> {
        let reason = match &self {
            Self::Done => "the outcome is not ok".to_owned(),
            Self::Refused(reason) => reason.clone(),
            Self::Failed(failure) => failure.text().to_owned(),
        };
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        match &value {
            Value::Null => Ok(self),
            Value::String(text) if text == "ok" => Ok(Self::Done),
            Value::String(text) if text == "reject" => Ok(Self::Refused(reason)),
            Value::String(text) if text == "retry" => Ok(match self {
                Self::Failed(failure) => Self::Failed(failure),
                Self::Done | Self::Refused(_) => Self::Failed(Failure::retry(reason)),
            }),
            Value::Number(seconds) => {
                let seconds = seconds.as_f64().unwrap_or_default();
                let wait = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(WAIT_MAX);
                let wait = spread(wait.min(WAIT_MAX));
                Ok(Self::Failed(Failure::defer(wait, reason)))
            }
            _ => Err(Failure::reject(
                "the value of outcome is none of 'ok', 'retry', 'reject', a number of seconds and null",
            )),
        }
    }

    /// Returns the refusal of an outcome that is unknown.
    pub(super) fn rejected(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Refused(failure.text().to_owned()),
            other => other,
        }
    }
}

/// Adds up to a tenth, and at least up to 100 ms, so that messages that wait for one host do not
/// come back all at once.
fn spread(wait: Duration) -> Duration {
    let most = (wait / 10).max(Duration::from_millis(100));
    wait + most.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use brickwork::FailureKind;

    use super::*;

    fn later(after: Option<Duration>, spends_attempt: bool) -> Outcome {
        let reason = "busy".to_owned();
        Verdict::Later {
            after,
            spends_attempt,
            reason,
        }
        .into()
    }

    fn kind(outcome: &Outcome) -> FailureKind {
        match outcome {
            Outcome::Failed(failure) => failure.kind(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wait_is_spread_and_spends_an_attempt_or_not() {
        let second = Duration::from_secs(1);
        assert_eq!(kind(&later(None, true)), FailureKind::Retry);
        for _ in 0..100 {
            let FailureKind::After(wait) = kind(&later(Some(10 * second), true)) else {
                panic!("the attempt counts");
            };
            assert!((10 * second..=11 * second).contains(&wait), "{wait:?}");
            let FailureKind::Defer(wait) = kind(&later(Some(second), false)) else {
                panic!("the attempt does not count");
            };
            assert!((second..=2 * second).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn an_expression_decides_over_the_status() {
        let refused = || Outcome::Refused("no".to_owned());
        assert_eq!(refused().overridden_by("null").unwrap(), refused());
        assert_eq!(refused().overridden_by("\"ok\"").unwrap(), Outcome::Done);
        let retried = refused().overridden_by("\"retry\"").unwrap();
        assert_eq!(kind(&retried), FailureKind::Retry);
        let rejected = Outcome::Done.overridden_by("\"reject\"").unwrap();
        assert!(matches!(rejected, Outcome::Refused(_)));
        let waits = |seconds| kind(&refused().overridden_by(seconds).unwrap());
        assert!(matches!(waits("1e300"), FailureKind::Defer(wait) if wait <= WAIT_MAX * 2));
        assert!(matches!(waits("-5"), FailureKind::Defer(wait) if wait < Duration::from_secs(1)));
        for wrong in ["\"maybe\"", "[]", "true"] {
            let failure = refused().overridden_by(wrong).unwrap_err();
            assert_eq!(failure.kind(), FailureKind::Reject, "{wrong}");
        }
    }
}
