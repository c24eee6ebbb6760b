//! The decisions of a poll: which records are new, and the position after the poll.
//!
//! # Invariants
//!
//! - The position holds the greatest cursor value of all emitted records, and the hashes of
//!   the emitted records whose value is at most the lag below it: the boundary.
//! - A poll asks for `value >= cursor - lag` and takes records up to an upper bound, which was
//!   fixed before its first request. A record at the boundary is emitted unless its hash is known.
//! - So a record is lost only if it becomes visible later than the lag after its own value, and
//!   none is emitted twice, whatever the number of records with equal values.
//! - A position is saved after the transport confirmed every record before it. After a crash the
//!   poll is repeated; its records have the same ids.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cursor::{CursorForm, CursorValue};

/// Maximum records at the boundary.
const BOUNDARY_MAX: usize = 100_000;

/// Hash of a record, in hexadecimal digits.
pub(super) type RecordHash = String;

/// The saved position of a poll.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// The greatest value of all emitted records, or the cursor of the last answer.
    pub(super) cursor: Option<Value>,
    /// The emitted records at the boundary, each with its cursor value.
    #[serde(default)]
    pub(super) boundary: BTreeMap<RecordHash, Value>,
    /// Scheduled time of the last complete poll, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub(super) polled: Option<i64>,
}

/// The rules of a cursor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) source: CursorSource,
    pub(super) form: CursorForm,
    pub(super) lag: TimeDelta,
    /// The API returns the records in ascending order of their values.
    pub(super) is_ascending: bool,
}

/// Origin of the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CursorSource {
    /// No cursor: every poll emits all records.
    None,
    /// The greatest value of the records.
    Records,
    /// A value of the last answer, which only the API understands.
    Answer,
}

/// One poll.
#[derive(Debug)]
pub(super) struct Poll {
    rules: Rules,
    /// The cursor before the poll.
    cursor: Option<CursorValue>,
    /// Lower bound of the request.
    from: Option<CursorValue>,
    /// Upper bound of the records.
    until: Option<CursorValue>,
    /// Emitted records of this poll and of the boundary before it.
    known: HashMap<RecordHash, Option<CursorValue>>,
    /// The greatest value so far.
    max: Option<CursorValue>,
    /// The value of the last record, if the order is checked.
    last: Option<CursorValue>,
    /// The cursor of the last answer.
    answer: Option<Value>,
    /// The pages that were requested.
    pages: HashSet<String>,
}

/// Treatment of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The record is new.
    Emit,
    /// The record was emitted before.
    Known,
    /// The record is beyond the upper bound: a later poll takes it.
    TooNew,
    /// The record is below the lower bound: the API does not filter.
    TooOld,
}

impl Poll {
    /// Starts a poll at a time.
    ///
    /// # Errors
    /// The saved cursor does not have the configured form.
    pub(super) fn start(rules: Rules, saved: &Saved, now_ms: i64) -> Result<Self, String> {
        let form = rules.form;
        let is_of_records = rules.source == CursorSource::Records;
        let read = |value: &Value| form.read(value);
        let mut known = HashMap::new();
        for (hash, value) in &saved.boundary {
            let value = if is_of_records {
                Some(read(value)?)
            } else {
                None
            };
            known.insert(hash.clone(), value);
        }
        let cursor = match &saved.cursor {
            Some(value) if is_of_records => Some(read(value)?),
            _ => None,
        };
        Ok(Self {
            rules,
            from: cursor.as_ref().map(|cursor| form.back(cursor, rules.lag)),
            cursor,
            until: if is_of_records { form.at(now_ms) } else { None },
            known,
            max: None,
            last: None,
            answer: saved
                .cursor
                .clone()
                .filter(|_| rules.source == CursorSource::Answer),
            pages: HashSet::new(),
        })
    }

    /// Returns the cursor for the request: the lower bound, or the cursor of the last answer.
    pub(super) fn cursor(&self) -> Option<&Value> {
        match self.rules.source {
            CursorSource::Answer => self.answer.as_ref(),
            _ => self.from.as_ref().map(|from| &from.json),
        }
    }

    /// Returns the upper bound for the request.
    pub(super) fn until(&self) -> Option<&Value> {
        self.until.as_ref().map(|until| &until.json)
    }

    /// Notes the request of a page.
    ///
    /// # Errors
    /// The page was requested before in this poll: the API's cursor repeats.
    pub(super) fn page(&mut self, page: &str) -> Result<(), String> {
        match self.pages.insert(page.to_owned()) {
            true => Ok(()),
            false => Err(
                "the API's next page is one that it has sent before in this poll: its \
                          cursor repeats"
                    .to_owned(),
            ),
        }
    }

    /// Notes the cursor of an answer.
    pub(super) fn answered(&mut self, cursor: Value) {
        if !cursor.is_null() {
            self.answer = Some(cursor);
        }
    }

    /// Decides a record. `value` is that of its cursor.
    ///
    /// # Errors
    /// The value does not have the configured form or order.
    pub(super) fn record(
        &mut self,
        hash: RecordHash,
        value: Option<&Value>,
    ) -> Result<Fate, String> {
        if self.rules.source != CursorSource::Records {
            return Ok(match self.known.insert(hash, None) {
                None => Fate::Emit,
                Some(_) => Fate::Known,
            });
        }
        let value = self.rules.form.read(value.unwrap_or(&Value::Null))?;
        self.check_order(&value)?;
        if self
            .until
            .as_ref()
            .is_some_and(|until| until.is_before(&value))
        {
            return Ok(Fate::TooNew);
        }
        if self.from.as_ref().is_some_and(|from| value.is_before(from)) {
            return Ok(Fate::TooOld);
        }
        if self.known.contains_key(&hash) {
            return Ok(Fate::Known);
        }
        if self.max.as_ref().is_none_or(|max| max.is_before(&value)) {
            self.max = Some(value.clone());
        }
        self.known.insert(hash, Some(value));
        Ok(Fate::Emit)
    }

    fn check_order(&mut self, value: &CursorValue) -> Result<(), String> {
        let other = self.last.as_ref().or(self.cursor.as_ref());
        if let Some(other) = other
            && other.compare(value).is_none()
        {
            return Err(format!(
                "the cursor's values {} and {} can't be compared",
                other.json, value.json
            ));
        }
        if self.rules.is_ascending
            && let Some(last) = &self.last
            && value.is_before(last)
        {
            return Err(format!(
                "the record with {} comes after the one with {}, so the records are not in \
                 ascending order: remove cursor.ascending",
                value.json, last.json
            ));
        }
        self.last = Some(value.clone());
        Ok(())
    }

    /// Returns whether the position may be saved before the last page.
    pub(super) fn is_resumable(&self) -> bool {
        self.rules.source == CursorSource::Records && self.rules.is_ascending
    }

    /// Returns the position after the records so far.
    ///
    /// # Errors
    /// Too many records are at the boundary.
    pub(super) fn position(&self, polled: Option<i64>) -> Result<Saved, String> {
        let (cursor, boundary): (_, BTreeMap<RecordHash, Value>) = match self.rules.source {
            CursorSource::None => (None, BTreeMap::new()),
            CursorSource::Answer => {
                let known = self.known.keys().take(BOUNDARY_MAX);
                let boundary = known.map(|hash| (hash.clone(), Value::Null));
                (self.answer.clone(), boundary.collect())
            }
            CursorSource::Records => {
                let cursor = self.greatest();
                let low = cursor.map(|cursor| self.rules.form.back(cursor, self.rules.lag));
                let boundary = self.known.iter().filter_map(|(hash, value)| {
                    let value = value.as_ref()?;
                    let is_kept = low.as_ref().is_some_and(|low| !value.is_before(low));
                    is_kept.then(|| (hash.clone(), value.json.clone()))
                });
                (cursor.map(|cursor| cursor.json.clone()), boundary.collect())
            }
        };
        if self.rules.source == CursorSource::Records && boundary.len() > BOUNDARY_MAX {
            return Err(format!(
                "more than {BOUNDARY_MAX} records have the cursor's last value or lie within the \
                 lag: choose a finer cursor or a shorter cursor.lag"
            ));
        }
        Ok(Saved {
            cursor,
            boundary,
            polled,
        })
    }

    /// Returns the cursor after the poll.
    fn greatest(&self) -> Option<&CursorValue> {
        match (&self.cursor, &self.max) {
            (Some(cursor), Some(max)) if max.is_before(cursor) => Some(cursor),
            (cursor, max) => max.as_ref().or(cursor.as_ref()),
        }
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
