//! Backpressure: full queues pause sources, and queue limits hold.

use brickwork::prelude::*;
use brickwork::transport::{Completion, Depth, Outgoing};
use brickwork::{Catalog, Envelope, QueueId};
use brickwork_tests::app::{TestApp, really, virtually};
use brickwork_tests::binary::brickwork;
use brickwork_tests::process::{Process, until};
use brickwork_tests::puppet::Puppet;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

mod flooded;
mod wiring;

use flooded::Bouncer;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Item {
    n: u32,
    /// The attempt on which the item was passed on.
    #[serde(default)]
    attempt: u32,
    /// Number of round trips left.
    #[serde(default)]
    turns: u32,
}

const IN: Input<Item> = Input::new("in");

const OUT: Output<Item> = Output::new("out");

/// Outcomes of the messages of a flood.
#[derive(Debug, Clone, Default)]
struct Sent {
    taken_over: u32,
    errors: Vec<String>,
}

/// Outcomes by the name of the flood.
static SENT: LazyLock<Mutex<HashMap<String, Sent>>> = LazyLock::new(Mutex::default);

fn sent(name: &str) -> Sent {
    let sent = SENT.lock().expect("no test panics with it");
    sent.get(name).cloned().unwrap_or_default()
}

/// A source that sends at full speed and continues after a rejected message.
struct Flood;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FloodConfig {
    name: String,
    messages: u32,
}

impl Source for Flood {
    const NAME: &'static str = "flood";
    type Config = FloodConfig;

    fn ports(_: &FloodConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn ends(_: &FloodConfig) -> bool {
        true
    }

    async fn run(config: &FloodConfig, out: &mut SourceContext) -> Result<(), Failure> {
        for n in 0..config.messages {
            let item = Item {
                n,
                attempt: 0,
                turns: 0,
            };
            let outcome = out.send(&OUT, item).await;
            let mut sent = SENT.lock().expect("no test panics with it");
            let sent = sent.entry(config.name.clone()).or_default();
            match outcome {
                Ok(()) => sent.taken_over += 1,
                Err(failure) => sent.errors.push(failure.text().to_owned()),
            }
        }
        Ok(())
    }
}

/// Takes its time for each item and passes it on.
struct Relay {
    takes: Duration,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RelayConfig {
    ms: u64,
}

impl Service for Relay {
    const NAME: &'static str = "relay";
    type Config = RelayConfig;

    fn ports(_: &RelayConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT);
    }

    async fn start(config: &RelayConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self {
            takes: Duration::from_millis(config.ms),
        })
    }
}

impl Handle<Item> for Relay {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let attempt = cx.attempt();
        cx.emit(&OUT, Item { attempt, ..item })
    }
}

fn catalog() -> Catalog {
    Catalog::new().with_source::<Flood>().with::<Relay>()
}

/// Returns a manifest with a flood of `messages` and a relay that takes 10 ms for each.
fn flooded(name: &str, messages: u32, queue: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        [admin]
        listen = "off"
        [topics]
        relayed.external = "out"
        [services.flood]
        out = "items"
        config = {{ name = "{name}", messages = {messages} }}
        [services.relay]
        in = "items"
        out = "relayed"
        config.ms = 10
        queue = {{ {queue} }}
        "#
    )
}

async fn depth(app: &TestApp) -> Depth {
    let depth = app.transport().depth(&QueueId::new("relay", "in")).await;
    depth.expect("there is such a queue")
}

#[test]
fn sources_pause_above_the_high_water_mark_and_resume_at_half() {
    virtually(async {
        let name = "high-water";
        let manifest = flooded(name, 100, "high_water = 10");
        let app = TestApp::start(&manifest, &catalog()).await;
        let (mut most, mut stops) = (0, BTreeSet::new());
        while sent(name).taken_over < 100 {
            // Shorter than the handling of a message, so no state is missed.
            tokio::time::sleep(Duration::from_millis(1)).await;
            most = most.max(depth(&app).await.total());
            stops.insert(sent(name).taken_over);
        }
        app.idle().await;
        assert_eq!(most, 11, "one above the mark");
        // The depth falls from 11 to 5, half of the mark, and rises again.
        let expected = (0..)
            .map(|burst| 11 + 6 * burst)
            .take_while(|sent| *sent < 100);
        assert_eq!(stops, expected.chain([100]).collect());
        assert_eq!(app.summary("relay").ok, 100);
    });
}

#[test]
fn a_source_pauses_before_a_queue_reaches_its_limit() {
    for overflow in ["dead-letter", "reject"] {
        virtually(async {
            let name = format!("limit-with-{overflow}");
            let queue = format!("limit = 10, overflow = \"{overflow}\"");
            let app = TestApp::start(&flooded(&name, 100, &queue), &catalog()).await;
            app.idle().await;
            let row = app.summary("relay");
            assert_eq!((row.ok, row.dead_letters), (100, 0), "{overflow}");
            assert_eq!(sent(&name).errors, [""; 0]);
        });
    }
}

#[test]
fn overflowing_messages_are_dead_lettered_and_counted() {
    virtually(async {
        let name = "overflow";
        // Sources do not pause for this queue: its mark is its limit.
        let manifest = flooded(name, 50, "high_water = 5, limit = 5");
        let app = TestApp::start(&manifest, &catalog()).await;
        app.idle().await;
        assert_eq!(sent(name).taken_over, 50, "no failure is counted");
        let row = app.summary("relay");
        assert_eq!((row.ok, row.dead_letters), (5, 45));
        let letters = app.dead_letters("relay").await.rest().await;
        assert_eq!(letters.len(), 45);
        for letter in letters {
            assert_eq!(&*letter.headers["brickwork-reason"], "overflow");
            assert_eq!(&*letter.headers["brickwork-input"], "in");
        }
    });
}

#[test]
fn a_source_learns_that_a_queue_rejects() {
    virtually(async {
        let name = "told";
        let queue = "high_water = 5, limit = 5, overflow = \"reject\"";
        let app = TestApp::start(&flooded(name, 50, queue), &catalog()).await;
        app.idle().await;
        let sent = sent(name);
        assert_eq!((sent.taken_over, sent.errors.len()), (5, 45));
        for error in sent.errors {
            assert!(error.contains("relay.in is full"), "{error}");
        }
        let row = app.summary("relay");
        assert_eq!((row.ok, row.dead_letters), (5, 0));
    });
}

#[test]
fn a_message_that_a_full_queue_rejects_is_not_lost_and_costs_no_attempt() {
    const MESSAGES: u32 = 200;
    virtually(async {
        // With one attempt and no back-off: a failure would be a dead letter, and a zero delay
        // would never let virtual time pass.
        let manifest = r#"
            [app]
            name = "rejecting"
            [admin]
            listen = "off"
            [topics]
            items.external = "in"
            relayed.external = "out"
            [services.fast]
            use = "relay"
            in = "items"
            out = "between"
            instances = 4
            retry = { attempts = 1, backoff = { min = "0s", max = "0s" } }
            [services.slow]
            use = "relay"
            in = "between"
            out = "relayed"
            config.ms = 10
            mailbox = 1
            queue = { limit = 3, overflow = "reject" }
        "#;
        let app = TestApp::start(manifest, &catalog()).await;
        let mut relayed = app.probe("relayed").await;
        for n in 0..MESSAGES {
            app.send("items", json!({ "n": n })).await;
        }
        let mut numbers = BTreeSet::new();
        for _ in 0..MESSAGES {
            let item = relayed.next_json().await;
            assert_eq!(item["attempt"], 1);
            assert!(numbers.insert(item["n"].as_u64().unwrap()), "{item} again");
            let queue = QueueId::new("slow", "in");
            let depth = app.transport().depth(&queue).await.unwrap();
            assert!(depth.total() <= 3, "{depth:?}");
        }
        app.idle().await;
        assert_eq!(relayed.rest().await.len(), 0);
        let (fast, slow) = (app.summary("fast"), app.summary("slow"));
        assert_eq!((fast.dead_letters, slow.dead_letters), (0, 0));
        assert_eq!((fast.retry, fast.emitted), (0, u64::from(MESSAGES)));
        assert!(fast.ok > u64::from(MESSAGES), "some were refused: {fast:?}");
        assert_eq!(slow.ok, u64::from(MESSAGES));
    });
}

#[test]
fn an_output_of_a_tick_waits_for_space_and_delays_no_other_message() {
    virtually(async {
        let manifest = r#"
            [app]
            name = "ticking"
            [admin]
            listen = "off"
            [topics]
            orders.external = "in"
            relayed.external = "out"
            [services.puppet]
            in = "orders"
            out = "items"
            config = { ledger = "ticking", tick_ms = 1 }
            retry.backoff = { min = "0s", max = "0s" }
            [services.relay]
            in = "items"
            out = "relayed"
            config.ms = 10
            queue = { limit = 3, overflow = "reject" }
        "#;
        let app = TestApp::start(manifest, &catalog().with::<Puppet>()).await;
        let mut relayed = app.probe("relayed").await;
        for _ in 0..100 {
            assert_eq!(relayed.next_json().await["n"], 1_000_000);
        }
        assert!(depth(&app).await.total() <= 3);
        let (puppet, relay) = (app.summary("puppet"), app.summary("relay"));
        assert_eq!((puppet.restarts, relay.dead_letters), (0, 0));
    });
}

#[test]
fn a_cycle_with_a_full_rejecting_queue_continues_and_loses_nothing() {
    const MESSAGES: u64 = 100;
    virtually(async {
        // Every 10 ms the source fills `ping`, which takes 8 ms to empty; messages from `pong`
        // come in between.
        let manifest = r#"
            [app]
            name = "round"
            [admin]
            listen = "off"
            [topics]
            items.external = "in"
            [services.feed]
            use = "relay"
            in = "items"
            out = "forth"
            retry = { attempts = 1, backoff.min = "0s" }
            [services.ping]
            use = "bouncer"
            in = ["forth", "back"]
            out = "over"
            config.ms = 4
            retry.attempts = 1
            queue = { limit = 2, overflow = "reject" }
            [services.pong]
            use = "bouncer"
            in = "over"
            out = "back"
            instances = 8
            config.ms = 7
            retry = { attempts = 1, backoff.min = "0s" }
        "#;
        let catalog = catalog().with::<Bouncer>();
        let app = TestApp::start(manifest, &catalog).await;
        for n in 0..MESSAGES {
            app.send("items", json!({ "n": n, "turns": 6 })).await;
        }
        app.idle().await;
        let (feed, ping, pong) = (
            app.summary("feed"),
            app.summary("ping"),
            app.summary("pong"),
        );
        // Items with 6, 4 and 2 turns go through one service, with 5, 3 and 1 through the other;
        // then they end.
        assert_eq!(feed.emitted, MESSAGES);
        assert_eq!((ping.emitted, pong.emitted), (3 * MESSAGES, 3 * MESSAGES));
        assert_eq!(ping.ok, 4 * MESSAGES);
        assert!(feed.ok > MESSAGES, "feed was refused: {feed:?}");
        assert!(pong.ok > 3 * MESSAGES, "pong was refused: {pong:?}");
        let letters = feed.dead_letters + ping.dead_letters + pong.dead_letters;
        assert_eq!(letters, 0);
    });
}
