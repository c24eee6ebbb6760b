//! A running app: starts a plan's services in order, and stops them in order.
//!
//! Services first, then sources, so that nothing is sent before its readers consume.
//! Stopping goes the other way round, and every stage has a deadline. What may look
//! at it and talk to it opens first and closes last.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::build_service::{BuildContext, add};
use super::plan::Plan;
use super::status::{AppStatus, Phase};
use super::summary::Summary;
use super::tree_builder::{NodeIndex, Shape, SupervisorTree, TreePlan};
use crate::admin::Admin;
use crate::child_process::{ParentConnection, RespawnCommand};
use crate::clock::Clock;
use crate::control::{Control, ControlTargets};
use crate::dead_letters::DeadLetters;
use crate::host::{ServiceHandle, Standing, panic};
use crate::message_trace::{
    LocalService, QueueAccess, RunningServices, Trace, TraceCollector, TraceQuery,
};
use crate::names::QueueId;
use crate::store::Stores;
use crate::supervisors::{Failed, Supervised, Threads, watch};
use crate::transport::{Backpressure, Transport, TransportError, Transports};

/// How long services may take to consume before sources start all the same.
const CONSUMING_WITHIN: Duration = Duration::from_secs(30);

/// What a stage of stopping gets at least, when others used up the time.
const STAGE_MIN: Duration = Duration::from_millis(500);

/// How long the transport may take to close, and then the stores, all side by side.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Where services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// On threads of their own, as many as the manifest says.
    Threads,
    /// On the current arbiter: for tests, which can then pause tokio's clock.
    Here,
}

/// Why an app can't start.
#[derive(Debug, Clone, thiserror::Error)]
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
    #[error(transparent)]
    Listen(#[from] Arc<std::io::Error>),
}

/// An app that runs. Stop it with [`App::stop`]; dropping it stops nothing in order.
pub struct App {
    /// In the manifest's order.
    pub(crate) services: Rc<[Rc<dyn Supervised>]>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(super) view: Arc<AppStatus>,
    tracer: Arc<TraceCollector>,
    shutdown_timeout: Duration,
    threads: Rc<Threads>,
    /// Builds the supervisors above the services, once these have been started.
    tree: OnceCell<SupervisorTree>,
    shape: RefCell<Option<Shape>>,
    failed: Failed,
    /// Tasks that look after the app while it runs: depths, worker lag.
    watching: Vec<JoinHandle<()>>,
    admin: Option<Admin>,
    /// Let go last: who waits for the app to stop waits for this.
    control: Option<Control>,
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
    /// What didn't close in time: the transport, stores. What it has begun, it may still
    /// be doing.
    pub unclosed: Vec<String>,
    /// What the app has done, to its end.
    pub summary: Summary,
}

impl StopReport {
    /// Whether everything that was begun was finished.
    pub fn is_clean(&self) -> bool {
        self.abandoned.is_empty() && !self.is_stuck()
    }

    /// Whether threads are left that may never end: waiting for them, as the end of a
    /// runtime does, could take for ever. A process ends by
    /// [`exit`](std::process::exit) then.
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
    /// The transport can't be had. A service that can't start isn't an error: it is
    /// tried again, and readiness says so.
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

    /// The first half of starting, on threads: connects, declares, and opens the admin
    /// endpoint and the control socket. Nothing works yet: that is for
    /// [`start_services`](App::start_services). `program` is what is started again for
    /// services that run in processes of their own; `stop` is called when somebody asks
    /// for it by the socket.
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

    /// The same in a child process, for its parent alone.
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
        let transport = connector.connect(&plan.transport, pressure.clone()).await?;
        transport.declare(&plan.topology()).await?;
        let threads = Rc::new(Threads::new(match workers {
            Workers::Here => 0,
            Workers::Threads => plan.workers.max(1),
        }));
        let plot = TreePlan::of(&plan);
        let (graph, topology) = (plan.port_graph(), plan.topology());
        let common = BuildContext {
            confirms: transport.guarantees().durable.then(Arc::default),
            stores: Stores::new(plan.name.clone(), &plan.data),
            app: plan.name,
            transport: transport.clone(),
            pressure: pressure.clone(),
            clock,
            redactor: plan.redactor.clone(),
            message_bytes_max: plan.message_bytes_max,
            data: plan.data,
        };
        let mut views = Vec::with_capacity(plan.services.len());
        let here = plan.services.into_iter().filter(|s| s.runs_here);
        for (number, service) in here.enumerate() {
            views.push(add(
                service,
                &common,
                number,
                threads.len(),
                program.is_some(),
            ));
        }
        let hosted = views.iter().map(|view| view.hosted.clone()).collect();
        let places = NodeIndex {
            threads: threads.clone(),
            program,
            stop_within: plan.shutdown_timeout,
        };
        let (shape, here) = plot.with(hosted, &places);
        let failed = Failed::new(None);
        let view = AppStatus::new(
            common.app,
            views,
            transport.clone(),
            pressure,
            plan.redactor,
            threads.lag.clone(),
        );
        let traced = view.services.iter();
        let traced = traced.map(|service| service.hosted.clone() as Arc<dyn LocalService>);
        let traced = traced.collect();
        let tracer = TraceCollector {
            graph,
            data: common.data,
            redactor: common.redactor,
            running: Some(RunningServices {
                since: view.started,
                services: traced,
            }),
            queues: QueueAccess::Live(
                transport.clone(),
                DeadLetters::new(transport.clone(), topology),
            ),
        };
        let registry = prometheus::Registry::new();
        crate::metrics::register(&registry, view.clone())
            .expect("a new registry has no metrics of these names");
        let watching = match workers {
            Workers::Here => Vec::new(),
            Workers::Threads => vec![
                tokio::task::spawn_local(view.clone().keep_depths()),
                tokio::task::spawn_local(watch(threads.clone(), here, failed.clone())),
            ],
        };
        let app = Self {
            services: shape.services(),
            transport,
            tracer: Arc::new(tracer),
            view,
            shutdown_timeout: plan.shutdown_timeout,
            threads,
            tree: OnceCell::new(),
            shape: RefCell::new(Some(shape)),
            failed,
            watching,
            admin: None,
            control: None,
        };
        Ok((app, registry))
    }

    /// The second half of starting: services, then, when they consume, sources.
    pub(crate) async fn start_services(&self) {
        let (sources, services): (Vec<_>, Vec<_>) = self
            .services
            .iter()
            .partition(|service| service.hosted().is_source());
        join_all(services.iter().map(|service| service.start())).await;
        let consuming = join_all(services.iter().map(|service| async {
            let env = service.hosted().env();
            let mut consuming = env.pulse.consuming.subscribe();
            let inputs = env.inputs.len();
            // The sender is in the environment that is held here. One that has given up
            // is dealt with by its supervisor.
            tokio::select! {
                _ = consuming.wait_for(|count| *count >= inputs) => {}
                _ = env.given_up() => {}
                () = env.closed() => {}
            }
        }));
        if timeout(CONSUMING_WITHIN, consuming).await.is_err() {
            warn!("not every input is consumed yet, sources start all the same");
        }
        join_all(sources.iter().map(|source| source.start())).await;
        if let Some(shape) = self.shape.take() {
            let tree = shape.supervise(self.failed.clone());
            assert!(self.tree.set(tree).is_ok(), "the shape is taken once");
        }
        self.view.set_phase(Phase::Running);
        info!(app = %self.view.name, services = self.services.len(), "started");
    }

    /// The app's name.
    pub fn name(&self) -> &str {
        &self.view.name
    }

    /// Where the admin endpoint listens, if it is open.
    pub fn admin_address(&self) -> Option<std::net::SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// What keeps the app from being ready, each with its reason.
    pub fn not_ready(&self) -> Vec<String> {
        self.view.readiness().1
    }

    /// The transport that it runs on.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The way of a message through this app, or of all messages of a trace, as far as it is
    /// known: what services handled lately, what is in queues and in hand, dead letters,
    /// stores. Takes some seconds at most where queues can be searched; changes nothing.
    pub async fn trace(&self, question: &TraceQuery) -> Trace {
        self.tracer.trace(question, None).await
    }

    /// Resolves when the transport has ended for good, with what is wrong.
    pub async fn transport_lost(&self) -> String {
        let mut status = self.transport.status();
        match status.wait_for(|status| status.ended).await {
            Ok(status) => status.down.clone().unwrap_or_default(),
            Err(_) => "the transport is gone".to_owned(),
        }
    }

    /// Resolves when the tree of supervisors has given up, or too many threads are
    /// blocked, with the reason: the process is not worth keeping.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The sender is `self`: it can't be gone.
            Err(_) => std::future::pending().await,
        }
    }

    /// The services that were isolated, or given up for good, since the start.
    pub fn gave_up(&self) -> Vec<String> {
        let services = self.services.iter().map(|service| service.hosted());
        let gave_up = services.filter(|s| {
            s.state.isolations() > 0 || matches!(s.state.standing(), Standing::Gone { .. })
        });
        gave_up.map(|service| service.label.to_string()).collect()
    }

    /// Stops in order: sources, then deliveries; what is in hand is finished within
    /// `app.shutdown_timeout`; publications are confirmed; then services go, the last
    /// one first, and their threads are joined.
    pub async fn stop(self) -> StopReport {
        let within = self.shutdown_timeout;
        self.stop_within(within).await
    }

    /// As [`stop`](Self::stop), with another time for what is in hand.
    pub(crate) async fn stop_within(self, within: Duration) -> StopReport {
        let deadline = crate::clock::later(within);
        // A slow source must not use up the time of the services after it.
        let services_come = self.services.iter().any(|s| !s.hosted().is_source());
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
            .partition(|service| service.hosted().is_source());
        let mut stuck = Vec::new();
        for (group, by) in [(sources, sources_by), (services, deadline)] {
            // All finish side by side what they have in hand; then they go, the last first.
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
            // Those whose threads are blocked, or who come after the deadline, go together:
            // each would wait as long.
            let ends = join_all(late.iter().map(|service| service.stop(by))).await;
            stopped.extend(late.into_iter().zip(ends));
            for (service, stopped) in stopped {
                if stopped.stuck {
                    stuck.push(service.hosted().env().worker.clone());
                }
                let label = service.hosted().label.to_string();
                let named = stopped.abandoned.into_iter();
                report
                    .abandoned
                    .extend(named.map(|text| (label.clone(), text)));
            }
        }
        // What is left in the queues is named, and kept where the transport can.
        let queues: Vec<QueueId> = self
            .services
            .iter()
            .flat_map(|service| {
                let hosted = service.hosted();
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
            warn!("stopped before the transport had done everything that it was given");
        }
        let closing = timeout(CLOSE_WITHIN, self.transport.close());
        if closing.await.is_err() {
            warn!("the transport didn't close in time");
            report.unclosed.push("the transport".to_owned());
        }
        // After all who use them, and in time for the next one who opens them.
        let closing = self.services.iter().map(|s| close_store(s.hosted()));
        let unclosed = join_all(closing).await.into_iter().flatten();
        report.unclosed.extend(unclosed);
        // Threads that end are not to be taken for blocked ones.
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

/// Closes the store of a service, if it has one. Returns its name if that takes too long:
/// what it does never ends, or the disk hangs.
async fn close_store(hosted: &ServiceHandle) -> Option<String> {
    let store = hosted.store()?;
    let (service, path) = (&hosted.label, store.database.path().display());
    let closing = timeout(CLOSE_WITHIN, store.database.close());
    closing.await.err().map(|_| {
        warn!(%service, %path, "the store didn't close in time: what it does is not waited for");
        format!("the store of {service}")
    })
}
