//! Policy of `webhook-out`: the meaning of an answer, the next try, and the death of an endpoint.
//! Functions over values.

use std::time::{Duration, SystemTime};

use crate::http_client::{Answer, CallError, retry_after};

/// A connection that fails this soon is tried once more at once.
const RESEND_WITHIN: Duration = Duration::from_secs(1);
/// Part of a wait by which it may be longer.
const JITTER: f64 = 0.1;
/// Wait of a message for which there is no request free.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// Bytes of an answer's body in a reason.
const EXCERPT_CHARS_MAX: usize = 1000;

/// The meaning of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver has the message.
    Delivered,
    /// The receiver does not have it, or it is unknown.
    Failed {
        reason: String,
        /// Wait that the receiver asked for.
        after: Option<Duration>,
        /// Whether the receiver wants no more messages.
        is_gone: bool,
    },
    /// No try was made: the host has a pause, or enough requests.
    Waits { reason: String, after: Duration },
    /// The request is not allowed.
    Refused { reason: String },
}

/// Returns the meaning of a call. Only an answer from 200 to 299 means success.
pub(super) fn outcome(result: &Result<Answer, CallError>, now: SystemTime) -> Outcome {
    let failed = |reason: String, after, is_gone| Outcome::Failed {
        reason,
        after,
        is_gone,
    };
    match result {
        Ok(answer) => match answer.status {
            200..=299 => Outcome::Delivered,
            status => {
                let after = retry_after(&answer.headers, now);
                let excerpt = excerpt(&answer.body);
                let colon = if excerpt.is_empty() { "" } else { ": " };
                let reason = format!("the answer has status {status}{colon}{excerpt}");
                failed(reason, after, status == 410)
            }
        },
        Err(error @ (CallError::NotSent(_) | CallError::Unknown(_) | CallError::TooLarge(_))) => {
            failed(error.to_string(), None, false)
        }
        Err(error @ CallError::Refused(_)) => Outcome::Refused {
            reason: error.to_string(),
        },
        Err(error @ CallError::Open { until, .. }) => Outcome::Waits {
            reason: error.to_string(),
            after: until.duration_since(now).unwrap_or_default().max(BUSY_WAIT),
        },
        Err(error @ CallError::Busy(_)) => Outcome::Waits {
            reason: error.to_string(),
            after: BUSY_WAIT,
        },
    }
}

/// Whether to send a request again at once: nothing was sent, and that was known soon, as with a
/// connection that the receiver had closed.
pub(super) fn resends(result: &Result<Answer, CallError>, elapsed: Duration) -> bool {
    matches!(result, Err(CallError::NotSent(_))) && elapsed < RESEND_WITHIN
}

/// Returns the wait before the next try after `tries` failed ones; `None` after the last one.
/// `random` is between 0 and 1.
pub(super) fn next_wait(
    schedule: &[Duration],
    tries: u32,
    asked: Option<Duration>,
    random: f64,
) -> Option<Duration> {
    let planned = *schedule.get(tries.saturating_sub(1) as usize)?;
    let wait = planned.mul_f64(1.0 + JITTER * random.clamp(0.0, 1.0));
    Some(wait.max(asked.unwrap_or_default()))
}

/// Whether an endpoint that has failed since then is dead.
pub(super) fn is_dead(failing_since_ms: i64, now_ms: i64, disable_after: Duration) -> bool {
    let failing_ms = now_ms.saturating_sub(failing_since_ms);
    u128::try_from(failing_ms).is_ok_and(|failing| failing >= disable_after.as_millis())
}

/// The start of a body as one line.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * EXCERPT_CHARS_MAX)]);
    let is_space = |c: char| c.is_whitespace() || c.is_control();
    let words: Vec<&str> = text.split(is_space).filter(|it| !it.is_empty()).collect();
    words.join(" ").chars().take(EXCERPT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)]) -> Result<Answer, CallError> {
        let headers = headers.iter();
        Ok(Answer {
            status,
            headers: headers
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                .collect(),
            body: Bytes::from_static(b"no\n such \x07hook"),
        })
    }

    #[test]
    fn only_a_status_of_success_is_a_delivery() {
        let now = SystemTime::UNIX_EPOCH;
        for status in [200, 202, 204, 299] {
            assert_eq!(outcome(&answer(status, &[]), now), Outcome::Delivered);
        }
        for status in [199, 300, 301, 400, 404, 410, 429, 500, 503] {
            let expected = Outcome::Failed {
                reason: format!("the answer has status {status}: no such hook"),
                after: None,
                is_gone: status == 410,
            };
            assert_eq!(outcome(&answer(status, &[]), now), expected);
        }
        let busy = outcome(&answer(503, &[("retry-after", "120")]), now);
        let expected = Some(Duration::from_secs(120));
        assert!(
            matches!(busy, Outcome::Failed { after, .. } if after == expected),
            "{busy:?}"
        );
    }

    #[test]
    fn a_request_that_was_not_allowed_or_not_made_is_no_failure_of_the_endpoint() {
        let now = SystemTime::UNIX_EPOCH;
        let refused = outcome(&Err(CallError::Refused("private".to_owned())), now);
        assert!(matches!(refused, Outcome::Refused { .. }));
        let until = now + Duration::from_secs(7);
        let reason = "open".to_owned();
        let open = outcome(&Err(CallError::Open { until, reason }), now);
        let expected = Duration::from_secs(7);
        assert!(
            matches!(open, Outcome::Waits { after, .. } if after == expected),
            "{open:?}"
        );
    }

    #[test]
    fn a_request_is_resent_only_if_nothing_was_sent() {
        let soon = Duration::from_millis(10);
        let not_sent = Err(CallError::NotSent(String::new()));
        assert!(resends(&not_sent, soon));
        assert!(!resends(&not_sent, RESEND_WITHIN));
        assert!(!resends(&Err(CallError::Unknown(String::new())), soon));
        assert!(!resends(&answer(500, &[]), soon));
    }

    proptest! {
        #[test]
        fn the_schedule_is_kept_with_a_small_jitter_and_ends(
            seconds in prop::collection::vec(1u64..100_000, 0..12),
            tries in 1u32..20,
            asked in prop::option::of(0u64..10_000),
            random in 0.0f64..1.0,
        ) {
            let schedule: Vec<Duration> = seconds.iter().map(|s| Duration::from_secs(*s)).collect();
            let asked = asked.map(Duration::from_secs);
            let wait = next_wait(&schedule, tries, asked, random);
            prop_assert_eq!(wait.is_some(), tries as usize <= schedule.len());
            if let Some(wait) = wait {
                let planned = schedule[tries as usize - 1];
                prop_assert!(wait >= planned.max(asked.unwrap_or_default()));
                prop_assert!(wait <= planned.mul_f64(1.0 + JITTER).max(asked.unwrap_or_default()));
            }
        }

        #[test]
        fn an_endpoint_dies_exactly_at_the_end_of_its_time(
            since in 0i64..1_000_000,
            failing in -1_000i64..1_000_000,
            after in 1u64..1_000_000,
        ) {
            let dead = is_dead(since, since + failing, Duration::from_millis(after));
            prop_assert_eq!(dead, failing >= after as i64);
        }
    }
}
