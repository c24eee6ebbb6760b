//! Who emits what, and who reads it: as much of a plan as a message's way needs.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::app::{Plan, WiredPort};
use crate::names::QueueId;
use crate::settings::Isolation;

/// The services of an app.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wiring {
    pub(super) app: Arc<str>,
    pub(super) services: Vec<Wired>,
}

/// One service.
#[derive(Debug, Clone)]
pub(super) struct Wired {
    pub(super) label: Arc<str>,
    pub(super) inputs: Vec<WiredPort>,
    pub(super) outputs: Vec<WiredPort>,
    pub(super) has_store: bool,
    /// Whether this process runs it, itself or by a child.
    pub(super) runs_here: bool,
    /// Whether a child process does.
    pub(super) apart: bool,
}

impl Wiring {
    pub(crate) fn of(plan: &Plan) -> Self {
        let services = plan.services.iter().map(|service| Wired {
            label: service.label.clone(),
            inputs: service.inputs.clone(),
            outputs: service.outputs.clone(),
            has_store: service.settings.store,
            runs_here: service.runs_here,
            apart: service.settings.isolation == Isolation::Process,
        });
        Self {
            app: plan.name.clone(),
            services: services.collect(),
        }
    }

    pub(super) fn service(&self, label: &str) -> Option<&Wired> {
        self.services
            .iter()
            .find(|service| *service.label == *label)
    }

    /// The topics that some inputs read.
    pub(super) fn topics_of(&self, inputs: &BTreeSet<QueueId>) -> Vec<Arc<str>> {
        let ports = inputs.iter().filter_map(|at| {
            let mut ports = self.service(&at.service)?.inputs.iter();
            ports.find(|port| *port.name == *at.input)
        });
        ports.flat_map(|port| port.topics.iter().cloned()).collect()
    }

    /// The inputs that read any of some topics, each once.
    pub(super) fn readers(&self, topics: &[Arc<str>]) -> Vec<QueueId> {
        let inputs = self.services.iter().flat_map(|service| {
            let reads = |input: &&WiredPort| input.topics.iter().any(|it| topics.contains(it));
            let inputs = service.inputs.iter().filter(reads);
            inputs.map(|input| QueueId::new(&service.label, &input.name))
        });
        inputs.collect()
    }
}

impl Wired {
    pub(super) fn output(&self, name: &str) -> Option<&WiredPort> {
        self.outputs.iter().find(|output| *output.name == *name)
    }
}
