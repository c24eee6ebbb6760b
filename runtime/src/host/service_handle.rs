//! A service as its supervisor has it: what lasts, and the life that it has now.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;

use super::remote_stats::RemoteStats;
use super::service_run::ServiceRun;
use super::service_state::{ServiceSetup, ServiceShared};
use crate::delivery::Delivery;
use crate::metrics::Worker;
use crate::service::{ConfiguredType, Kind};

/// A service of an app.
pub(crate) struct ServiceHandle {
    core: Arc<ServiceShared>,
    pub(crate) blueprint: Arc<dyn ConfiguredType>,
    /// The number of the worker that it runs on, unless it runs apart.
    pub(crate) worker: usize,
    /// What can be seen of it in its process, if it runs apart, and while it does.
    apart: Option<Mutex<Option<RemoteStats>>>,
    life: Mutex<Arc<ServiceRun>>,
}

impl Deref for ServiceHandle {
    type Target = ServiceShared;

    fn deref(&self) -> &ServiceShared {
        &self.core
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

    /// A service that runs in a child process.
    pub(crate) fn apart(setup: ServiceSetup, blueprint: Arc<dyn ConfiguredType>) -> Arc<Self> {
        let apart = Some(Mutex::default());
        Arc::new(Self::make(setup, blueprint, 0, apart))
    }

    fn make(
        setup: ServiceSetup,
        blueprint: Arc<dyn ConfiguredType>,
        worker: usize,
        apart: Option<Mutex<Option<RemoteStats>>>,
    ) -> Self {
        let core = ServiceShared::new(setup);
        let unborn = ServiceRun::new(core.clone(), Arc::default(), Vec::new());
        Self {
            core,
            blueprint,
            worker,
            apart,
            life: Mutex::new(unborn),
        }
    }

    /// Whether it runs in a child process.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart.is_some()
    }

    /// Notes what can be seen of it in its process; `None` if there is no process.
    pub(crate) fn see(&self, seen: Option<RemoteStats>) {
        if let Some(apart) = &self.apart {
            *apart.lock() = seen;
        }
    }

    /// What was last seen of it in its process, if it runs apart and there is one.
    pub(crate) fn seen(&self) -> Option<RemoteStats> {
        self.apart.as_ref()?.lock().clone()
    }

    /// What it shows, here or in its process.
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
            paused: env.paused_for(),
            depths: Vec::new(),
        }
    }

    /// Messages in its mailbox.
    pub(crate) fn waiting(&self) -> usize {
        match self.is_apart() {
            true => self.seen().map_or(0, |seen| seen.waiting),
            false => self.env().mailbox.len(),
        }
    }

    /// How long it still takes no messages, if it paused itself.
    pub(crate) fn paused_for(&self) -> Option<Duration> {
        match self.is_apart() {
            true => self.seen()?.paused,
            false => self.env().paused_for(),
        }
    }

    /// What surrounds the service in its present, or last, life.
    pub(crate) fn env(&self) -> Arc<ServiceRun> {
        self.life.lock().clone()
    }

    /// Another life begins.
    pub(crate) fn begin(&self, worker: Arc<Worker>, trials: Vec<Delivery>) -> Arc<ServiceRun> {
        let env = ServiceRun::new(self.core.clone(), worker, trials);
        *self.life.lock() = env.clone();
        env
    }

    pub(crate) fn is_source(&self) -> bool {
        matches!(self.blueprint.role(), Kind::Source(_))
    }

    /// Whether it is a source that comes to an end and hasn't yet, unless another process
    /// runs it.
    pub(crate) fn is_unfinished_source(&self) -> bool {
        match self.blueprint.role() {
            Kind::Source(source) => {
                let pulse = &self.env().pulse;
                source.ends() && !*pulse.ended.borrow() && !pulse.standing_by.load(Relaxed)
            }
            Kind::Service(_) => false,
        }
    }
}
