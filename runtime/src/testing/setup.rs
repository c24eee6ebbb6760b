//! Builder of an app under test.
//!
//! Every app under test is described by a manifest, also that of a single service. So all
//! settings have the manifest's names and defaults, and its error reports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::fault::{Fault, FaultScript};
use super::folder::Folder;
use super::instance_tracking::{LiveInstances, TestedType};
use super::letters::Letters;
use super::ports::Asks;
use super::recorder::{Answer, Recorder};
use super::routes::Routes;
use super::sim_runtime::SimRuntime;
use super::transport::{self, TestConnector};
use super::{TestApp, pending_ask};
use crate::app::{App, Plan, StartError, Workers};
use crate::clock::Clock;
use crate::manifest::{self, Options};
use crate::service::{
    Catalog, ConfigError, ConfiguredType, Kind, NoConfig, Service, ServiceBlueprint, ServiceType,
    Source, SourceBlueprint, TypeMetadata,
};
#[cfg(feature = "store")]
use crate::service::{Entity, EntityBlueprint};
use crate::transport::Transports;

/// Start of the virtual clock: 2026-01-01T00:00:00Z.
const START: Duration = Duration::from_secs(1_767_225_600);

/// Builder of a [`TestApp`], for settings, faults and replies that must exist before the start.
///
/// ```
/// # use brickwork::prelude::*;
/// # struct Stock;
/// # impl Service for Stock {
/// #     const NAME: &'static str = "stock";
/// #     type Config = NoConfig;
/// #     fn ports(_: &NoConfig, _: &mut Ports<Self>) {}
/// #     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self) }
/// # }
/// use brickwork::testing::{Fault, FaultPoint, Setup};
///
/// let stock = Setup::of::<Stock>(NoConfig {})
///     .with("services.stock.instances = 3")
///     .inject(Fault::fail(FaultPoint::Start).times(2))
///     .start();
/// stock.stop();
/// ```
#[must_use = "call start"]
pub struct Setup {
    manifest: Manifest,
    catalog: Catalog,
    /// Manifests laid over it.
    overlays: Vec<String>,
    variables: BTreeMap<String, String>,
    start: SystemTime,
    data: Option<PathBuf>,
    script: Arc<FaultScript>,
    recorder: Arc<Recorder>,
    answers: Vec<(String, Answer)>,
    leftover_tasks: bool,
    /// Set for a service that is tested alone.
    routes: Option<Routes>,
}

enum Manifest {
    Text(String),
    File(PathBuf),
}

impl Setup {
    /// One service. Each port is connected to the topic of its name.
    ///
    /// # Panics
    /// If the service type refuses the config.
    #[track_caller]
    pub fn of<S: Service>(config: S::Config) -> Self {
        accept(S::NAME, S::check(&config));
        let blueprint = Arc::new(ServiceBlueprint::<S>::new(config));
        Self::one(S::NAME, "service", blueprint)
    }

    /// One source. Each port is connected to the topic of its name.
    ///
    /// # Panics
    /// If the source type refuses the config.
    #[track_caller]
    pub fn of_source<S: Source>(config: S::Config) -> Self {
        accept(S::NAME, S::check(&config));
        let blueprint = Arc::new(SourceBlueprint::<S>::new(config));
        Self::one(S::NAME, "source", blueprint)
    }

    /// One entity type. Each port is connected to the topic of its name.
    ///
    /// # Panics
    /// If the entity type refuses the config.
    #[cfg(feature = "store")]
    #[track_caller]
    pub fn of_entity<E: Entity>(config: E::Config) -> Self {
        accept(E::NAME, E::check(&config));
        let blueprint = Arc::new(EntityBlueprint::<E>::new(config));
        Self::one(E::NAME, "service", blueprint)
    }

    fn one(name: &'static str, role: &'static str, blueprint: Arc<dyn ConfiguredType>) -> Self {
        let routes = Routes::of_service(name, blueprint.ports());
        let wiring = routes.wiring();
        let store = match blueprint.role() {
            Kind::Service(factory) => !factory.migrations().is_empty(),
            Kind::Source(_) => false,
        };
        // A source has no store key.
        let store = if store { "store = true\n" } else { "" };
        let text = format!(
            "[app]\nname = \"test\"\ntransport = \"memory:\"\n[services.{name}]\n{store}{wiring}"
        );
        let metadata = TypeMetadata {
            name,
            role,
            summary: "",
            failures: &[],
            example: "",
            single: false,
        };
        // The config is a value already, so the manifest has none.
        let configured = move |_: NoConfig| blueprint.clone();
        let catalog = Catalog::new().add(ServiceType::new(metadata, |_| Ok(()), configured));
        Self {
            routes: Some(routes),
            ..Self::new(Manifest::Text(text), catalog)
        }
    }

    /// A whole app from the text of a manifest. Paths in it are relative to the directory of
    /// this test, which is deleted with the test.
    pub fn of_manifest(text: &str, catalog: Catalog) -> Self {
        Self::new(Manifest::Text(text.to_owned()), catalog)
    }

    /// A whole app from a manifest file. Paths in it are relative to the file.
    pub fn of_file(path: impl AsRef<Path>, catalog: Catalog) -> Self {
        Self::new(Manifest::File(path.as_ref().to_owned()), catalog)
    }

    fn new(manifest: Manifest, catalog: Catalog) -> Self {
        Self {
            manifest,
            catalog,
            overlays: Vec::new(),
            variables: BTreeMap::new(),
            start: SystemTime::UNIX_EPOCH + START,
            data: None,
            script: Arc::default(),
            recorder: Arc::default(),
            answers: Vec::new(),
            leftover_tasks: false,
            routes: None,
        }
    }

    /// Lays another manifest over it: tables merge, values replace. A service that is tested
    /// alone has its type's name as label.
    pub fn with(mut self, manifest: &str) -> Self {
        self.overlays.push(manifest.to_owned());
        self
    }

    /// Sets the value of `${NAME}` in the manifest. Variables of the process are not used.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the start of the clock that services see; by default 2026-01-01T00:00:00Z.
    pub fn at(mut self, start: SystemTime) -> Self {
        self.start = start;
        self
    }

    /// Sets the directory of stores and positions, to continue with those of an earlier app.
    /// By default it is in the test's own directory.
    pub fn data(mut self, folder: impl AsRef<Path>) -> Self {
        self.data = Some(folder.as_ref().to_owned());
        self
    }

    /// Injects a fault, which may strike during the start.
    pub fn inject(self, fault: Fault) -> Self {
        self.script.add(fault);
        self
    }

    /// Replies to requests on a port, including those that come during the start.
    pub fn answer<P: Asks + ?Sized>(
        mut self,
        port: &P,
        answer: impl FnMut(P::Value) -> P::Reply + Send + 'static,
    ) -> Self {
        let answer = pending_ask::answering::<P>(answer);
        self.answers.push((port.name().to_owned(), answer));
        self
    }

    /// Allows tasks of services to outlive the stop without failing the test, such as those
    /// of plain actix actors with intervals, which can't be stopped.
    pub fn allow_leftover_tasks(mut self) -> Self {
        self.leftover_tasks = true;
        self
    }

    /// Starts services, then sources.
    ///
    /// # Panics
    /// If the manifest is invalid, with its report.
    #[track_caller]
    pub fn start(self) -> TestApp {
        match self.try_start() {
            Ok(app) => app,
            Err(text) => panic!("{text}"),
        }
    }

    /// Starts the app, unless the manifest is invalid.
    fn try_start(self) -> Result<TestApp, String> {
        let folder = Folder::new();
        let (mut plan, routes) = self.plan(&folder)?;
        let live: Arc<LiveInstances> = Arc::default();
        for service in &mut plan.services {
            service.blueprint = Arc::new(TestedType::new(
                service.blueprint.clone(),
                service.label.clone(),
                self.script.clone(),
                live.clone(),
            ));
        }
        for (name, answer) in self.answers {
            self.recorder.answer(&routes.gives(&name)?, answer);
        }
        let inner = Arc::new(OnceLock::new());
        let transports = Transports::new().with(TestConnector {
            recorder: self.recorder.clone(),
            script: self.script.clone(),
            read: routes.read(),
            inner: inner.clone(),
        });
        let readers = plan
            .services
            .iter()
            .filter(|service| !service.inputs.is_empty());
        let readers: Vec<Arc<str>> = readers.map(|service| service.label.clone()).collect();
        let runtime = SimRuntime::new();
        let started = runtime.run(async {
            let clock = Clock::virtual_from(self.start);
            let app = App::start(plan, &transports, Workers::Here, clock).await?;
            let inner = inner.get().expect("the app has connected").clone();
            let letters = Letters::open(&inner, &readers).await?;
            Ok::<_, StartError>((app, clock, inner, letters))
        });
        let (app, clock, inner, letters) = started.map_err(|error| error.to_string())?;
        Ok(TestApp {
            app: Some(app),
            inner,
            recorder: self.recorder,
            letters,
            script: self.script,
            live,
            routes,
            clock,
            leftover_tasks: self.leftover_tasks,
            runtime,
            folder,
        })
    }

    fn plan(&self, folder: &Folder) -> Result<(Plan, Routes), String> {
        let file = match &self.manifest {
            Manifest::Text(text) => folder.write("app.toml", text),
            Manifest::File(path) => path.clone(),
        };
        let overlays = self.overlays.iter().enumerate();
        let overlays = overlays.map(|(n, text)| folder.write(&format!("with-{n}.toml"), text));
        let variables = self.variables.clone();
        let options = Options {
            overlays: overlays.collect(),
            transport: Some("memory:".into()),
            env: Box::new(move |name| variables.get(name).cloned()),
            ..Options::default()
        };
        let transports = Transports::new();
        let mut plan = manifest::load(&file, &options, &self.catalog, &transports)
            .map_err(|report| report.render(false))?;
        plan.transport = transport::URL.into();
        // A test leaves nothing behind.
        let data = || folder.path().join("data");
        plan.data = self.data.clone().unwrap_or_else(data);
        let routes = match &self.routes {
            Some(routes) => routes.clone(),
            None => Routes::of_app(&plan),
        };
        Ok((plan, routes))
    }
}

/// # Panics
/// If the config is refused.
#[track_caller]
fn accept(name: &str, checked: Result<(), Vec<ConfigError>>) {
    let Err(errors) = checked else { return };
    let errors: Vec<String> = errors
        .iter()
        .map(|error| format!("\n  {}: {}", error.path, error.text))
        .collect();
    panic!("{name} refuses its config:{}", errors.concat());
}
