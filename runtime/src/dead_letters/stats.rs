//! Counts the letters of a service, by reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Letter;
use crate::clock::Rfc3339;

/// The reason of a letter without a record: another program put it in the queue.
pub(super) const UNKNOWN: &str = "unknown";

/// The content of one service's dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DlqStats {
    /// The label of the service.
    pub service: String,
    /// The number of letters in the queue.
    pub letters: u64,
    /// The number of letters that were read. The following fields are about these.
    pub read: u64,
    /// Whether every letter was read.
    pub complete: bool,
    /// The number of letters by reason, in alphabetical order. Letters without a record have
    /// the reason `unknown`.
    pub reasons: Vec<ReasonCount>,
    /// When the first message was given up (RFC 3339).
    pub first_failed_at: Option<String>,
    /// When the last message was given up (RFC 3339).
    pub last_failed_at: Option<String>,
}

/// The number of letters with one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The reason, as in the header.
    pub reason: String,
    /// The number of letters.
    pub letters: u64,
}

/// Counts letters while they are read.
#[derive(Default)]
pub(super) struct StatsBuilder {
    reasons: BTreeMap<&'static str, u64>,
    span: TimeSpan,
}

/// The first and the last time, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TimeSpan(Option<(u64, u64)>);

impl TimeSpan {
    pub(super) fn include(&mut self, at_ms: u64) {
        let (first, last) = self.0.unwrap_or((at_ms, at_ms));
        self.0 = Some((first.min(at_ms), last.max(at_ms)));
    }

    /// The first and the last time, in RFC 3339.
    pub(super) fn texts(self) -> (Option<String>, Option<String>) {
        let text = |unix_ms| Rfc3339 { unix_ms }.to_string();
        let texts = self.0.map(|(first, last)| (text(first), text(last)));
        texts.unzip()
    }
}

impl StatsBuilder {
    pub(super) fn add(&mut self, letter: &Letter) {
        *self.reasons.entry(letter.reason()).or_default() += 1;
        if let Some(record) = &letter.dead_letter {
            self.span.include(record.failed_at_ms);
        }
    }

    pub(super) fn build(self, service: &str, letters: u64, complete: bool) -> DlqStats {
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
