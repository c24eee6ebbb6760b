//! Stopping while something goes wrong: it ends in time, tells what it leaves, and starts
//! nothing again.

use std::time::{Duration, Instant};

use brickwork::{Catalog, Workers};
use brickwork_tests::app::{TestApp, really};
use brickwork_tests::puppet::{Puppet, count};
use serde_json::json;

fn catalog() -> Catalog {
    Catalog::new().with::<Puppet>()
}

/// A puppet and a neighbour, on one thread.
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

/// Waits, in real time, until a ledger has a line.
async fn until(ledger: &str, line: &str) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while count(ledger, line) == 0 {
        assert!(Instant::now() < give_up, "{ledger} never had {line}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn what_was_in_hand_on_a_thread_that_is_given_up_during_the_stop_is_named() {
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
fn what_was_not_done_in_time_is_named_also_when_a_stop_blocks_its_thread() {
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
