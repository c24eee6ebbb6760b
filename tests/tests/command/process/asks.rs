//! Requests that a child sends while it handles a message, and answers that delay a message.

use super::*;

/// Returns a manifest with a child that may ask another child for prices.
fn asking(more: &str, pricing: &str) -> String {
    let script = script();
    let script = script.display();
    format!(
        r#"
        [app]
        name = "asking"
        transport = "memory:"
        shutdown_timeout = "5s"
        [admin]
        listen = "off"
        [topics."acts"]
        external = "in"
        [topics."done"]
        external = "out"
        [services.child]
        use = "process"
        in = "acts"
        out = {{ out = "done", price = "prices" }}
        retry = {{ attempts = 3, backoff = {{ min = "10ms", max = "10ms" }} }}
        {more}
        [services.child.config]
        command = ["node", "{script}"]
        asks = ["price"]
        [services.pricing]
        use = "process"
        in = "prices"
        retry = {{ attempts = 1 }}
        {pricing}
        [services.pricing.config]
        command = ["node", "{script}"]
        outputs = []
        "#
    )
}

async fn start_asking(more: &str, pricing: &str) -> (TestApp, Probe) {
    let app = TestApp::start(&asking(more, pricing), &brickwork_actors::catalog()).await;
    let done = app.probe("done").await;
    (app, done)
}

/// A message on which the child sends this request.
fn ask(n: u64, request: &Value) -> Value {
    json!({"act": "ask", "n": n, "ask": request})
}

#[test]
fn a_child_asks_another_service_and_gets_the_reply_or_the_error() {
    really(async {
        let (app, mut done) = start_asking("", "").await;
        let request = json!({"act": "reply", "reply": {"price": 5}});
        app.send("acts", ask(1, &request)).await;
        let told = next_json(&mut done).await;
        assert_eq!(told, json!({"n": 1, "reply": {"price": 5}}));
        // The service dead-letters the request.
        app.send("acts", ask(2, &json!({"act": "reject"}))).await;
        let told = next_json(&mut done).await;
        let error = told["error"].as_str().expect("an error");
        assert!(told["n"] == 2 && error.contains("never"), "{told}");
        // Many requests of many messages at once, each with the reply that belongs to it.
        for n in 0..40 {
            app.send("acts", json!({"act": "ask_many", "n": n, "count": 16}))
                .await;
        }
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let told = next_json(&mut done).await;
            let n = told["n"].as_u64().expect("a number");
            let expected: Vec<u64> = (0..16).map(|ask| n * 100 + ask).collect();
            assert_eq!(told["replies"], json!(expected));
            assert!(seen.insert(n));
        }
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn a_request_without_a_reply_ends_in_time_for_the_child_to_answer() {
    really(async {
        let (app, mut done) = start_asking("handler_timeout = '2s'", "").await;
        let mut letters = app.dead_letters("child").await;
        for n in 0..3 {
            app.send("acts", ask(n, &json!({"act": "never"}))).await;
        }
        for _ in 0..3 {
            let told = next_json(&mut done).await;
            assert_eq!(told["error"], "no reply in time", "{told}");
        }
        assert!(letters.rest().await.is_empty());
        assert_eq!(app.summary("child").restarts, 0);
        app.stop().await;
    });
}

#[test]
fn a_child_that_dies_while_it_asks_harms_only_the_message_that_killed_it() {
    really(async {
        let (app, mut done) = start_asking("", "").await;
        let mut letters = app.dead_letters("child").await;
        let culprit = app.send("acts", json!({"act": "ask_exit"})).await;
        for n in 0..20 {
            let request = json!({"act": "reply", "ms": 20, "reply": n});
            app.send("acts", ask(n, &request)).await;
        }
        all(&mut done, 20).await;
        let letter = next(&mut letters).await;
        assert_eq!(letter.id, culprit.id);
        assert!(letters.rest().await.is_empty());
        app.stop().await;
    });
}

#[test]
fn requests_that_break_the_protocol_are_the_only_dead_letters() {
    let cases = [
        (
            json!({"act": "ask_port"}),
            "\"elsewhere\", which is not one of its asks (price)",
        ),
        (
            json!({"act": "ask_flood"}),
            "16 requests without a reply for one message",
        ),
        (
            json!({"act": "ask_same"}),
            "before the reply to another one with this id",
        ),
        (
            json!({"act": "ask_stranger"}),
            "asked while it handles \"nobody\", which is not in flight",
        ),
        (json!({"act": "ask_half"}), "without port and msg"),
    ];
    for (act, text) in cases {
        really(async {
            let (app, mut done) = start_asking("", "").await;
            let mut letters = app.dead_letters("child").await;
            let culprit = app.send("acts", act.clone()).await;
            for n in 0..10 {
                app.send("acts", json!({"act": "wait", "ms": 20, "n": n}))
                    .await;
            }
            all(&mut done, 10).await;
            let letter = next(&mut letters).await;
            assert_eq!(letter.id, culprit.id, "{act}");
            let error = &letter.headers["brickwork-error"];
            assert!(error.contains(text), "{act}: {error}");
            assert!(letters.rest().await.is_empty(), "{act}");
            app.stop().await;
        });
    }
}

#[test]
fn a_deferred_message_loses_no_attempt_and_a_delayed_one_does() {
    really(async {
        let (app, mut done) = start("", "").await;
        let mut letters = app.dead_letters("child").await;
        // Deferred more often than there are attempts.
        app.send("acts", json!({"act": "defer", "times": 5, "n": 1}))
            .await;
        assert_eq!(next_json(&mut done).await, json!({"n": 1, "attempt": 1}));
        let sent = app.send("acts", json!({"act": "after"})).await;
        let letter = next(&mut letters).await;
        assert_eq!(letter.id, sent.id);
        assert_eq!(&*letter.headers["brickwork-attempt"], "3");
        assert_eq!(&*letter.headers["brickwork-error"], "slow down");
        app.stop().await;
    });
}
