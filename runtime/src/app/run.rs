//! A running app: starts a plan's services in order, and stops them in order.
//!
//! Services first, then sources, so that nothing is sent before its readers consume.
//! Stopping goes the other way round, and every stage has a deadline.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::plan::{Plan, ServicePlan, WiredPort};
use crate::clock::Clock;
use crate::host::{
    Environment, ServiceActor, Settings, Start, StopBy, Stopped, WiredOutput, panic,
};
use crate::metrics::Durations;
use crate::service::{Blueprint, Role};
use crate::transport::{Pressure, Transport, TransportError, Transports};

/// How long services may take to consume before sources start all the same.
const CONSUMING_WITHIN: Duration = Duration::from_secs(30);

/// What a stage of stopping gets at least, when others used up the time.
const STAGE_MIN: Duration = Duration::from_millis(500);

/// Where services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// On threads of their own, as many as the manifest says.
    Threads,
    /// On the current arbiter: for tests, which can then pause tokio's clock.
    Here,
}

/// Why an app can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The transport can't be had.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// No transport of this scheme.
    #[error("this program has no transport for {0}")]
    NoTransport(String),
    /// This build aborts when something panics.
    #[error(
        "built with panic = \"abort\": build with panic = \"unwind\", a panic must harm one message only"
    )]
    NoUnwind,
    /// The admin endpoint or the control socket can't be opened.
    #[error("{what}: {why}")]
    Listen {
        /// Which, and where.
        what: String,
        /// Why not, and what to do.
        why: String,
    },
}

/// One service of a running app.
pub(crate) struct Running {
    pub(crate) env: Arc<Environment>,
    pub(crate) service_type: &'static str,
    pub(crate) blueprint: Arc<dyn Blueprint>,
    pub(crate) inputs: Vec<WiredPort>,
    pub(crate) outputs: Vec<WiredPort>,
    address: Addr<ServiceActor>,
    worker: usize,
}

impl Running {
    pub(crate) fn is_source(&self) -> bool {
        matches!(self.blueprint.role(), Role::Source(_))
    }

    /// Whether it is a source that comes to an end and hasn't yet.
    pub(crate) fn is_unfinished_source(&self) -> bool {
        match self.blueprint.role() {
            Role::Source(source) => source.ends() && !*self.env.state.ended.borrow(),
            Role::Service(_) => false,
        }
    }
}

/// An app that runs. Stop it with [`App::stop`]; dropping it stops nothing in order.
pub struct App {
    pub(crate) name: Arc<str>,
    pub(crate) services: Vec<Running>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pressure: Arc<Pressure>,
    shutdown_timeout: Duration,
    arbiters: Vec<Arbiter>,
}

/// How stopping went.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// What was in hand when time ran out, by service: `(service, message)`.
    pub abandoned: Vec<(String, String)>,
    /// Messages that wait in queues: `(queue, how many)`. On a transport that isn't
    /// durable they are gone with the process.
    pub left: Vec<(String, u64)>,
    /// Threads that didn't end in time: a handler blocks them.
    pub stuck_threads: usize,
}

impl StopReport {
    /// Whether everything that was begun was finished.
    pub fn is_clean(&self) -> bool {
        self.abandoned.is_empty() && self.stuck_threads == 0
    }
}

impl App {
    /// Starts a plan: connects, declares the topology, starts services, then sources.
    ///
    /// Must be called on an actix system.
    ///
    /// # Errors
    /// The transport can't be had. A service that can't start isn't an error: it is
    /// tried again, and readiness says so.
    pub async fn start(
        plan: Plan,
        transports: &Transports,
        workers: Workers,
        clock: Clock,
    ) -> Result<Self, StartError> {
        if !panic::unwinds() {
            return Err(StartError::NoUnwind);
        }
        panic::install_hook();
        let pressure = Arc::new(Pressure::default());
        let connector = transports.for_url(&plan.transport).ok_or_else(|| {
            StartError::NoTransport(crate::redact::without_password(&plan.transport))
        })?;
        let transport = connector.connect(&plan.transport, pressure.clone()).await?;
        transport.declare(&plan.topology()).await?;
        let arbiters: Vec<Arbiter> = match workers {
            Workers::Here => Vec::new(),
            Workers::Threads => (0..plan.workers.max(1)).map(|_| Arbiter::new()).collect(),
        };
        let confirms = transport.guarantees().durable.then(Arc::default);
        let mut app = Self {
            name: plan.name.clone(),
            services: Vec::with_capacity(plan.services.len()),
            transport,
            pressure,
            shutdown_timeout: plan.shutdown_timeout,
            arbiters,
        };
        let common = Common {
            app: plan.name,
            clock,
            redactor: plan.redactor,
            message_bytes_max: plan.message_bytes_max,
            data: plan.data,
            confirms,
        };
        for (number, service) in plan.services.into_iter().enumerate() {
            app.add(service, &common, number);
        }
        app.start_services().await;
        Ok(app)
    }

    fn add(&mut self, plan: ServicePlan, common: &Common, number: usize) {
        let kinds = plan
            .blueprint
            .ports()
            .outputs
            .iter()
            .map(|output| output.kind.clone());
        let outputs = plan
            .outputs
            .iter()
            .zip(kinds)
            .map(|(wired, kind)| WiredOutput {
                name: wired.name.clone(),
                kind,
                topics: wired.topics.clone(),
            });
        let env = Environment::new(Settings {
            app: common.app.clone(),
            label: plan.label,
            inputs: plan.inputs.iter().map(|input| input.name.clone()).collect(),
            outputs: outputs.collect(),
            transport: self.transport.clone(),
            pressure: self.pressure.clone(),
            clock: common.clock,
            redactor: common.redactor.clone(),
            instances: plan.instances,
            mailbox_capacity: plan.mailbox,
            handler_timeout: plan.handler_timeout,
            retry: plan.retry,
            restart: plan.restart,
            message_bytes_max: common.message_bytes_max,
            data: common.data.clone(),
            confirms: common.confirms.clone(),
        });
        let (actor_env, blueprint) = (env.clone(), plan.blueprint.clone());
        let worker = number % self.arbiters.len().max(1);
        let address = match self.arbiters.get(worker) {
            None => ServiceActor::new(actor_env, blueprint).start(),
            Some(arbiter) => ServiceActor::start_in_arbiter(&arbiter.handle(), move |_| {
                ServiceActor::new(actor_env, blueprint)
            }),
        };
        self.services.push(Running {
            env,
            service_type: plan.service_type,
            blueprint: plan.blueprint,
            inputs: plan.inputs,
            outputs: plan.outputs,
            address,
            worker,
        });
    }

    async fn start_services(&self) {
        let (sources, services): (Vec<_>, Vec<_>) = self
            .services
            .iter()
            .partition(|service| service.is_source());
        join_all(services.iter().map(|service| start(service))).await;
        let consuming = join_all(services.iter().map(|service| async {
            let mut consuming = service.env.state.consuming.subscribe();
            let inputs = service.env.inputs.len();
            // The sender is in the environment that is held here.
            let _open = consuming.wait_for(|count| *count >= inputs).await;
        }));
        if timeout(CONSUMING_WITHIN, consuming).await.is_err() {
            warn!("not every input is consumed yet, sources start all the same");
        }
        join_all(sources.iter().map(|source| start(source))).await;
        info!(app = %self.name, services = self.services.len(), "started");
    }

    /// The app's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The transport that it runs on.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Resolves when the transport no longer works, with what is wrong.
    pub async fn transport_lost(&self) -> String {
        let mut status = self.transport.status();
        match status.wait_for(|status| status.down.is_some()).await {
            Ok(status) => status.down.clone().unwrap_or_default(),
            Err(_) => "the transport is gone".to_owned(),
        }
    }

    /// Stops in order: sources, then deliveries; what is in hand is finished within
    /// `app.shutdown_timeout`; publications are confirmed; then services go, the last
    /// one first, and their threads are joined.
    pub async fn stop(self) -> StopReport {
        let deadline = Instant::now() + self.shutdown_timeout;
        let mut report = StopReport::default();
        let (sources, services): (Vec<_>, Vec<_>) = self
            .services
            .iter()
            .rev()
            .partition(|service| service.is_source());
        let mut stuck: Vec<usize> = Vec::new();
        for group in [sources, services] {
            let stops = group.iter().map(|service| stop_service(service, deadline));
            for (service, stopped) in group.iter().zip(join_all(stops).await) {
                let label = service.env.label.to_string();
                let stopped = stopped.unwrap_or_else(|| {
                    stuck.push(service.worker);
                    seize(&service.env)
                });
                let named = stopped
                    .abandoned
                    .into_iter()
                    .map(|text| (label.clone(), text));
                report.abandoned.extend(named);
            }
        }
        // What is left in the queues is named, and kept where the transport can.
        for service in self.services.iter() {
            for input in &service.env.inputs {
                let queue = crate::name::QueueId::new(&service.env.label, input);
                let asked = timeout(STAGE_MIN, self.transport.depth(&queue)).await;
                if let Ok(Ok(depth)) = asked
                    && depth.total() > 0
                {
                    report.left.push((queue.to_string(), depth.total()));
                }
            }
        }
        let flush_by = deadline.max(Instant::now() + STAGE_MIN);
        if timeout_at(flush_by, self.transport.flush()).await.is_err() {
            warn!("stopped before the transport had done everything that it was given");
        }
        if timeout(Duration::from_secs(5), self.transport.close())
            .await
            .is_err()
        {
            warn!("the transport didn't close in time");
        }
        report.stuck_threads = join_threads(self.arbiters, &stuck).await;
        report
    }
}

/// What services of an app have in common.
struct Common {
    app: Arc<str>,
    clock: Clock,
    redactor: Arc<crate::redact::Redactor>,
    message_bytes_max: usize,
    data: std::path::PathBuf,
    confirms: Option<Arc<Mutex<Durations>>>,
}

async fn start(service: &Running) {
    if service.address.send(Start).await.is_err() {
        warn!(service = %service.env.label, "the thread of the service is gone");
    }
}

/// `None` if its thread doesn't answer: a handler blocks it.
async fn stop_service(service: &Running, deadline: Instant) -> Option<Stopped> {
    // The actor keeps the deadline itself; this is for a thread that doesn't turn.
    let patience = deadline.max(Instant::now()) + STAGE_MIN;
    timeout_at(patience, service.address.send(StopBy(deadline)))
        .await
        .ok()?
        .ok()
}

/// Takes everything from a service whose thread is stuck, and gives it back.
fn seize(env: &Environment) -> Stopped {
    env.close();
    let mut stopped = Stopped::default();
    for delivery in env.seize() {
        let message = delivery.message().id.to_string();
        warn!(service = %env.label, message, "abandoned: its thread is blocked");
        stopped.abandoned.push(message);
        delivery.give_back();
    }
    stopped
}

/// Joins the threads that can be; returns how many can't.
async fn join_threads(arbiters: Vec<Arbiter>, stuck: &[usize]) -> usize {
    let mut left = 0;
    for (worker, arbiter) in arbiters.into_iter().enumerate() {
        arbiter.stop();
        if stuck.contains(&worker) {
            left += 1;
            continue;
        }
        let joined = tokio::task::spawn_blocking(move || arbiter.join());
        if !matches!(
            timeout(Duration::from_secs(5), joined).await,
            Ok(Ok(Ok(())))
        ) {
            left += 1;
        }
    }
    left
}
