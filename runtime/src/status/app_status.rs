//! The status of an app, readable by any thread at any time.
//!
//! Nothing here changes the app, waits for it, or shows a secret.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::{info, warn};

use crate::clock::Rfc3339;
use crate::events::Events;
use crate::host::{ServiceHandle, ServiceRun, Standing};
use crate::metrics::WorkerLag;
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::service::WiredPort;
use crate::supervision::Strategy;
use crate::transport::{Depth, Status, StrandedQueue, Transport, WaitReason};

/// Interval at which queue depths are read.
const DEPTHS_EVERY: Duration = Duration::from_secs(1);
/// Maximum time a transport may take to return the depth of one queue.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(5);
/// An older depth is not shown: no number is better than a wrong one.
const DEPTH_AGE_MAX: Duration = Duration::from_secs(15);
/// A source that waits for a full queue for this long is logged.
const LONG_WAIT: Duration = Duration::from_secs(10);
/// A worker thread that is blocked for this long is considered stuck.
const STUCK: Duration = Duration::from_secs(60);

/// The status of an app.
pub(crate) struct AppStatus {
    pub(crate) name: Arc<str>,
    pub(crate) started: SystemTime,
    /// In the order of the manifest.
    pub(crate) services: Vec<ServiceStatus>,
    /// The groups with services in this process, in the order of the manifest.
    pub(crate) groups: Vec<GroupStatus>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) workers: Arc<WorkerLag>,
    pub(crate) events: Arc<Events>,
    redactor: Arc<Redactor>,
    depths: Mutex<HashMap<QueueId, (Instant, Depth)>>,
    /// Queues whose messages no service reads.
    pub(super) stranded: Mutex<Vec<StrandedQueue>>,
    phase: AtomicU8,
}

/// The status of a service.
pub(crate) struct ServiceStatus {
    pub(crate) hosted: Arc<ServiceHandle>,
    /// Name of the service type.
    pub(crate) service_type: &'static str,
    pub(crate) role: &'static str,
    pub(crate) inputs: Vec<WiredPort>,
    pub(crate) outputs: Vec<WiredPort>,
}

/// The status of a group.
pub(crate) struct GroupStatus {
    pub(crate) name: Arc<str>,
    pub(crate) strategy: Strategy,
    /// Labels of its services in this process, in the order of the group's list.
    pub(crate) services: Vec<Arc<str>>,
    /// Number of times that the group's supervisor restarted services.
    pub(crate) restarts: Arc<AtomicU64>,
}

/// `role` of a source.
pub(crate) const SOURCE: &str = "source";

/// Phase of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Starting,
    Running,
    Stopping,
}

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// The service has not been ready yet.
    Starting,
    Up,
    /// The service has failed and is not ready.
    Down,
    /// The service takes no messages during a pause that it asked for.
    Paused,
    /// The circuit breaker is open or tries one message.
    #[serde(rename = "breaker open")]
    BreakerOpen,
    /// Another process runs this source; this one is ready to replace it.
    #[serde(rename = "standing by")]
    StandingBy,
    /// The source has ended.
    Ended,
    Stopping,
    /// The service was given up and is tried again later.
    Isolated,
    /// The service was given up for good.
    Gone,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Paused => "paused",
            Self::BreakerOpen => "breaker open",
            Self::StandingBy => "standing by",
            Self::Ended => "ended",
            Self::Stopping => "stopping",
            Self::Isolated => "isolated",
            Self::Gone => "gone",
        }
    }
}

impl AppStatus {
    pub(crate) fn new(
        name: Arc<str>,
        services: Vec<ServiceStatus>,
        transport: Arc<dyn Transport>,
        groups: Vec<GroupStatus>,
        redactor: Arc<Redactor>,
        workers: Arc<WorkerLag>,
        events: Arc<Events>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            started: SystemTime::now(),
            services,
            groups,
            transport,
            workers,
            events,
            redactor,
            depths: Mutex::default(),
            stranded: Mutex::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
        })
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        const PHASES: [Phase; 3] = [Phase::Starting, Phase::Running, Phase::Stopping];
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    /// Returns the status of the transport, without secrets.
    pub(crate) fn transport_status(&self) -> Status {
        let mut status = self.transport.status().borrow().clone();
        let texts = [&mut status.down, &mut status.scarce];
        let texts = texts.into_iter().flatten();
        for text in texts.chain(status.degraded.values_mut()) {
            *text = self.redactor.clean(text).into_owned();
        }
        status
    }

    /// Returns the number of sources that wait because a queue is above its high-water mark.
    pub(crate) fn sources_paused(&self) -> usize {
        let waits = |service: &&ServiceStatus| !service.waits_for().is_empty();
        self.services.iter().filter(waits).count()
    }

    /// Returns a text for each source that waits, and for each queue that no service reads. Such an
    /// app is ready: the queues keep what was accepted, and a source goes on by itself.
    pub(crate) fn notes(&self) -> Vec<String> {
        let notes = self.services.iter().flat_map(|service| {
            let label = &service.hosted.label;
            let reasons = service.waits_for().into_iter();
            reasons.map(move |reason| format!("the source {label} waits: {reason}"))
        });
        notes.chain(self.stranded_notes()).collect()
    }

    /// Returns the depth of a queue, if a recent one is known.
    pub(crate) fn depth(&self, queue: &QueueId) -> Option<Depth> {
        let (learnt, depth) = *self.depths.lock().get(queue)?;
        (learnt.elapsed() <= DEPTH_AGE_MAX).then_some(depth)
    }

    /// Reads the depth of every queue once.
    pub(crate) async fn poll_depths(&self) {
        for service in &self.services {
            // The process knows its own messages in flight better than the transport.
            let told = service.hosted.seen().map(|seen| seen.depths);
            let mut told = told.unwrap_or_default().into_iter();
            for queue in service.queues() {
                let depth = match told.next() {
                    Some(Some(depth)) => Some(depth),
                    Some(None) | None => self.ask_depth(&queue).await,
                };
                let mut depths = self.depths.lock();
                match depth {
                    Some(depth) => {
                        depths.insert(queue, (Instant::now(), depth));
                    }
                    // An unknown depth is not shown. The transport's status has the reason.
                    None => {
                        depths.remove(&queue);
                    }
                }
            }
        }
    }

    async fn ask_depth(&self, queue: &QueueId) -> Option<Depth> {
        let asked = tokio::time::timeout(DEPTH_TIMEOUT, self.transport.depth(queue));
        asked.await.ok()?.ok()
    }

    /// Reads queue depths periodically until it is dropped.
    pub(crate) async fn keep_depths(self: Arc<Self>) {
        let mut logged = HashMap::new();
        loop {
            self.poll_depths().await;
            self.log_waiting_sources(&mut logged);
            tokio::time::sleep(DEPTHS_EVERY).await;
        }
    }

    /// Logs each source that waits for long, once, and its end.
    fn log_waiting_sources(&self, logged: &mut HashMap<Arc<str>, tokio::time::Instant>) {
        for service in &self.services {
            let label = &service.hosted.label;
            let reasons = service.waits_for();
            let full = reasons
                .iter()
                .find(|reason| matches!(reason, WaitReason::QueueFull { .. }));
            match full {
                None => {
                    if let Some(since) = logged.remove(label) {
                        let seconds = since.elapsed().as_secs();
                        info!(service = %label, seconds, "the source goes on");
                    }
                }
                Some(reason) if reason.since().elapsed() >= LONG_WAIT => {
                    logged.entry(label.clone()).or_insert_with(|| {
                        warn!(service = %label, %reason, "the source waits");
                        reason.since()
                    });
                }
                Some(_) => {}
            }
        }
    }

    /// Returns whether the app can work now, and the reasons if it can't.
    pub(crate) fn readiness(&self) -> (bool, Vec<String>) {
        let mut reasons = Vec::new();
        match self.phase() {
            Phase::Running => {}
            Phase::Starting => reasons.push("the app is starting".to_owned()),
            Phase::Stopping => reasons.push("the app is stopping".to_owned()),
        }
        let (status, scheme) = (self.transport_status(), self.transport.scheme());
        if let Some(why) = status.down {
            reasons.push(format!("the transport {scheme} is down: {why}"));
        }
        if let Some(why) = status.scarce {
            reasons.push(format!(
                "the transport {scheme} is low on disk space, sources wait until messages are handled: {why}"
            ));
        }
        let degraded = status.degraded.into_values();
        reasons.extend(degraded.map(|why| format!("the transport {scheme}: {why}")));
        for service in &self.services {
            reasons.extend(service.not_ready());
        }
        (reasons.is_empty(), reasons)
    }

    /// Returns whether the process is alive, and the reasons if it should be restarted. A
    /// process that waits for others is alive; a process with stuck threads is not.
    pub(crate) fn liveness(&self) -> (bool, Vec<String>) {
        let reasons = stuck(self.workers.overdue());
        (reasons.is_empty(), reasons)
    }
}

/// Returns a text for each stuck worker thread.
fn stuck(overdue: impl Iterator<Item = Duration>) -> Vec<String> {
    let stuck = overdue.enumerate().filter(|(_, late)| *late >= STUCK);
    let reasons = stuck.map(|(worker, late)| {
        let seconds = late.as_secs();
        format!("worker thread {worker} is blocked for {seconds} s by a handler")
    });
    reasons.collect()
}

impl ServiceStatus {
    pub(crate) fn is_source(&self) -> bool {
        self.role == SOURCE
    }

    /// Returns the queues of the service. The dead-letter queue is the last.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueId> {
        let label = &*self.hosted.label;
        let letters = (!self.hosted.inputs.is_empty()).then(|| QueueId::dead_letters(label));
        let inputs = self.hosted.inputs.iter();
        inputs
            .map(move |input| QueueId::new(label, input))
            .chain(letters)
    }

    /// Returns the current run of the service, or the last one.
    pub(crate) fn env(&self) -> Arc<ServiceRun> {
        self.hosted.env()
    }

    /// Returns the number of instances that the service should have.
    pub(crate) fn instances_wanted(&self) -> usize {
        if self.is_source() {
            1
        } else {
            self.env().liveness.wanted.load(Relaxed)
        }
    }

    pub(crate) fn instances_ready(&self) -> usize {
        self.env().liveness.ready.load(Relaxed)
    }

    /// Returns the reason why the service was given up.
    pub(crate) fn gave_up(&self) -> Option<String> {
        match self.hosted.state.standing() {
            Standing::Isolated { why, .. } | Standing::Gone { why } => Some(why),
            Standing::Stopped | Standing::Supervised => None,
        }
    }

    /// Returns the restarts of instances, of the source and of bridges.
    pub(crate) fn restarts(&self) -> u64 {
        self.hosted.meters.restarts().map(|(_, count)| count).sum()
    }

    pub(crate) fn state(&self) -> State {
        let env = self.env();
        match self.hosted.state.standing() {
            Standing::Isolated { .. } => return State::Isolated,
            Standing::Gone { .. } => return State::Gone,
            Standing::Stopped | Standing::Supervised => {}
        }
        if *env.liveness.ended.borrow() {
            State::Ended
        } else if env.is_closing() {
            State::Stopping
        } else if env.liveness.standing_by.load(Relaxed) {
            State::StandingBy
        } else if self.is_breaker_open() && env.liveness.is_ready() {
            // The bridges have no consumers meanwhile.
            State::BreakerOpen
        } else if !works(&env) {
            if self.restarts() == 0 {
                State::Starting
            } else {
                State::Down
            }
        } else if self.hosted.paused_for().is_some() {
            State::Paused
        } else {
            State::Up
        }
    }

    /// Returns the reasons why the source waits, if it runs.
    pub(crate) fn waits_for(&self) -> Vec<WaitReason> {
        if !self.is_source() || !matches!(self.state(), State::Up | State::Paused) {
            return Vec::new();
        }
        self.env().pressure.reasons()
    }

    fn is_breaker_open(&self) -> bool {
        let breaker = self.hosted.breaker_status();
        breaker.is_some_and(|breaker| breaker.degraded)
    }

    /// Returns a text about an open circuit breaker.
    fn breaker_reason(&self) -> Option<String> {
        let breaker = self.hosted.breaker_status()?;
        let (since, why) = (breaker.since_ms?, breaker.why?);
        let since = Rfc3339 { unix_ms: since };
        Some(format!("since {since}; last failure: {why}"))
    }

    fn not_ready(&self) -> Option<String> {
        let label = &self.hosted.label;
        let env = self.env();
        let state = self.state();
        let what = match state {
            State::Up | State::Paused | State::StandingBy | State::Ended => return None,
            State::BreakerOpen => {
                let reason = self.breaker_reason().unwrap_or_default();
                format!("takes no messages, its circuit breaker is open {reason}")
            }
            State::Starting => "is starting".to_owned(),
            State::Stopping => "is stopping".to_owned(),
            State::Isolated => "is isolated".to_owned(),
            State::Gone => "is down for good".to_owned(),
            State::Down if env.liveness.is_ready() => {
                let (consumed, inputs) = (consumed(&env), env.inputs.len());
                format!("consumes {consumed} of its {inputs} inputs")
            }
            State::Down if self.is_source() => "does not run".to_owned(),
            State::Down => {
                let wanted = self.instances_wanted();
                format!("has none of its {wanted} instances ready")
            }
        };
        if let Some(why) = self.gave_up() {
            return Some(format!("service {label} {what}: it {why}"));
        }
        let failures = self.hosted.state.failures();
        let last = failures.last().filter(|_| state == State::Down);
        Some(match last {
            None => format!("service {label} {what}"),
            Some(last) => {
                let (kind, text) = (&last.what, &last.text);
                format!("service {label} {what}; last failure ({kind}): {text}")
            }
        })
    }
}

/// Returns whether a service has an instance ready and consumes all its inputs.
fn works(env: &ServiceRun) -> bool {
    env.liveness.is_ready() && consumed(env) >= env.inputs.len()
}

fn consumed(env: &ServiceRun) -> usize {
    *env.liveness.consuming.borrow()
}

#[cfg(test)]
mod tests;
