//! What can be seen of a service while it runs: states, counts, last failures.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

/// How many failures are kept for people to look at.
const FAILURES_KEPT: usize = 10;

/// The state of a service, written by its parts and read by anyone.
#[derive(Debug)]
pub(crate) struct ServiceState {
    /// Instances that have started and can take messages.
    pub(crate) ready: AtomicUsize,
    /// Instances whose first start has ended, well or not.
    tried: watch::Sender<usize>,
    /// Bridges that consume now.
    pub(crate) consuming: watch::Sender<usize>,
    /// A source that has come to its end.
    pub(crate) ended: watch::Sender<bool>,
    failures: Mutex<VecDeque<LastFailure>>,
}

/// A failure, for people.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LastFailure {
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) time_ms: u64,
    /// What failed: an outcome, or a cause of a restart.
    pub(crate) what: &'static str,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempt: Option<u32>,
}

impl Default for ServiceState {
    fn default() -> Self {
        Self {
            ready: AtomicUsize::new(0),
            tried: watch::Sender::new(0),
            consuming: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            failures: Mutex::default(),
        }
    }
}

impl ServiceState {
    pub(crate) fn first_start_ended(&self) {
        self.tried.send_modify(|tried| *tried += 1);
    }

    /// Waits until so many instances have been started once, well or not.
    pub(crate) async fn started(&self, instances: usize) {
        let mut tried = self.tried.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = tried.wait_for(|tried| *tried >= instances).await;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) > 0
    }

    pub(crate) fn failed(&self, failure: LastFailure) {
        let mut failures = self.failures.lock();
        if failures.len() == FAILURES_KEPT {
            failures.pop_front();
        }
        failures.push_back(failure);
    }

    /// The last failures, the newest last.
    pub(crate) fn failures(&self) -> Vec<LastFailure> {
        self.failures.lock().iter().cloned().collect()
    }
}
