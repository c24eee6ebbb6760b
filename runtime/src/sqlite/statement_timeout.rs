//! A bound on how long the statements of one job may run.
//!
//! SQLite asks every so many steps whether to go on. A job that does something else for long
//! can't be stopped, only named.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tracing::warn;

use super::SqliteError;

/// SQLite asks after so many steps of its machine: about every 10 to 100 µs.
const STEPS: i32 = 1_000;
/// So long a job holds up others without being named.
const NAMED_AFTER: Duration = Duration::from_millis(500);

/// Watches the jobs of one connection.
pub(super) struct StatementTimeout {
    until: Arc<Mutex<Option<Instant>>>,
    max: Duration,
}

impl StatementTimeout {
    pub(super) fn of(connection: &mut Connection, max: Duration) -> Result<Self, SqliteError> {
        let until = Arc::<Mutex<Option<Instant>>>::default();
        let limit = until.clone();
        connection.progress_handler(
            STEPS,
            Some(move || limit.lock().is_some_and(|until| Instant::now() >= until)),
        )?;
        Ok(Self { until, max })
    }

    /// Runs a job: for so long at most, as far as SQLite can stop it.
    pub(super) fn over(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), SqliteError>,
    ) -> Result<(), SqliteError> {
        let began = Instant::now();
        *self.until.lock() = Some(began + self.max);
        let outcome = work();
        *self.until.lock() = None;
        let took = began.elapsed();
        if took >= self.max && outcome.is_err() {
            return Err(SqliteError::TooSlow {
                name: name.to_owned(),
                max: self.max,
            });
        }
        if took >= NAMED_AFTER {
            warn!(
                job = name,
                ?took,
                "a transaction took long, and others waited for it"
            );
        }
        outcome
    }
}
