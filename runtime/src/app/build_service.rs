//! Builds a service from its plan, ready to be started.

use std::sync::Arc;

use parking_lot::Mutex;

use super::plan::ServicePlan;
use super::reach::Reach;
use crate::clock::Clock;
use crate::events::Events;
use crate::host::{ServiceHandle, ServiceSetup};
use crate::limits::Limits;
use crate::metrics::Durations;
use crate::service::{Answerer, Answerers, Kind, Readers, WiredOutput};
use crate::settings::Isolation;
use crate::status::{SOURCE, ServiceStatus};
use crate::store::Stores;
use crate::supervision::Instances;
use crate::transport::{Backpressure, SourcePressure, Transport};

/// The parts that all services of an app share.
pub(super) struct BuildContext {
    pub(super) app: Arc<str>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) pressure: Arc<Backpressure>,
    pub(super) reach: Reach,
    pub(super) answerers: Arc<Answerers>,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) events: Arc<Events>,
    pub(super) redactor: Arc<crate::redact::Redactor>,
    pub(super) message_bytes_max: usize,
    pub(super) data: std::path::PathBuf,
    pub(super) confirms: Option<Arc<Mutex<Durations>>>,
    pub(super) stores: Arc<Stores>,
}

impl BuildContext {
    /// Tells every service which services of this process answer requests. If processes share
    /// the transport, another one may answer, so nothing is known.
    pub(super) fn connect_answerers(&self, services: &[ServiceStatus]) {
        if self.transport.guarantees().crosses_processes {
            return;
        }
        let mut readers = Readers::new();
        for service in services {
            let reader: Arc<dyn Answerer> = service.hosted.clone();
            for topic in service.inputs.iter().flat_map(|input| &input.topics) {
                let readers = readers.entry(topic.clone()).or_default();
                readers.push(Arc::downgrade(&reader));
            }
        }
        self.answerers.set(readers);
    }
}

/// Builds a service that is not started.
pub(super) fn build(
    plan: ServicePlan,
    common: &BuildContext,
    number: usize,
    workers: usize,
    processes: bool,
) -> ServiceStatus {
    let kinds = plan
        .blueprint
        .ports()
        .outputs
        .iter()
        .map(|output| output.kind.clone());
    let outputs = plan
        .outputs
        .iter()
        .zip(kinds)
        .map(|(wired, kind)| WiredOutput {
            name: wired.name.clone(),
            kind,
            topics: wired.topics.clone(),
        });
    let batches = plan
        .blueprint
        .ports()
        .inputs
        .iter()
        .filter_map(|input| input.batch);
    let batch_max = batches.map(|batch| batch.max).max().unwrap_or(1);
    let inputs = &plan.blueprint.ports().inputs;
    let first: Vec<bool> = inputs.iter().map(|input| input.first).collect();
    let lanes = match plan.blueprint.role() {
        Kind::Service(factory) => factory.concurrency(),
        Kind::Source(_) => 1,
    };
    let instances = plan.settings.instances;
    let apart = processes && plan.settings.isolation == Isolation::Process;
    let setup = ServiceSetup {
        app: common.app.clone(),
        label: plan.label.clone(),
        number: number as u32,
        inputs: plan.inputs.iter().map(|input| input.name.clone()).collect(),
        first,
        outputs: outputs.collect(),
        transport: common.transport.clone(),
        pressure: SourcePressure::new(
            common.pressure.clone(),
            common.reach.get(&*plan.label).cloned().unwrap_or_default(),
        ),
        answerers: common.answerers.clone(),
        limits: common.limits.clone(),
        clock: common.clock,
        events: common.events.clone(),
        redactor: common.redactor.clone(),
        loops: Instances {
            min: instances.min.saturating_mul(lanes),
            max: instances.max.saturating_mul(lanes),
        },
        lanes,
        batch_max,
        message_bytes_max: common.message_bytes_max,
        data: common.data.clone(),
        stores: plan.settings.store.then(|| common.stores.clone()),
        confirms: common.confirms.clone(),
        settings: plan.settings,
    };
    let hosted = if apart {
        ServiceHandle::apart(setup, plan.blueprint)
    } else {
        ServiceHandle::new(setup, plan.blueprint, number % workers.max(1))
    };
    ServiceStatus {
        role: if hosted.is_source() {
            SOURCE
        } else {
            "service"
        },
        hosted,
        service_type: plan.service_type,
        inputs: plan.inputs,
        outputs: plan.outputs,
    }
}
