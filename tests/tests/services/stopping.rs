//! Stopping while something goes wrong: the stop ends in time, reports unfinished messages and
//! restarts nothing.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brickwork::prelude::*;
use brickwork::{Catalog, Workers};
use brickwork_tests::app::{TestApp, really, virtually};
use brickwork_tests::process::{self, Process};
use brickwork_tests::puppet::{Puppet, count};
use brickwork_tests::tally::Counts;
use serde_json::json;

fn catalog() -> Catalog {
    Catalog::new().with::<Puppet>()
}

/// Returns a manifest with a puppet and a neighbour on one thread.
fn manifest(name: &str, app: &str, puppet: &str, neighbour: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        transport = "memory:"
        workers = 1
        {app}
        [admin]
        listen = "off"
        [topics.orders]
        external = "in"
        [topics.others]
        external = "in"
        [topics.done]
        external = "out"
        [services.puppet]
        in = "orders"
        out = "done"
        config.ledger = "{name}"
        {puppet}
        [services.neighbour]
        use = "puppet"
        in = "others"
        out = "done"
        config.ledger = "{name}-neighbour"
        {neighbour}
        "#
    )
}

/// Waits in real time until a ledger has a line.
async fn until(ledger: &str, line: &str) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while count(ledger, line) == 0 {
        assert!(Instant::now() < give_up, "{ledger} never had {line}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_message_on_a_thread_that_is_replaced_during_the_stop_is_reported() {
    really(async {
        let name = "given-up-in-stop";
        let app = "shutdown_timeout = \"30s\"";
        let puppet = "handler_timeout = \"1s\"";
        let manifest = manifest(name, app, puppet, "instances = 2");
        let app = TestApp::start_on(&manifest, &catalog(), Workers::Threads).await;
        let neighbour = format!("{name}-neighbour");
        let mut expected = Vec::new();
        for n in 1..=2 {
            let order = json!({ "n": n, "act": "forever" });
            let sent = app.send("others", order).await;
            until(&neighbour, &format!("handle {n}")).await;
            expected.push(("neighbour".to_owned(), sent.id.to_string()));
        }
        let order = json!({ "n": 3, "act": "block", "ms": 25_000 });
        let sent = app.send("orders", order).await;
        until(name, "handle 3").await;
        expected.push(("puppet".to_owned(), sent.id.to_string()));

        let began = Instant::now();
        let mut report = app.stop().await;
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "there is nothing to wait for on a thread that was given up: {:?}",
            began.elapsed()
        );
        report.abandoned.sort();
        expected.sort();
        assert_eq!(report.abandoned, expected);
        assert_eq!(report.stuck_threads, 1);
    });
}

#[test]
fn unfinished_messages_are_reported_even_if_a_stop_blocks_its_thread() {
    really(async {
        let name = "blocks-in-stop";
        let app = "shutdown_timeout = \"300ms\"";
        let puppet = "instances = 2\nconfig.block_stop_ms = 4000";
        let manifest = manifest(name, app, puppet, "");
        let app = TestApp::start_on(&manifest, &catalog(), Workers::Threads).await;
        let order = json!({ "n": 1, "act": "forever" });
        let sent = app.send("orders", order).await;
        until(name, "handle 1").await;
        let report = app.stop().await;
        let id = sent.id.to_string();
        let named = report.abandoned.iter().any(|(_, text)| text.contains(&id));
        assert!(named, "{report:?}");
        assert_eq!(report.stuck_threads, 1, "{report:?}");
    });
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Item {
    n: u32,
}

const IN: Input<Item> = Input::new("in");

/// Sleeps for `n` seconds, and panics if `n` is small.
struct Sleeper;

impl Service for Sleeper {
    const NAME: &'static str = "sleeper";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Item> for Sleeper {
    async fn handle(&mut self, item: Item, _: &mut Context) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_secs(item.n.into())).await;
        assert!(item.n >= 10, "told to panic by {}", item.n);
        Ok(())
    }
}

#[test]
fn a_service_that_gives_up_during_the_stop_finishes_its_messages_and_stays_down() {
    virtually(async {
        // Panics count against the service, and the second exceeds its limit. An isolated service
        // would be retried after a second.
        let services = r#"
            [app]
            name = "gives-up-in-stop"
            transport = "memory:"
            shutdown_timeout = "1m"
            [admin]
            listen = "off"
            [topics]
            items.external = "in"
            others.external = "in"
            [services.quitter]
            use = "sleeper"
            in = "items"
            instances = 2
            retry.attempts = 1
            restart = { on_panic = "service", max_restarts = 1, within = "1m", backoff = { min = "1ms", max = "1s" } }
            [services.slow]
            use = "sleeper"
            in = "others"
        "#;
        let app = TestApp::start(services, &Catalog::new().with::<Sleeper>()).await;
        app.send("others", json!({ "n": 25 })).await;
        // One instance handles this message during the whole test; the other one fails twice.
        let long = app.send("items", json!({ "n": 20 })).await;
        app.send("items", json!({ "n": 1 })).await;
        app.send("items", json!({ "n": 3 })).await;
        // The service must have given up first, so that these messages wait in the queue.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let row = app.summary("quitter");
        assert_eq!((row.panic, row.ok), (1, 0), "{row:?}");
        app.send("items", json!({ "n": 15 })).await;
        app.send("items", json!({ "n": 15 })).await;

        let report = app.stop().await;
        let services = &report.summary.services;
        let row = services.iter().find(|row| row.service == "quitter");
        let row = row.expect("it is in the manifest");
        assert_eq!((row.panic, row.ok), (2, 1), "{report:?}");
        assert_eq!(report.abandoned, [], "{} was done", long.id);
        assert_eq!(report.left, [("quitter.in".to_owned(), 2)]);
    });
}

/// Blocks the thread on which it is dropped.
struct Clinger;

impl Service for Clinger {
    const NAME: &'static str = "clinger";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Item> for Clinger {
    async fn handle(&mut self, _: Item, _: &mut Context) -> Result<(), Failure> {
        std::future::pending().await
    }
}

impl Drop for Clinger {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_secs(4));
    }
}

#[test]
fn no_thread_is_replaced_while_threads_are_joined() {
    really(async {
        let name = "joined";
        let app = "shutdown_timeout = \"300ms\"";
        // The thread is reported as blocked before the host would replace it.
        let puppet = "handler_timeout = \"2s\"";
        let clinger = "[services.clinger]\nin = \"clinging\"\n\
                       [topics.clinging]\nexternal = \"in\"\n";
        let manifest = manifest(name, app, puppet, clinger);
        // The puppet runs on the first worker, the clinger on the last one.
        let manifest = manifest.replace("workers = 1", "workers = 3");
        let catalog = catalog().with::<Clinger>();
        let app = TestApp::start_on(&manifest, &catalog, Workers::Threads).await;
        let panics: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, before) = (panics.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map_or("", |place| place.file());
            seen.lock().expect("it is whole").push(place.to_owned());
            before(info);
        }));
        app.send("clinging", json!({ "n": 1 })).await;
        app.send("orders", json!({ "n": 1, "act": "block", "ms": 10_000 }))
            .await;
        until(name, "handle 1").await;
        let began = Instant::now();
        let report = app.stop().await;
        // Joining took longer than the remaining time of the puppet's thread.
        assert!(began.elapsed() > Duration::from_secs(3), "{report:?}");
        assert_eq!(report.stuck_threads, 1, "{report:?}");
        // Copied, because the assertions below may panic and the hook takes the lock.
        let panics = panics.lock().expect("it is whole").clone();
        let own = panics.iter().find(|file| file.contains("/supervisors/"));
        assert_eq!(own, None);
    });
}

#[test]
fn a_transaction_that_never_ends_does_not_keep_the_process_from_stopping() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let here = |name: &str| folder.path().join(name);
    let blocked = here("blocked");
    let manifest = format!(
        r#"
        [app]
        name = "store-in-stop"
        transport = "memory:"
        shutdown_timeout = "300ms"
        data = "data"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.tally]
        in = "lines"
        store = true
        config.blocks = {blocked:?}
        "#
    );
    std::fs::write(here("app.toml"), manifest).expect("it can be written");
    std::fs::write(here("lines.jsonl"), "{\"n\":1}\n").expect("it can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppets"));
    command.args(["run", "app.toml"]).current_dir(folder.path());
    let mut process = Process::start(command, folder.path(), "it was just built");
    process::until("it blocks", Duration::from_secs(60), || {
        blocked.exists().then_some(()).ok_or_else(String::new)
    });
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.expect("kill runs").success());
    // Stores get five seconds to close.
    let code = process.exit_code(Duration::from_secs(20));
    let said = process.stderr();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("abandoned in tally: "), "{said}");
    let unclosed = "not closed in time: the store of tally";
    assert!(said.contains(unclosed), "{said}");
    // The transaction was rolled back, and the store is intact.
    let counts = Counts::read(&here("data"), "tally");
    assert_eq!(counts, Counts::default());
}
