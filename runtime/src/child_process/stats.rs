//! The statistics of a child's service, and their mirror in the parent.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::host::{LastFailure, RemoteStats, ServiceHandle};

/// The statistics of a service at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Whether the start has ended, successfully or not.
    pub(crate) started: bool,
    /// The reason why the service has given up.
    pub(crate) gave_up: Option<String>,
    pub(crate) instances_wanted: usize,
    pub(crate) instances_ready: usize,
    pub(crate) consuming: usize,
    pub(crate) ended: bool,
    pub(crate) standing_by: bool,
    pub(crate) seen: RemoteStats,
    /// From [`Meters::counts`](crate::metrics::Meters::counts).
    pub(crate) counts: Vec<u64>,
    /// Expired requests by asker.
    #[serde(default)]
    pub(crate) expired: Vec<(String, u64)>,
    pub(crate) failures_total: u64,
    /// The last failures, newest last.
    pub(crate) failures: Vec<LastFailure>,
}

/// The counts that the parent has added from one process; a difference to them is new.
#[derive(Debug, Default)]
pub(crate) struct StatsMirror {
    counts: Vec<u64>,
    expired: BTreeMap<String, u64>,
    failures: u64,
}

impl StatsMirror {
    /// Publishes the statistics as those of the parent's service. Returns false if they
    /// belong to another service.
    pub(crate) fn apply(&mut self, stats: Stats, hosted: &ServiceHandle) -> bool {
        if !hosted.meters.add_counts(&self.counts, &stats.counts) {
            return false;
        }
        self.counts = stats.counts;
        for (asker, count) in stats.expired {
            let before = self.expired.insert(asker.clone(), count).unwrap_or(0);
            let new = count.saturating_sub(before);
            hosted.meters.expired.add(&asker, new);
        }
        let new = stats.failures_total.saturating_sub(self.failures);
        self.failures = stats.failures_total;
        let known = stats.failures.len();
        let skipped = known - known.min(usize::try_from(new).unwrap_or(known));
        for failure in stats.failures.into_iter().skip(skipped) {
            hosted.state.failed(failure);
        }
        let liveness = &hosted.env().liveness;
        liveness.wanted.store(stats.instances_wanted, Relaxed);
        liveness.ready.store(stats.instances_ready, Relaxed);
        liveness.consuming.send_replace(stats.consuming);
        liveness.ended.send_replace(stats.ended);
        liveness.standing_by.store(stats.standing_by, Relaxed);
        hosted.see(Some(stats.seen));
        true
    }

    /// Publishes that no process runs.
    pub(crate) fn clear(hosted: &ServiceHandle) {
        let liveness = &hosted.env().liveness;
        liveness.ready.store(0, Relaxed);
        liveness.standing_by.store(false, Relaxed);
        liveness.consuming.send_replace(0);
        hosted.see(None);
    }
}
