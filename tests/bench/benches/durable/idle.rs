//! Memory of an idle app with and without stores.

use actix::System;
use brickwork::prelude::*;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_bench::rounds::{median, resident_bytes};

const SERVICES: usize = 50;
const ROUNDS: usize = 5;

struct Quiet;

impl Service for Quiet {
    const NAME: &'static str = "quiet";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&crate::app::IN);
    }

    async fn start(_: &NoConfig, cx: &mut Context) -> Result<Self, Failure> {
        if let Ok(store) = cx.store() {
            store.transact(|_| Ok(())).await?;
        }
        Ok(Self)
    }
}

impl Handle<crate::app::Order> for Quiet {
    async fn handle(&mut self, _: crate::app::Order, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// Returns the additional resident bytes of an idle app.
fn resident(store: bool) -> f64 {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let services = (0..SERVICES).map(|n| {
        format!("[services.quiet-{n}]\nuse = \"quiet\"\nin = \"orders\"\nstore = {store}\n")
    });
    let services: String = services.collect();
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n\
         {services}[topics]\norders.external = \"in\"\n"
    );
    let file = folder.path().join("app.toml");
    std::fs::write(&file, text).expect("the manifest can be written");
    let (catalog, transports) = (Catalog::new().with::<Quiet>(), brickwork_bridges::all());
    let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    let before = resident_bytes();
    let during = System::new().block_on(async {
        let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        let during = resident_bytes();
        app.stop().await;
        during
    });
    during.saturating_sub(before) as f64
}

/// Measures each app in its own process: memory that one leaves in the heap must not count for
/// the next.
pub(crate) fn run() {
    let measure = |store| -> f64 {
        let exe = std::env::current_exe().expect("this program");
        let part = if store { "idle-with" } else { "idle-without" };
        let output = std::process::Command::new(exe)
            .env("BENCH_IDLE", part)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text.lines().last().and_then(|line| line.parse().ok());
        last.unwrap_or_else(|| panic!("no figure: {text}"))
    };
    let mut each: Vec<f64> = (0..ROUNDS)
        .map(|_| (measure(true) - measure(false)) / SERVICES as f64 / 1000.0)
        .collect();
    let each = median(&mut each);
    println!(
        "an idle store: {each:.0} KB resident a service (median of {ROUNDS}, {SERVICES} services)\n"
    );
}

/// Runs in the process of one measurement and prints the figure.
pub(crate) fn measured() -> bool {
    match std::env::var("BENCH_IDLE") {
        Ok(part) => {
            println!("{}", resident(part == "idle-with"));
            true
        }
        Err(_) => false,
    }
}
