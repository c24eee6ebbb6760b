//! The plan: a checked manifest, with everything resolved that can be known before
//! running.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::redact::Redactor;
use crate::service::{ConfiguredType, Kind};
use crate::settings::{Isolation, ServiceSettings};
use crate::supervision::{GiveUpPolicy, Intensity, Strategy};
use crate::transport::{ExternalBinding, QueueSpec, Topology};

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
    /// The root of the tree.
    pub(crate) supervision: SupervisorPlan,
    /// In the manifest's order.
    pub(crate) groups: Vec<GroupPlan>,
    /// Topics that programs outside feed or read.
    pub(crate) external: Vec<Arc<str>>,
    /// What feeds some of them, on the transport.
    pub(crate) feeds: Vec<ExternalBinding>,
    /// The files that the manifest named for values in it.
    pub(crate) named: Vec<PathBuf>,
}

/// `app.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) level: tracing::Level,
    pub(crate) json: bool,
}

/// What one supervisor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SupervisorPlan {
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
}

/// `[groups.G]`: services under a supervisor of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupPlan {
    pub(crate) name: Arc<str>,
    /// Indices into the services of the plan, rising: the manifest's order of services.
    pub(crate) services: Vec<usize>,
    pub(crate) supervisor: SupervisorPlan,
}

/// One service of the plan.
pub(crate) struct ServicePlan {
    pub(crate) label: Arc<str>,
    /// The name of its service type.
    pub(crate) service_type: &'static str,
    pub(crate) blueprint: Arc<dyn ConfiguredType>,
    /// The topics that each input reads, in the order of the port table.
    pub(crate) inputs: Vec<WiredPort>,
    /// The topics that each output publishes to, in the order of the port table.
    pub(crate) outputs: Vec<WiredPort>,
    /// Whether this process runs it; `--only` leaves the others to other processes.
    pub(crate) runs_here: bool,
    pub(crate) settings: ServiceSettings,
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

    /// Makes it the plan of a child process: what it runs is started and supervised by
    /// another one, which opens the admin endpoint and decides when it gives up.
    pub(crate) fn supervise(&mut self) {
        self.admin = None;
        self.workers = 1;
        for service in self.services.iter_mut().filter(|service| service.runs_here) {
            service.settings.isolation = Isolation::Shared;
            // When it gives up, its parent ends the process and does what is to be done.
            service.settings.restart.give_up = GiveUpPolicy::Isolate;
        }
    }

    fn feeds_of(&self, input: &WiredPort) -> Vec<ExternalBinding> {
        let feeds = self.feeds.iter();
        feeds
            .filter(|feed| input.topics.contains(&feed.topic))
            .cloned()
            .collect()
    }

    pub(crate) fn topology(&self) -> Topology {
        let queues = self.services.iter().flat_map(|service| {
            service.inputs.iter().map(|input| QueueSpec {
                id: crate::names::QueueId::new(&service.label, &input.name),
                topics: input.topics.clone(),
                high_water: service.settings.queue.high_water,
                limit: service.settings.queue.limit,
                overflow: service.settings.queue.overflow,
                feeds: self.feeds_of(input),
                // Its state is on one machine.
                single_active: service.settings.store,
            })
        });
        let single = self.services.iter().filter(|service| {
            matches!(service.blueprint.role(), Kind::Source(source) if source.is_single())
        });
        Topology {
            app: self.name.clone(),
            queues: queues.collect(),
            single: single.map(|service| service.label.clone()).collect(),
            external: self.external.clone(),
        }
    }
}
