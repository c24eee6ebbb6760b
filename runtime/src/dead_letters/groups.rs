//! Groups letters with the same failure.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Letter;
use super::stats::TimeSpan;
use crate::failure::truncate;
use crate::redact::Redactor;

/// Maximum groups. Letters of further groups are only counted.
pub const GROUPS_MAX: usize = 1_000;

/// Maximum length of a group's example error, in bytes.
const EXAMPLE_BYTES_MAX: usize = 1_024;

/// The letters of one service, by fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The label of the service.
    pub service: String,
    /// The number of letters in the queue.
    pub letters: u64,
    /// The number of letters that were read. The following fields are about these.
    pub read: u64,
    /// Whether every letter was read.
    pub complete: bool,
    /// The groups, the largest first; at most [`GROUPS_MAX`].
    pub groups: Vec<Group>,
    /// The number of letters in further groups.
    pub others: u64,
}

/// Letters with the same failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The fingerprint: see [`Letter::fingerprint`].
    pub fingerprint: String,
    /// The label of the service.
    pub service: String,
    /// The reason; `unknown` for letters without a record.
    pub reason: String,
    /// The number of letters.
    pub letters: u64,
    /// When the first message was given up (RFC 3339).
    pub first_failed_at: Option<String>,
    /// When the last message was given up (RFC 3339).
    pub last_failed_at: Option<String>,
    /// The error of the example, at most 1 KiB.
    pub error: Option<String>,
    /// The message id of the example: one of the letters.
    pub example: String,
}

/// Groups letters while they are read.
pub(super) struct GroupBuilder<'a> {
    service: &'a str,
    redactor: &'a Redactor,
    read: u64,
    others: u64,
    groups: HashMap<String, (Group, TimeSpan)>,
}

impl<'a> GroupBuilder<'a> {
    pub(super) fn new(service: &'a str, redactor: &'a Redactor) -> Self {
        Self {
            service,
            redactor,
            read: 0,
            others: 0,
            groups: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, letter: &Letter) {
        self.read += 1;
        let fingerprint = letter.fingerprint(self.service);
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&fingerprint) {
            self.others += 1;
            return;
        }
        let (service, redactor) = (self.service, self.redactor);
        let (group, span) = self
            .groups
            .entry(fingerprint)
            .or_insert_with_key(|fingerprint| {
                let group = new_group(service, fingerprint, letter, redactor);
                (group, TimeSpan::default())
            });
        group.letters += 1;
        if let Some(record) = &letter.dead_letter {
            span.include(record.failed_at_ms);
        }
    }

    pub(super) fn build(self, letters: u64, complete: bool) -> Groups {
        let groups = self.groups.into_values().map(|(mut group, span)| {
            (group.first_failed_at, group.last_failed_at) = span.texts();
            group
        });
        let mut groups: Vec<Group> = groups.collect();
        groups.sort_by(|a, b| {
            let key = |group: &Group| Reverse(group.letters);
            (key(a), &a.fingerprint).cmp(&(key(b), &b.fingerprint))
        });
        Groups {
            service: self.service.to_owned(),
            letters,
            read: self.read,
            complete,
            groups,
            others: self.others,
        }
    }
}

/// A group with its first letter as the example.
fn new_group(service: &str, fingerprint: &str, letter: &Letter, redactor: &Redactor) -> Group {
    let error = letter.dead_letter.as_ref().map(|record| {
        let mut error = redactor.clean(&record.error).into_owned();
        truncate(&mut error, EXAMPLE_BYTES_MAX);
        error
    });
    let id = letter.message.id.to_string();
    Group {
        fingerprint: fingerprint.to_owned(),
        service: service.to_owned(),
        reason: letter.reason().to_owned(),
        letters: 0,
        first_failed_at: None,
        last_failed_at: None,
        error,
        example: redactor.clean(&id).into_owned(),
    }
}
