//! The plan: a checked and resolved manifest.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::events::EventsOf;
use crate::limits::LimitSpec;
use crate::log::LogSettings;
use crate::names::EVENTS_TOPIC;
use crate::redact::Redactor;
use crate::service::{ConfiguredType, Kind, WiredPort};
use crate::settings::{Isolation, ServiceSettings};
use crate::supervision::{GiveUpPolicy, Intensity, Strategy};
use crate::transport::{ExternalBinding, Keyed, QueueSpec, RenewUrl, Topology};

/// The plan of an app. [`crate::manifest::load`] makes it.
pub struct Plan {
    pub(crate) name: Arc<str>,
    /// URL of the transport, including secrets.
    pub(crate) transport: String,
    /// Reads the URL again if it has `${file:PATH}`.
    pub(crate) renew_transport: Option<RenewUrl>,
    pub(crate) data: PathBuf,
    pub(crate) workers: usize,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) message_bytes_max: usize,
    pub(crate) log: LogSettings,
    /// Address of the admin endpoint; `None` switches it off.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) redactor: Arc<Redactor>,
    /// In the order of the manifest.
    pub(crate) services: Vec<ServicePlan>,
    /// The root supervisor.
    pub(crate) supervision: SupervisorPlan,
    /// In the order of the manifest.
    pub(crate) groups: Vec<GroupPlan>,
    /// Rate limits that services share.
    pub(crate) limits: Vec<LimitSpec>,
    /// Topics that external programs feed or read.
    pub(crate) external: Vec<Arc<str>>,
    /// External queues and exchanges that feed some of these topics.
    pub(crate) feeds: Vec<ExternalBinding>,
    /// Files of `${file:PATH}` in the manifest.
    pub(crate) named: Vec<PathBuf>,
    /// A parent process supervises the services.
    pub(crate) is_supervised: bool,
}

/// Settings of one supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SupervisorPlan {
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
}

/// `[groups.G]`: services under one supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupPlan {
    pub(crate) name: Arc<str>,
    /// Indices into the services of the plan, in ascending order.
    pub(crate) services: Vec<usize>,
    pub(crate) supervisor: SupervisorPlan,
}

/// One service of the plan.
pub(crate) struct ServicePlan {
    pub(crate) label: Arc<str>,
    /// Name of the service type.
    pub(crate) service_type: &'static str,
    pub(crate) blueprint: Arc<dyn ConfiguredType>,
    /// The topics that each input reads, in the order of the port table.
    pub(crate) inputs: Vec<WiredPort>,
    /// The topics that each output publishes to, in the order of the port table.
    pub(crate) outputs: Vec<WiredPort>,
    /// Whether this process runs the service. `--only` leaves others to other processes.
    pub(crate) runs_here: bool,
    pub(crate) settings: ServiceSettings,
}

impl Plan {
    /// Returns the app's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the folder of positions and stores.
    pub fn data(&self) -> &std::path::Path {
        &self.data
    }

    /// Turns the plan into that of a child process. The parent process opens the admin
    /// endpoint and decides when a service is given up.
    pub(crate) fn supervise(&mut self) {
        self.is_supervised = true;
        self.admin = None;
        self.workers = 1;
        for service in self.services.iter_mut().filter(|service| service.runs_here) {
            service.settings.isolation = Isolation::Shared;
            // If the child gives up, the parent ends the process and applies the real policy.
            service.settings.restart.give_up = Some(GiveUpPolicy::Isolate);
        }
    }

    /// Returns the events that this process tells; `None` if neither a service of the app nor an
    /// external program reads them.
    pub(crate) fn events(&self) -> Option<EventsOf> {
        let inputs = self.services.iter().flat_map(|service| &service.inputs);
        let read = inputs.flat_map(|input| &input.topics);
        let mut read = read.chain(&self.external);
        read.any(|topic| **topic == *EVENTS_TOPIC)
            .then_some(match self.is_supervised {
                true => EventsOf::Runs,
                false => EventsOf::Everything,
            })
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
                // A store is on one machine.
                single_active: service.settings.store,
                keyed: service.settings.key.as_ref().map(|key| Keyed {
                    rule: key.rule.clone(),
                    partitions: key.partitions,
                }),
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
