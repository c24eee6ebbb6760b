//! The handle of a service: its lasting state and its present run.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::breaker::{BreakerStatus, ServiceBreaker};
use super::keyed::KeysHeld;
use super::remote_stats::RemoteStats;
use super::service_run::ServiceRun;
use super::service_state::{ServiceSetup, ServiceShared};
use super::status::Standing;
use crate::delivery::Delivery;
use crate::metrics::Worker;
use crate::service::{Answerer, ConfiguredType, Kind};

/// A service of an app, as its supervisor and the status views hold it.
pub(crate) struct ServiceHandle {
    service: Arc<ServiceShared>,
    pub(crate) blueprint: Arc<dyn ConfiguredType>,
    /// Number of the worker thread, unless the service has a child process.
    pub(crate) worker: usize,
    /// For a service with a child process: its last statistics, while it runs.
    remote: Option<Mutex<Option<RemoteStats>>>,
    run: Mutex<Arc<ServiceRun>>,
    /// Whether the first start since the start of the app has ended.
    first_start_ended: watch::Sender<bool>,
}

impl Deref for ServiceHandle {
    type Target = ServiceShared;

    fn deref(&self) -> &ServiceShared {
        &self.service
    }
}

impl Answerer for ServiceHandle {
    fn unavailable(&self) -> Option<String> {
        let label = &self.label;
        match self.state.standing() {
            Standing::Isolated { why, .. } => Some(format!("service {label} is isolated: {why}")),
            Standing::Gone { why } => Some(format!("service {label} is down for good: {why}")),
            Standing::Stopped | Standing::Supervised => self
                .breaker
                .as_ref()
                .filter(|breaker| breaker.is_open())
                .map(|_| format!("the circuit breaker of service {label} is open")),
        }
    }
}

impl ServiceHandle {
    pub(crate) fn new(
        setup: ServiceSetup,
        blueprint: Arc<dyn ConfiguredType>,
        worker: usize,
    ) -> Arc<Self> {
        Arc::new(Self::make(setup, blueprint, worker, None))
    }

    /// Creates the handle of a service that runs in a child process.
    pub(crate) fn apart(setup: ServiceSetup, blueprint: Arc<dyn ConfiguredType>) -> Arc<Self> {
        let remote = Some(Mutex::default());
        Arc::new(Self::make(setup, blueprint, 0, remote))
    }

    fn make(
        setup: ServiceSetup,
        blueprint: Arc<dyn ConfiguredType>,
        worker: usize,
        remote: Option<Mutex<Option<RemoteStats>>>,
    ) -> Self {
        let service = ServiceShared::new(setup);
        let not_started = ServiceRun::new(service.clone(), Arc::default(), Vec::new());
        Self {
            service,
            blueprint,
            worker,
            remote,
            run: Mutex::new(not_started),
            first_start_ended: watch::Sender::new(false),
        }
    }

    /// Returns whether the service runs in a child process.
    pub(crate) fn is_apart(&self) -> bool {
        self.remote.is_some()
    }

    /// Sets the statistics of the child process; `None` if there is no process.
    pub(crate) fn see(&self, seen: Option<RemoteStats>) {
        if let Some(remote) = &self.remote {
            *remote.lock() = seen;
        }
    }

    /// Returns the last statistics of the child process, if there is one.
    pub(crate) fn seen(&self) -> Option<RemoteStats> {
        self.remote.as_ref()?.lock().clone()
    }

    /// Returns the statistics of the service, in this process or its child process.
    pub(crate) fn figures(&self) -> RemoteStats {
        if self.is_apart() {
            return self.seen().unwrap_or_default();
        }
        let env = self.env();
        RemoteStats {
            process: std::process::id(),
            waiting: env.mailbox.len(),
            in_flight: env.in_flight(),
            unconfirmed: env.unconfirmed(),
            outbox: env.outbox(),
            repeated: env.store().map_or(0, |store| store.repeated.get()),
            entities: env.meters.entities.active(),
            paused: env.paused_for(),
            breaker: self.service.breaker.as_ref().map(ServiceBreaker::status),
            keys: env.keyed.as_ref().map(|keyed| keyed.held()),
            depths: Vec::new(),
        }
    }

    /// Returns the number of messages in the mailbox.
    pub(crate) fn waiting(&self) -> usize {
        match self.is_apart() {
            true => self.seen().map_or(0, |seen| seen.waiting),
            false => self.env().mailbox.len(),
        }
    }

    /// Returns the rest of a pause that the service asked for.
    pub(crate) fn paused_for(&self) -> Option<Duration> {
        match self.is_apart() {
            true => self.seen()?.paused,
            false => self.env().paused_for(),
        }
    }

    /// Returns the state of the circuit breaker, if there is one.
    pub(crate) fn breaker_status(&self) -> Option<BreakerStatus> {
        match self.is_apart() {
            true => self.seen()?.breaker,
            false => self.service.breaker.as_ref().map(ServiceBreaker::status),
        }
    }

    /// Returns the messages that are held for the order by key; `None` if messages have no keys.
    pub(crate) fn keys_held(&self) -> Option<KeysHeld> {
        match self.is_apart() {
            true => self.seen()?.keys,
            false => self.env().keyed.as_ref().map(|keyed| keyed.held()),
        }
    }

    /// Whether an app that runs until it is idle waits no longer for the breaker to close.
    pub(crate) fn is_breaker_hopeless(&self) -> bool {
        let breaker = self.service.breaker.as_ref();
        breaker.is_some_and(ServiceBreaker::is_hopeless)
    }

    /// Returns the present run, or the last one.
    pub(crate) fn env(&self) -> Arc<ServiceRun> {
        self.run.lock().clone()
    }

    /// Starts a new run; see [`ServiceRun::new`] for `suspects`.
    pub(crate) fn begin(&self, worker: Arc<Worker>, suspects: Vec<Delivery>) -> Arc<ServiceRun> {
        let env = ServiceRun::new(self.service.clone(), worker, suspects);
        *self.run.lock() = env.clone();
        env
    }

    /// Records that the first start has ended: with or without success, or by a stop.
    pub(crate) fn end_first_start(&self) {
        self.first_start_ended.send_replace(true);
    }

    /// Resolves when the first start since the start of the app has ended.
    pub(crate) async fn first_start_ended(&self) {
        let mut ended = self.first_start_ended.subscribe();
        // Never an error: `self` owns the sender.
        let _open = ended.wait_for(|ended| *ended).await;
    }

    pub(crate) fn is_source(&self) -> bool {
        matches!(self.blueprint.role(), Kind::Source(_))
    }

    pub(crate) fn holds_entities(&self) -> bool {
        match self.blueprint.role() {
            Kind::Service(factory) => factory.holds_entities(),
            Kind::Source(_) => false,
        }
    }

    /// Returns whether the service is a source that will end by itself, has not ended yet and
    /// does not run in another process.
    pub(crate) fn is_unfinished_source(&self) -> bool {
        match self.blueprint.role() {
            Kind::Source(source) => {
                let liveness = &self.env().liveness;
                source.ends() && !*liveness.ended.borrow() && !liveness.standing_by.load(Relaxed)
            }
            Kind::Service(_) => false,
        }
    }
}
