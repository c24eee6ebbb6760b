//! A running app: starts a plan's services in order.
//!
//! Supervision begins before the first start. A source starts once the services that it leads
//! to consume, so that messages find readers; nothing else waits for a slow start. The admin
//! endpoint and the control socket open first and close last.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tracing::info;

use super::build_service::{BuildContext, build};
use super::evict::evictor;
use super::plan::Plan;
use super::tree_builder::{NodeIndex, PlannedTree, SupervisorTree, TreePlan};
use crate::admin::Admin;
use crate::child_process::{ParentConnection, RespawnCommand};
use crate::clock::Clock;
use crate::control::{Control, ControlTargets};
use crate::dead_letters::DeadLetters;
use crate::events::Events;
use crate::host::Standing;
use crate::limits::Limits;
use crate::message_trace::{
    LocalService, QueueAccess, RunningServices, Trace, TraceCollector, TraceQuery,
};
use crate::panic;
use crate::status::{AppStatus, Phase};
use crate::store::Stores;
use crate::supervisors::{Failed, Supervised, Threads, watch};
use crate::transport::{Backpressure, Transport, TransportError, Transports};

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
    pub(super) shutdown_timeout: Duration,
    pub(super) threads: Rc<Threads>,
    /// The supervisors above the services. Set once the services are started.
    pub(super) tree: OnceCell<SupervisorTree>,
    planned: RefCell<Option<PlannedTree>>,
    failed: Failed,
    /// Background tasks: queue depths and worker lag.
    pub(super) watching: Vec<JoinHandle<()>>,
    pub(super) admin: Option<Admin>,
    /// Dropped last: clients wait for its end to learn that the app has stopped.
    pub(super) control: Option<Control>,
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
            evict: evictor(app.view.clone()),
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
        let (events, event_task) = match plan.events() {
            Some(of) => {
                let (events, task) = Events::of(&plan.name, of, transport.clone());
                (events, Some(task))
            }
            None => Default::default(),
        };
        let common = BuildContext {
            confirms: transport.guarantees().durable.then(Arc::default),
            stores: Stores::new(plan.name.clone(), &plan.data),
            app: plan.name,
            transport: transport.clone(),
            pressure,
            reach,
            answerers: Arc::default(),
            limits: Limits::new(plan.limits),
            clock,
            events: events.clone(),
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
            app_stops_within: plan.shutdown_timeout,
            reach: common.reach.clone(),
        };
        let planned = tree_plan.with(hosted, &places);
        let failed = Failed::new(None);
        let view = AppStatus::new(
            common.app,
            views,
            transport.clone(),
            planned.groups(),
            plan.redactor,
            threads.lag.clone(),
            events,
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
        crate::status::register(&registry, view.clone())
            .expect("a new registry holds no metrics of these names");
        let mut watching = match workers {
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
        let event_task = event_task.map(|task| tokio::task::spawn_local(task.run()));
        watching.extend(event_task);
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

    /// The second half of starting: starts supervision and all services. Resolves when each
    /// service has started or failed to, or the root supervisor has given up.
    pub(crate) async fn start_services(&self) {
        if let Some(planned) = self.planned.take() {
            let tree = planned.supervise(self.failed.clone());
            self.tree.get_or_init(|| tree).start().await;
        }
        let services = self.services.iter();
        let started = join_all(services.map(|service| service.hosted.first_start_ended()));
        tokio::select! {
            _ = started => {}
            _ = self.failed() => {}
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
}
