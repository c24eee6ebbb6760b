//! The view: what can be seen of an app from outside, by any thread, at any time.
//!
//! It only looks. Nothing here changes the app, waits for it, or shows a secret.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use super::plan::WiredPort;
use crate::host::{ServiceHandle, ServiceRun, Standing};
use crate::metrics::WorkerLag;
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::transport::{Backpressure, Depth, Status, Transport};

/// How often the depths of queues are asked for.
const DEPTHS_EVERY: Duration = Duration::from_secs(1);
/// How long a transport may take to tell the depth of one queue.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(5);
/// A depth older than this is not shown: no figure is better than a wrong one.
const DEPTH_AGE_MAX: Duration = Duration::from_secs(15);
/// A worker that has not turned for so long is not going to.
const STUCK: Duration = Duration::from_secs(60);

/// What can be seen of an app.
pub(crate) struct AppStatus {
    pub(crate) name: Arc<str>,
    pub(crate) started: SystemTime,
    /// In the manifest's order.
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) workers: Arc<WorkerLag>,
    pressure: Arc<Backpressure>,
    redactor: Arc<Redactor>,
    depths: Mutex<HashMap<QueueId, (Instant, Depth)>>,
    phase: AtomicU8,
}

/// What can be seen of a service.
pub(crate) struct ServiceStatus {
    pub(crate) hosted: Arc<ServiceHandle>,
    /// The name of its service type.
    pub(crate) service_type: &'static str,
    pub(crate) role: &'static str,
    pub(crate) inputs: Vec<WiredPort>,
    pub(crate) outputs: Vec<WiredPort>,
}

/// `role` of a service that starts messages.
pub(crate) const SOURCE: &str = "source";

/// What an app is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Starting,
    Running,
    Stopping,
}

/// What a service is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has not been ready yet.
    Starting,
    Up,
    /// It has failed and is not ready.
    Down,
    /// It asked for a pause, and takes no messages meanwhile.
    Paused,
    /// A source that another process runs, ready to take over.
    #[serde(rename = "standing by")]
    StandingBy,
    /// A source that has come to its end.
    Ended,
    Stopping,
    /// It gave up and is tried again later.
    Isolated,
    /// It gave up and is never tried again.
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
        pressure: Arc<Backpressure>,
        redactor: Arc<Redactor>,
        workers: Arc<WorkerLag>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            started: SystemTime::now(),
            services,
            transport,
            workers,
            pressure,
            redactor,
            depths: Mutex::default(),
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

    /// The transport's status, without secrets.
    pub(crate) fn transport_status(&self) -> Status {
        let mut status = self.transport.status().borrow().clone();
        let texts = [&mut status.down, &mut status.scarce];
        for text in texts.into_iter().flatten() {
            *text = self.redactor.clean(text).into_owned();
        }
        status
    }

    /// How many sources wait because a queue is too full.
    pub(crate) fn sources_paused(&self) -> usize {
        if !self.pressure.is_high() {
            return 0;
        }
        let running = |service: &&ServiceStatus| {
            service.is_source() && matches!(service.state(), State::Up | State::Paused)
        };
        self.services.iter().filter(running).count()
    }

    /// The depth of a queue, if it was learnt lately.
    pub(crate) fn depth(&self, queue: &QueueId) -> Option<Depth> {
        let (learnt, depth) = *self.depths.lock().get(queue)?;
        (learnt.elapsed() <= DEPTH_AGE_MAX).then_some(depth)
    }

    /// Asks for the depth of every queue, once.
    pub(crate) async fn poll_depths(&self) {
        for service in &self.services {
            // A process knows better what it has in hand itself.
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
                    // What can't be learnt is not shown; why not is in the transport's
                    // status.
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

    /// Keeps the depths of queues fresh, until it is dropped.
    pub(crate) async fn keep_depths(self: Arc<Self>) {
        loop {
            self.poll_depths().await;
            tokio::time::sleep(DEPTHS_EVERY).await;
        }
    }

    /// Whether the app can do its work now, and if not, everything that is in the way.
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
                "the transport {scheme} has little room, sources wait until some is worked off: {why}"
            ));
        }
        for service in &self.services {
            reasons.extend(service.not_ready());
        }
        (reasons.is_empty(), reasons)
    }

    /// Whether the process is worth keeping, and if not, why. One that waits for others
    /// is; one whose threads are stuck is not.
    pub(crate) fn liveness(&self) -> (bool, Vec<String>) {
        let reasons = stuck(self.workers.overdue());
        (reasons.is_empty(), reasons)
    }
}

/// The workers that are late by too much.
fn stuck(overdue: impl Iterator<Item = Duration>) -> Vec<String> {
    let stuck = overdue.enumerate().filter(|(_, late)| *late >= STUCK);
    let reasons = stuck.map(|(worker, late)| {
        let seconds = late.as_secs();
        format!("worker {worker} has not turned for {seconds} s: a handler blocks it")
    });
    reasons.collect()
}

impl ServiceStatus {
    pub(crate) fn is_source(&self) -> bool {
        self.role == SOURCE
    }

    /// The queues that belong to it, that of its dead letters last.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueId> {
        let label = &*self.hosted.label;
        let letters = (!self.hosted.inputs.is_empty()).then(|| QueueId::dead_letters(label));
        let inputs = self.hosted.inputs.iter();
        inputs
            .map(move |input| QueueId::new(label, input))
            .chain(letters)
    }

    /// What surrounds it in its present, or last, life.
    pub(crate) fn env(&self) -> Arc<ServiceRun> {
        self.hosted.env()
    }

    /// How many instances it is to have.
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

    /// Why it is down, when it has given up.
    pub(crate) fn gave_up(&self) -> Option<String> {
        match self.hosted.state.standing() {
            Standing::Isolated { why, .. } | Standing::Gone { why } => Some(why),
            Standing::Stopped | Standing::Supervised => None,
        }
    }

    /// How often an instance, the source or a bridge was started again.
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

    fn not_ready(&self) -> Option<String> {
        let label = &self.hosted.label;
        let env = self.env();
        let state = self.state();
        let what = match state {
            State::Up | State::Paused | State::StandingBy | State::Ended => return None,
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

/// Whether a service runs and hears all that it should.
fn works(env: &ServiceRun) -> bool {
    env.liveness.is_ready() && consumed(env) >= env.inputs.len()
}

fn consumed(env: &ServiceRun) -> usize {
    *env.liveness.consuming.borrow()
}

#[cfg(test)]
mod tests;
