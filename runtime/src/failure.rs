//! Failures of handlers: the error, and the consequence for the message.

use std::fmt;
use std::time::Duration;

/// Maximum length of a failure text, in bytes.
pub const FAILURE_TEXT_BYTES_MAX: usize = 4096;

/// The error of a handler.
///
/// The `?` operator turns any ordinary error into a [`retry`](Failure::retry). (For that reason
/// `Failure` can't implement `std::error::Error`.)
///
/// ```
/// use brickwork::{Failure, FailureKind};
///
/// fn parse(text: &str) -> Result<u32, Failure> {
///     if text.is_empty() {
///         return Err(Failure::reject("the quantity is empty"));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("").unwrap_err().kind(), FailureKind::Reject);
/// assert_eq!(parse("x").unwrap_err().kind(), FailureKind::Retry);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    text: Box<str>,
}

/// The consequence of a failure for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Retry after the service's back-off. Counts as an attempt.
    Retry,
    /// Retry after this delay. Counts as an attempt.
    After(Duration),
    /// Retry after this delay. Does not count as an attempt.
    Defer(Duration),
    /// Retry after the service's back-off, and rebuild the instance. Counts as an attempt.
    Restart,
    /// Dead-letter the message now: it can never succeed.
    Reject,
}

impl Failure {
    fn new(kind: FailureKind, text: impl fmt::Display) -> Self {
        let mut text = text.to_string();
        truncate(&mut text, FAILURE_TEXT_BYTES_MAX);
        Self {
            kind,
            text: text.into(),
        }
    }

    /// The message may succeed later: retry after the service's back-off.
    pub fn retry(text: impl fmt::Display) -> Self {
        Self::new(FailureKind::Retry, text)
    }

    /// The message can never succeed: dead-letter it now.
    pub fn reject(text: impl fmt::Display) -> Self {
        Self::new(FailureKind::Reject, text)
    }

    /// A remote system named the delay of the retry. Counts as an attempt.
    pub fn after(delay: Duration, text: impl fmt::Display) -> Self {
        Self::new(FailureKind::After(delay), text)
    }

    /// The instance is broken, for example because a connection that `start` made is lost: retry
    /// the message after the service's back-off, which counts as an attempt, and rebuild the
    /// instance by [`start`](crate::Service::start).
    ///
    /// ```
    /// use brickwork::{Failure, FailureKind};
    ///
    /// fn answer(received: std::io::Result<usize>) -> Result<usize, Failure> {
    ///     match received {
    ///         Ok(0) => Err(Failure::restart("the server has closed the connection")),
    ///         Ok(bytes) => Ok(bytes),
    ///         Err(error) => Err(Failure::restart(error)),
    ///     }
    /// }
    /// assert_eq!(answer(Ok(0)).unwrap_err().kind(), FailureKind::Restart);
    /// ```
    pub fn restart(text: impl fmt::Display) -> Self {
        Self::new(FailureKind::Restart, text)
    }

    /// The message is not to blame (a circuit breaker is open, a quota is used up): retry after a
    /// delay, without counting an attempt.
    pub fn defer(delay: Duration, text: impl fmt::Display) -> Self {
        Self::new(FailureKind::Defer(delay), text)
    }

    /// Returns the consequence for the message.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns the error text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    /// Creates a retry whose text is the error with its causes.
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                text.push_str(": ");
                text.push_str(&inner_text);
            }
            cause = inner.source();
        }
        Self::retry(text)
    }
}

/// Cuts `text` to at most `bytes_max` bytes, at a character boundary.
pub(crate) fn truncate(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let mut end = bytes_max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character_boundary() {
        let failure = Failure::retry("ä".repeat(FAILURE_TEXT_BYTES_MAX));
        assert_eq!(failure.text().len(), FAILURE_TEXT_BYTES_MAX);
        let failure = Failure::retry(format!("x{}", "ä".repeat(FAILURE_TEXT_BYTES_MAX)));
        assert_eq!(failure.text().len(), FAILURE_TEXT_BYTES_MAX - 1);
    }
}
