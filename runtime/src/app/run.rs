//! A running app: starts a plan's services in order, and stops them in order.
//!
//! Services start before sources, so that readers consume before messages arrive. Stopping
//! has the reverse order, and each stage has a deadline. The admin endpoint and the control
//! socket open first and close last.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::build_service::{BuildContext, build};
use super::plan::Plan;
use super::status::{AppStatus, Phase};
use super::summary::Summary;
use super::tree_builder::{NodeIndex, PlannedTree, SupervisorTree, TreePlan};
use crate::admin::Admin;
use crate::child_process::{ParentConnection, RespawnCommand};
use crate::clock::Clock;
use crate::control::{Control, ControlTargets};
use crate::dead_letters::DeadLetters;
use crate::host::{ServiceHandle, Standing};
use crate::message_trace::{
    LocalService, QueueAccess, RunningServices, Trace, TraceCollector, TraceQuery,
};
use crate::names::QueueId;
use crate::panic;
use crate::store::Stores;
use crate::supervisors::{Child, Failed, Supervised, Threads, watch};
use crate::transport::{Backpressure, Transport, TransportError, Transports};

/// Sources start after this time even if not every input is consumed.
const CONSUMING_WITHIN: Duration = Duration::from_secs(30);

/// Minimum time for a stage of stopping if earlier stages used up the deadline.
const STAGE_MIN: Duration = Duration::from_millis(500);

/// Maximum time to close the transport, and then all stores together.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The threads of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// Worker threads, `app.workers` of them.
    Threads,
    /// The current arbiter, for tests that pause tokio's clock.
    Here,
}

/// Reasons why an app can't start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// The transport can't be connected.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The program has no transport of this scheme.
    #[error("this program has no transport for {0}")]
    NoTransport(String),
    /// This build aborts on a panic.
    #[error(
        "the program was built with panic = \"abort\", so that a panic would end it: build it with panic = \"unwind\""
    )]
    NoUnwind,
    /// The admin endpoint or the control socket can't be opened.
    #[error(transparent)]
    Listen(#[from] Arc<std::io::Error>),
}

/// A running app. [`App::stop`] stops it in order; dropping it does not.
pub struct App {
    /// In the order of the manifest.
    pub(crate) services: Rc<[Rc<Supervised>]>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(super) view: Arc<AppStatus>,
    tracer: Arc<TraceCollector>,
    shutdown_timeout: Duration,
    threads: Rc<Threads>,
    /// The supervisors above the services. Set once the services have been started.
    tree: OnceCell<SupervisorTree>,
    planned: RefCell<Option<PlannedTree>>,
    failed: Failed,
    /// Background tasks: queue depths and worker lag.
    watching: Vec<JoinHandle<()>>,
    admin: Option<Admin>,
    /// Dropped last: clients wait for its end to learn that the app has stopped.
    control: Option<Control>,
}

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
    /// Starts a plan: connects, declares the topology, starts services, then sources.
    ///
    /// Must be called on an actix system. Opens neither the admin endpoint nor the
    /// control socket, and starts no child processes: every service runs in this one.
    ///
    /// # Errors
    /// The transport can't be connected. A service that can't start is no error: it is
    /// restarted, and the app is not ready until then.
    pub async fn start(
        plan: Plan,
        transports: &Transports,
        workers: Workers,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let (app, _) = Self::prepare(plan, transports, workers, clock, None).await?;
        app.start_services().await;
        Ok(app)
    }

    /// The first half of starting, with worker threads: connects, declares the topology, and
    /// opens the admin endpoint and the control socket. No service runs before
    /// [`start_services`](App::start_services). `program` is the command for child
    /// processes of services; the control socket calls `stop` on request.
    pub(crate) async fn open(
        plan: Plan,
        transports: &Transports,
        program: Rc<RespawnCommand>,
        stop: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let (listen, data) = (plan.admin, plan.data.clone());
        let (topology, redactor) = (plan.topology(), plan.redactor.clone());
        let (mut app, registry) = Self::prepare(
            plan,
            transports,
            Workers::Threads,
            Clock::SYSTEM,
            Some(program),
        )
        .await?;
        let view = app.view.clone();
        let targets = ControlTargets {
            state: Box::new(move || serde_json::to_value(view.snapshot())),
            letters: DeadLetters::new(app.transport.clone(), topology).redacting(redactor),
            tracer: app.tracer.clone(),
            stop: Box::new(stop),
        };
        app.control = Some(Control::start(&data, targets).map_err(Arc::new)?);
        if let Some(listen) = listen {
            app.admin = Some(Admin::start(listen, app.view.clone(), registry).map_err(Arc::new)?);
        }
        Ok(app)
    }

    /// Opens the app in a child process, without admin endpoint and control socket.
    pub(crate) async fn open_supervised(
        plan: Plan,
        transports: &Transports,
        lifeline: &ParentConnection,
    ) -> Result<Self, StartError> {
        let (app, _) =
            Self::prepare(plan, transports, Workers::Threads, Clock::SYSTEM, None).await?;
        lifeline.app_opened(app.view.clone());
        Ok(app)
    }

    async fn prepare(
        plan: Plan,
        transports: &Transports,
        workers: Workers,
        clock: Clock,
        program: Option<Rc<RespawnCommand>>,
    ) -> Result<(Self, prometheus::Registry), StartError> {
        if !panic::unwinds() {
            return Err(StartError::NoUnwind);
        }
        panic::install_hook();
        let pressure = Arc::new(Backpressure::default());
        let connector = transports.for_url(&plan.transport).ok_or_else(|| {
            StartError::NoTransport(crate::redact::without_password(&plan.transport))
        })?;
        let renew = plan.renew_transport.clone();
        let connecting = connector.connect_renewing(&plan.transport, renew, pressure.clone());
        let transport = connecting.await?;
        transport.declare(&plan.topology()).await?;
        let threads = Rc::new(Threads::new(match workers {
            Workers::Here => 0,
            Workers::Threads => plan.workers.max(1),
        }));
        let tree_plan = TreePlan::of(&plan);
        let (graph, topology, reach) = (plan.port_graph(), plan.topology(), plan.reach());
        let common = BuildContext {
            confirms: transport.guarantees().durable.then(Arc::default),
            stores: Stores::new(plan.name.clone(), &plan.data),
            app: plan.name,
            transport: transport.clone(),
            pressure,
            reach,
            answerers: Arc::default(),
            clock,
            redactor: plan.redactor.clone(),
            message_bytes_max: plan.message_bytes_max,
            data: plan.data,
        };
        let mut views = Vec::with_capacity(plan.services.len());
        let here = plan.services.into_iter().filter(|s| s.runs_here);
        for (number, service) in here.enumerate() {
            views.push(build(
                service,
                &common,
                number,
                threads.len(),
                program.is_some(),
            ));
        }
        common.connect_answerers(&views);
        let hosted = views.iter().map(|view| view.hosted.clone()).collect();
        let places = NodeIndex {
            threads: threads.clone(),
            program,
            stop_within: plan.shutdown_timeout,
        };
        let planned = tree_plan.with(hosted, &places);
        let failed = Failed::new(None);
        let view = AppStatus::new(
            common.app,
            views,
            transport.clone(),
            plan.redactor,
            threads.lag.clone(),
        );
        let traced = view.services.iter();
        let traced = traced.map(|service| service.hosted.clone() as Arc<dyn LocalService>);
        let tracer = TraceCollector {
            graph,
            data: common.data,
            redactor: common.redactor,
            running: Some(RunningServices {
                since: view.started,
                services: traced.collect(),
            }),
            queues: QueueAccess::Live(
                transport.clone(),
                DeadLetters::new(transport.clone(), topology.clone()),
            ),
        };
        let registry = prometheus::Registry::new();
        crate::metrics::register(&registry, view.clone())
            .expect("a new registry holds no metrics of these names");
        let watching = match workers {
            Workers::Here => Vec::new(),
            Workers::Threads => vec![
                tokio::task::spawn_local(view.clone().watch_queues(topology)),
                tokio::task::spawn_local(watch(
                    threads.clone(),
                    planned.services(),
                    failed.clone(),
                )),
            ],
        };
        let app = Self {
            services: planned.services(),
            transport,
            tracer: Arc::new(tracer),
            view,
            shutdown_timeout: plan.shutdown_timeout,
            threads,
            tree: OnceCell::new(),
            planned: RefCell::new(Some(planned)),
            failed,
            watching,
            admin: None,
            control: None,
        };
        Ok((app, registry))
    }

    /// The second half of starting: starts services, waits until they consume, starts sources.
    pub(crate) async fn start_services(&self) {
        let (sources, services): (Vec<_>, Vec<_>) = self
            .services
            .iter()
            .partition(|service| service.hosted.is_source());
        join_all(services.iter().map(|service| service.start())).await;
        let consuming = join_all(services.iter().map(|service| async {
            let env = service.hosted.env();
            let mut consuming = env.liveness.consuming.subscribe();
            let inputs = env.inputs.len();
            // `env` holds the sender, so it is not gone. The supervisor handles a service that
            // has given up. A service whose messages of the last run fail consumes nothing.
            tokio::select! {
                _ = consuming.wait_for(|count| *count >= inputs) => {}
                () = env.breaker_opened() => {}
                _ = env.given_up() => {}
                () = env.closed() => {}
            }
        }));
        if timeout(CONSUMING_WITHIN, consuming).await.is_err() {
            warn!("starting sources although not every input is consumed");
        }
        join_all(sources.iter().map(|source| source.start())).await;
        if let Some(planned) = self.planned.take() {
            let tree = planned.supervise(self.failed.clone());
            assert!(
                self.tree.set(tree).is_ok(),
                "the planned tree is taken once"
            );
        }
        self.view.set_phase(Phase::Running);
        info!(app = %self.view.name, services = self.services.len(), "started");
    }

    /// Returns the app's name.
    pub fn name(&self) -> &str {
        &self.view.name
    }

    /// Returns the address of the admin endpoint, if it is open.
    pub fn admin_address(&self) -> Option<std::net::SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Returns the reasons why the app is not ready; empty if it is.
    pub fn not_ready(&self) -> Vec<String> {
        self.view.readiness().1
    }

    /// Returns the transport.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Traces a message, or all messages of a trace, through this app: recent attempts, queues,
    /// messages in flight, dead letters and stores. Reads only. Searching queues may take
    /// some seconds.
    pub async fn trace(&self, question: &TraceQuery) -> Trace {
        self.tracer.trace(question, None).await
    }

    /// Resolves when the transport has ended for good, with the reason.
    pub async fn transport_lost(&self) -> String {
        let mut status = self.transport.status();
        match status.wait_for(|status| status.ended).await {
            Ok(status) => status.down.clone().unwrap_or_default(),
            Err(_) => "the transport is gone".to_owned(),
        }
    }

    /// Resolves with the reason when the root supervisor has given up or too many threads are
    /// blocked. The process should then end.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // `self` holds the sender, so this can't happen.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns the services that were isolated or given up for good since the start.
    pub fn gave_up(&self) -> Vec<String> {
        let services = self.services.iter().map(|service| &service.hosted);
        let gave_up = services.filter(|s| {
            s.state.isolations() > 0 || matches!(s.state.standing(), Standing::Gone { .. })
        });
        gave_up.map(|service| service.label.to_string()).collect()
    }

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
        // A slow source must not use up the time of the services.
        let services_come = self.services.iter().any(|s| !s.hosted.is_source());
        let sources_within = if services_come { within / 2 } else { within };
        let sources_by = crate::clock::later(sources_within);
        self.view.set_phase(Phase::Stopping);
        let mut report = StopReport::default();
        if let Some(tree) = self.tree.get() {
            tree.cease();
        }
        let (sources, services): (Vec<_>, Vec<_>) = self
            .services
            .iter()
            .rev()
            .partition(|service| service.hosted.is_source());
        let mut stuck = Vec::new();
        for (group, by) in [(sources, sources_by), (services, deadline)] {
            // All finish their messages in flight together, then stop in reverse order.
            let turns = join_all(group.iter().map(|service| service.drain(by))).await;
            let mut stopped = Vec::with_capacity(group.len());
            let mut late = Vec::new();
            for (service, turns) in group.iter().zip(turns) {
                if turns && Instant::now() < by {
                    stopped.push((service, service.stop(by).await));
                } else {
                    late.push(service);
                }
            }
            // Services with a blocked thread or past the deadline stop together, since each would
            // wait for the same time.
            let ends = join_all(late.iter().map(|service| service.stop(by))).await;
            stopped.extend(late.into_iter().zip(ends));
            for (service, stopped) in stopped {
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
        // Messages left in queues are reported. A durable transport keeps them.
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
