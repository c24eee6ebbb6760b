//! Autoscaling follows the load: up quickly, down slowly, without flapping.

use std::time::Duration;

use brickwork::Catalog;
use brickwork_tests::app::{TestApp, virtually};
use brickwork_tests::puppet::{Puppet, count};
use serde_json::json;

/// Time that the handler needs for a message.
const WORK_MS: u64 = 100;

fn manifest(name: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        transport = "memory:"
        [admin]
        listen = "off"
        [topics.orders]
        external = "in"
        [topics.done]
        external = "out"
        [services.puppet]
        in = "orders"
        out = "done"
        instances = {{ min = 1, max = 64 }}
        config.ledger = "{name}"
        "#
    )
}

/// Counts the live instances.
fn live(name: &str) -> usize {
    count(name, "start") - count(name, "drop")
}

/// Sends enough load for `busy` instances, in steps of 100 ms. Returns how many instances lived
/// after each step.
async fn load(app: &TestApp, name: &str, steps: usize, busy: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut seen = Vec::new();
    let mut due = 0.0;
    for step in 0..steps {
        // Spread over the step, as real callers are.
        for _ in 0..10 {
            due += busy(step) / 10.0;
            while due >= 1.0 {
                due -= 1.0;
                app.send("orders", json!({ "act": "sleep", "ms": WORK_MS }))
                    .await;
            }
            tokio::time::sleep(Duration::from_millis(WORK_MS / 10)).await;
        }
        seen.push(live(name));
    }
    seen
}

#[test]
fn instances_follow_doubled_and_halved_load_within_a_second_and_lose_nothing() {
    virtually(async {
        let name = "elastic";
        let app = TestApp::start(&manifest(name), &Catalog::new().with::<Puppet>()).await;
        assert_eq!(live(name), 1);
        let first = load(&app, name, 100, |_| 8.0).await;
        let before = *first.last().unwrap();
        assert!((8..=16).contains(&before), "{first:?}");

        let doubled = load(&app, name, 200, |_| 16.0).await;
        assert!(
            doubled[..11].iter().any(|n| *n >= 16),
            "within a second: {doubled:?}"
        );
        let settled = &doubled[100..];
        assert!(
            settled.iter().all(|n| *n == settled[0]),
            "settled: {settled:?}"
        );

        let halved = load(&app, name, 400, |_| 8.0).await;
        let settled = &halved[300..];
        assert!(
            settled.iter().all(|n| *n == settled[0]),
            "settled: {settled:?}"
        );
        assert!((8..=16).contains(&settled[0]), "{settled:?}");
        assert!(
            halved.windows(2).all(|pair| pair[1] <= pair[0]),
            "down only: {halved:?}"
        );

        app.idle().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(live(name), 1, "with nothing to do, the least number");
        let row = app.summary("puppet");
        // 8 messages per step, then 16, then 8.
        assert_eq!((row.ok, row.restarts), (100 * 8 + 200 * 16 + 400 * 8, 0));
        assert!(app.stop().await.is_clean());
        assert_eq!(live(name), 0);
    });
}

#[test]
fn ten_minutes_of_noisy_load_cause_no_flapping() {
    virtually(async {
        let name = "noisy";
        let app = TestApp::start(&manifest(name), &Catalog::new().with::<Puppet>()).await;
        let mut random = fastrand::Rng::with_seed(5);
        let noise: Vec<f64> = (0..6_300).map(|_| 7.0 + 6.0 * random.f64()).collect();
        load(&app, name, 300, |step| noise[step]).await;
        let seen = load(&app, name, 6_000, |step| noise[300 + step]).await;
        let changes = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 6, "{changes} changes in ten minutes");
        app.idle().await;
        assert_eq!(app.summary("puppet").restarts, 0);
        app.stop().await;
    });
}

#[test]
fn an_elastic_service_that_is_restarted_under_load_loses_nothing() {
    virtually(async {
        let name = "elastic-restarts";
        let group = format!(
            r#"
            [groups.both]
            services = ["puppet", "trigger"]
            max_restarts = 1000
            [services.trigger]
            use = "puppet"
            in = "orders"
            out = "done"
            config = {{ ledger = "{name}-trigger", tick_ms = 700, panic_ticks = 40 }}
            restart = {{ max_restarts = 0, on_give_up = "escalate", backoff = {{ min = "1ms", max = "1ms" }} }}
            "#
        );
        let manifest = manifest(name) + &group;
        let app = TestApp::start(&manifest, &Catalog::new().with::<Puppet>()).await;
        // A whole number of messages in every step, so nothing is rounded.
        load(&app, name, 300, |step| 10.0 * (step % 5) as f64).await;
        app.idle().await;
        let sent: usize = (0..300).map(|step| 10 * (step % 5)).sum();
        let row = app.summary("puppet");
        assert!(row.restarts >= 40, "{row:?}");
        assert_eq!((row.ok, row.dead_letters), (sent as u64, 0));
        assert_eq!(
            count(name, "stop"),
            count(name, "start") - live(name),
            "each had its stop"
        );
        assert!(app.stop().await.is_clean());
        assert_eq!(live(name), 0);
    });
}
