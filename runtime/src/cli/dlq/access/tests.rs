//! Which way is taken to the letters, by what a transport promises.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures_util::future::BoxFuture;

use super::*;
use crate::app::fixtures::app;
use crate::control::{Control, ControlTargets};
use crate::manifest::{Options, load};
use crate::message_trace::TraceCollector;
use crate::prelude::*;
use crate::service::Catalog;
use crate::transport::memory::Memory;
use crate::transport::{Connector, Guarantees};

/// A service with letters.
struct Stock;

impl Service for Stock {
    const NAME: &'static str = "stock";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&Input::<u64>::new("requests"));
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<u64> for Stock {
    async fn handle(&mut self, _: u64, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

const MANIFEST: &str = r#"
[app]
name = "shop"
transport = "pretended:"
[topics."orders"]
external = "in"
[services.stock]
in = "orders"
"#;

/// Queues in memory that promise something else, and count who connects.
struct Pretended(Guarantees, Arc<AtomicUsize>);

impl Connector for Pretended {
    fn schemes(&self) -> &'static [&'static str] {
        &["pretended"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        self.0
    }

    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn connect<'a>(
        &'a self,
        _: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        self.1.fetch_add(1, SeqCst);
        Box::pin(async { Ok(Arc::new(Memory::new(pressure)) as Arc<dyn Transport>) })
    }
}

/// What opening comes to: where the letters are, and how often somebody connected.
async fn opened(folder: &Path, durable: bool, shared: bool) -> (Result<bool, Problem>, usize) {
    let connected: Arc<AtomicUsize> = Arc::default();
    let guarantees = Guarantees {
        durable,
        redelivers: true,
        ordered: true,
        crosses_processes: shared,
        delays: true,
        limits: true,
        searches: false,
    };
    let transports = Transports::new().with(Pretended(guarantees, connected.clone()));
    let file = folder.join("app.toml");
    std::fs::write(&file, MANIFEST).unwrap();
    let catalog = Catalog::new().with::<Stock>();
    let plan = load(&file, &Options::default(), &catalog, &transports);
    let plan = plan.unwrap_or_else(|report| panic!("{}", report.render(false)));
    let bench = DlqAccess::open(&plan, &transports).await;
    let there = bench.map(|bench| matches!(bench.place, Place::There(_)));
    (there, connected.load(SeqCst))
}

#[tokio::test]
async fn without_an_app_letters_are_reached_where_they_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    for (durable, shared) in [(true, true), (true, false), (false, true)] {
        let (there, connected) = opened(folder.path(), durable, shared).await;
        assert_eq!(
            (there.unwrap(), connected),
            (false, 1),
            "{durable} {shared}"
        );
    }
    let (there, connected) = opened(folder.path(), false, false).await;
    let problem = there.unwrap_err();
    assert!(
        problem.text.contains("no app is running"),
        "{}",
        problem.text
    );
    assert_eq!(connected, 0);
}

#[tokio::test]
async fn a_running_app_is_asked_where_it_alone_reaches_its_letters() {
    let folder = tempfile::tempdir().unwrap();
    let app = app().await;
    let reach = ControlTargets {
        view: app.view.clone(),
        tracer: TraceCollector::empty(),
        letters: DeadLetters::of(app.transport, app.topology),
        stop: Box::new(|| {}),
    };
    let _control = Control::start(&folder.path().join("data"), reach).unwrap();
    for durable in [true, false] {
        let (there, connected) = opened(folder.path(), durable, false).await;
        assert_eq!((there.unwrap(), connected), (true, 0), "{durable}");
        let (there, connected) = opened(folder.path(), durable, true).await;
        assert_eq!((there.unwrap(), connected), (false, 1), "{durable}");
    }
}
