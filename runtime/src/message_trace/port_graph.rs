//! The services of an app with their ports and topics: which service may have emitted a
//! message, and which ones read it.

use std::sync::Arc;

use crate::names::QueueId;

/// The services of an app and the topics that connect them.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortGraph {
    pub(crate) app: Arc<str>,
    pub(crate) services: Vec<GraphService>,
}

/// One service.
#[derive(Debug, Clone)]
pub(crate) struct GraphService {
    pub(crate) label: Arc<str>,
    pub(crate) inputs: Vec<GraphPort>,
    pub(crate) outputs: Vec<GraphPort>,
    pub(crate) has_store: bool,
    /// Whether this process runs the service, itself or in a child process.
    pub(crate) runs_here: bool,
}

/// A port and its topics.
#[derive(Debug, Clone)]
pub(crate) struct GraphPort {
    pub(crate) name: Arc<str>,
    pub(crate) topics: Vec<Arc<str>>,
}

impl PortGraph {
    /// The topics that an output publishes to.
    pub(super) fn topics_of_output(&self, service: &str, output: &str) -> Vec<Arc<str>> {
        let services = self.services.iter().filter(|it| *it.label == *service);
        let mut outputs = services.flat_map(|it| &it.outputs);
        let port = outputs.find(|port| *port.name == *output);
        port.map(|port| port.topics.clone()).unwrap_or_default()
    }

    /// The inputs that read any of these topics.
    pub(super) fn readers(&self, topics: &[Arc<str>]) -> Vec<QueueId> {
        let reads = |port: &&GraphPort| port.topics.iter().any(|it| topics.contains(it));
        let services = self.services.iter();
        let readers = services.flat_map(|service| {
            let inputs = service.inputs.iter().filter(reads);
            inputs.map(|port| QueueId::new(&service.label, &port.name))
        });
        readers.collect()
    }
}
