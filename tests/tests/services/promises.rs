//! The promises on delivery and failure that hold on every transport, for an app in this process.

use std::time::Duration;

use brickwork::Catalog;
use brickwork_tests::app::{TestApp, really, virtually};
use brickwork_tests::puppet::{Puppet, count};
use serde_json::json;

fn catalog() -> Catalog {
    Catalog::new().with::<Puppet>()
}

/// Returns a manifest with one puppet, fed by the test.
fn manifest(name: &str, more: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        transport = "memory:"
        workers = 1
        [admin]
        listen = "off"
        [topics."orders"]
        external = "in"
        [topics."done"]
        external = "out"
        [services.puppet]
        in = "orders"
        out = "done"
        config.ledger = "{name}"
        {more}
        "#
    )
}

#[test]
fn a_panic_fails_one_message_and_queued_messages_survive() {
    for act in ["panic", "emit-panic", "await-panic", "bomb"] {
        virtually(async {
            let name = format!("one-message-{act}");
            let app = TestApp::start(&manifest(&name, ""), &catalog()).await;
            let mut done = app.probe("done").await;
            for n in 0..20 {
                let act = if n == 7 { act } else { "" };
                app.send("orders", json!({ "n": n, "act": act, "until": 1 }))
                    .await;
            }
            let mut seen = Vec::new();
            for _ in 0..20 {
                let message = done.next_json().await;
                seen.push((
                    message["n"].as_u64().unwrap(),
                    message["attempt"].as_u64().unwrap(),
                ));
            }
            // All others were handled in order; the failed one came again after its back-off.
            let others = (0..20).filter(|n| *n != 7).map(|n| (n, 1));
            assert_eq!(seen, others.chain([(7, 2)]).collect::<Vec<_>>(), "{act}");
            let row = app.summary("puppet");
            assert_eq!((row.panic, row.ok, row.restarts), (1, 20, 1), "{act}");
            assert_eq!(count(&name, "start"), 2, "the instance restarts once");
            assert!(app.stop().await.is_clean());
        });
    }
}

#[test]
fn a_panic_leaves_siblings_and_neighbours_alone() {
    virtually(async {
        let neighbour = r#"
            instances = 4
            [services.neighbour]
            use = "puppet"
            in = "orders"
            out = "done"
            config.ledger = "neighbour-of-panics"
        "#;
        let app = TestApp::start(&manifest("siblings", neighbour), &catalog()).await;
        let mut done = app.probe("done").await;
        for n in 0..50 {
            app.send(
                "orders",
                json!({ "n": n, "act": if n % 5 == 0 { "panic" } else { "" } }),
            )
            .await;
        }
        app.idle().await;
        let row = app.summary("puppet");
        // Ten poison messages with five attempts each: only they are dead-lettered.
        assert_eq!((row.ok, row.panic, row.dead_letters), (40, 50, 10));
        let row = app.summary("neighbour");
        assert_eq!((row.ok, row.panic, row.dead_letters), (40, 50, 10));
        assert_eq!(done.rest().await.len(), 80);
        let mut letters = app.dead_letters("puppet").await;
        for letter in letters.rest().await {
            assert_eq!(&*letter.headers["brickwork-reason"], "panic");
            assert_eq!(&*letter.headers["brickwork-attempt"], "5");
            assert!(letter.headers["brickwork-error"].contains("told to panic by"));
        }
    });
}

#[test]
fn a_panic_in_start_is_retried_with_back_off_while_messages_wait() {
    virtually(async {
        let name = "start-panics";
        let more = "config.panic_starts = 3\nconfig.fail_starts = 2";
        let app = TestApp::start(&manifest(name, more), &catalog()).await;
        let mut done = app.probe("done").await;
        app.send("orders", json!({ "n": 1 })).await;
        assert_eq!(done.next_json().await, json!({ "n": 1, "attempt": 1 }));
        assert_eq!(count(name, "start"), 6);
        assert_eq!(app.summary("puppet").restarts, 5);
    });
}

#[test]
fn a_panic_in_stop_or_drop_is_caught() {
    virtually(async {
        let name = "stop-drop";
        let more = "instances = 3\nconfig.panic_stop = true\nconfig.panic_drop = true";
        let app = TestApp::start(&manifest(name, more), &catalog()).await;
        let mut done = app.probe("done").await;
        // The instance that handles this order panics in its drop, and the service restarts.
        app.send("orders", json!({ "n": 1, "act": "panic", "until": 1 }))
            .await;
        assert_eq!(done.next_json().await["attempt"], 2);
        assert!(app.stop().await.is_clean());
        assert_eq!(
            (
                count(name, "start"),
                count(name, "stop"),
                count(name, "drop")
            ),
            (4, 3, 4)
        );
    });
}

#[test]
fn a_panic_in_a_tick_publishes_nothing_and_the_next_tick_comes() {
    virtually(async {
        let more = "config.tick_ms = 100\nconfig.panic_ticks = 2";
        let app = TestApp::start(&manifest("ticks", more), &catalog()).await;
        let mut done = app.probe("done").await;
        assert_eq!(done.next_json().await["n"], 1_000_000);
        assert_eq!(
            count("ticks", "tick"),
            3,
            "two panicked, the third was published"
        );
        app.send("orders", json!({ "n": 1 })).await;
        while done.next_json().await["n"] != 1 {}
        assert_eq!(app.summary("puppet").restarts, 2);
    });
}

#[test]
fn a_failed_attempt_publishes_nothing_and_the_retry_uses_the_same_ids() {
    virtually(async {
        let mut ids = Vec::new();
        for (name, act) in [("ids-fail", "emit-fail"), ("ids-none", "")] {
            let app = TestApp::start(&manifest(name, ""), &catalog()).await;
            let mut done = app.probe("done").await;
            let payload = json!({ "n": 1, "act": act, "until": 3 }).to_string();
            let mut envelope = brickwork::Envelope::new("test", payload);
            envelope.id = "order-1".parse().unwrap();
            envelope.topic = "orders".into();
            app.publish(envelope.into()).await;
            app.idle().await;
            let messages = done.rest().await;
            assert_eq!(messages.len(), 1, "failed attempts publish nothing");
            ids.push(messages[0].id.clone());
            assert_eq!(messages[0].parent.as_ref().unwrap().to_string(), "order-1");
            app.stop().await;
        }
        // The id is the same in another app, with or without failures.
        assert_eq!(ids[0], ids[1]);
        assert_eq!(
            ids[0],
            "order-1"
                .parse::<brickwork::MessageId>()
                .unwrap()
                .child("puppet", "out", 0)
        );
    });
}

#[test]
fn a_handler_past_its_deadline_is_cancelled_and_its_instance_restarted() {
    virtually(async {
        let more = "handler_timeout = \"2s\"\nretry.attempts = 2";
        let app = TestApp::start(&manifest("deadline", more), &catalog()).await;
        let mut done = app.probe("done").await;
        app.send("orders", json!({ "n": 1, "act": "forever" }))
            .await;
        app.send("orders", json!({ "n": 2 })).await;
        assert_eq!(done.next_json().await["n"], 2);
        app.idle().await;
        let row = app.summary("puppet");
        assert_eq!((row.timeout, row.dead_letters, row.restarts), (2, 1, 2));
        let letter = app.dead_letters("puppet").await.next().await;
        assert_eq!(&*letter.headers["brickwork-reason"], "timeout");
    });
}

#[test]
fn failures_set_their_retry_delay_and_deferring_costs_no_attempt() {
    virtually(async {
        let started = tokio::time::Instant::now();
        let app = TestApp::start(&manifest("when", "retry.attempts = 2"), &catalog()).await;
        let mut done = app.probe("done").await;
        app.send(
            "orders",
            json!({ "n": 1, "act": "after", "ms": 70_000, "until": 1 }),
        )
        .await;
        assert_eq!(done.next_json().await, json!({ "n": 1, "attempt": 2 }));
        assert!(started.elapsed() >= Duration::from_secs(70));
        app.send("orders", json!({ "n": 2, "act": "after", "ms": 1 }))
            .await;
        app.idle().await;
        assert_eq!(
            app.summary("puppet").dead_letters,
            1,
            "waiting as told counts"
        );
        app.send("orders", json!({ "n": 3, "act": "defer", "ms": 1_000 }))
            .await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let row = app.summary("puppet");
        assert!(row.defer > 50, "{row:?}");
        assert_eq!(row.dead_letters, 1, "deferring doesn't count");
    });
}

#[test]
fn a_rejected_message_is_dead_lettered_at_once_with_its_reason() {
    virtually(async {
        let app = TestApp::start(&manifest("rejects", ""), &catalog()).await;
        let sent = app.send("orders", json!({ "n": 1, "act": "reject" })).await;
        let letter = app.dead_letters("puppet").await.next().await;
        assert_eq!(letter.id, sent.id);
        assert_eq!(letter.payload, sent.payload);
        for (header, value) in [
            ("brickwork-reason", "reject"),
            ("brickwork-error", "told to reject 1"),
            ("brickwork-service", "puppet"),
            ("brickwork-input", "in"),
            ("brickwork-topic", "orders"),
            ("brickwork-attempt", "1"),
        ] {
            assert_eq!(&*letter.headers[header], value);
        }
    });
}

#[test]
fn malformed_messages_are_dead_lettered_with_a_readable_reason() {
    virtually(async {
        let mut manifest = manifest("wrong-messages", "");
        manifest = manifest.replace("workers = 1", "workers = 1\nmax_message = \"1KiB\"");
        let app = TestApp::start(&manifest, &catalog()).await;
        let mut done = app.probe("done").await;
        let mut letters = app.dead_letters("puppet").await;
        let deep = format!("{}{}", "[".repeat(400), "]".repeat(400));
        for (payload, reason) in [
            (
                "not json".to_owned(),
                "the payload is not a valid Order: expected ident at line 1",
            ),
            (
                r#"{"n":"one"}"#.to_owned(),
                "invalid type: string \"one\", expected u32",
            ),
            (String::new(), "the payload is empty, Order was expected"),
            (deep, "the payload is not a valid Order"),
            (
                format!(r#"{{"n":1,"act":"{}"}}"#, "x".repeat(2000)),
                "app.max_message allows 1024",
            ),
        ] {
            app.send_bytes("orders", payload).await;
            let letter = letters.next().await;
            let error = &letter.headers["brickwork-error"];
            assert!(error.contains(reason), "{error}");
            assert_eq!(&*letter.headers["brickwork-reason"], "reject");
        }
        app.send("orders", json!({ "n": 9 })).await;
        assert_eq!(done.next_json().await["n"], 9, "nothing else is disturbed");
    });
}

#[test]
fn a_paused_service_takes_no_messages_until_its_pause_ends() {
    virtually(async {
        let app = TestApp::start(&manifest("pauses", "instances = 2"), &catalog()).await;
        let mut done = app.probe("done").await;
        app.send("orders", json!({ "n": 1, "act": "pause", "ms": 60_000 }))
            .await;
        assert_eq!(done.next_json().await["n"], 1);
        let paused = tokio::time::Instant::now();
        app.send("orders", json!({ "n": 2 })).await;
        assert_eq!(done.next_json().await["n"], 2);
        assert!(
            paused.elapsed() >= Duration::from_secs(59),
            "{:?}",
            paused.elapsed()
        );
    });
}

#[test]
fn an_output_can_be_delayed() {
    virtually(async {
        let app = TestApp::start(&manifest("later", ""), &catalog()).await;
        let mut done = app.probe("done").await;
        let sent = tokio::time::Instant::now();
        app.send("orders", json!({ "n": 1, "act": "later", "ms": 3_600_000 }))
            .await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(
            app.summary("puppet").ok,
            1,
            "the handler is done long before"
        );
        assert_eq!(done.next_json().await["n"], 1);
        assert!(sent.elapsed() >= Duration::from_secs(3600));
    });
}

#[test]
fn a_cycle_of_services_does_not_deadlock() {
    virtually(async {
        // Each message circulates for ever, and the mailboxes are tiny.
        let more = r#"
            mailbox = 1
            [services.back]
            use = "puppet"
            in = "done"
            out = "orders"
            mailbox = 1
            config.ledger = "cycle-back"
        "#;
        let app = TestApp::start(&manifest("cycle", more), &catalog()).await;
        for n in 0..100 {
            app.send("orders", json!({ "n": n })).await;
        }
        // Virtual time stands still while a task can run: the test can't wait by the clock.
        while app.summary("puppet").ok < 5_000 {
            tokio::task::yield_now().await;
        }
        assert!(app.summary("back").ok >= 4_800);
    });
}

#[test]
fn a_service_that_feeds_itself_does_not_deadlock() {
    virtually(async {
        let manifest =
            manifest("self", "mailbox = 1").replace("out = \"done\"", "out = \"orders\"");
        let manifest = manifest.replace("[topics.\"done\"]\n        external = \"out\"", "");
        let app = TestApp::start(&manifest, &catalog()).await;
        // Each message produces two: without a limit on waiting, the cycle would deadlock at
        // once.
        app.send("orders", json!({ "n": 1, "act": "twice", "until": 99 }))
            .await;
        while app.summary("puppet").ok < 1_000 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn stopping_finishes_messages_in_flight_and_reports_the_rest() {
    virtually(async {
        let app = TestApp::start(&manifest("orderly", "mailbox = 4"), &catalog()).await;
        let mut done = app.probe("done").await;
        for n in 0..10 {
            app.send("orders", json!({ "n": n, "act": "sleep", "ms": 1_000 }))
                .await;
        }
        assert_eq!(done.next_json().await["n"], 0);
        let transport = app.transport().clone();
        let report = app.stop().await;
        drop(transport);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(
            report.left,
            [("puppet.in".to_owned(), 8)],
            "the message in flight is finished"
        );
        assert_eq!(count("orderly", "stop"), 1);
    });
}

#[test]
fn abandoned_messages_are_reported_even_if_their_thread_is_blocked() {
    really(async {
        let manifest = manifest("blocked", "");
        let manifest = manifest.replace("workers = 1", "workers = 1\nshutdown_timeout = \"200ms\"");
        let app = TestApp::start_on(&manifest, &catalog(), brickwork::Workers::Threads).await;
        let sent = app
            .send("orders", json!({ "n": 1, "act": "block", "ms": 5_000 }))
            .await;
        while count("blocked", "handle 1") == 0 {
            tokio::task::yield_now().await;
        }
        let started = std::time::Instant::now();
        let report = app.stop().await;
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "stopping doesn't wait for it"
        );
        assert_eq!(
            report.abandoned,
            [("puppet".to_owned(), sent.id.to_string())]
        );
        assert_eq!(report.stuck_threads, 1);
        assert_eq!(
            report.left,
            [("puppet.in".to_owned(), 1)],
            "it was requeued from outside"
        );
    });
}
