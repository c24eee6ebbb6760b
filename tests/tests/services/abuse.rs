//! Services that misbehave in their hooks or block their thread, and the effect on their
//! neighbours.

use std::time::{Duration, Instant};

use brickwork::{Catalog, Workers};
use brickwork_tests::app::{TestApp, really, virtually};
use brickwork_tests::http;
use brickwork_tests::puppet::{Puppet, count, ledger};
use serde_json::json;

fn catalog() -> Catalog {
    Catalog::new().with::<Puppet>()
}

/// Returns a manifest with a puppet that follows orders and a neighbour that only ticks, on one
/// thread.
fn manifest(name: &str, puppet: &str, neighbour: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        transport = "memory:"
        workers = 1
        shutdown_timeout = "2s"
        [admin]
        listen = "off"
        [topics.orders]
        external = "in"
        [topics.others]
        external = "in"
        [topics.done]
        external = "out"
        [topics.beats]
        external = "out"
        [services.puppet]
        in = "orders"
        out = "done"
        config.ledger = "{name}"
        {puppet}
        [services.neighbour]
        use = "puppet"
        in = "others"
        out = "beats"
        config.ledger = "{name}-neighbour"
        {neighbour}
        "#
    )
}

/// Waits in real time until the condition holds.
async fn until(event: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < give_up, "not within {within:?}: {event}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_panic_in_any_hook_and_in_its_recovery_harms_no_message_and_no_neighbour() {
    virtually(async {
        // The puppet panics in handle, in the two starts that should recover from that, then in
        // ticks, in stop and in every drop.
        let puppet = r#"
            config.panic_drop = true
            config.panic_stop = true
            config.tick_ms = 1000
            config.panic_ticks = 2
            config.good_starts = 1
            config.panic_starts = 2
        "#;
        let name = "every-hook";
        let app = TestApp::start(&manifest(name, puppet, ""), &catalog()).await;
        let mut done = app.probe("done").await;
        for n in 0..10 {
            let act = if n == 4 { "bomb" } else { "" };
            app.send("orders", json!({ "n": n, "act": act, "until": 2 }))
                .await;
            app.send("others", json!({ "n": n })).await;
        }
        let (mut seen, mut ticked) = (Vec::new(), false);
        while seen.len() < 10 || !ticked {
            match done.next_json().await["n"].as_u64().unwrap() {
                1_000_000 => ticked = true,
                n => seen.push(n),
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        let happened = ledger(name);
        println!("{happened:?}");
        let first = happened.iter().position(|line| line == "handle 4");
        let recovery = happened.split_at(first.unwrap()).1.iter();
        let recovery: Vec<&str> = recovery.map(String::as_str).take(5).collect();
        let expected = ["handle 4", "drop", "start", "start", "start"];
        assert_eq!(recovery, expected, "in the first panic's recovery");
        assert_eq!(count(name, "handle 4"), 3);
        assert!(count(name, "tick") >= 3, "after two that panicked");
        assert_eq!(app.summary("neighbour").ok, 10);
        assert_eq!(app.summary("neighbour").restarts, 0);
        assert!(app.app.gave_up().is_empty(), "{:?}", app.app.gave_up());
        assert!(app.stop().await.is_clean());
        assert_eq!(count(name, "stop"), 1);
    });
}

#[test]
fn a_start_that_fails_for_a_minute_isolates_the_service_and_loses_nothing() {
    virtually(async {
        let puppet = "config.fail_starts = 16";
        let name = "fails-a-minute";
        let app = TestApp::start(&manifest(name, puppet, ""), &catalog()).await;
        let mut done = app.probe("done").await;
        for n in 0..20 {
            app.send("orders", json!({ "n": n })).await;
        }
        // The neighbour works meanwhile.
        app.send("others", json!({ "n": 7 })).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(app.summary("neighbour").ok, 1);
        let reasons = app.app.not_ready();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        let expected = "service puppet is isolated: it failed 6 times within 10s, at last \
                        (start): told to fail in start";
        assert_eq!(reasons[0], expected);
        assert_eq!(app.app.gave_up(), ["puppet"]);
        let starts = count(name, "start");
        assert_eq!(starts, 6, "it isn't tried meanwhile");
        // The start is retried every half minute and succeeds in the end.
        for n in 0..20 {
            assert_eq!(done.next_json().await["n"], n, "in order");
        }
        assert_eq!(count(name, "start"), 17);
        assert!(app.app.not_ready().is_empty());
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn a_thousand_instances_that_fail_at_once_restart_and_lose_nothing() {
    virtually(async {
        let puppet = "instances = 1000\nmailbox = 1000";
        let name = "thousand";
        let app = TestApp::start(&manifest(name, puppet, ""), &catalog()).await;
        let mut done = app.probe("done").await;
        for n in 0..1_000 {
            let order = json!({ "n": n, "act": "await-panic", "until": 1 });
            app.send("orders", order).await;
        }
        app.idle().await;
        let row = app.summary("puppet");
        assert_eq!((row.panic, row.ok, row.dead_letters), (1_000, 1_000, 0));
        assert_eq!(row.restarts, 1_000);
        assert_eq!(done.rest().await.len(), 1_000);
        assert!(
            app.app.not_ready().is_empty(),
            "failures of messages are not counted"
        );
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn a_service_with_poison_messages_only_gives_them_up_and_the_healthy_ones_continue() {
    virtually(async {
        let name = "poison";
        let app = TestApp::start(&manifest(name, "", ""), &catalog()).await;
        for n in 0..12 {
            app.send("orders", json!({ "n": n, "act": "panic" })).await;
            app.send("others", json!({ "n": n })).await;
        }
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(app.summary("neighbour").ok, 12);
        assert!(app.app.not_ready().is_empty(), "the messages are to blame");
        app.send("others", json!({ "n": 13 })).await;
        let mut letters = app.dead_letters("puppet").await;
        for _ in 0..12 {
            let letter = letters.next().await;
            assert_eq!(&*letter.headers["brickwork-attempt"], "5");
        }
        assert!(app.app.gave_up().is_empty());
        assert_eq!(app.summary("neighbour").ok, 13);
        assert_eq!(app.summary("neighbour").restarts, 0);
    });
}

#[test]
fn a_temporary_service_that_gives_up_stays_down_and_blocks_no_other() {
    virtually(async {
        let puppet = "restart.policy = \"temporary\"\nconfig.fail_starts = 1";
        let name = "temporary";
        let app = TestApp::start(&manifest(name, puppet, ""), &catalog()).await;
        app.send("orders", json!({ "n": 1 })).await;
        app.send("others", json!({ "n": 1 })).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let reasons = app.app.not_ready();
        assert!(
            reasons[0].starts_with("service puppet is down for good"),
            "{reasons:?}"
        );
        assert_eq!(count(name, "start"), 1);
        // Messages of a service that is down for good do not keep the app from being idle.
        app.idle().await;
        assert_eq!(app.app.gave_up(), ["puppet"]);
        let report = app.stop().await;
        assert_eq!(report.left, [("puppet.in".to_owned(), 1)]);
    });
}

#[test]
fn a_handler_that_blocks_its_thread_only_delays_its_neighbours() {
    really(async {
        let puppet = "handler_timeout = \"1s\"\nretry.backoff.min = \"10ms\"";
        let name = "blocks";
        let neighbour = "config.tick_ms = 10";
        let manifest = manifest(name, puppet, neighbour);
        let app = TestApp::start_on(&manifest, &catalog(), Workers::Threads).await;
        let mut done = app.probe("done").await;
        let beats = || count(&format!("{name}-neighbour"), "tick");
        let patience = Duration::from_secs(60);
        until("it beats", patience, || beats() > 10).await;

        // Blocks for ten seconds, on the first attempt only.
        let blocked = Instant::now();
        app.send(
            "orders",
            json!({ "n": 1, "act": "block", "ms": 10_000, "until": 1 }),
        )
        .await;
        until("it is handled", patience, || count(name, "handle 1") == 1).await;
        let at_block = beats();
        // More ticks than could have been due before the thread was replaced.
        until("the neighbour beats on", patience, || {
            beats() > at_block + 50
        })
        .await;
        let paused = blocked.elapsed();
        assert!(
            paused < Duration::from_secs(8),
            "the neighbour went on after {paused:?}, not before the handler's end"
        );
        // The second attempt runs on the new thread while the first still blocks the old one.
        assert_eq!(done.next_json().await["attempt"], 2);
        assert!(blocked.elapsed() < Duration::from_secs(9));
        let row = app.summary("puppet");
        assert_eq!((row.timeout, row.ok, row.dead_letters), (1, 1, 0));

        // Results of the old thread are ignored.
        until("the old handler ends", patience, || {
            count(name, "drop") >= 1 && blocked.elapsed() > Duration::from_secs(10)
        })
        .await;
        assert!(done.within(Duration::from_millis(200)).await.is_none());
        let row = app.summary("puppet");
        assert_eq!((row.timeout, row.ok, row.emitted), (1, 1, 1));
        let report = app.stop().await;
        assert!(report.is_clean(), "{report:?}");
    });
}

#[test]
fn a_message_that_blocks_on_every_attempt_is_dead_lettered() {
    really(async {
        let puppet =
            "handler_timeout = \"1s\"\nretry = { attempts = 2, backoff = { min = \"10ms\" } }";
        let name = "blocks-always";
        let manifest = manifest(name, puppet, "");
        let app = TestApp::start_on(&manifest, &catalog(), Workers::Threads).await;
        let mut done = app.probe("done").await;
        app.send("orders", json!({ "n": 1, "act": "block", "ms": 6_000 }))
            .await;
        app.send("orders", json!({ "n": 2 })).await;
        assert_eq!(done.next_json().await["n"], 2, "others get through");
        let mut letters = app.dead_letters("puppet").await;
        let letter = letters.next().await;
        assert_eq!(&*letter.headers["brickwork-reason"], "timeout");
        assert_eq!(&*letter.headers["brickwork-attempt"], "2");
        app.stop().await;
    });
}

#[test]
fn too_many_blocked_threads_fail_the_app() {
    really(async {
        let puppet = "handler_timeout = \"1s\"\nretry = { attempts = 100, backoff = { min = \"1ms\", max = \"1ms\" } }";
        let manifest = manifest("too-many", puppet, "");
        let app = TestApp::start_on(&manifest, &catalog(), Workers::Threads).await;
        // Longer than the host needs to replace eight threads one after the other.
        app.send("orders", json!({ "n": 1, "act": "block", "ms": 25_000 }))
            .await;
        let why = tokio::time::timeout(Duration::from_secs(60), app.app.failed()).await;
        let why = why.expect("the app gives up");
        assert_eq!(
            why,
            "8 threads are blocked by handlers, the last one by puppet"
        );
        let report = app.stop().await;
        assert!(report.stuck_threads > 0, "{report:?}");
    });
}

#[test]
fn a_handler_that_never_ends_is_cancelled_and_blames_its_message_only() {
    virtually(async {
        let name = "never-ends";
        let app = TestApp::start(&manifest(name, "handler_timeout = \"5s\"", ""), &catalog()).await;
        let mut done = app.probe("done").await;
        app.send("orders", json!({ "n": 1, "act": "forever" }))
            .await;
        app.send("orders", json!({ "n": 2 })).await;
        assert_eq!(done.next_json().await["n"], 2);
        let mut letters = app.dead_letters("puppet").await;
        let letter = letters.next().await;
        assert_eq!(&*letter.headers["brickwork-reason"], "timeout");
        app.idle().await;
        let row = app.summary("puppet");
        assert_eq!((row.timeout, row.ok, row.dead_letters), (5, 1, 1));
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn a_start_that_blocks_its_thread_does_not_delay_the_others() {
    really(async {
        let puppet = "handler_timeout = \"1s\"\nconfig.block_start_ms = 6000";
        let name = "blocks-in-start";
        let manifest = manifest(name, puppet, "");
        let begun = Instant::now();
        let app = TestApp::start_on(&manifest, &catalog(), Workers::Threads).await;
        let mut beats = app.probe("beats").await;
        app.send("others", json!({ "n": 3 })).await;
        // The thread blocks repeatedly; each time the service continues on another one.
        assert_eq!(beats.next_json().await["n"], 3);
        assert!(
            begun.elapsed() < Duration::from_secs(6),
            "before the first start has ended"
        );
        // Blocking without a message in flight is the service's own failure.
        let expected = "service puppet is isolated: it blocked its thread 6 times within 10s";
        until("only it is isolated", Duration::from_secs(60), || {
            app.app.not_ready() == [expected]
        })
        .await;
        app.stop().await;
    });
}

#[test]
fn a_finished_source_does_not_restart_when_its_thread_is_replaced() {
    really(async {
        let name = "ended-source";
        let folder = tempfile::tempdir().unwrap();
        let lines = folder.path().join("lines.jsonl");
        std::fs::write(&lines, "{\"n\":1}\n{\"n\":2}\n").unwrap();
        let source = format!(
            "handler_timeout = \"1s\"\nretry.backoff.min = \"10ms\"\n\
             [services.lines]\nuse = \"file-in\"\nout = \"others\"\nconfig.path = {lines:?}"
        );
        let catalog = brickwork_actors::catalog().with::<Puppet>();
        let manifest =
            manifest(name, "", &source).replace("[topics.others]\n        external = \"in\"", "");
        let app = TestApp::start_on(&manifest, &catalog, Workers::Threads).await;
        // After the last line was handled, the source checks for further lines once more before
        // it ends.
        let idle = tokio::time::timeout(Duration::from_secs(60), app.idle());
        idle.await.expect("the source ends");
        assert_eq!(app.summary("neighbour").ok, 2);
        // The neighbour blocks the thread that all services share.
        let mut beats = app.probe("beats").await;
        app.send(
            "others",
            json!({ "n": 9, "act": "block", "ms": 3000, "until": 1 }),
        )
        .await;
        // Results of the lines may still be in flight.
        let again = loop {
            let beat = beats.next_json().await;
            if beat["n"] == 9 {
                break beat;
            }
        };
        assert_eq!(again["attempt"], 2);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(app.summary("lines").emitted, 2, "not sent again");
        assert!(app.app.not_ready().is_empty(), "{:?}", app.app.not_ready());
        app.stop().await;
    });
}

#[test]
fn http_in_keeps_its_port_when_its_thread_is_replaced() {
    really(async {
        let name = "door";
        let address = brickwork_tests::process::free_address();
        let source = format!(
            "[services.door]\nuse = \"http-in\"\nout = \"others\"\nconfig.listen = \"{address}\""
        );
        let catalog = brickwork_actors::catalog().with::<Puppet>();
        let puppet = "handler_timeout = \"1s\"\nretry.backoff.min = \"10ms\"";
        let manifest = manifest(name, puppet, &source)
            .replace("[topics.others]\n        external = \"in\"", "");
        let app = TestApp::start_on(&manifest, &catalog, Workers::Threads).await;
        let mut beats = app.probe("beats").await;
        let post = move || {
            let headers = [("content-type", "application/json")];
            http::post(address, "/", &headers, b"{\"n\":5}").map(|answer| answer.code)
        };
        let status = tokio::task::spawn_blocking(post).await.unwrap().unwrap();
        assert_eq!(status, 202);
        assert_eq!(beats.next_json().await["n"], 5);

        let blocked = Instant::now();
        app.send(
            "orders",
            json!({ "n": 1, "act": "block", "ms": 15_000, "until": 1 }),
        )
        .await;
        until("it is handled", Duration::from_secs(60), || {
            count(name, "handle 1") == 2
        })
        .await;
        // The blocked thread still holds its listener; the restarted service has the port.
        let mut status = None;
        while status != Some(202) {
            assert!(
                blocked.elapsed() < Duration::from_secs(14),
                "last answer: {status:?}"
            );
            status = tokio::task::spawn_blocking(post).await.unwrap().ok();
        }
        assert_eq!(beats.next_json().await["n"], 5);
        app.stop().await;
    });
}
