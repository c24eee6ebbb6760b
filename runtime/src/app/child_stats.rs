//! Statistics of a service in a child process, for the parent.

use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::{FutureExt, LocalBoxFuture};

use crate::child_process::{LinkedApp, Stats};
use crate::host::RemoteStats;
use crate::status::{AppStatus, Phase, ServiceStatus};

impl LinkedApp for AppStatus {
    fn stats(&self) -> Option<Stats> {
        match &self.services[..] {
            [service] => Some(self.service_stats(service)),
            _ => None,
        }
    }

    fn is_idle(&self) -> LocalBoxFuture<'_, bool> {
        AppStatus::is_idle(self).boxed_local()
    }
}

impl AppStatus {
    /// The statistics of one of the app's services.
    pub(crate) fn service_stats(&self, service: &ServiceStatus) -> Stats {
        let (hosted, env) = (&service.hosted, service.env());
        let depths = service.queues().map(|queue| self.depth(&queue));
        Stats {
            started: self.phase() != Phase::Starting,
            gave_up: service.gave_up(),
            instances_wanted: service.instances_wanted(),
            instances_ready: service.instances_ready(),
            consuming: *env.liveness.consuming.borrow(),
            ended: *env.liveness.ended.borrow(),
            standing_by: env.liveness.standing_by.load(Relaxed),
            seen: RemoteStats {
                depths: depths.collect(),
                ..hosted.figures()
            },
            counts: hosted.meters.counts(),
            expired: hosted.meters.expired.counts(),
            failures_total: hosted.state.failures_total(),
            failures: hosted.state.failures(),
        }
    }
}
