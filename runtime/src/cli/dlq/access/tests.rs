//! Where dead letters are read, by the guarantees of the transport and whether the app runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures_util::future::BoxFuture;

use super::*;
use crate::control::Control;
use crate::control::tests::targets_of;
use crate::manifest::{Options, load};
use crate::prelude::*;
use crate::service::Catalog;
use crate::status::fixtures::app;
use crate::transport::memory::Memory;
use crate::transport::{Backpressure, Connector, Guarantees};

/// A service with dead letters.
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

/// Queues in memory with other guarantees, and the number of connections.
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

/// Opens the dead letters. Returns whether they are in the app, and the number of connections.
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
    let access = DlqAccess::open(&plan, &transports).await;
    let is_remote = access.map(|access| matches!(access.location, Location::Remote(_)));
    (is_remote, connected.load(SeqCst))
}

#[tokio::test]
async fn without_an_app_letters_are_read_over_a_shared_or_durable_transport() {
    let folder = tempfile::tempdir().unwrap();
    for (durable, shared) in [(true, true), (true, false), (false, true)] {
        let (is_remote, connected) = opened(folder.path(), durable, shared).await;
        assert_eq!(
            (is_remote.unwrap(), connected),
            (false, 1),
            "{durable} {shared}"
        );
    }
    let (is_remote, connected) = opened(folder.path(), false, false).await;
    let problem = is_remote.unwrap_err();
    assert!(
        problem.text.contains("no app is running"),
        "{}",
        problem.text
    );
    assert_eq!(connected, 0);
}

#[tokio::test]
async fn a_running_app_is_asked_if_its_transport_is_not_shared() {
    let folder = tempfile::tempdir().unwrap();
    let app = app().await;
    let targets = targets_of(&app, || {});
    let _control = Control::start(&folder.path().join("data"), targets).unwrap();
    for durable in [true, false] {
        let (is_remote, connected) = opened(folder.path(), durable, false).await;
        assert_eq!((is_remote.unwrap(), connected), (true, 0), "{durable}");
        let (is_remote, connected) = opened(folder.path(), durable, true).await;
        assert_eq!((is_remote.unwrap(), connected), (false, 1), "{durable}");
    }
}
