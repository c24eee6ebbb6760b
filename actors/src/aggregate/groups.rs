//! The open groups, in the service's store.
//!
//! A group is a row with the figures for its rules; each of its messages is a row of another
//! table. Closing a group emits it and deletes these rows, in the transaction of the message
//! or tick that closes it.

use std::sync::Arc;

use brickwork::FailureKind;
use brickwork::config::HumanDuration;
use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{OptionalExtension, Row};

use super::encoding::{CloseReason, Head};
use super::{AggregateConfig, Form};
use crate::ports::OUT;

pub(super) const TABLES: Migration = Migration::new(
    "groups",
    "CREATE TABLE aggregate_group (
        n INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        count INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        first_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL,
        opened_ms INTEGER NOT NULL,
        came_ms INTEGER NOT NULL,
        due_ms INTEGER
    ) STRICT;
    CREATE INDEX aggregate_group_due ON aggregate_group (due_ms) WHERE due_ms IS NOT NULL;
    CREATE TABLE aggregate_message (n INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
    CREATE TABLE aggregate_total (
        open INTEGER NOT NULL,
        within_ms INTEGER,
        idle_ms INTEGER
    ) STRICT;
    INSERT INTO aggregate_total VALUES (0, NULL, NULL);",
);

/// A group's messages are numbered from the group's number shifted by this many bits. So they
/// lie next to each other, and need no index.
const SHIFT: u32 = 22;
/// Maximum messages of a group, a consequence of [`SHIFT`].
const COUNT_MAX: i64 = 1 << SHIFT;

/// Due time of a group that can't be emitted: it is tried again after the next start.
pub(super) const STUCK_MS: i64 = i64::MAX;
/// Maximum of a rule's time, so that a sum with it is below [`STUCK_MS`].
const TIME_MS_MAX: i64 = i64::MAX >> 2;

/// Maximum number of due groups that one transaction closes.
const DUE_MAX: usize = 100;
/// Bytes of closed groups after which a transaction ends.
const DUE_BYTES_MAX: i64 = 4 * 1024 * 1024;

/// A message, as it is added to its group.
#[derive(Debug)]
pub(super) struct Entry {
    /// The key, as JSON.
    pub(super) key: String,
    /// The part of the message that is kept, as JSON.
    pub(super) body: Vec<u8>,
    /// The time of the message's envelope.
    pub(super) time_ms: i64,
    /// Whether the message closes its group.
    pub(super) is_last: bool,
}

/// The due groups that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// More groups are due.
    Now,
    /// No group is due, but some will be.
    Later,
    /// No open group has a due time.
    None,
}

/// The rules, and the operations on the store.
#[derive(Debug)]
pub(super) struct Groups {
    count: i64,
    size: i64,
    pub(super) within_ms: Option<i64>,
    pub(super) idle_ms: Option<i64>,
    open_max: i64,
    form: Form,
    kind: Arc<str>,
    payload_bytes_max: i64,
}

/// An open group.
#[derive(Debug)]
struct Group {
    n: i64,
    /// The key, as JSON.
    key: String,
    count: i64,
    bytes: i64,
    /// Times of the earliest and the latest message.
    first_ms: i64,
    last_ms: i64,
    /// Arrival time of the first message.
    opened_ms: i64,
    due_ms: Option<i64>,
}

impl Group {
    fn read(row: &Row<'_>) -> brickwork::sqlite::rusqlite::Result<Self> {
        Ok(Self {
            n: row.get(0)?,
            key: row.get(1)?,
            count: row.get(2)?,
            bytes: row.get(3)?,
            first_ms: row.get(4)?,
            last_ms: row.get(5)?,
            opened_ms: row.get(6)?,
            due_ms: row.get(7)?,
        })
    }

    /// The number of the message at a place, counted from 0.
    fn message(&self, place: i64) -> i64 {
        (self.n << SHIFT) + place
    }
}

impl Groups {
    pub(super) fn new(config: &AggregateConfig, payload_bytes_max: usize) -> Self {
        let limit = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
        let ms = |time: HumanDuration| time.0.as_millis().min(TIME_MS_MAX as u128) as i64;
        Self {
            count: config.count.map_or(i64::MAX, limit),
            size: config.size.map_or(i64::MAX, |size| limit(size.0)),
            within_ms: config.within.map(ms),
            idle_ms: config.idle.map(ms),
            open_max: config.groups as i64,
            form: config.form,
            kind: config.kind.as_str().into(),
            payload_bytes_max: payload_bytes_max as i64,
        }
    }

    /// Whether a time rule closes groups.
    pub(super) fn are_timed(&self) -> bool {
        self.within_ms.is_some() || self.idle_ms.is_some()
    }

    /// Rejects a message that is too large for a group of its own.
    pub(super) fn admit(&self, key: &str, body: &[u8]) -> Result<(), Failure> {
        let bytes = self.form.bytes(key, 1, body.len() as i64);
        if bytes <= self.payload_bytes_max {
            return Ok(());
        }
        Err(Failure::reject(format!(
            "a group of this message alone has {bytes} bytes, app.max_message allows {}",
            self.payload_bytes_max
        )))
    }

    /// Adds a message to its group, and closes the groups that it completes.
    pub(super) fn add(&self, tx: &mut Tx<'_>, entry: &Entry) -> Result<(), Failure> {
        let now_ms = tx.now_ms() as i64;
        let mut open = find(tx, &entry.key)?;
        if let Some((group, reason)) = open
            .as_ref()
            .and_then(|group| Some((group, self.must_close(group, entry, now_ms)?)))
        {
            self.close(tx, group, reason)?;
            open = None;
        }
        let group = match open {
            Some(group) => self.grow(tx, group, entry, now_ms)?,
            None => self.open(tx, entry, now_ms)?,
        };
        tx.prepare_cached("INSERT INTO aggregate_message (n, body) VALUES (?1, ?2)")?
            .execute((group.message(group.count - 1), &entry.body))?;
        let reason = if entry.is_last {
            CloseReason::Until
        } else if group.count >= self.count {
            CloseReason::Count
        } else if group.bytes >= self.size {
            CloseReason::Size
        } else {
            return Ok(());
        };
        self.close(tx, &group, reason)
    }

    /// Closes due groups, up to the limits of one transaction.
    pub(super) fn close_due(&self, tx: &mut Tx<'_>) -> Result<Due, Failure> {
        let now_ms = tx.now_ms() as i64;
        let due: Vec<Group> = {
            let mut due = tx.prepare_cached(
                "SELECT n, key, count, bytes, first_ms, last_ms, opened_ms, due_ms
                 FROM aggregate_group WHERE due_ms <= ?1 ORDER BY due_ms, n LIMIT ?2",
            )?;
            let due = due.query_map((now_ms, DUE_MAX as i64), Group::read)?;
            due.collect::<Result<_, _>>()?
        };
        let mut bytes = 0;
        for group in &due {
            match self.close(tx, group, self.due_reason(group, now_ms)) {
                Ok(()) => bytes += group.bytes,
                // It must not block the other groups.
                Err(failure) if failure.kind() == FailureKind::Reject => {
                    tracing::error!(key = group.key, error = %failure, "group can't be emitted, it stays open until the next start");
                    tx.prepare_cached("UPDATE aggregate_group SET due_ms = ?2 WHERE n = ?1")?
                        .execute((group.n, STUCK_MS))?;
                }
                Err(failure) => return Err(failure),
            }
            if bytes >= DUE_BYTES_MAX {
                return Ok(Due::Now);
            }
        }
        if due.len() == DUE_MAX {
            return Ok(Due::Now);
        }
        Ok(match is_any_timed(tx)? {
            true => Due::Later,
            false => Due::None,
        })
    }

    /// The reason for closing a group before a message is added to it, if there is one.
    fn must_close(&self, group: &Group, entry: &Entry, now_ms: i64) -> Option<CloseReason> {
        if group.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            return Some(self.due_reason(group, now_ms));
        }
        let bytes = group.bytes + entry.body.len() as i64;
        let bytes = self.form.bytes(&group.key, group.count + 1, bytes);
        let is_full = bytes > self.payload_bytes_max || group.count >= COUNT_MAX;
        is_full.then_some(CloseReason::Full)
    }

    fn due_reason(&self, group: &Group, now_ms: i64) -> CloseReason {
        match self.within_ms {
            Some(within_ms) if group.opened_ms.saturating_add(within_ms) <= now_ms => {
                CloseReason::Within
            }
            _ => CloseReason::Idle,
        }
    }

    fn due_ms(&self, opened_ms: i64, now_ms: i64) -> Option<i64> {
        let within = self.within_ms.map(|ms| opened_ms.saturating_add(ms));
        let idle = self.idle_ms.map(|ms| now_ms.saturating_add(ms));
        within.into_iter().chain(idle).min()
    }

    fn open(&self, tx: &mut Tx<'_>, entry: &Entry, now_ms: i64) -> Result<Group, Failure> {
        let due_ms = self.due_ms(now_ms, now_ms);
        let bytes = entry.body.len() as i64;
        let n = tx
            .prepare_cached(
                "INSERT INTO aggregate_group
                 (key, count, bytes, first_ms, last_ms, opened_ms, came_ms, due_ms)
                 VALUES (?1, 1, ?2, ?3, ?3, ?4, ?4, ?5)",
            )?
            .insert((&entry.key, bytes, entry.time_ms, now_ms, due_ms))?;
        let open = count_open(tx, 1)?;
        if open > self.open_max
            && let Some(oldest) = oldest(tx)?
        {
            self.close(tx, &oldest, CloseReason::Room)?;
        }
        Ok(Group {
            n,
            key: entry.key.clone(),
            count: 1,
            bytes,
            first_ms: entry.time_ms,
            last_ms: entry.time_ms,
            opened_ms: now_ms,
            due_ms,
        })
    }

    fn grow(
        &self,
        tx: &Tx<'_>,
        group: Group,
        entry: &Entry,
        now_ms: i64,
    ) -> Result<Group, Failure> {
        let group = Group {
            count: group.count + 1,
            bytes: group.bytes + entry.body.len() as i64,
            first_ms: group.first_ms.min(entry.time_ms),
            last_ms: group.last_ms.max(entry.time_ms),
            due_ms: self.due_ms(group.opened_ms, now_ms),
            ..group
        };
        tx.prepare_cached(
            "UPDATE aggregate_group
             SET count = ?2, bytes = ?3, first_ms = ?4, last_ms = ?5, came_ms = ?6, due_ms = ?7
             WHERE n = ?1",
        )?
        .execute((
            group.n,
            group.count,
            group.bytes,
            group.first_ms,
            group.last_ms,
            now_ms,
            group.due_ms,
        ))?;
        Ok(group)
    }

    /// Emits a group and deletes it.
    fn close(&self, tx: &mut Tx<'_>, group: &Group, reason: CloseReason) -> Result<(), Failure> {
        let span = (group.message(0), group.message(group.count - 1));
        let bodies: Vec<Vec<u8>> = {
            let mut bodies = tx.prepare_cached(
                "SELECT body FROM aggregate_message WHERE n BETWEEN ?1 AND ?2 ORDER BY n",
            )?;
            let bodies = bodies.query_map(span, |row| row.get(0))?;
            bodies.collect::<Result<_, _>>()?
        };
        let parts = self.parts(&group.key, &bodies)?;
        tx.prepare_cached("DELETE FROM aggregate_message WHERE n BETWEEN ?1 AND ?2")?
            .execute(span)?;
        tx.prepare_cached("DELETE FROM aggregate_group WHERE n = ?1")?
            .execute([group.n])?;
        count_open(tx, -1)?;
        let last = parts.len() - 1;
        for (nth, part) in parts.into_iter().enumerate() {
            let head = Head {
                key: &group.key,
                first_ms: group.first_ms,
                last_ms: group.last_ms,
                reason: if nth == last {
                    reason
                } else {
                    CloseReason::Full
                },
            };
            let payload = self.form.write(&head, part);
            let mut raw = Raw::bytes(self.kind.clone(), payload);
            raw.content_type = self.form.content_type();
            tx.emit(&OUT, raw)?;
        }
        Ok(())
    }

    /// Splits a group into payloads. It has one part, unless it was opened when larger
    /// messages were allowed.
    fn parts<'a>(&self, key: &str, bodies: &'a [Vec<u8>]) -> Result<Vec<&'a [Vec<u8>]>, Failure> {
        let mut parts = Vec::new();
        let (mut from, mut bytes) = (0, 0);
        for (nth, body) in bodies.iter().enumerate() {
            self.admit(key, body)?;
            bytes += body.len() as i64;
            let count = (nth + 1 - from) as i64;
            if self.form.bytes(key, count, bytes) > self.payload_bytes_max {
                parts.push(&bodies[from..nth]);
                (from, bytes) = (nth, body.len() as i64);
            }
        }
        parts.push(&bodies[from..]);
        Ok(parts)
    }
}

fn find(tx: &Tx<'_>, key: &str) -> Result<Option<Group>, Failure> {
    let mut find = tx.prepare_cached(
        "SELECT n, key, count, bytes, first_ms, last_ms, opened_ms, due_ms
         FROM aggregate_group WHERE key = ?1",
    )?;
    Ok(find.query_row([key], Group::read).optional()?)
}

/// The group that was opened first.
fn oldest(tx: &Tx<'_>) -> Result<Option<Group>, Failure> {
    let mut oldest = tx.prepare_cached(
        "SELECT n, key, count, bytes, first_ms, last_ms, opened_ms, due_ms
         FROM aggregate_group ORDER BY n LIMIT 1",
    )?;
    Ok(oldest.query_row([], Group::read).optional()?)
}

/// Whether a time rule will close any open group.
pub(super) fn is_any_timed(tx: &Tx<'_>) -> Result<bool, Failure> {
    let mut any =
        tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM aggregate_group WHERE due_ms < ?1)")?;
    Ok(any.query_row([STUCK_MS], |row| row.get(0))?)
}

/// Changes the number of open groups, and returns it.
fn count_open(tx: &Tx<'_>, more: i64) -> Result<i64, Failure> {
    let mut count =
        tx.prepare_cached("UPDATE aggregate_total SET open = open + ?1 RETURNING open")?;
    Ok(count.query_row([more], |row| row.get(0))?)
}
