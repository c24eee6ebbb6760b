//! Grouping letters: those that failed alike, together.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Letter;
use super::stats::TimeSpan;
use crate::failure::truncate;
use crate::redact::Redactor;

/// So many groups are kept apart; letters of further ones are only counted.
pub const GROUPS_MAX: usize = 1_000;

/// So much of an error is kept as an example, in bytes.
const EXAMPLE_BYTES_MAX: usize = 1_024;

/// The letters of one service, by fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The service.
    pub service: String,
    /// How many letters were there.
    pub letters: u64,
    /// How many of them were read: the rest of this is of these.
    pub read: u64,
    /// Whether everything was read.
    pub complete: bool,
    /// The largest first; at most [`GROUPS_MAX`].
    pub groups: Vec<Group>,
    /// How many letters that were read are in none of them.
    pub others: u64,
}

/// Letters that failed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Names the group: see [`Letter::fingerprint`].
    pub fingerprint: String,
    /// The service.
    pub service: String,
    /// Why they were given up; `unknown` if the runtime didn't write them.
    pub reason: String,
    /// How many.
    pub letters: u64,
    /// When the first was given up (RFC 3339).
    pub first_failed_at: Option<String>,
    /// When the last was given up (RFC 3339).
    pub last_failed_at: Option<String>,
    /// The error of one of them, 1 KiB at most.
    pub error: Option<String>,
    /// The message of that one.
    pub example: String,
}

/// The groups while letters are read.
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

    pub(super) fn sort(&mut self, letter: &Letter) {
        self.read += 1;
        let fingerprint = letter.fingerprint(self.service);
        if !self.groups.contains_key(&fingerprint) {
            if self.groups.len() >= GROUPS_MAX {
                self.others += 1;
                return;
            }
            let group = self.example(fingerprint.clone(), letter);
            self.groups
                .insert(fingerprint.clone(), (group, TimeSpan::default()));
        }
        let Some((group, span)) = self.groups.get_mut(&fingerprint) else {
            return;
        };
        group.letters += 1;
        if let Some(why) = &letter.why {
            span.include(why.failed_at_ms);
        }
    }

    fn example(&self, fingerprint: String, letter: &Letter) -> Group {
        let error = letter.why.as_ref().map(|why| {
            let mut error = self.redactor.clean(&why.error).into_owned();
            truncate(&mut error, EXAMPLE_BYTES_MAX);
            error
        });
        Group {
            fingerprint,
            service: self.service.to_owned(),
            reason: letter.reason().to_owned(),
            letters: 0,
            first_failed_at: None,
            last_failed_at: None,
            error,
            example: self
                .redactor
                .clean(&letter.message.id.to_string())
                .into_owned(),
        }
    }

    pub(super) fn end(self, letters: u64, complete: bool) -> Groups {
        let groups = self.groups.into_values().map(|(mut group, span)| {
            (group.first_failed_at, group.last_failed_at) = span.texts();
            group
        });
        let mut groups: Vec<Group> = groups.collect();
        groups.sort_by(|a, b| {
            let key = |group: &Group| std::cmp::Reverse(group.letters);
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
