//! Counting letters: how many, why, since when.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Letter;
use crate::clock::Rfc3339;

/// The reason of a letter that has none: somebody else put it there.
const UNKNOWN: &str = "unknown";

/// What is in one service's dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Census {
    /// The service.
    pub service: String,
    /// How many letters were there.
    pub letters: u64,
    /// How many of them were read: the rest of this is of these.
    pub read: u64,
    /// Whether everything was read.
    pub complete: bool,
    /// By reason, in alphabetical order. Letters that the runtime didn't write are
    /// `unknown`.
    pub reasons: Vec<ReasonCount>,
    /// When the first was given up (RFC 3339).
    pub first_failed_at: Option<String>,
    /// When the last was given up (RFC 3339).
    pub last_failed_at: Option<String>,
    #[serde(skip)]
    span_ms: Option<(u64, u64)>,
    #[serde(skip)]
    counts: BTreeMap<&'static str, u64>,
}

/// How many letters have a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    /// The reason, as in the header.
    pub reason: &'static str,
    /// How many.
    pub letters: u64,
}

impl Census {
    pub(super) fn new(service: &str, letters: u64) -> Self {
        Self {
            service: service.to_owned(),
            letters,
            read: 0,
            complete: false,
            reasons: Vec::new(),
            first_failed_at: None,
            last_failed_at: None,
            span_ms: None,
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn count(&mut self, letter: &Letter) {
        self.read += 1;
        let why = letter.why.as_ref();
        *self
            .counts
            .entry(why.map_or(UNKNOWN, |why| why.reason.as_str()))
            .or_default() += 1;
        self.reasons = self
            .counts
            .iter()
            .map(|(reason, letters)| ReasonCount {
                reason,
                letters: *letters,
            })
            .collect();
        if let Some(why) = why {
            let at = why.failed_at_ms;
            let (first, last) = self.span_ms.unwrap_or((at, at));
            let (first, last) = (first.min(at), last.max(at));
            self.span_ms = Some((first, last));
            let text = |unix_ms| Some(Rfc3339 { unix_ms }.to_string());
            (self.first_failed_at, self.last_failed_at) = (text(first), text(last));
        }
    }
}
