//! Counting letters: how many, why, since when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Letter;
use crate::clock::Rfc3339;

/// The reason of a letter that has none: somebody else put it there.
pub(super) const UNKNOWN: &str = "unknown";

/// What is in one service's dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DlqStats {
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
}

/// How many letters have a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The reason, as in the header.
    pub reason: String,
    /// How many.
    pub letters: u64,
}

/// The count while it goes on.
#[derive(Default)]
pub(super) struct StatsBuilder {
    reasons: BTreeMap<&'static str, u64>,
    span: TimeSpan,
}

/// From the first to the last, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TimeSpan(Option<(u64, u64)>);

impl TimeSpan {
    pub(super) fn include(&mut self, at_ms: u64) {
        let (first, last) = self.0.unwrap_or((at_ms, at_ms));
        self.0 = Some((first.min(at_ms), last.max(at_ms)));
    }

    /// The first and the last, as texts.
    pub(super) fn texts(self) -> (Option<String>, Option<String>) {
        let text = |unix_ms| Rfc3339 { unix_ms }.to_string();
        let texts = self.0.map(|(first, last)| (text(first), text(last)));
        texts.unzip()
    }
}

impl StatsBuilder {
    pub(super) fn count(&mut self, letter: &Letter) {
        *self.reasons.entry(letter.reason()).or_default() += 1;
        if let Some(why) = &letter.why {
            self.span.include(why.failed_at_ms);
        }
    }

    pub(super) fn end(self, service: &str, letters: u64, complete: bool) -> DlqStats {
        let (first_failed_at, last_failed_at) = self.span.texts();
        let reasons = self.reasons.iter().map(|(reason, letters)| ReasonCount {
            reason: (*reason).to_owned(),
            letters: *letters,
        });
        DlqStats {
            service: service.to_owned(),
            letters,
            read: self.reasons.values().sum(),
            complete,
            reasons: reasons.collect(),
            first_failed_at,
            last_failed_at,
        }
    }
}
