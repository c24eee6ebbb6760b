//! The outbox of a store while a queue behind one output is full and rejects: that output waits,
//! the others continue, and each output keeps its order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use brickwork::Catalog;
use brickwork::prelude::*;
use brickwork::sqlite::Migration;
use brickwork_tests::app::{TestApp, really, virtually};
use serde_json::{Value, json};
use tokio::sync::watch;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Item {
    n: u64,
    /// Number of copies for the left output.
    #[serde(default)]
    more: u64,
}

const IN: Input<Item> = Input::new("in");
const OUT: Output<Item> = Output::new("out");
const LEFT: Output<Item> = Output::new("left");
const RIGHT: Output<Item> = Output::new("right");

/// A service with a store that emits each value on both outputs.
struct Fork;

impl Service for Fork {
    const NAME: &'static str = "fork";
    const STORE: &'static [Migration] = &[];
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&LEFT).output(&RIGHT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Item> for Fork {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        let both = move |tx: &mut Tx<'_>| {
            for _ in 0..item.more {
                tx.emit(&LEFT, item.clone())?;
            }
            tx.emit(&LEFT, item.clone())?;
            tx.emit(&RIGHT, item)
        };
        cx.store()?.transact(both).await
    }
}

/// Passes values on while its gate is open, each after a pause.
struct Gate {
    takes: Duration,
}

/// Open gates, by name.
static OPEN: LazyLock<watch::Sender<BTreeSet<String>>> = LazyLock::new(Default::default);

fn open(gate: &str) {
    OPEN.send_modify(|open| {
        open.insert(gate.to_owned());
    });
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct GateConfig {
    ms: u64,
    /// Fail every start.
    broken: bool,
    /// Wait in start until the gate of this name is open.
    shut: Option<String>,
}

impl Service for Gate {
    const NAME: &'static str = "gate";
    type Config = GateConfig;

    fn ports(_: &GateConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT);
    }

    async fn start(config: &GateConfig, _: &mut Context) -> Result<Self, Failure> {
        if config.broken {
            return Err(Failure::reject("told not to start"));
        }
        if let Some(gate) = &config.shut {
            let mut opening = OPEN.subscribe();
            let opened = opening.wait_for(|open| open.contains(gate)).await;
            opened.expect("the gates stay");
        }
        Ok(Self {
            takes: Duration::from_millis(config.ms),
        })
    }
}

impl Handle<Item> for Gate {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        cx.emit(&OUT, item)
    }
}

/// Received values of each ledger, in order.
static CAME: LazyLock<watch::Sender<BTreeMap<String, Vec<u64>>>> = LazyLock::new(Default::default);

/// Waits until a ledger has `count` values.
async fn came(ledger: &str, count: usize) -> Vec<u64> {
    let mut coming = CAME.subscribe();
    let here = |came: &BTreeMap<String, Vec<u64>>| came.get(ledger).map_or(0, Vec::len);
    let all = coming.wait_for(|came| here(came) >= count);
    match tokio::time::timeout(Duration::from_secs(60), all).await {
        Ok(all) => all.expect("the ledgers stay")[ledger].clone(),
        Err(_) => panic!("{} of {count} came to {ledger}", here(&CAME.borrow())),
    }
}

/// Records the received values.
struct Ledger(String);

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LedgerConfig {
    name: String,
}

impl Service for Ledger {
    const NAME: &'static str = "ledger";
    type Config = LedgerConfig;

    fn ports(_: &LedgerConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(config: &LedgerConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self(config.name.clone()))
    }
}

impl Handle<Item> for Ledger {
    async fn handle(&mut self, item: Item, _: &mut Context) -> Result<(), Failure> {
        CAME.send_modify(|came| came.entry(self.0.clone()).or_default().push(item.n));
        Ok(())
    }
}

fn catalog() -> Catalog {
    Catalog::new()
        .with::<Fork>()
        .with::<Gate>()
        .with::<Ledger>()
}

/// Returns a manifest with a fork. The queue of its left output holds 3 messages and rejects
/// more.
fn forked(name: &str, transport: &str, gate: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        data = "data"
        transport = "{transport}"
        shutdown_timeout = "1s"
        [admin]
        listen = "off"
        [topics]
        items.external = "in"
        right.external = "out"
        passed.external = "out"
        [services.fork]
        in = "items"
        out = {{ left = "left", right = "right" }}
        store = true
        [services.gate]
        in = "left"
        out = "passed"
        mailbox = 1
        queue = {{ limit = 3, overflow = "reject" }}
        config = {{ {gate} }}
        "#
    )
}

fn number(item: &Value) -> u64 {
    item["n"].as_u64().expect("a number")
}

#[test]
fn an_output_whose_queue_is_full_delays_no_other_output() {
    const MESSAGES: u64 = 500;
    virtually(async {
        let manifest = forked("held", "memory:", "shut = \"held\"");
        let app = TestApp::start(&manifest, &catalog()).await;
        let mut right = app.probe("right").await;
        let mut passed = app.probe("passed").await;
        for n in 0..MESSAGES {
            app.send("items", json!({ "n": n })).await;
        }
        for n in 0..MESSAGES {
            assert_eq!(number(&right.next_json().await), n, "in order, each once");
        }
        assert_eq!(passed.rest().await.len(), 0, "the other side is shut");
        open("held");
        for n in 0..MESSAGES {
            assert_eq!(number(&passed.next_json().await), n, "in order, each once");
        }
        app.idle().await;
        assert_eq!(
            (right.rest().await.len(), passed.rest().await.len()),
            (0, 0)
        );
        let fork = app.summary("fork");
        assert_eq!((fork.ok, fork.dead_letters), (MESSAGES, 0));
    });
}

#[test]
fn an_output_that_is_rejected_repeatedly_keeps_its_order() {
    const MESSAGES: u64 = 500;
    virtually(async {
        let manifest = forked("hovering", "memory:", "ms = 10");
        let app = TestApp::start(&manifest, &catalog()).await;
        let (mut right, mut passed) = (app.probe("right").await, app.probe("passed").await);
        for n in 0..MESSAGES {
            app.send("items", json!({ "n": n })).await;
        }
        for n in 0..MESSAGES {
            assert_eq!(number(&right.next_json().await), n);
        }
        for n in 0..MESSAGES {
            assert_eq!(number(&passed.next_json().await), n);
        }
        app.idle().await;
        assert_eq!(passed.rest().await.len(), 0);
    });
}

/// Its messages do not come from a source, which would wait.
#[test]
fn a_service_whose_outbox_is_full_pauses_until_it_is_half_full() {
    const EACH: u64 = 1_000;
    const MESSAGES: u64 = 30;
    virtually(async {
        let manifest =
            forked("full", "memory:", "shut = \"full\"") + "[services.fork.retry]\nattempts = 1\n";
        let app = TestApp::start(&manifest, &catalog()).await;
        let (mut right, mut passed) = (app.probe("right").await, app.probe("passed").await);
        for n in 0..MESSAGES {
            app.send("items", json!({ "n": n, "more": EACH - 1 })).await;
        }
        // Above 20,000 the outbox is full; three more messages fit into the queue.
        for n in 0..21 {
            assert_eq!(number(&right.next_json().await), n);
        }
        let more = right.within(Duration::from_secs(600)).await;
        assert!(more.is_none(), "it takes no more");
        assert_eq!(app.summary("fork").ok, 21);
        open("full");
        let mut again = BTreeSet::new();
        for _ in 0..MESSAGES * EACH {
            again.insert(number(&passed.next_json().await));
        }
        assert_eq!(again.len() as u64, MESSAGES);
        app.idle().await;
        let fork = app.summary("fork");
        assert_eq!((fork.ok, fork.dead_letters), (MESSAGES, 0));
        assert_eq!(right.rest().await.len() as u64, MESSAGES - 21);
        assert_eq!(passed.rest().await.len(), 0);
    });
}

/// The service that consumes the full queue is isolated during the first run of the app.
#[test]
fn a_waiting_output_continues_in_order_after_a_restart() {
    const MESSAGES: usize = 40;
    really(async {
        let transports = brickwork_bridges::all();
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (isolated, mended) = ("broken = true", "ms = 0");
        let manifest = forked("reborn", "embedded:queues", isolated)
            .replace("right.external = \"out\"", "")
            .replace("passed.external = \"out\"", "");
        let ledgers = r#"
            [services.right]
            use = "ledger"
            in = "right"
            config.name = "right"
            [services.passed]
            use = "ledger"
            in = "passed"
            config.name = "passed"
        "#;
        let manifest = manifest + ledgers;
        let app = TestApp::start_in(folder, &manifest, &catalog(), &transports).await;
        for n in 0..MESSAGES {
            app.send("items", json!({ "n": n })).await;
        }
        let first = came("right", MESSAGES).await;
        assert!(first.into_iter().eq(0..MESSAGES as u64), "it goes on");
        let folder = app.stop_in().await;
        let manifest = manifest.replace(isolated, mended);
        let app = TestApp::start_in(folder, &manifest, &catalog(), &transports).await;
        for n in MESSAGES..2 * MESSAGES {
            app.send("items", json!({ "n": n })).await;
        }
        let passed = came("passed", 2 * MESSAGES).await;
        assert!(
            passed.iter().copied().eq(0..2 * MESSAGES as u64),
            "{passed:?}"
        );
        app.idle().await;
        app.stop().await;
        let came = CAME.borrow();
        assert_eq!(
            (came["right"].len(), came["passed"].len()),
            (2 * MESSAGES, 2 * MESSAGES)
        );
    });
}
