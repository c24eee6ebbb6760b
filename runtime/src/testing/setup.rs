//! Setting a test up: what runs, with which settings, from when on.
//!
//! Every app under test is a manifest, also the one of a single service: so its settings
//! have the manifest's words and defaults, and a wrong one is reported as there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::fault::{Fault, FaultScript};
use super::folder::Folder;
use super::instance_tracking::{Census, Watched};
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
use crate::transport::Transports;

/// The time at which tests begin: 2026-01-01T00:00:00Z.
const START: Duration = Duration::from_secs(1_767_225_600);

/// An app to be tested, before it starts.
///
/// [`TestApp`] starts one at once; this is for what must be there before.
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
/// use brickwork::testing::{Fault, Point, Setup};
///
/// let stock = Setup::of::<Stock>(NoConfig {})
///     .with("services.stock.instances = 3")
///     .inject(Fault::fail(Point::Start).times(2))
///     .start();
/// stock.stop();
/// ```
#[must_use = "nothing happens until it starts"]
pub struct Setup {
    manifest: Manifest,
    catalog: Catalog,
    /// Pieces of manifest that are laid over it.
    overlays: Vec<String>,
    variables: BTreeMap<String, String>,
    start: SystemTime,
    data: Option<PathBuf>,
    script: Arc<FaultScript>,
    desk: Arc<Recorder>,
    answers: Vec<(String, Answer)>,
    leftover_tasks: bool,
    /// Of a service that is tested alone.
    routes: Option<Routes>,
}

enum Manifest {
    Text(String),
    File(PathBuf),
}

impl Setup {
    /// One service, with every port connected to the topic of its name.
    ///
    /// # Panics
    /// If the service type refuses the config.
    #[track_caller]
    pub fn of<S: Service>(config: S::Config) -> Self {
        accept(S::NAME, S::check(&config));
        let blueprint = Arc::new(ServiceBlueprint::<S>::new(config));
        Self::one(S::NAME, "service", blueprint)
    }

    /// One source, with every port connected to the topic of its name.
    ///
    /// # Panics
    /// If the source type refuses the config.
    #[track_caller]
    pub fn of_source<S: Source>(config: S::Config) -> Self {
        accept(S::NAME, S::check(&config));
        let blueprint = Arc::new(SourceBlueprint::<S>::new(config));
        Self::one(S::NAME, "source", blueprint)
    }

    fn one(name: &'static str, role: &'static str, blueprint: Arc<dyn ConfiguredType>) -> Self {
        let routes = Routes::of_service(name, blueprint.ports());
        let wiring = routes.wiring();
        let store = match blueprint.role() {
            Kind::Service(factory) => !factory.migrations().is_empty(),
            Kind::Source(_) => false,
        };
        // A source can't have one, not even none.
        let store = if store { "store = true\n" } else { "" };
        let text = format!(
            "[app]\nname = \"test\"\ntransport = \"memory:\"\n[services.{name}]\n{store}{wiring}"
        );
        let facts = TypeMetadata {
            name,
            role,
            summary: "",
            failures: &[],
            example: "",
            single: false,
        };
        // Its config is a value already: the manifest has none.
        let configured = move |_: NoConfig| blueprint.clone();
        let catalog = Catalog::new().add(ServiceType::new(facts, |_| Ok(()), configured));
        Self {
            routes: Some(routes),
            ..Self::new(Manifest::Text(text), catalog)
        }
    }

    /// A whole app, from a manifest's text. What is relative in it is relative to a folder
    /// of this test, which goes with it.
    pub fn of_manifest(text: &str, catalog: Catalog) -> Self {
        Self::new(Manifest::Text(text.to_owned()), catalog)
    }

    /// A whole app, from a manifest's file. Mind that paths in it are relative to the file.
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
            desk: Arc::default(),
            answers: Vec::new(),
            leftover_tasks: false,
            routes: None,
        }
    }

    /// Lays a piece of manifest over it: tables merge, values replace. A service that is
    /// tested alone goes by its type's name.
    pub fn with(mut self, manifest: &str) -> Self {
        self.overlays.push(manifest.to_owned());
        self
    }

    /// What `${NAME}` stands for in the manifest. Those of the process aren't seen.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// When it begins, by the clock that services see; by default
    /// 2026-01-01T00:00:00Z.
    pub fn at(mut self, start: SystemTime) -> Self {
        self.start = start;
        self
    }

    /// Where its stores and positions are: so that it goes on with what an app before it has
    /// left there. By default in the test's own folder.
    pub fn data(mut self, folder: impl AsRef<Path>) -> Self {
        self.data = Some(folder.as_ref().to_owned());
        self
    }

    /// Something is to go wrong, perhaps while it starts.
    pub fn inject(self, fault: Fault) -> Self {
        self.script.add(fault);
        self
    }

    /// Questions are answered so, also those that are asked while it starts.
    pub fn answer<P: Asks + ?Sized>(
        mut self,
        port: &P,
        answer: impl FnMut(P::Value) -> P::Reply + Send + 'static,
    ) -> Self {
        let answer = pending_ask::answering::<P>(answer);
        self.answers.push((port.name().to_owned(), answer));
        self
    }

    /// Tasks that services spawned may outlive the stop without failing the test: such as
    /// those of plain actix actors with intervals, which nobody can stop.
    pub fn allow_leftover_tasks(mut self) -> Self {
        self.leftover_tasks = true;
        self
    }

    /// Starts it: services, then sources.
    ///
    /// # Panics
    /// If there is something wrong with the manifest: with the report of it.
    #[track_caller]
    pub fn start(self) -> TestApp {
        match self.try_start() {
            Ok(app) => app,
            Err(text) => panic!("{text}"),
        }
    }

    /// Starts it, unless there is something wrong with the manifest.
    fn try_start(self) -> Result<TestApp, String> {
        let folder = Folder::new();
        let (mut plan, routes) = self.plan(&folder)?;
        let census: Arc<Census> = Arc::default();
        for service in &mut plan.services {
            service.blueprint = Arc::new(Watched::new(
                service.blueprint.clone(),
                service.label.clone(),
                self.script.clone(),
                census.clone(),
            ));
        }
        for (name, answer) in self.answers {
            self.desk.answer(&routes.gives(&name)?, answer);
        }
        let beneath = Arc::new(OnceLock::new());
        let transports = Transports::new().with(TestConnector {
            desk: self.desk.clone(),
            script: self.script.clone(),
            read: routes.read(),
            beneath: beneath.clone(),
        });
        let readers = plan
            .services
            .iter()
            .filter(|service| !service.inputs.is_empty());
        let readers: Vec<Arc<str>> = readers.map(|service| service.label.clone()).collect();
        let universe = SimRuntime::new();
        let started = universe.run(async {
            let clock = Clock::virtual_from(self.start);
            let app = App::start(plan, &transports, Workers::Here, clock).await?;
            let beneath = beneath.get().expect("the app has connected").clone();
            let letters = Letters::open(&beneath, &readers).await?;
            Ok::<_, StartError>((app, clock, beneath, letters))
        });
        let (app, clock, beneath, letters) = started.map_err(|error| error.to_string())?;
        Ok(TestApp {
            app: Some(app),
            beneath,
            desk: self.desk,
            letters,
            script: self.script,
            census,
            routes,
            clock,
            leftover_tasks: self.leftover_tasks,
            universe,
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
        // Nothing that a test does stays behind.
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
