//! A limit on the time of one job's statements.
//!
//! SQLite calls the progress handler every few steps and interrupts a statement that runs too
//! long. A job that spends its time elsewhere can't be interrupted; it is only logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tracing::warn;

use super::error::SqliteError;

/// Virtual machine steps between two checks: about 10 to 100 µs.
const STEPS: i32 = 1_000;
/// A job that holds up others for longer than this is logged.
const LOG_AFTER: Duration = Duration::from_millis(500);

/// The time limit of one connection.
pub(super) struct StatementTimeout {
    limit: Arc<Limit>,
    max: Duration,
}

#[derive(Default)]
struct Limit {
    until: Mutex<Option<Instant>>,
    /// A statement of the present job was interrupted.
    interrupted: AtomicBool,
}

impl Limit {
    fn is_over(&self) -> bool {
        let is_over = self
            .until
            .lock()
            .is_some_and(|until| Instant::now() >= until);
        if is_over {
            self.interrupted.store(true, Relaxed);
        }
        is_over
    }
}

impl StatementTimeout {
    pub(super) fn new(connection: &mut Connection, max: Duration) -> Result<Self, SqliteError> {
        let limit = Arc::<Limit>::default();
        let checked = limit.clone();
        connection.progress_handler(STEPS, Some(move || checked.is_over()))?;
        Ok(Self { limit, max })
    }

    /// Runs a job under the time limit. A job that was slow without an interrupted statement
    /// keeps its own result.
    pub(super) fn run(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), SqliteError>,
    ) -> Result<(), SqliteError> {
        let began = Instant::now();
        self.limit.interrupted.store(false, Relaxed);
        *self.limit.until.lock() = Some(began + self.max);
        let outcome = work();
        *self.limit.until.lock() = None;
        let took = began.elapsed();
        if self.limit.interrupted.load(Relaxed) && outcome.is_err() {
            return Err(SqliteError::TooSlow {
                name: name.to_owned(),
                max: self.max,
            });
        }
        if took >= LOG_AFTER {
            warn!(job = name, ?took, "slow transaction, others waited for it");
        }
        outcome
    }
}
