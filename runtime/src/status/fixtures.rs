//! A fake app for tests: services over the memory transport that are never started.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::app_status::{AppStatus, GroupStatus, Phase, ServiceStatus};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::host::{ServiceHandle, ServiceSetup};
use crate::metrics::{Durations, WorkerLag};
use crate::names::QueueId;
use crate::redact::Redactor;
use crate::service::{
    ConfiguredType, Context, Instance, InstanceFactory, Kind, PortTable, WiredOutput, WiredPort,
};
use crate::settings::ServiceSettings;
use crate::store::Stores;
use crate::supervision::{Instances, Strategy};
use crate::transport::memory::Memory;
use crate::transport::{Backpressure, Overflow, QueueSpec, SourcePressure, Topology, Transport};

/// A secret that no output may show.
pub(crate) const SECRET: &str = "hunter2-is-secret";

/// The parts of the fake app that tests use.
pub(crate) struct Fake {
    pub(crate) view: Arc<AppStatus>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) topology: Topology,
    pub(crate) pressure: Arc<Backpressure>,
}

/// Makes an app in which the source `intake` feeds `orders` and `stock` reads it. Must be
/// called inside a tokio runtime.
pub(crate) async fn app() -> Fake {
    let pressure: Arc<Backpressure> = Arc::default();
    let transport: Arc<dyn Transport> = Arc::new(Memory::new(pressure.clone()));
    let redactor = Arc::new(Redactor::new([SECRET.to_owned()]));
    let queue = QueueSpec {
        id: QueueId::new("stock", "requests"),
        topics: vec!["orders".into()],
        high_water: 2,
        limit: Some(10),
        overflow: Overflow::DeadLetter,
        feeds: Vec::new(),
        single_active: false,
        keyed: None,
    };
    let topology = Topology {
        app: "shop".into(),
        queues: vec![queue],
        ..Topology::default()
    };
    transport.declare(&topology).await.unwrap();
    let port = |name: &str, topic: &str| WiredPort {
        name: name.into(),
        topics: vec![topic.into()],
    };
    let service = |label: &str, role, inputs: Vec<WiredPort>, outputs: Vec<WiredPort>| {
        let setup = setup(label, &inputs, &outputs, &transport, &pressure, &redactor);
        ServiceStatus {
            hosted: ServiceHandle::new(setup, Arc::new(Unused(PortTable::default())), 0),
            service_type: "test-type",
            role,
            inputs,
            outputs,
        }
    };
    let services = vec![
        service("intake", "source", vec![], vec![port("out", "orders")]),
        service(
            "stock",
            "service",
            vec![port("requests", "orders")],
            vec![port("reserved", "reservations")],
        ),
    ];
    let group = GroupStatus {
        name: "sales".into(),
        strategy: Strategy::OneForAll,
        services: vec!["stock".into(), "intake".into()],
        restarts: Arc::new(2.into()),
    };
    let view = AppStatus::new(
        "shop <&>".into(),
        services,
        transport.clone(),
        vec![group],
        redactor,
        WorkerLag::new(2),
        Arc::default(),
    );
    Fake {
        view,
        transport,
        topology,
        pressure,
    }
}

impl Fake {
    /// Sets the state of a started app.
    pub(crate) fn all_ready(&self) {
        self.view.set_phase(Phase::Running);
        for service in &self.view.services {
            let liveness = &service.env().liveness;
            liveness.ready.store(1, Relaxed);
            liveness.consuming.send_replace(service.inputs.len());
        }
    }
}

/// A service that is never started.
struct Unused(PortTable);

impl ConfiguredType for Unused {
    fn ports(&self) -> &PortTable {
        &self.0
    }

    fn role(&self) -> Kind<'_> {
        Kind::Service(self)
    }
}

impl InstanceFactory for Unused {
    fn start<'a>(
        &'a self,
        _: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Instance>, Failure>> {
        unreachable!("the fake app starts no service")
    }
}

fn setup(
    label: &str,
    inputs: &[WiredPort],
    outputs: &[WiredPort],
    transport: &Arc<dyn Transport>,
    pressure: &Arc<Backpressure>,
    redactor: &Arc<Redactor>,
) -> ServiceSetup {
    let wired = |port: &WiredPort| WiredOutput {
        name: port.name.clone(),
        kind: None,
        topics: port.topics.clone(),
    };
    let confirms: Arc<parking_lot::Mutex<Durations>> = Arc::default();
    confirms.lock().record(Duration::from_millis(2));
    ServiceSetup {
        app: "shop".into(),
        label: label.into(),
        inputs: inputs.iter().map(|port| port.name.clone()).collect(),
        first: vec![false; inputs.len()],
        outputs: outputs.iter().map(wired).collect(),
        transport: transport.clone(),
        pressure: SourcePressure::new(pressure.clone(), ["stock".into()].into()),
        answerers: Arc::default(),
        limits: crate::limits::Limits::default(),
        clock: Clock::SYSTEM,
        events: Arc::default(),
        redactor: redactor.clone(),
        number: 0,
        settings: ServiceSettings {
            handler_timeout: Duration::from_secs(1),
            ..ServiceSettings::default()
        },
        loops: Instances { min: 2, max: 2 },
        lanes: 1,
        batch_max: 1,
        message_bytes_max: 1024,
        data: PathBuf::new(),
        // No store is opened.
        stores: Some(Stores::new("shop".into(), &PathBuf::new())),
        confirms: Some(confirms),
    }
}
