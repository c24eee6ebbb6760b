//! Edge cases: infinite durations and deadlines, ticks and sources that are too slow, services
//! that defer every message.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::{Catalog, Envelope};
use brickwork_tests::app::{TestApp, virtually};
use brickwork_tests::puppet::{Puppet, ledger};
use serde_json::json;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Item {
    n: u32,
}

const IN: Input<Item> = Input::new("in");
const MANY: Input<Item> = Input::new("many");
const OUT: Output<Item> = Output::new("out");

fn manifest(services: &str) -> String {
    format!(
        "[app]\nname = \"edges\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n{services}"
    )
}

/// A service whose durations all have the maximum value.
struct Far;

impl Service for Far {
    const NAME: &'static str = "far";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        let batch = Batch {
            max: 2,
            within: Duration::MAX,
        };
        ports
            .input(&IN)
            .batch(&MANY, batch)
            .output(&OUT)
            .tick(Tick::new("never"), Duration::MAX);
    }

    async fn start(_: &NoConfig, cx: &mut Context) -> Result<Self, Failure> {
        let refused = cx
            .emit(&OUT, Item { n: 0 })
            .expect_err("it could not be published");
        assert!(refused.text().contains("start or stop"));
        Ok(Self)
    }
}

impl Handle<Item> for Far {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        match item.n {
            1 => Err(Failure::after(Duration::MAX, "the other side said so")),
            2 => Err(Failure::defer(Duration::MAX, "a breaker without end")),
            _ => cx.emit_after(&OUT, item, Duration::MAX),
        }
    }
}

impl HandleBatch<Item> for Far {
    async fn handle_batch(
        &mut self,
        batch: Vec<Item>,
        _: &mut Context,
    ) -> Vec<Result<(), Failure>> {
        batch.iter().map(|_| Ok(())).collect()
    }
}

#[test]
fn maximum_durations_do_no_harm() {
    virtually(async {
        let services = "[services.far]\nin = { in = \"items\", many = \"many\" }\nout = \"far\"\n\
                        [topics]\nitems.external = \"in\"\nmany.external = \"in\"\n\
                        far.external = \"out\"\n";
        let app = TestApp::start(&manifest(services), &Catalog::new().with::<Far>()).await;
        for n in 1..=3 {
            app.send("items", json!({ "n": n })).await;
        }
        app.send("many", json!({ "n": 4 })).await;
        app.send("many", json!({ "n": 5 })).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let row = app.summary("far");
        assert_eq!(
            (row.ok, row.retry, row.defer, row.restarts),
            (3, 1, 1, 0),
            "{row:?}"
        );
    });
}

#[test]
fn a_maximum_deadline_never_passes() {
    virtually(async {
        let services = "[services.puppet]\nin = \"orders\"\nout = \"done\"\n\
                        config.ledger = \"endless\"\n\
                        [topics]\norders.external = \"in\"\ndone.external = \"out\"\n";
        let app = TestApp::start(&manifest(services), &Catalog::new().with::<Puppet>()).await;
        let mut envelope = Envelope::new("order", json!({ "n": 1 }).to_string());
        envelope.topic = "orders".into();
        envelope.deadline_ms = Some(u64::MAX);
        app.publish(envelope.into()).await;
        app.idle().await;
        let row = app.summary("puppet");
        assert_eq!((row.ok, row.expired, row.restarts), (1, 0, 0), "{row:?}");
    });
}

/// A service whose tick takes longer than its interval.
struct Dawdler;

impl Service for Dawdler {
    const NAME: &'static str = "dawdler";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports
            .input(&IN)
            .tick(Tick::new("slow"), Duration::from_millis(100));
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn tick(&mut self, _: Tick, _: &mut Context) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(150)).await;
        Ok(())
    }
}

impl Handle<Item> for Dawdler {
    async fn handle(&mut self, _: Item, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

#[test]
fn ticks_slower_than_their_interval_do_not_starve_messages() {
    virtually(async {
        let services = "[services.dawdler]\nin = \"items\"\n[topics.items]\nexternal = \"in\"\n";
        let app = TestApp::start(&manifest(services), &Catalog::new().with::<Dawdler>()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for n in 0..20 {
            app.send("items", json!({ "n": n })).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(app.summary("dawdler").ok, 20);
    });
}

/// A source that sends without end and ignores the stop signal.
struct Stubborn;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct StubbornConfig {
    sends: bool,
}

impl Source for Stubborn {
    const NAME: &'static str = "stubborn";
    type Config = StubbornConfig;

    fn ports(_: &StubbornConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    async fn run(config: &StubbornConfig, out: &mut SourceContext) -> Result<(), Failure> {
        if !config.sends {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
        }
        for n in 0.. {
            out.send(&OUT, Item { n }).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

#[test]
fn a_source_that_does_not_stop_leaves_services_time_for_a_graceful_stop() {
    virtually(async {
        let services = "[services.stubborn]\nout = \"orders\"\n\
                        [services.puppet]\nin = \"orders\"\nout = \"done\"\n\
                        config.ledger = \"patient\"\n[topics.done]\nexternal = \"out\"\n";
        let catalog = Catalog::new().with::<Puppet>().with_source::<Stubborn>();
        let app = TestApp::start(&manifest(services), &catalog).await;
        app.send("orders", json!({ "n": 1, "act": "sleep", "ms": 3_000 }))
            .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = app.stop().await;
        assert!(report.is_clean(), "{report:?}");
        let happened = ledger("patient");
        assert_eq!(happened, ["start", "handle 1", "stop", "drop"]);
    });
}

/// A service that defers every message.
struct Breaker;

impl Service for Breaker {
    const NAME: &'static str = "breaker";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Item> for Breaker {
    async fn handle(&mut self, _: Item, _: &mut Context) -> Result<(), Failure> {
        Err(Failure::defer(
            Duration::from_secs(60),
            "the breaker is open",
        ))
    }
}

#[test]
fn deferred_messages_count_as_backpressure_so_that_memory_stays_bounded() {
    virtually(async {
        let services = "[services.stubborn]\nout = \"items\"\nconfig.sends = true\n\
                        [services.breaker]\nin = \"items\"\nqueue.high_water = 100\n";
        let catalog = Catalog::new().with::<Breaker>().with_source::<Stubborn>();
        let app = TestApp::start(&manifest(services), &catalog).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let sent = app.summary("stubborn").emitted;
        assert!((100..=102).contains(&sent), "{sent} were sent");
        assert!(
            app.summary("breaker").defer >= 900,
            "{:?}",
            app.summary("breaker")
        );
    });
}
