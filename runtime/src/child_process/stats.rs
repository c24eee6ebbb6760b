//! The statistics of a child's service, and their mirror in the parent.

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
    pub(crate) failures_total: u64,
    /// The last failures, newest last.
    pub(crate) failures: Vec<LastFailure>,
}

/// The counts that the parent has added from one process; a difference to them is new.
#[derive(Debug, Default)]
pub(crate) struct StatsMirror {
    counts: Vec<u64>,
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
        let new = stats.failures_total.saturating_sub(self.failures);
        self.failures = stats.failures_total;
        let known = stats.failures.len();
        let skipped = known - known.min(usize::try_from(new).unwrap_or(known));
        for failure in stats.failures.into_iter().skip(skipped) {
            hosted.state.failed(failure);
        }
        let pulse = &hosted.env().pulse;
        pulse.wanted.store(stats.instances_wanted, Relaxed);
        pulse.ready.store(stats.instances_ready, Relaxed);
        pulse.consuming.send_replace(stats.consuming);
        pulse.ended.send_replace(stats.ended);
        pulse.standing_by.store(stats.standing_by, Relaxed);
        hosted.see(Some(stats.seen));
        true
    }

    /// Publishes that no process runs.
    pub(crate) fn clear(hosted: &ServiceHandle) {
        let pulse = &hosted.env().pulse;
        pulse.ready.store(0, Relaxed);
        pulse.standing_by.store(false, Relaxed);
        pulse.consuming.send_replace(0);
        hosted.see(None);
    }
}
