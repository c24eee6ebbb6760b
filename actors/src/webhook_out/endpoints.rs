//! The store of `webhook-out`: tries of messages, and endpoints that fail.
//!
//! An endpoint has a row from its first failure to its next success, or until it is enabled. A
//! message has a row from its first failed try to its delivery or dead letter.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{Connection, OptionalExtension};

use super::policy::is_dead;

pub(super) const TABLES: Migration = Migration::new(
    "tries and endpoints",
    "CREATE TABLE try (
        message TEXT PRIMARY KEY,
        tries INTEGER NOT NULL,
        last_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE endpoint (
        name TEXT PRIMARY KEY,
        failing_since_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        error TEXT NOT NULL,
        disabled_at_ms INTEGER,
        is_told INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID",
);

/// Maximum events that one tick emits.
const EVENTS_MAX: u32 = 100;

/// Facts in the store about a message and its endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Failed tries of the message.
    pub(super) tries: u32,
    /// Whether the endpoint has failed since its last success.
    pub(super) is_failing: bool,
    /// The last error, if the endpoint is disabled.
    pub(super) disabled: Option<String>,
}

/// The state after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AfterFailure {
    /// Failed tries of the message.
    pub(super) tries: u32,
    /// Whether this failure disabled the endpoint.
    pub(super) is_disabled: bool,
}

/// An endpoint that was disabled: the message of the output `disabled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointDisabled {
    /// Name of the endpoint.
    pub endpoint: String,
    /// Time of the first failure without a success after it, in milliseconds since 1970-01-01 UTC.
    pub failing_since_ms: i64,
    /// Time at which it was disabled, in the same form.
    pub disabled_at_ms: i64,
    /// Failures between these times.
    pub failures: u32,
    /// The last error.
    pub error: String,
}

/// A try that failed.
pub(super) struct Failed {
    pub(super) message: String,
    pub(super) endpoint: String,
    pub(super) error: String,
    /// Whether the receiver wants no more messages.
    pub(super) is_gone: bool,
    pub(super) disable_after: Duration,
}

/// Reads the facts about a message and its endpoint.
pub(super) fn known(
    connection: &Connection,
    message: &str,
    endpoint: &str,
) -> Result<Known, Failure> {
    let tries: Option<u32> = connection
        .prepare_cached("SELECT tries FROM try WHERE message = ?1")?
        .query_row([message], |row| row.get(0))
        .optional()?;
    let state: Option<(Option<i64>, String)> = connection
        .prepare_cached("SELECT disabled_at_ms, error FROM endpoint WHERE name = ?1")?
        .query_row([endpoint], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(Known {
        tries: tries.unwrap_or_default(),
        is_failing: state.is_some(),
        disabled: state.and_then(|(disabled, error)| disabled.map(|_| error)),
    })
}

/// Records a failed try.
pub(super) fn failed(tx: &Tx<'_>, failed: &Failed) -> Result<AfterFailure, Failure> {
    let now_ms = tx.now_ms() as i64;
    let tries: u32 = tx
        .prepare_cached(
            "INSERT INTO try (message, tries, last_ms) VALUES (?1, 1, ?2)
             ON CONFLICT (message) DO UPDATE SET tries = tries + 1, last_ms = ?2
             RETURNING tries",
        )?
        .query_row((&failed.message, now_ms), |row| row.get(0))?;
    let (since_ms, disabled_at_ms): (i64, Option<i64>) = tx
        .prepare_cached(
            "INSERT INTO endpoint (name, failing_since_ms, last_ms, failures, error)
             VALUES (?1, ?2, ?2, 1, ?3)
             ON CONFLICT (name) DO UPDATE
             SET failures = failures + 1, last_ms = ?2, error = ?3
             RETURNING failing_since_ms, disabled_at_ms",
        )?
        .query_row((&failed.endpoint, now_ms, &failed.error), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let dies = failed.is_gone || is_dead(since_ms, now_ms, failed.disable_after);
    let is_disabled = dies && disabled_at_ms.is_none();
    if is_disabled {
        tx.prepare_cached("UPDATE endpoint SET disabled_at_ms = ?2 WHERE name = ?1")?
            .execute((&failed.endpoint, now_ms))?;
    }
    Ok(AfterFailure { tries, is_disabled })
}

/// Forgets a message that is delivered or given up.
pub(super) fn forget(tx: &Tx<'_>, message: &str) -> Result<(), Failure> {
    tx.prepare_cached("DELETE FROM try WHERE message = ?1")?
        .execute([message])?;
    Ok(())
}

/// Forgets the failures of an endpoint. Returns whether it was disabled.
pub(super) fn recovered(tx: &Tx<'_>, endpoint: &str) -> Result<bool, Failure> {
    let disabled: Option<Option<i64>> = tx
        .prepare_cached("DELETE FROM endpoint WHERE name = ?1 RETURNING disabled_at_ms")?
        .query_row([endpoint], |row| row.get(0))
        .optional()?;
    Ok(disabled.flatten().is_some())
}

/// Returns the disabled endpoints that were not told yet, and marks them as told.
pub(super) fn untold(tx: &Tx<'_>) -> Result<Vec<EndpointDisabled>, Failure> {
    let mut statement = tx.prepare_cached(
        "UPDATE endpoint SET is_told = 1 WHERE name IN (
             SELECT name FROM endpoint WHERE disabled_at_ms IS NOT NULL AND is_told = 0 LIMIT ?1
         )
         RETURNING name, failing_since_ms, disabled_at_ms, failures, error",
    )?;
    let rows = statement.query_map([EVENTS_MAX], |row| {
        Ok(EndpointDisabled {
            endpoint: row.get(0)?,
            failing_since_ms: row.get(1)?,
            disabled_at_ms: row.get(2)?,
            failures: row.get(3)?,
            error: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether there are disabled endpoints that were not told yet.
pub(super) fn has_untold(connection: &Connection) -> Result<bool, Failure> {
    let found: Option<i64> = connection
        .prepare_cached(
            "SELECT 1 FROM endpoint WHERE disabled_at_ms IS NOT NULL AND is_told = 0 LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(found.is_some())
}

/// Removes rows of messages that left the queue in another way, such as by a purge, and of
/// endpoints that are not used any more. `pending` is longer than a message can wait.
pub(super) fn clean(tx: &Tx<'_>, pending: Duration) -> Result<(), Failure> {
    let pending_ms = i64::try_from(pending.as_millis()).unwrap_or(i64::MAX);
    let before_ms = (tx.now_ms() as i64).saturating_sub(pending_ms);
    tx.execute("DELETE FROM try WHERE last_ms < ?1", [before_ms])?;
    tx.execute(
        "DELETE FROM endpoint WHERE disabled_at_ms IS NULL AND last_ms < ?1",
        [before_ms],
    )?;
    Ok(())
}
