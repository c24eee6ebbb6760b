//! What can be seen of a service while it runs: states, counts, last failures.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How many failures are kept for people to look at.
const FAILURES_KEPT: usize = 10;

/// The state of a service that lasts over its restarts.
#[derive(Debug, Default)]
pub(crate) struct ServiceState {
    failures: Mutex<VecDeque<LastFailure>>,
    standing: Mutex<Standing>,
    /// How many failures there were.
    failed: AtomicU64,
    /// How often it was isolated.
    isolated: AtomicU64,
}

/// How a service stands with its supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is not to run, or not yet.
    #[default]
    Stopped,
    /// It is to run, and its failures are dealt with inside of it.
    Supervised,
    /// It gave up and is down until it is tried again.
    Isolated {
        why: String,
        /// When it gave up and when it is tried again, in milliseconds since 1970-01-01 UTC.
        since_ms: u64,
        again_ms: u64,
    },
    /// It gave up and is never tried again.
    Gone { why: String },
}

/// A failure, for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LastFailure {
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) time_ms: u64,
    /// What failed: an outcome, or a cause of a restart.
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

    /// How often the service was isolated.
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

    /// How many failures there were, of which the last ones are kept.
    pub(crate) fn failures_total(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// The last failures, the newest last.
    pub(crate) fn failures(&self) -> Vec<LastFailure> {
        self.failures.lock().iter().cloned().collect()
    }
}
