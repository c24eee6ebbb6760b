//! The plan: a checked manifest, with everything resolved that can be known before
//! running.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::redact::Redactor;
use crate::service::Blueprint;
use crate::supervision::{RestartPolicy, RetryPolicy};
use crate::transport::{QueueSpec, Topology};

/// What an app is to be. Made by [`crate::manifest::load`].
pub struct Plan {
    pub(crate) name: Arc<str>,
    /// The transport's URL, secrets included.
    pub(crate) transport: String,
    pub(crate) data: PathBuf,
    pub(crate) workers: usize,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) message_bytes_max: usize,
    pub(crate) log: LogSettings,
    /// `None` if it is off.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) redactor: Arc<Redactor>,
    /// In the manifest's order.
    pub(crate) services: Vec<ServicePlan>,
    /// Topics that programs outside feed or read.
    pub(crate) external: Vec<Arc<str>>,
}

/// `app.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) level: tracing::Level,
    pub(crate) json: bool,
}

/// One service of the plan.
pub(crate) struct ServicePlan {
    pub(crate) label: Arc<str>,
    /// The name of its service type.
    pub(crate) service_type: &'static str,
    pub(crate) blueprint: Arc<dyn Blueprint>,
    /// The topics that each input reads, in the order of the port table.
    pub(crate) inputs: Vec<WiredPort>,
    /// The topics that each output publishes to, in the order of the port table.
    pub(crate) outputs: Vec<WiredPort>,
    pub(crate) instances: usize,
    pub(crate) mailbox: usize,
    pub(crate) handler_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) restart: RestartPolicy,
    pub(crate) high_water: u64,
}

/// A port and the topics that it is connected to.
#[derive(Debug, Clone)]
pub(crate) struct WiredPort {
    pub(crate) name: Arc<str>,
    pub(crate) topics: Vec<Arc<str>>,
}

impl Plan {
    /// The app's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of positions and stores.
    pub fn data(&self) -> &std::path::Path {
        &self.data
    }

    pub(crate) fn topology(&self) -> Topology {
        let queues = self.services.iter().flat_map(|service| {
            service.inputs.iter().map(|input| QueueSpec {
                id: crate::name::QueueId::new(&service.label, &input.name),
                topics: input.topics.clone(),
                high_water: service.high_water,
            })
        });
        Topology {
            app: self.name.clone(),
            queues: queues.collect(),
            external: self.external.clone(),
        }
    }
}
