//! A service as its supervisor has it: what lasts, and the life that it has now.

use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

use super::environment::{Core, Environment, Settings};
use crate::delivery::Delivery;
use crate::metrics::Worker;
use crate::service::{Blueprint, Role};

/// A service of an app.
pub(crate) struct Hosted {
    core: Arc<Core>,
    pub(crate) blueprint: Arc<dyn Blueprint>,
    /// The number of the worker that it runs on.
    pub(crate) worker: usize,
    life: Mutex<Arc<Environment>>,
}

impl Deref for Hosted {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Hosted {
    pub(crate) fn new(
        settings: Settings,
        blueprint: Arc<dyn Blueprint>,
        worker: usize,
    ) -> Arc<Self> {
        let core = Core::new(settings);
        let unborn = Environment::new(core.clone(), Arc::default(), Vec::new());
        Arc::new(Self {
            core,
            blueprint,
            worker,
            life: Mutex::new(unborn),
        })
    }

    /// What surrounds the service in its present, or last, life.
    pub(crate) fn env(&self) -> Arc<Environment> {
        self.life.lock().clone()
    }

    /// Another life begins.
    pub(crate) fn begin(&self, worker: Arc<Worker>, trials: Vec<Delivery>) -> Arc<Environment> {
        let env = Environment::new(self.core.clone(), worker, trials);
        *self.life.lock() = env.clone();
        env
    }

    pub(crate) fn is_source(&self) -> bool {
        matches!(self.blueprint.role(), Role::Source(_))
    }

    /// Whether it is a source that comes to an end and hasn't yet.
    pub(crate) fn is_unfinished_source(&self) -> bool {
        match self.blueprint.role() {
            Role::Source(source) => source.ends() && !*self.env().pulse.ended.borrow(),
            Role::Service(_) => false,
        }
    }
}
