//! The snapshot: the status of an app as plain data, for `/api/app` and the control socket.

use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::app_status::{AppStatus, GroupStatus, Phase, ServiceStatus, State};
use crate::clock::{Rfc3339, unix_ms};
use crate::host::{BreakerStatus, KeysHeld, LastFailure};
use crate::metrics::{InputMeter, Outcome};
use crate::names::QueueId;
use crate::service::WiredPort;
use crate::transport::{Depth, WaitReason};

/// An app at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot<'a> {
    pub(crate) app: &'a str,
    pub(crate) version: &'static str,
    pub(crate) process: u32,
    pub(crate) phase: Phase,
    pub(crate) started: String,
    uptime_seconds: u64,
    pub(crate) ready: bool,
    /// Reasons why the app is not ready.
    pub(crate) reasons: Vec<String>,
    /// Sources that wait, and the queues that they wait for.
    pub(crate) notes: Vec<String>,
    pub(crate) transport: TransportSnapshot,
    /// Number of sources that wait because a queue is above its high-water mark.
    sources_paused: usize,
    /// Greatest lag of each worker thread in the last 10 to 20 seconds.
    worker_lag_seconds: Vec<f64>,
    pub(crate) groups: Vec<GroupSnapshot<'a>>,
    pub(crate) services: Vec<ServiceSnapshot<'a>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TransportSnapshot {
    pub(crate) scheme: &'static str,
    durable: bool,
    up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    down_because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scarce_because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    down_since: Option<String>,
    reconnects: u64,
    late_replies: u64,
}

/// A group of services.
#[derive(Debug, Serialize)]
pub(crate) struct GroupSnapshot<'a> {
    pub(crate) group: &'a str,
    pub(crate) strategy: &'static str,
    /// In the order of the group's list.
    pub(crate) services: Vec<&'a str>,
    /// Number of times that the group's supervisor restarted services.
    pub(crate) restarts: u64,
}

impl<'a> From<&'a GroupStatus> for GroupSnapshot<'a> {
    fn from(group: &'a GroupStatus) -> Self {
        Self {
            group: &group.name,
            strategy: group.strategy.as_str(),
            services: group.services.iter().map(|label| &**label).collect(),
            restarts: group.restarts.load(Relaxed),
        }
    }
}

/// A service at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct ServiceSnapshot<'a> {
    pub(crate) service: &'a str,
    #[serde(rename = "use")]
    pub(crate) service_type: &'static str,
    pub(crate) role: &'static str,
    pub(crate) state: State,
    /// Id of the child process of the service, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<u32>,
    /// Reason why the service was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    gave_up: Option<String>,
    /// Rest of the pause that the service asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_seconds: Option<f64>,
    /// Queues that the source waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits_for: Vec<FullQueue>,
    /// State of the circuit breaker; `None` if it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<BreakerSnapshot>,
    pub(crate) instances: Instances,
    pub(crate) mailbox: Mailbox,
    /// Messages that are held for the order by key; `None` if messages have no keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<KeysHeld>,
    in_flight: usize,
    /// Messages that are published but not confirmed.
    unconfirmed: usize,
    pub(crate) inputs: Vec<InputSnapshot<'a>>,
    pub(crate) outputs: Vec<OutputSnapshot<'a>>,
    pub(crate) handled: Counts,
    pub(crate) restarts: Counts,
    dead_letters: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_queue: Option<QueueDepth>,
    asks: Counts,
    /// Messages without an id: duplicates of them can't be detected.
    anonymous: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    entities: Option<EntityCounts>,
    /// In order of time, the newest last.
    last_failures: Vec<LastFailure>,
}

/// Numbers of entities, for a service that holds entities.
#[derive(Debug, Serialize)]
struct EntityCounts {
    /// In memory.
    active: u64,
    started: u64,
    passivated: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Instances {
    pub(crate) wanted: usize,
    min: usize,
    max: usize,
    pub(crate) ready: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Mailbox {
    pub(crate) messages: usize,
    capacity: usize,
}

/// A queue above its high-water mark.
#[derive(Debug, Serialize)]
struct FullQueue {
    queue: String,
    messages: u64,
    high_water: u64,
    seconds: u64,
}

impl FullQueue {
    /// `None` if the transport is down, which the status of the transport tells.
    fn of(reason: &WaitReason) -> Option<Self> {
        match reason {
            WaitReason::TransportDown { .. } => None,
            WaitReason::QueueFull {
                queue,
                messages,
                high_water,
                since,
            } => Some(Self {
                queue: queue.to_string(),
                messages: *messages,
                high_water: *high_water,
                seconds: since.elapsed().as_secs(),
            }),
        }
    }
}

#[derive(Debug, Serialize)]
struct BreakerSnapshot {
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_try_seconds: Option<f64>,
}

impl From<BreakerStatus> for BreakerSnapshot {
    fn from(breaker: BreakerStatus) -> Self {
        let since = breaker.since_ms.map(|unix_ms| Rfc3339 { unix_ms });
        Self {
            state: breaker.state,
            since: since.map(|since| since.to_string()),
            why: breaker.why,
            next_try_seconds: breaker.next_try.map(|wait| wait.as_secs_f64()),
        }
    }
}

/// An input and its topics.
#[derive(Debug, Serialize)]
pub(crate) struct InputSnapshot<'a> {
    pub(crate) input: &'a str,
    pub(crate) topics: Vec<&'a str>,
    handled: Counts,
    /// `None` while the depth is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<QueueDepth>,
}

/// An output and its topics.
#[derive(Debug, Serialize)]
pub(crate) struct OutputSnapshot<'a> {
    pub(crate) output: &'a str,
    pub(crate) topics: Vec<&'a str>,
    pub(crate) emitted: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct QueueDepth {
    ready: u64,
    in_flight: u64,
    delayed: u64,
}

impl From<Depth> for QueueDepth {
    fn from(depth: Depth) -> Self {
        Self {
            ready: depth.ready,
            in_flight: depth.in_flight,
            delayed: depth.delayed,
        }
    }
}

impl QueueDepth {
    pub(crate) fn messages(&self) -> u64 {
        self.ready + self.in_flight + self.delayed
    }
}

/// Counters by name, in a fixed order.
#[derive(Debug)]
pub(crate) struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, count)| *count)
    }
}

impl FromIterator<(&'static str, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (&'static str, u64)>>(counts: I) -> Self {
        Self(counts.into_iter().collect())
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl AppStatus {
    /// Returns the status of the app now.
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        let (ready, reasons) = self.readiness();
        let status = self.transport_status();
        let uptime = SystemTime::now().duration_since(self.started);
        Snapshot {
            app: &self.name,
            version: env!("CARGO_PKG_VERSION"),
            process: std::process::id(),
            phase: self.phase(),
            started: Rfc3339 {
                unix_ms: unix_ms(self.started),
            }
            .to_string(),
            uptime_seconds: uptime.unwrap_or_default().as_secs(),
            ready,
            reasons,
            transport: TransportSnapshot {
                scheme: self.transport.scheme(),
                durable: self.transport.guarantees().durable,
                up: status.down.is_none(),
                down_because: status.down,
                scarce_because: status.scarce,
                down_since: status.since.map(|since| {
                    let unix_ms = unix_ms(since);
                    Rfc3339 { unix_ms }.to_string()
                }),
                reconnects: status.reconnects,
                late_replies: self.transport.late_replies(),
            },
            notes: self.notes(),
            sources_paused: self.sources_paused(),
            worker_lag_seconds: self.workers.recent().map(|lag| lag.as_secs_f64()).collect(),
            groups: self.groups.iter().map(GroupSnapshot::from).collect(),
            services: self.services.iter().map(|s| self.service(s)).collect(),
        }
    }

    fn service<'a>(&self, service: &'a ServiceStatus) -> ServiceSnapshot<'a> {
        let env = &*service.env();
        let figures = service.hosted.figures();
        let meters = &service.hosted.meters;
        let depth = |queue: &QueueId| self.depth(queue).map(QueueDepth::from);
        let topics = |port: &'a WiredPort| port.topics.iter().map(|topic| &**topic).collect();
        let inputs = service.inputs.iter().zip(&meters.inputs);
        let outputs = service.outputs.iter().zip(meters.outputs());
        let totals = (0..Outcome::NAMES.len()).map(|outcome| {
            let inputs = meters.inputs.iter();
            let total = inputs.map(|input| input.outcomes[outcome].get()).sum();
            (Outcome::NAMES[outcome], total)
        });
        ServiceSnapshot {
            service: &service.hosted.label,
            service_type: service.service_type,
            role: service.role,
            state: service.state(),
            process: service.hosted.seen().map(|seen| seen.process),
            gave_up: service.gave_up(),
            paused_seconds: figures.paused.map(|left| left.as_secs_f64()),
            waits_for: service
                .waits_for()
                .iter()
                .filter_map(FullQueue::of)
                .collect(),
            breaker: figures.breaker.map(BreakerSnapshot::from),
            instances: Instances {
                wanted: service.instances_wanted(),
                min: service.hosted.loops.min,
                max: service.hosted.loops.max,
                ready: env.liveness.ready.load(Relaxed),
            },
            mailbox: Mailbox {
                messages: figures.waiting,
                capacity: env.mailbox_capacity(),
            },
            held: figures.keys,
            in_flight: figures.in_flight,
            unconfirmed: figures.unconfirmed,
            inputs: inputs
                .map(|(port, meter)| InputSnapshot {
                    input: &port.name,
                    topics: topics(port),
                    handled: outcomes(meter),
                    queue: depth(&QueueId::new(&env.label, &port.name)),
                })
                .collect(),
            outputs: outputs
                .map(|(port, emitted)| OutputSnapshot {
                    output: &port.name,
                    topics: topics(port),
                    emitted,
                })
                .collect(),
            handled: totals.collect(),
            restarts: meters.restarts().collect(),
            dead_letters: env.dead_letters().collect(),
            dead_letter_queue: depth(&QueueId::dead_letters(&env.label)),
            asks: meters.asks().collect(),
            anonymous: meters.anonymous.get(),
            entities: service.hosted.holds_entities().then(|| EntityCounts {
                active: figures.entities,
                started: meters.entities.started.get(),
                passivated: meters.entities.passivated.get(),
            }),
            last_failures: env.state.failures(),
        }
    }
}

/// Returns the messages of an input by outcome.
fn outcomes(meter: &InputMeter) -> Counts {
    let counts = meter.outcomes.iter().map(|counter| counter.get());
    Outcome::NAMES.into_iter().zip(counts).collect()
}
