//! How a handler says that it failed, and what is to happen then.

use std::fmt;
use std::time::Duration;

/// The longest failure text that is kept, in bytes.
pub const FAILURE_TEXT_BYTES_MAX: usize = 4096;

/// What a handler returns instead of success.
///
/// Any ordinary error becomes a [`retry`](Failure::retry) by `?`. (That is why
/// `Failure` can't be a `std::error::Error` itself.)
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

/// What is to happen with the message that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Again after the service's back-off; counts as an attempt.
    Retry,
    /// Again after this time; counts as an attempt.
    After(Duration),
    /// Again after this time; doesn't count.
    Defer(Duration),
    /// Never going to work: to the dead-letter queue now.
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

    /// It may work next time: try again after the service's back-off.
    pub fn retry(text: impl fmt::Display) -> Self {
        Self::new(FailureKind::Retry, text)
    }

    /// It is never going to work: dead-letter it now.
    pub fn reject(text: impl fmt::Display) -> Self {
        Self::new(FailureKind::Reject, text)
    }

    /// The other side said when to try again. Counts as an attempt.
    pub fn after(delay: Duration, text: impl fmt::Display) -> Self {
        Self::new(FailureKind::After(delay), text)
    }

    /// Not this message's fault (a breaker is open, a quota is spent): try again
    /// later, without counting an attempt.
    pub fn defer(delay: Duration, text: impl fmt::Display) -> Self {
        Self::new(FailureKind::Defer(delay), text)
    }

    /// What is to happen.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// What went wrong, in words.
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
    /// A retry whose text is the error and everything that caused it.
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

/// Cuts `text` to at most `bytes_max` bytes, at a character's border.
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
    fn a_long_text_is_cut_at_a_character() {
        let failure = Failure::retry("ä".repeat(FAILURE_TEXT_BYTES_MAX));
        assert_eq!(failure.text().len(), FAILURE_TEXT_BYTES_MAX);
        let failure = Failure::retry(format!("x{}", "ä".repeat(FAILURE_TEXT_BYTES_MAX)));
        assert_eq!(failure.text().len(), FAILURE_TEXT_BYTES_MAX - 1);
    }
}
