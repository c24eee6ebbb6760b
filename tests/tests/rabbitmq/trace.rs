//! The command `trace`: the history of a message while the app runs, after it was killed, and
//! after it was stopped, on transports that only the app can reach and over a broker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use brickwork::MessageId;
use brickwork::message_trace::{Hop, MessageState, Trace, TracedMessage};
use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::Broker;
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A secret of the manifest that also occurs in messages and errors.
const SECRET: &str = "hunter2-is-secret";

/// Orders come in by HTTP. `once`, which has a store, passes them on to `price`, which can't
/// price all of them; prices go to `keep`, to `flaky`, which needs several attempts, and to
/// `later`, which fails and is delayed for an hour. Some orders go through `gate` to `second`,
/// which has a store, too: its output goes to `jam`, which never ends, and whose queue holds one
/// message and rejects others.
struct Shop {
    folder: TempDir,
    address: SocketAddr,
    app: Option<Process>,
}

impl Shop {
    fn start(name: &str, transport: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let address = free_address();
        let manifest = format!(
            r#"
            [app]
            name = "{name}"
            transport = "{transport}"
            log.level = "error"
            shutdown_timeout = "1s"
            [admin]
            listen = "off"
            [topics.settled]
            external = "out"
            [services.door]
            use = "http-in"
            out = "orders"
            config = {{ listen = "{address}", path = "/", id_header = "X-Id", secret = "{SECRET}" }}
            [services.once]
            use = "dedup"
            in = "orders"
            out = "fresh"
            store = true
            config.key = "meta.id"
            [services.price]
            use = "map"
            in = "fresh"
            out = "priced"
            config.to = {{ n = "msg.n", price = "10 / msg.n + msg.extra" }}
            {more}
            [services.keep]
            use = "file-out"
            in = "priced"
            config.path = "out.jsonl"
            [services.flaky]
            use = "chaos"
            in = "priced"
            out = "settled"
            config.fail = 0.6
            breaker = "off"
            retry = {{ attempts = 100, backoff = {{ min = "5ms", max = "5ms" }} }}
            [services.later]
            use = "chaos"
            in = "priced"
            out = "settled"
            config.fail = 1.0
            breaker = "off"
            retry.backoff = {{ min = "1h", max = "1h", jitter = 0.0 }}
            "#
        );
        std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
        let mut shop = Self {
            folder,
            address,
            app: None,
        };
        shop.run();
        shop
    }

    /// Also starts `second` and `jam`, for transports with queue limits.
    fn jammed(name: &str, transport: &str) -> Self {
        let more = r#"
            [services.gate]
            use = "filter"
            in = "orders"
            out = "wanted"
            config.when = "has(msg.jam)"
            [services.second]
            use = "dedup"
            in = "wanted"
            out = "extra"
            store = true
            config.key = "meta.id"
            [services.jam]
            use = "chaos"
            in = "extra"
            out = "settled"
            config.stall = 1.0
            config.for = "9m"
            handler_timeout = "10m"
            queue = { limit = 1, high_water = 1, overflow = "reject" }
            "#;
        Self::start(name, transport, more)
    }

    fn run(&mut self) {
        let mut run = Command::new(brickwork());
        run.args(["run", "app.toml"]).current_dir(self.path());
        let app = Process::start(run, self.path(), "it was just built");
        app.line(PATIENCE, |line| line.contains("runs:").then_some(()));
        self.app = Some(app);
    }

    /// Kills the app, as a power cut does.
    fn kill(&mut self) {
        if let Some(app) = self.app.take() {
            app.stop();
        }
    }

    /// Stops the app gracefully.
    fn stop(&mut self) {
        let mut stop = Command::new(brickwork());
        stop.args(["stop", "app.toml"]).current_dir(self.path());
        let stopped = stop.output().expect("it runs");
        assert!(stopped.status.success(), "{}", text(&stopped.stderr));
        let mut app = self.app.take().expect("it runs");
        app.exit_code(PATIENCE);
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Posts an order that `price` divides by `n`.
    fn order(&self, id: &str, n: u32) {
        let body = format!("{{\"n\":{n},\"extra\":0}}");
        self.post(id, &body);
    }

    fn post(&self, id: &str, body: &str) {
        let headers = [("Content-Type", "application/json"), ("X-Id", id)];
        let signature = signature(body);
        let headers = [&headers[..], &[("X-Hub-Signature-256", &*signature)]].concat();
        until("the order is accepted", PATIENCE, || {
            match http::post(self.address, "/", &headers, body.as_bytes()) {
                Ok(answer) if answer.code == 202 => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.code, answer.body)),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut trace = Command::new(brickwork());
        trace.args(["trace", "app.toml"]).args(arguments);
        let output = trace.current_dir(self.path()).output().expect("it runs");
        for said in [&output.stdout, &output.stderr] {
            assert!(!text(said).contains("hunter2"), "{}", text(said));
        }
        output
    }

    fn trace(&self, id: &str) -> Trace {
        let output = self.output(&[id, "--json"]);
        let trace: Trace = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
        let code = output.status.code();
        assert_eq!(code, Some(if trace.found { 0 } else { 1 }), "{trace:#?}");
        trace
    }

    /// Returns the text output of `trace`.
    fn shown(&self, id: &str) -> String {
        text(&self.output(&[id]).stdout)
    }

    /// Repeats `trace` until the history is as wanted.
    fn until(&self, id: &str, is: impl Fn(&Way) -> bool) -> Way {
        until("the message is there", PATIENCE, || {
            let trace = self.trace(id);
            let way = Way::of(&trace);
            match is(&way) {
                true => Ok(way),
                false => Err(format!("{trace:#?}")),
            }
        })
    }
}

/// The hops of a history, by the id of their message.
struct Way {
    trace: Trace,
    messages: BTreeMap<String, TracedMessage>,
}

impl Way {
    fn of(trace: &Trace) -> Self {
        let mut messages = BTreeMap::new();
        let mut left: Vec<&TracedMessage> = trace.messages.iter().collect();
        while let Some(message) = left.pop() {
            messages.insert(message.id.clone(), message.clone());
            left.extend(&message.led_to);
        }
        Self {
            trace: trace.clone(),
            messages,
        }
    }

    fn message(&self, id: &MessageId) -> Option<&TracedMessage> {
        self.messages.get(&id.to_string())
    }

    fn hop(&self, id: &MessageId, service: &str) -> Option<&Hop> {
        let mut hops = self.message(id)?.hops.iter();
        hops.find(|hop| hop.service == service)
    }

    fn is(&self, id: &MessageId, service: &str, place: impl Fn(&MessageState) -> bool) -> bool {
        self.hop(id, service).is_some_and(|hop| place(&hop.now))
    }

    fn is_done(&self, id: &MessageId, service: &str) -> bool {
        self.is(id, service, |now| *now == MessageState::Done)
    }
}

/// The ids of an order's messages.
struct Ids {
    order: MessageId,
    fresh: MessageId,
    price: MessageId,
    extra: MessageId,
}

impl Ids {
    fn of(order: &str) -> Self {
        let order: MessageId = order.parse().expect("it is an id");
        let fresh = order.child("once", "out", 0);
        let wanted = order.child("gate", "out", 0);
        Self {
            price: fresh.child("price", "out", 0),
            extra: wanted.child("second", "out", 0),
            fresh,
            order,
        }
    }

    /// Whether an order has gone as far as it can.
    fn have_settled(&self, way: &Way) -> bool {
        way.is_done(&self.order, "once")
            && way.is_done(&self.fresh, "price")
            && way.is_done(&self.price, "keep")
            && way.is_done(&self.price, "flaky")
            && way.is(&self.price, "later", is_delayed)
    }
}

fn is_delayed(now: &MessageState) -> bool {
    matches!(now, MessageState::Delayed { attempt: 2, .. })
}

fn is_rejected(now: &MessageState) -> bool {
    let MessageState::DeadLettered { reason, error, .. } = now else {
        return false;
    };
    let error = error.as_deref().unwrap_or_default();
    reason.is_some_and(|it| it.as_str() == "reject") && error.contains("zero")
}

fn is_handled(now: &MessageState) -> bool {
    matches!(
        now,
        MessageState::InFlight {
            handled: true,
            attempt: 1
        }
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn signature(body: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key does");
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

/// Returns every file below a folder with its modification time and content.
fn files(folder: &Path) -> BTreeMap<PathBuf, (std::time::SystemTime, Vec<u8>)> {
    let mut files = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            let about = path.symlink_metadata().expect("it is there");
            if about.is_dir() {
                left.push(path);
            } else if about.is_file() {
                let modified = about.modified().expect("it is known");
                let bytes = std::fs::read(&path).expect("it can be read");
                files.insert(path, (modified, bytes));
            }
        }
    }
    files
}

/// Checks the history of an order in a running app, on any transport.
fn a_running_app_tells(shop: &Shop) {
    let orders: Vec<String> = (1..6).map(|n| format!("order-{n}")).collect();
    for order in &orders {
        shop.order(order, 2);
    }
    shop.order("order-0", 0);
    shop.post("order-x", &format!("{{\"n\":1,\"extra\":\"{SECRET}\"}}"));
    let ways = orders.iter().map(|order| {
        let ids = Ids::of(order);
        shop.until(order, |way| ids.have_settled(way))
    });
    let ways: Vec<Way> = ways.collect();
    // Attempts are listed one by one, each with its end.
    let mut retried = 0;
    for (order, way) in orders.iter().zip(&ways) {
        let ids = Ids::of(order);
        let flaky = way.hop(&ids.price, "flaky").expect("it was there");
        let (last, before) = flaky.attempts.split_last().expect("it was tried");
        assert_eq!(last.outcome, "ok");
        let tried: Vec<u32> = flaky.attempts.iter().map(|it| it.attempt).collect();
        assert!(tried.iter().copied().eq(1..=last.attempt), "{tried:?}");
        assert!(before.iter().all(|it| it.outcome == "retry"), "{before:?}");
        retried += before.len();
        let once = way.hop(&ids.order, "once").expect("it was there");
        assert!(once.stored_at.is_some(), "{once:?}");
        let price = way.message(&ids.price).expect("it is known");
        let by = price.by.as_ref().expect("it was emitted");
        assert_eq!((&*by.service, by.output.as_deref()), ("price", Some("out")));
        assert_eq!(price.topics, ["priced"]);
    }
    assert!(retried > 0, "nothing was retried");

    let bad = Ids::of("order-0");
    let way = shop.until("order-0", |way| way.is(&bad.fresh, "price", is_rejected));
    assert!(way.message(&bad.price).is_none(), "{:#?}", way.trace);
    assert!(shop.shown("order-0").contains("dead-lettered: reject: "));
    let odd = Ids::of("order-x");
    shop.until("order-x", |way| {
        way.is(&odd.fresh, "price", |now| {
            matches!(now, MessageState::DeadLettered { .. })
        })
    });

    // From a message in the middle, with its ancestors; and the whole history, by the trace id.
    let ids = Ids::of("order-1");
    let middle = shop.trace(&ids.price.to_string());
    assert_eq!(middle.came_of, [ids.fresh.to_string(), "order-1".into()]);
    let trace_id = ways[0].trace.trace_id.as_ref().expect("it is known");
    assert_eq!(middle.trace_id.as_ref(), Some(trace_id));
    let all = shop.trace(trace_id);
    assert_eq!(all.messages.len(), 1);
    assert_eq!(all.messages[0].id, "order-1");

    let none = shop.trace("order-17");
    assert!(!none.found && !none.looked_at.is_empty(), "{none:#?}");
    assert!(shop.shown("order-17").contains("no trace of order-17"));
    let wrong = shop.output(&["a\nb"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(text(&wrong.stderr).lines().count(), 1);
    let hidden = shop.shown("a\u{202e}b");
    assert!(hidden.contains("a\\u{202e}b"), "{hidden}");
}

/// Checks messages in flight, and messages that a full queue keeps in an outbox.
fn messages_in_flight_and_in_an_outbox_are_reported(shop: &Shop) -> Ids {
    let (first, second) = (Ids::of("jam-1"), Ids::of("jam-2"));
    // One after the other: a queue that isn't full accepts a whole batch.
    shop.post("jam-1", r#"{"n":1,"extra":0,"jam":true}"#);
    shop.until("jam-1", |way| way.is(&first.extra, "jam", is_handled));
    shop.post("jam-2", r#"{"n":1,"extra":0,"jam":true}"#);
    let is_kept = |way: &Way| {
        let extra = way.message(&second.extra);
        extra.is_some_and(|extra| !extra.outboxes.is_empty())
    };
    let way = shop.until("jam-2", is_kept);
    let extra = way.message(&second.extra).expect("it is known");
    let outbox = &extra.outboxes[0];
    assert_eq!((&*outbox.service, &*outbox.topic), ("second", "extra"));
    assert!(extra.hops.is_empty(), "{extra:#?}");
    assert!(
        shop.shown("jam-2")
            .contains("in the outbox of second, for extra")
    );
    second
}

#[test]
fn a_message_is_traced_through_an_app_in_memory_and_its_stores_outlive_it() {
    let mut shop = Shop::jammed("trace-memory", "memory:");
    a_running_app_tells(&shop);
    let kept = messages_in_flight_and_in_an_outbox_are_reported(&shop);
    assert!(shop.trace("order-1").missed.is_empty());
    shop.kill();
    // Queues and histories are gone; stores still know their effects.
    let order = kept.order.to_string();
    let way = Way::of(&shop.trace(&order));
    assert!(way.is_done(&kept.order, "once"), "{:#?}", way.trace);
    let extra = way.message(&kept.extra).expect("it is in the outbox");
    assert_eq!(extra.outboxes.len(), 1);
    let missed = way.trace.missed.join("\n");
    for part in [
        "no app runs with the data folder",
        "memory: go with the app",
    ] {
        assert!(missed.contains(part), "{missed}");
    }
    assert!(!shop.trace("order-17").found);
}

#[test]
fn a_message_is_traced_through_an_embedded_app_running_killed_and_stopped() {
    let mut shop = Shop::jammed("trace-embedded", "embedded:data/queues");
    a_running_app_tells(&shop);
    let kept = messages_in_flight_and_in_an_outbox_are_reported(&shop);
    assert!(shop.trace("order-1").missed.is_empty());
    let (ids, bad) = (Ids::of("order-1"), Ids::of("order-0"));
    let tells = |shop: &Shop| {
        let before = files(&shop.path().join("data"));
        let way = Way::of(&shop.trace("order-1"));
        let what = format!("{:#?}", way.trace);
        assert!(way.is_done(&ids.order, "once"), "{what}");
        assert!(way.is(&ids.price, "later", is_delayed), "{what}");
        // Its output proves that the message was handled.
        assert!(way.is_done(&ids.fresh, "price"), "{what}");
        // No process knows the effects of this service, and the report says so.
        assert!(
            way.is(&ids.price, "keep", |now| *now == MessageState::Unknown),
            "{what}"
        );
        assert!(what.contains("no app runs with the data folder"), "{what}");
        let way = Way::of(&shop.trace("order-0"));
        assert!(way.is(&bad.fresh, "price", is_rejected), "{:#?}", way.trace);
        let way = Way::of(&shop.trace(&kept.order.to_string()));
        let extra = way.message(&kept.extra).expect("it is in the outbox");
        assert_eq!(extra.outboxes.len(), 1, "{:#?}", way.trace);
        assert!(!shop.trace("order-17").found);
        assert_eq!(
            files(&shop.path().join("data")),
            before,
            "a file was changed"
        );
    };
    shop.kill();
    tells(&shop);
    // Another run, whose services have handled none of these messages.
    shop.run();
    let way = shop.until("order-1", |way| way.is(&ids.price, "later", is_delayed));
    assert!(way.is_done(&ids.order, "once"), "{:#?}", way.trace);
    shop.stop();
    tells(&shop);
}

#[test]
fn over_a_broker_unsearchable_queues_are_named_and_effects_are_reported() {
    let mut shop = Shop::start("trace-amqp", &Broker::shared().url(), "");
    a_running_app_tells(&shop);
    let running = shop.trace("order-1");
    let missed = running.missed.join("\n");
    assert!(missed.contains("can't be searched"), "{missed}");
    shop.kill();
    // Its dead letters are on the broker, and its stores here.
    let bad = Ids::of("order-0");
    let way = Way::of(&shop.trace("order-0"));
    assert!(way.is_done(&bad.order, "once"), "{:#?}", way.trace);
    assert!(way.is(&bad.fresh, "price", is_rejected), "{:#?}", way.trace);
}
