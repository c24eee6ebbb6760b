//! The consequence of a call for its message.

use std::time::{Duration, SystemTime};

use brickwork::supervision::Verdict as HostVerdict;
use http::HeaderMap;

use super::hosts::HostResult;
use super::limit::Sample;
use super::request::{Answer, CallError};

/// Longest wait that an answer can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Maximum bytes of an answer's body in a reason.
const EXCERPT_BYTES_MAX: usize = 3800;

/// The consequence of a call for its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The other side has done it.
    Succeeded,
    /// Another call may succeed later.
    Later {
        /// Delay that the other side asked for, or the pause of a breaker; `None` for the usual
        /// back-off.
        after: Option<Duration>,
        /// Whether the message spends an attempt. It doesn't if nothing was sent because of the
        /// host's breaker or limit, or if the host has asked to wait for some time.
        spends_attempt: bool,
        /// Text for people.
        reason: String,
    },
    /// No call for this message can succeed.
    Rejected {
        /// Text for people.
        reason: String,
    },
}

/// Returns the consequence of a call. `now` is the time of the answer.
pub(crate) fn verdict(result: &Result<Answer, CallError>, now: SystemTime) -> Verdict {
    let later = |after, spends_attempt, reason| Verdict::Later {
        after,
        spends_attempt,
        reason,
    };
    match result {
        Ok(answer) => answered(answer, now),
        Err(error @ (CallError::NotSent(_) | CallError::Unknown(_))) => {
            later(None, true, error.to_string())
        }
        Err(error @ (CallError::Refused(_) | CallError::TooLarge(_))) => Verdict::Rejected {
            reason: error.to_string(),
        },
        Err(error @ CallError::Open { until, .. }) => {
            let after = until.duration_since(now).unwrap_or_default();
            later(
                Some(after.max(Duration::from_millis(1))),
                false,
                error.to_string(),
            )
        }
        Err(error @ CallError::Busy(_)) => {
            later(Some(Duration::from_secs(1)), false, error.to_string())
        }
    }
}

/// Returns the meaning of a call for its host.
pub(super) fn host_result(
    result: &Result<Answer, CallError>,
    elapsed: Duration,
    now: SystemTime,
) -> HostResult {
    let of = |verdict, sample| HostResult {
        verdict,
        sample,
        hold: None,
    };
    let answer = match result {
        Ok(answer) => answer,
        Err(CallError::NotSent(_)) => return of(HostVerdict::Failure, None),
        Err(CallError::Unknown(_)) => return of(HostVerdict::Failure, Some(Sample::Lost)),
        Err(CallError::TooLarge(_)) => return of(HostVerdict::Success, None),
        Err(CallError::Refused(_) | CallError::Open { .. } | CallError::Busy(_)) => {
            return of(HostVerdict::Nothing, None);
        }
    };
    let hold = match answer.status {
        429 | 503 => retry_after(&answer.headers, now),
        _ => None,
    };
    HostResult {
        hold,
        ..match answer.status {
            429 => of(HostVerdict::Nothing, Some(Sample::Lost)),
            408 | 503 | 504 => of(HostVerdict::Failure, Some(Sample::Lost)),
            500 | 502 | 506.. => of(HostVerdict::Failure, None),
            401 | 407 => of(HostVerdict::Nothing, None),
            _ => of(HostVerdict::Success, Some(Sample::Answered(elapsed))),
        }
    }
}

fn answered(answer: &Answer, now: SystemTime) -> Verdict {
    let reason = || {
        let excerpt = excerpt(&answer.body);
        let colon = if excerpt.is_empty() { "" } else { ": " };
        format!("the answer has status {}{colon}{excerpt}", answer.status)
    };
    match answer.status {
        200..=299 => Verdict::Succeeded,
        // A wrong credential is not the message's fault: an operator can mend it.
        401 | 407 | 408 | 425 | 429 | 500 | 502..=504 | 506..=599 => {
            let after = retry_after(&answer.headers, now);
            Verdict::Later {
                after,
                spends_attempt: !matches!(answer.status, 429 | 503) || after.is_none(),
                reason: reason(),
            }
        }
        _ => Verdict::Rejected { reason: reason() },
    }
}

/// Returns the wait that `Retry-After` asks for, as seconds or as a date, at most an hour. A date
/// counts from the answer's own `Date`, so that clocks that differ do no harm; `now` is used if
/// there is none.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers
        .get(http::header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = value.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs);
        return Some(seconds.min(RETRY_AFTER_MAX));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let date = headers.get(http::header::DATE);
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let wait = at.duration_since(date.unwrap_or(now)).unwrap_or_default();
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Returns the start of a body as one line of text.
fn excerpt(body: &[u8]) -> String {
    let cut = &body[..body.len().min(EXCERPT_BYTES_MAX)];
    let mut text = String::with_capacity(cut.len());
    for word in String::from_utf8_lossy(cut).split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
    }
    if cut.len() < body.len() {
        text.push_str(" …");
    }
    text
}

#[cfg(test)]
mod tests;
