//! What a child's service counts and shows, and how its parent takes it over.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::app::{AppStatus, Phase, ServiceStatus};
use crate::host::{LastFailure, RemoteStats, ServiceHandle};

/// A service in its process, at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Whether it has been started, well or not.
    pub(crate) started: bool,
    /// Why it has given up, if it has.
    pub(crate) gave_up: Option<String>,
    instances_wanted: usize,
    instances_ready: usize,
    consuming: usize,
    ended: bool,
    standing_by: bool,
    seen: RemoteStats,
    /// As [`Meters::counts`](crate::metrics::Meters::counts) has them.
    counts: Vec<u64>,
    failures_total: u64,
    /// The last ones, the newest last.
    failures: Vec<LastFailure>,
}

impl Stats {
    /// Of the only service of an app; `None` if it has several.
    pub(super) fn of(view: &AppStatus) -> Option<Self> {
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

/// What the parent has taken over from one process: what it counts more is new.
#[derive(Debug, Default)]
pub(crate) struct StatsMirror {
    counts: Vec<u64>,
    failures: u64,
}

impl StatsMirror {
    /// Shows the figures as those of the parent's own service. Says whether they were
    /// ones of this service.
    pub(crate) fn show(&mut self, figures: Stats, hosted: &ServiceHandle) -> bool {
        if !hosted.meters.add_counts(&self.counts, &figures.counts) {
            return false;
        }
        self.counts = figures.counts;
        let new = figures.failures_total.saturating_sub(self.failures);
        self.failures = figures.failures_total;
        let known = figures.failures.len();
        let skipped = known - known.min(usize::try_from(new).unwrap_or(known));
        for failure in figures.failures.into_iter().skip(skipped) {
            hosted.state.failed(failure);
        }
        let pulse = &hosted.env().pulse;
        pulse.wanted.store(figures.instances_wanted, Relaxed);
        pulse.ready.store(figures.instances_ready, Relaxed);
        pulse.consuming.send_replace(figures.consuming);
        pulse.ended.send_replace(figures.ended);
        pulse.standing_by.store(figures.standing_by, Relaxed);
        hosted.see(Some(figures.seen));
        true
    }

    /// Shows that there is no process any more.
    pub(crate) fn hide(hosted: &ServiceHandle) {
        let pulse = &hosted.env().pulse;
        pulse.ready.store(0, Relaxed);
        pulse.standing_by.store(false, Relaxed);
        pulse.consuming.send_replace(0);
        hosted.see(None);
    }
}
