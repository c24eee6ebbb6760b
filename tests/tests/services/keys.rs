//! Order by key: messages of one key are handled one at a time, in order.

use std::path::Path;
use std::time::Duration;

use brickwork::Workers;
use brickwork::prelude::*;
use brickwork::testing::{Fault, FaultPoint, Setup, TestApp};
use brickwork_tests::app::{self, really, virtually};
use brickwork_tests::key_checker::{Entry, KeyChecker, entries};
use brickwork_tests::key_witness::Witness;
use brickwork_tests::puppet::{Puppet, ledger};
use brickwork_tests::seed::Seed;
use serde_json::json;
use tokio::time::{Instant, sleep};

#[message]
struct Order {
    customer: Option<u32>,
    number: u32,
}

#[derive(Default)]
struct Ledger;

/// Writes a line for each order.
#[service(key = "customer")]
impl Ledger {
    #[input]
    fn orders(
        &mut self,
        order: Order,
        key: Key,
        meta: Meta,
        cx: &Context,
        lines: Out<String>,
    ) -> Result {
        assert_eq!((meta.key(), cx.key()), (Some(&key), Some(&key)));
        lines.emit(format!("{key}: {}", order.number))
    }

    #[input(batch = 10, within = "1s")]
    fn many(&mut self, orders: Vec<Order>, batches: Out<Vec<u32>>) -> Vec<Result> {
        let numbers = orders.iter().map(|order| order.number).collect::<Vec<_>>();
        let mut results: Vec<Result> = orders.iter().map(|_| Ok(())).collect();
        results[0] = batches.emit_for(0, numbers);
        results
    }
}

fn order(customer: u32, number: u32) -> Order {
    let customer = Some(customer);
    Order { customer, number }
}

#[test]
fn a_handler_gets_the_key_of_its_message() {
    let app = TestApp::of::<Ledger>(NoConfig {});
    app.send(&Ledger::ORDERS, order(7, 1));
    assert_eq!(app.expect(&Ledger::LINES), "7: 1");
    app.stop();
}

#[test]
fn a_message_without_a_key_is_a_dead_letter_with_the_reason() {
    let app = TestApp::of::<Ledger>(NoConfig {});
    let customer = None;
    app.send(
        &Ledger::ORDERS,
        Order {
            customer,
            number: 1,
        },
    );
    app.send(&Ledger::ORDERS, order(7, 2));
    assert_eq!(app.expect(&Ledger::LINES), "7: 2");
    let letter = app.expect_dead_letter();
    assert_eq!(letter.dead_letter.error, "the key is null");
    app.stop();
}

#[test]
fn a_batch_has_one_message_of_a_key() {
    let app = TestApp::of::<Ledger>(NoConfig {});
    for (customer, number) in [(1, 1), (1, 2), (2, 3), (1, 4)] {
        app.send(&Ledger::MANY, order(customer, number));
    }
    let mut batches: Vec<Vec<u32>> = Vec::new();
    while batches.concat().len() < 4 {
        batches.push(app.expect(&Ledger::BATCHES));
    }
    assert!(
        !batches.iter().any(|batch| {
            [1, 2, 4]
                .iter()
                .filter(|of_one| batch.contains(of_one))
                .count()
                > 1
        }),
        "{batches:?}"
    );
    let position = |number: u32| batches.concat().iter().position(|it| *it == number);
    assert!(position(1) < position(2) && position(2) < position(4));
    app.stop();
}

/// A refused publication, a lost confirm, a lost consumer, a failure and a panic.
#[test]
fn messages_of_a_key_stay_in_order_over_every_fault() {
    for fault in [
        Fault::fail(FaultPoint::Publish).times(3),
        Fault::fail(FaultPoint::Confirm).times(3),
        Fault::fail(FaultPoint::Consume).times(3),
        Fault::fail(FaultPoint::Handle).times(2),
        Fault::panic(FaultPoint::Handle).times(2),
    ] {
        println!("{fault:?}");
        let app = Setup::of::<Ledger>(NoConfig {})
            .with("services.ledger.instances = 4\nservices.ledger.mailbox = 2")
            .inject(fault)
            .start();
        for number in 0..30 {
            app.send(&Ledger::ORDERS, order(number % 3, number));
        }
        let mut lines: Vec<String> = Vec::new();
        for _ in 0..30 {
            let mut line = app.expect(&Ledger::LINES);
            // Messages whose confirm was lost are emitted again.
            while lines.contains(&line) {
                line = app.expect(&Ledger::LINES);
            }
            lines.push(line);
        }
        for customer in 0..3 {
            let of_key = |line: &&String| line.starts_with(&format!("{customer}: "));
            let expected = (customer..30)
                .step_by(3)
                .map(|n| format!("{customer}: {n}"));
            let found: Vec<_> = lines.iter().filter(of_key).cloned().collect();
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
        app.stop();
    }
}

/// A manifest with one service that the test feeds.
fn manifest(service: &str, more: &str) -> String {
    format!(
        r#"
        [app]
        name = "keys"
        transport = "memory:"
        workers = 2
        [admin]
        listen = "off"
        [topics.entries]
        external = "in"
        [topics.done]
        external = "out"
        [services.witness]
        use = "{service}"
        in = "entries"
        out = "done"
        {more}
        "#
    )
}

fn catalog() -> Catalog {
    brickwork_actors::catalog()
        .with::<Witness<true>>()
        .with::<Witness<false>>()
        .with::<Puppet>()
}

#[test]
fn a_message_that_waits_for_its_retry_holds_its_key_alone() {
    virtually(async {
        let more = r#"
        key = "msg.act == '' ? 'healthy' : 'ill'"
        retry.backoff = { min = "1m", max = "1m", jitter = 0.0 }
        config.ledger = "holds"
        "#;
        let app = app::TestApp::start(&manifest("puppet", more), &catalog()).await;
        let mut done = app.probe("done").await;
        let began = Instant::now();
        let acts = ["fail", "", "emit", "", "emit"];
        for (n, act) in acts.iter().enumerate() {
            let order = json!({ "n": n, "act": act, "until": 1 });
            app.send("entries", order).await;
        }
        let mut seen = Vec::new();
        for _ in acts {
            let n = done.next_json().await["n"].as_u64().unwrap();
            seen.push((n, began.elapsed().as_secs()));
        }
        assert_eq!(seen, [(1, 0), (3, 0), (0, 60), (2, 60), (4, 60)]);
        let status = app.summary("witness");
        assert_eq!((status.ok, status.dead_letters), (5, 0));
        assert!(app.stop().await.is_clean());
        assert!(!ledger("holds").is_empty());
    });
}

/// Messages of other keys are taken past those that wait, up to a bound.
#[test]
fn a_key_that_stands_still_holds_a_bounded_number_of_messages() {
    for (behind, overtaken) in [(4_000, true), (4_300, false)] {
        virtually(async {
            let more = r#"
            key = "msg.act == '' ? 'healthy' : 'ill'"
            retry.backoff = { min = "1m", max = "1m", jitter = 0.0 }
            config.ledger = "bounded"
            "#;
            let app = app::TestApp::start(&manifest("puppet", more), &catalog()).await;
            let mut done = app.probe("done").await;
            let began = Instant::now();
            let first = json!({ "n": 0, "act": "fail", "until": 1 });
            app.send("entries", first).await;
            for n in 1..=behind {
                let order = json!({ "n": n, "act": "emit" });
                app.send("entries", order).await;
            }
            app.send("entries", json!({ "n": 9_999, "act": "" })).await;
            let first = done.next_json().await["n"].as_u64().unwrap();
            let expected = if overtaken { (9_999, 0) } else { (0, 60) };
            assert_eq!((first, began.elapsed().as_secs()), expected, "{behind}");
            app.idle().await;
            assert_eq!(app.summary("witness").ok, behind + 2);
            assert!(app.stop().await.is_clean());
        });
    }
}

/// Runs a witness with its messages, and returns the verdict of the checker.
async fn run(
    folder: &Path,
    manifest: &str,
    entries: &[Entry],
    during: impl AsyncFnOnce(),
) -> Result<String, String> {
    let app = app::TestApp::start_on(manifest, &catalog(), Workers::Threads).await;
    for entry in entries {
        app.publish(entry.message("entries")).await;
    }
    during().await;
    let mut checker = KeyChecker::new(&folder.join("ledger"));
    let began = Instant::now();
    while checker.follow() < entries.len() as u64 && checker.problems().is_empty() {
        if began.elapsed() > Duration::from_secs(300) {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let report = app.stop().await;
    assert!(!checker.problems().is_empty() || report.is_clean());
    checker.verdict(entries)
}

fn witness(folder: &Path, service: &str, attempts: u32, more: &str) -> String {
    let folder = folder.display();
    manifest(
        service,
        &format!(
            r#"
            instances = 8
            handler_timeout = "10s"
            retry = {{ attempts = {attempts}, backoff = {{ min = "1ms", max = "20ms" }} }}
            breaker.pause = {{ min = "10ms", max = "20ms" }}
            config.ledger = "{folder}/ledger"
            config.outage = "{folder}/outage"
            config.attempts = {attempts}
            {more}
            "#
        ),
    )
}

fn size() -> (u32, u32) {
    match std::env::var_os("BRICKWORK_FULL") {
        Some(_) => (100_000, 1_000),
        None => (4_000, 40),
    }
}

#[test]
fn no_message_of_a_key_is_overtaken_on_memory() {
    let seed = Seed::or(21);
    let (count, keys) = size();
    let entries = entries(count, keys, &mut seed.random());
    let folder = tempfile::tempdir().unwrap();
    let manifest = witness(folder.path(), "key-witness", 4, "config.trouble = true");
    let account = really(run(folder.path(), &manifest, &entries, async || {}));
    println!("{}", account.unwrap());
}

/// Counter-check: without a key the test above fails.
#[test]
fn without_a_key_messages_are_overtaken() {
    let entries = entries(4_000, 40, &mut Seed::or(22).random());
    let folder = tempfile::tempdir().unwrap();
    let manifest = witness(folder.path(), "blind-witness", 4, "config.trouble = true");
    let problems = really(run(folder.path(), &manifest, &entries, async || {})).unwrap_err();
    assert!(problems.contains("overtakes"), "{problems}");
}

#[test]
fn no_message_is_overtaken_when_the_circuit_breaker_opens_and_closes() {
    let entries = entries(2_000, 40, &mut Seed::or(23).random());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outage"), "").unwrap();
    let manifest = witness(folder.path(), "key-witness", 1_000, "");
    let (outage, ledger) = (folder.path().join("outage"), folder.path().join("ledger"));
    let account = really(run(folder.path(), &manifest, &entries, async || {
        // The breaker opens, and many probes fail.
        let lines = || std::fs::read_to_string(&ledger).map_or(0, |text| text.lines().count());
        while lines() < 200 {
            sleep(Duration::from_millis(20)).await;
        }
        std::fs::remove_file(&outage).unwrap();
    }));
    println!("{}", account.unwrap());
}
