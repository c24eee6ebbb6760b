//! The statistics of a child's service, and their mirror in the parent.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::app::{AppStatus, Phase, ServiceStatus};
use crate::host::{LastFailure, RemoteStats, ServiceHandle};

/// The statistics of a service at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Whether the start has ended, successfully or not.
    pub(crate) started: bool,
    /// The reason why the service has given up.
    pub(crate) gave_up: Option<String>,
    instances_wanted: usize,
    instances_ready: usize,
    consuming: usize,
    ended: bool,
    standing_by: bool,
    seen: RemoteStats,
    /// From [`Meters::counts`](crate::metrics::Meters::counts).
    counts: Vec<u64>,
    failures_total: u64,
    /// The last failures, newest last.
    failures: Vec<LastFailure>,
}

impl Stats {
    /// Statistics of an app with one service; `None` if it has several.
    pub(super) fn of_app(view: &AppStatus) -> Option<Self> {
        match &view.services[..] {
            [service] => Some(Self::of_service(service, view)),
            _ => None,
        }
    }

    pub(super) fn of_service(service: &ServiceStatus, view: &AppStatus) -> Self {
        let (hosted, env) = (&service.hosted, service.env());
        let depths = service.queues().map(|queue| view.depth(&queue));
        Self {
            started: view.phase() != Phase::Starting,
            gave_up: service.gave_up(),
            instances_wanted: service.instances_wanted(),
            instances_ready: service.instances_ready(),
            consuming: *env.pulse.consuming.borrow(),
            ended: *env.pulse.ended.borrow(),
            standing_by: env.pulse.standing_by.load(Relaxed),
            seen: RemoteStats {
                depths: depths.collect(),
                ..hosted.figures()
            },
            counts: hosted.meters.counts(),
            failures_total: hosted.state.failures_total(),
            failures: hosted.state.failures(),
        }
    }
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
