//! The part of a plan that a message trace needs: services, ports and topics.

use super::plan::Plan;
use crate::message_trace::{GraphPort, GraphService, PortGraph};
use crate::service::WiredPort;

impl Plan {
    /// The services of the app and the topics that connect them.
    pub(crate) fn port_graph(&self) -> PortGraph {
        let ports = |ports: &[WiredPort]| {
            let ports = ports.iter().map(|port| GraphPort {
                name: port.name.clone(),
                topics: port.topics.clone(),
            });
            ports.collect()
        };
        let services = self.services.iter().map(|service| GraphService {
            label: service.label.clone(),
            inputs: ports(&service.inputs),
            outputs: ports(&service.outputs),
            has_store: service.settings.store,
            runs_here: service.runs_here,
        });
        PortGraph {
            app: self.name.clone(),
            services: services.collect(),
        }
    }
}
