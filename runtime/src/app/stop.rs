//! Stops an app in order.
//!
//! Sources stop before services, and each stage has a deadline: the messages in flight are
//! finished, the outputs are confirmed, then transport, stores and threads are closed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::run::App;
use super::summary::Summary;
use crate::host::{ServiceHandle, Stopped};
use crate::metrics::Worker;
use crate::names::QueueId;
use crate::status::Phase;
use crate::supervisors::Supervised;

/// Minimum time for a stage of stopping if earlier stages used up the deadline.
const STAGE_MIN: Duration = Duration::from_millis(500);

/// Maximum time to close the transport, and then all stores together.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The result of stopping.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// Messages in flight at the deadline: `(service, message)`.
    pub abandoned: Vec<(String, String)>,
    /// Messages left in queues: `(queue, count)`. Without a durable transport they are lost
    /// with the process.
    pub left: Vec<(String, u64)>,
    /// Number of threads that a handler blocked beyond the deadline.
    pub stuck_threads: usize,
    /// Transport and stores that did not close in time. They may still be working.
    pub unclosed: Vec<String>,
    /// Totals of the app.
    pub summary: Summary,
}

impl StopReport {
    /// Returns whether all started work was finished.
    pub fn is_clean(&self) -> bool {
        self.abandoned.is_empty() && !self.is_stuck()
    }

    /// Returns whether threads are left that may never end. The end of a tokio runtime would
    /// wait for them for ever, so the process must use [`exit`](std::process::exit).
    pub fn is_stuck(&self) -> bool {
        self.stuck_threads > 0 || !self.unclosed.is_empty()
    }
}

impl App {
    /// Stops in order: sources stop, services finish their messages in flight within
    /// `app.shutdown_timeout`, published messages are confirmed, services stop in reverse
    /// order, and their threads are joined.
    pub async fn stop(self) -> StopReport {
        let within = self.shutdown_timeout;
        self.stop_within(within).await
    }

    /// Stops like [`stop`](Self::stop), with another time limit for messages in flight.
    pub(crate) async fn stop_within(self, within: Duration) -> StopReport {
        let deadline = crate::clock::later(within);
        self.view.set_phase(Phase::Stopping);
        self.view.events.cease();
        let mut report = StopReport::default();
        if let Some(tree) = self.tree.get() {
            tree.cease();
        }
        let stuck = self.stop_services(within, deadline, &mut report).await;
        self.report_queues(&mut report).await;
        self.close_connections(deadline, &mut report).await;
        // The watchdog must not take a thread that ends for a blocked one.
        for task in &self.watching {
            task.abort();
        }
        report.stuck_threads = self.threads.join(&stuck).await;
        report.summary = self.summary();
        if let Some(admin) = self.admin {
            admin.stop();
        }
        drop(self.control);
        report
    }

    /// Stops the sources, then the services, each in reverse order. Reports the messages that
    /// they did not finish, and returns the workers whose threads are blocked.
    async fn stop_services(
        &self,
        within: Duration,
        deadline: Instant,
        report: &mut StopReport,
    ) -> Vec<Arc<Worker>> {
        let (sources, services): (Vec<_>, Vec<_>) = self
            .services
            .iter()
            .rev()
            .partition(|service| service.hosted.is_source());
        // A slow source must not use up the time of the services.
        let sources_within = match services.is_empty() {
            true => within,
            false => within / 2,
        };
        let sources_by = crate::clock::later(sources_within);
        let mut stuck = Vec::new();
        for (stage, by) in [(sources, sources_by), (services, deadline)] {
            for (service, stopped) in stop_stage(&stage, by).await {
                if stopped.stuck {
                    stuck.push(service.hosted.env().worker.clone());
                }
                let label = service.hosted.label.to_string();
                let named = stopped.abandoned.into_iter();
                report
                    .abandoned
                    .extend(named.map(|text| (label.clone(), text)));
            }
        }
        stuck
    }

    /// Reports the messages left in queues. A durable transport keeps them.
    async fn report_queues(&self, report: &mut StopReport) {
        let queues: Vec<QueueId> = self
            .services
            .iter()
            .flat_map(|service| {
                let hosted = &service.hosted;
                let inputs = hosted.inputs.iter();
                inputs.map(|input| QueueId::new(&hosted.label, input))
            })
            .collect();
        let depths = queues.iter().map(|queue| self.transport.depth(queue));
        let depths = join_all(depths.map(|depth| timeout(STAGE_MIN, depth))).await;
        for (queue, depth) in queues.iter().zip(depths) {
            if let Ok(Ok(depth)) = depth
                && depth.total() > 0
            {
                report.left.push((queue.to_string(), depth.total()));
            }
        }
    }

    /// Closes the transport and the stores, and reports those that take too long.
    async fn close_connections(&self, deadline: Instant, report: &mut StopReport) {
        let flush_by = deadline.max(Instant::now() + STAGE_MIN);
        if timeout_at(flush_by, self.transport.flush()).await.is_err() {
            warn!("stopped before the transport had confirmed all messages");
        }
        let closing = timeout(CLOSE_WITHIN, self.transport.close());
        if closing.await.is_err() {
            warn!("transport did not close in time");
            report.unclosed.push("the transport".to_owned());
        }
        // Stores close after all their users, and before another process may open them.
        let closing = self.services.iter().map(|s| close_store(&s.hosted));
        let unclosed = join_all(closing).await.into_iter().flatten();
        report.unclosed.extend(unclosed);
    }
}

/// Stops the services of one stage: all finish their messages in flight together, then they
/// stop in order.
async fn stop_stage<'a>(
    stage: &[&'a Rc<Supervised>],
    by: Instant,
) -> Vec<(&'a Supervised, Stopped)> {
    let turns = join_all(stage.iter().map(|service| service.drain(by))).await;
    let mut stopped: Vec<(&Supervised, Stopped)> = Vec::with_capacity(stage.len());
    let mut late = Vec::new();
    for (service, turns) in stage.iter().zip(turns) {
        if turns && Instant::now() < by {
            stopped.push((service, service.stop_by(by).await));
        } else {
            late.push(service);
        }
    }
    // Services with a blocked thread or past the deadline stop together, since each would
    // wait for the same time.
    let ends = join_all(late.iter().map(|service| service.stop_by(by))).await;
    stopped.extend(late.into_iter().map(|it| &***it).zip(ends));
    stopped
}

/// Closes the store of a service, if it has one. Returns its name if that takes too long,
/// for example because the disk hangs.
async fn close_store(hosted: &ServiceHandle) -> Option<String> {
    let store = hosted.store()?;
    let (service, path) = (&hosted.label, store.database.path().display());
    let closing = timeout(CLOSE_WITHIN, store.database.close());
    closing.await.err().map(|_| {
        warn!(%service, %path, "store did not close in time");
        format!("the store of {service}")
    })
}
