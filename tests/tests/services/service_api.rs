//! Promises of the service API, for an app in this process: batches, requests, ticks, shared
//! state, sources, plain actors.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use actix::prelude::{Actor, Handler};
use brickwork::prelude::*;
use brickwork::transport::AskError;
use brickwork::{Catalog, Envelope, Message};
use brickwork_tests::app::{Probe, TestApp, virtually};
use serde_json::json;

const APP: &str = r#"
    [app]
    name = "api"
    transport = "memory:"
    workers = 1
    [admin]
    listen = "off"
"#;

/// Returns a manifest with topics that the test feeds and reads.
fn manifest(fed: &[&str], read: &[&str], services: &str) -> String {
    let mut text = APP.to_owned();
    for (topics, side) in [(fed, "in"), (read, "out")] {
        for topic in topics {
            text.push_str(&format!("[topics.\"{topic}\"]\nexternal = \"{side}\"\n"));
        }
    }
    text + services
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Item {
    n: u32,
}

/// Returns the numbers of the messages that are there now.
async fn numbers(probe: &mut Probe) -> Vec<u64> {
    let messages = probe.rest().await;
    let number = |message: &Message| {
        let item: Item = serde_json::from_slice(&message.payload).expect("an item");
        u64::from(item.n)
    };
    messages.iter().map(number).collect()
}

const ITEMS: Input<Item> = Input::new("in");
const OUT: Output<Item> = Output::new("out");

/// Handles ten items at a time: panics if 13 is among them, fails 5, passes the others on.
struct Batcher;

impl Service for Batcher {
    const NAME: &'static str = "batcher";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        let batch = Batch {
            max: 10,
            within: Duration::from_millis(50),
        };
        ports.batch(&ITEMS, batch).output(&OUT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl HandleBatch<Item> for Batcher {
    async fn handle_batch(
        &mut self,
        batch: Vec<Item>,
        cx: &mut Context,
    ) -> Vec<Result<(), Failure>> {
        let size = batch.len() as u32;
        assert!(batch.iter().all(|item| item.n != 13), "thirteen");
        let mut results = Vec::new();
        for (index, item) in batch.into_iter().enumerate() {
            let number = 100 * size + item.n;
            results.push(match cx.emit_for(index, &OUT, Item { n: number }) {
                Ok(()) if item.n == 5 => Err(Failure::reject("not five")),
                other => other,
            });
        }
        results
    }
}

#[test]
fn a_batch_has_an_outcome_for_each_message() {
    virtually(async {
        // A mailbox smaller than a batch must not keep the batch from filling.
        let services = "[services.batcher]\nin = \"items\"\nout = \"done\"\nmailbox = 1\n";
        let app = TestApp::start(
            &manifest(&["items"], &["done"], services),
            &Catalog::new().with::<Batcher>(),
        )
        .await;
        let mut done = app.probe("done").await;
        for n in 0..10 {
            app.send("items", json!({ "n": n })).await;
        }
        app.send_bytes("items", "nonsense").await;
        app.idle().await;
        let numbers: Vec<u64> = numbers(&mut done).await;
        // All ten are handled together; 5 is dead-lettered and its output isn't published.
        assert_eq!(
            numbers,
            [1000, 1001, 1002, 1003, 1004, 1006, 1007, 1008, 1009]
        );
        let row = app.summary("batcher");
        assert_eq!((row.ok, row.reject, row.dead_letters), (9, 2, 2), "{row:?}");
    });
}

#[test]
fn a_panic_in_a_batch_blames_only_the_culprit() {
    virtually(async {
        let services = "[services.batcher]\nin = \"items\"\nout = \"done\"\nretry.attempts = 3\n";
        let app = TestApp::start(
            &manifest(&["items"], &["done"], services),
            &Catalog::new().with::<Batcher>(),
        )
        .await;
        let mut done = app.probe("done").await;
        for n in 10..16 {
            app.send("items", json!({ "n": n })).await;
        }
        app.idle().await;
        assert_eq!(done.rest().await.len(), 5);
        let row = app.summary("batcher");
        assert_eq!((row.ok, row.panic, row.dead_letters), (5, 3, 1), "{row:?}");
        let letter = app.dead_letters("batcher").await.next().await;
        assert_eq!(&letter.payload[..], b"{\"n\":13}");
        assert_eq!(&*letter.headers["brickwork-attempt"], "3");
    });
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Price {
    cents: u64,
}

const QUERIES: Input<Item, Price> = Input::new("in");
const PRICES: Request<Item, Price> = Request::new("prices");

/// Answers requests: slowly for 1, never for 2, with a rejection for 3.
struct Pricing;

impl Service for Pricing {
    const NAME: &'static str = "pricing";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&QUERIES);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Item, Price> for Pricing {
    async fn handle(&mut self, item: Item, _: &mut Context) -> Result<Price, Failure> {
        match item.n {
            1 => tokio::time::sleep(Duration::from_secs(3)).await,
            2 => std::future::pending().await,
            3 => return Err(Failure::reject("three has no price")),
            _ => {}
        }
        Ok(Price {
            cents: u64::from(item.n) * 100,
        })
    }
}

/// Asks for the price of each item and emits the answer.
struct Buyer;

impl Service for Buyer {
    const NAME: &'static str = "buyer";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&ITEMS).request(&PRICES).output(&LEARNED);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

const LEARNED: Output<String> = Output::new("learned");

impl Handle<Item> for Buyer {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        let learned = match cx.ask(&PRICES, item).await {
            Ok(price) => format!("costs {}", price.cents),
            Err(AskError::Timeout(_)) => "no answer".to_owned(),
            Err(AskError::Failed(why)) => why,
            Err(other) => return Err(other.into()),
        };
        cx.emit(&LEARNED, learned)
    }
}

#[test]
fn an_ask_is_answered_or_fails_within_its_deadline() {
    virtually(async {
        let services = r#"
            [services.buyer]
            in = "items"
            out.prices = "queries"
            out.learned = "learned"
            handler_timeout = "5s"
            instances = 4
            [services.pricing]
            in = "queries"
            instances = 4
            handler_timeout = "1m"
            retry.attempts = 1
        "#;
        let catalog = Catalog::new().with::<Buyer>().with::<Pricing>();
        let app = TestApp::start(&manifest(&["items"], &["learned"], services), &catalog).await;
        let mut learned = app.probe("learned").await;
        for (n, expected) in [
            (7, "costs 700"),
            (1, "costs 100"),
            (3, "three has no price"),
        ] {
            app.send("items", json!({ "n": n })).await;
            assert_eq!(learned.next_json().await, expected);
        }
        // The asker waits until its own deadline; then the attempt fails.
        app.send("items", json!({ "n": 2 })).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let asked = app.summary("buyer");
        assert!(asked.timeout + asked.ok > 3, "{asked:?}");
        let answered = app.summary("pricing");
        assert!(
            answered.timeout >= 1,
            "the one asked is cancelled with the asker: {answered:?}"
        );
    });
}

#[test]
fn a_request_whose_asker_has_left_is_dropped_and_counted() {
    virtually(async {
        let services = "[services.pricing]\nin = \"queries\"\n";
        let catalog = Catalog::new().with::<Pricing>();
        let app = TestApp::start(&manifest(&["queries"], &[], services), &catalog).await;
        let now_ms = 1_700_000_000_000_u64;
        for (age_ms, n) in [(10_000, 7), (100, 8)] {
            let mut envelope = Envelope::new("item", json!({ "n": n }).to_string());
            envelope.topic = "queries".into();
            envelope.deadline_ms = Some(now_ms - age_ms);
            app.publish(envelope.into()).await;
        }
        app.idle().await;
        let row = app.summary("pricing");
        // Clocks of machines may differ a little: the deadline has a tolerance of one second.
        assert_eq!(
            (row.expired, row.ok, row.dead_letters),
            (1, 1, 0),
            "{row:?}"
        );
    });
}

/// Ticks once a second; each tick takes three seconds.
struct Slow;

const SECOND: Tick = Tick::new("second");

impl Service for Slow {
    const NAME: &'static str = "slow";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.output(&OUT).tick(SECOND, Duration::from_secs(1));
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        cx.emit(&OUT, Item { n: 1 })
    }
}

#[test]
fn at_most_one_tick_is_pending() {
    virtually(async {
        let services = "[services.slow]\nout = \"done\"\n";
        let catalog = Catalog::new().with::<Slow>();
        let app = TestApp::start(&manifest(&[], &["done"], services), &catalog).await;
        let mut done = app.probe("done").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let ticks = done.rest().await.len();
        assert!(
            (19..=24).contains(&ticks),
            "{ticks} ticks in a minute of three seconds each"
        );
    });
}

/// The state that its instances share counts how often it was created.
struct Sharing;

struct Pool(AtomicU32);

thread_local! {
    static POOLS: Cell<u32> = const { Cell::new(0) };
}

impl Service for Sharing {
    const NAME: &'static str = "sharing";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&ITEMS).output(&OUT);
    }

    async fn start(_: &NoConfig, cx: &mut Context) -> Result<Self, Failure> {
        cx.shared(async || {
            tokio::time::sleep(Duration::from_millis(10)).await;
            match POOLS.replace(POOLS.get() + 1) {
                0 => Err(Failure::retry("the first try fails")),
                _ => Ok(Pool(AtomicU32::new(0))),
            }
        })
        .await?;
        Ok(Self)
    }
}

impl Handle<Item> for Sharing {
    async fn handle(&mut self, _: Item, cx: &mut Context) -> Result<(), Failure> {
        let pool = cx.shared(async || Ok(Pool(AtomicU32::new(1_000)))).await?;
        tokio::task::yield_now().await;
        let n = pool.0.fetch_add(1, SeqCst);
        cx.emit(&OUT, Item { n })
    }
}

#[test]
fn shared_state_is_created_once_per_service() {
    virtually(async {
        let services = "[services.sharing]\nin = \"items\"\nout = \"done\"\ninstances = 8\n";
        let catalog = Catalog::new().with::<Sharing>();
        let app = TestApp::start(&manifest(&["items"], &["done"], services), &catalog).await;
        let mut done = app.probe("done").await;
        for n in 0..100 {
            app.send("items", json!({ "n": n })).await;
        }
        app.idle().await;
        let mut numbers: Vec<u64> = numbers(&mut done).await;
        numbers.sort_unstable();
        assert_eq!(
            numbers,
            (0..100).collect::<Vec<u64>>(),
            "one pool counts them all"
        );
        assert_eq!(
            POOLS.get(),
            2,
            "made again only because the first try failed"
        );
    });
}

/// A source that counts and fails in between; it does not send a number again.
struct Count;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct CountConfig {
    panics: bool,
}

thread_local! {
    static NEXT: Rc<Cell<u32>> = Rc::new(Cell::new(0));
}

impl Source for Count {
    const NAME: &'static str = "count";
    type Config = CountConfig;

    fn ports(_: &CountConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn ends(_: &CountConfig) -> bool {
        true
    }

    async fn run(config: &CountConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let next = NEXT.with(Rc::clone);
        while next.get() < 1_000 {
            let n = next.get();
            out.send(&OUT, Item { n }).await?;
            next.set(n + 1);
            if config.panics && n.is_multiple_of(300) {
                panic!("told to panic at {n}");
            }
        }
        Ok(())
    }
}

#[test]
fn a_source_that_panics_is_restarted() {
    virtually(async {
        NEXT.with(|next| next.set(0));
        let services = r#"
            [services.count]
            out = "items"
            config.panics = true
            [services.sharing]
            in = "items"
            out = "done"
        "#;
        let catalog = Catalog::new().with_source::<Count>().with::<Sharing>();
        let app = TestApp::start(&manifest(&[], &["done"], services), &catalog).await;
        app.idle().await;
        assert_eq!(app.summary("sharing").ok, 1_000);
        assert_eq!(app.summary("count").restarts, 4);
    });
}

#[derive(actix::Message, Serialize, Deserialize, JsonSchema)]
#[rtype(result = "Result<u32, std::num::TryFromIntError>")]
struct Narrow {
    number: i64,
}

/// A plain actor that panics when told to.
struct Plain(u32);

impl Actor for Plain {
    type Context = actix::Context<Self>;
}

impl Handler<Narrow> for Plain {
    type Result = Result<u32, std::num::TryFromIntError>;

    fn handle(&mut self, narrow: Narrow, _: &mut Self::Context) -> Self::Result {
        assert_ne!(narrow.number, 13, "thirteen");
        self.0 += 1;
        u32::try_from(narrow.number).map(|_| self.0)
    }
}

#[test]
fn a_plain_actix_actor_settles_deliveries_by_its_results_and_is_restarted() {
    virtually(async {
        let services = "[services.plain]\nin = \"numbers\"\nretry.attempts = 2\n";
        let catalog = Catalog::new().with_actor::<Plain, Narrow>("plain", || Plain(0).start());
        let app = TestApp::start(&manifest(&["numbers"], &[], services), &catalog).await;
        let mut letters = app.dead_letters("plain").await;
        app.send("numbers", json!({ "number": 1 })).await;
        app.send("numbers", json!({ "number": -1 })).await;
        let letter = letters.next().await;
        assert!(
            letter.headers["brickwork-error"].contains("out of range"),
            "{letter:?}"
        );
        app.send("numbers", json!({ "number": 13 })).await;
        let letter = letters.next().await;
        assert_eq!(&*letter.headers["brickwork-reason"], "panic");
        app.send("numbers", json!({ "number": 2 })).await;
        app.idle().await;
        let row = app.summary("plain");
        assert_eq!((row.ok, row.retry, row.panic), (2, 2, 2), "{row:?}");
        // The host asks a plain actor and forwards its answer.
        let mut request = Envelope::new("narrow", json!({ "number": 5 }).to_string());
        request.topic = "numbers".into();
        let reply = app
            .transport()
            .ask(request.into(), Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(
            &reply.payload[..],
            b"2",
            "a fresh actor since the panic: its second"
        );
    });
}
