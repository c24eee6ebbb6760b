//! Status of a service over its restarts: its state at the supervisor and its last failures.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Maximum failures kept for operators.
const FAILURES_KEPT: usize = 10;

/// The status of one service.
#[derive(Debug, Default)]
pub(crate) struct ServiceState {
    failures: Mutex<VecDeque<LastFailure>>,
    standing: Mutex<Standing>,
    /// Number of failures so far.
    failed: AtomicU64,
    /// Number of isolations so far.
    isolated: AtomicU64,
}

/// The state of a service at its supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The service is not running.
    #[default]
    Stopped,
    /// The service runs, and handles its own failures.
    Supervised,
    /// The service gave up, and is started again later.
    Isolated {
        why: String,
        /// Time of giving up, in milliseconds since 1970-01-01 UTC.
        since_ms: u64,
        /// Time of the next start, in milliseconds since 1970-01-01 UTC.
        again_ms: u64,
    },
    /// The service gave up for good.
    Gone { why: String },
}

/// A failure, for operators.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LastFailure {
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) time_ms: u64,
    /// Name of the outcome of an attempt, or of the cause of a restart.
    pub(crate) what: Cow<'static, str>,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempt: Option<u32>,
}

impl ServiceState {
    pub(crate) fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    pub(crate) fn stand(&self, standing: Standing) {
        if matches!(standing, Standing::Isolated { .. }) {
            self.isolated.fetch_add(1, Relaxed);
        }
        *self.standing.lock() = standing;
    }

    /// Returns the number of isolations so far.
    pub(crate) fn isolations(&self) -> u64 {
        self.isolated.load(Relaxed)
    }

    pub(crate) fn failed(&self, failure: LastFailure) {
        self.failed.fetch_add(1, Relaxed);
        let mut failures = self.failures.lock();
        if failures.len() == FAILURES_KEPT {
            failures.pop_front();
        }
        failures.push_back(failure);
    }

    /// Returns the number of failures so far, including those no longer kept.
    pub(crate) fn failures_total(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Returns the last failures, the newest last.
    pub(crate) fn failures(&self) -> Vec<LastFailure> {
        self.failures.lock().iter().cloned().collect()
    }
}
