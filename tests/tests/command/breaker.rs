//! An open circuit breaker is seen wherever operators look.

use std::time::Duration;

use brickwork_tests::http;
use brickwork_tests::parts::{self, LINES};
use brickwork_tests::process::{free_address, until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_open_breaker_is_seen_in_readiness_metrics_state_page_and_log() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let admin = free_address();
    let manifest = format!(
        r#"
        [app]
        name = "open"
        transport = "memory:"
        [admin]
        listen = "{admin}"
        {LINES}
        [services.weather]
        use = "chaos"
        in = "lines"
        out = "done"
        breaker.min_messages = 5
        config.fail = 1.0
        [topics.done]
        external = "out"
        "#
    );
    parts::write(folder.path(), &manifest, parts::numbers(30));
    let process = parts::run(folder.path(), folder.path(), &[]);
    let get = |path: &str| http::get(admin, path).map_err(|error| error.to_string());
    until("it is not ready", PATIENCE, || {
        let answer = get("/health/ready")?;
        let reason = "service weather takes no messages, its circuit breaker is open since 20";
        match answer.code == 503 && answer.body.contains(reason) {
            true => Ok(()),
            false => Err(answer.body),
        }
    });
    until("the metric says so", PATIENCE, || {
        let metrics = get("/metrics")?.body;
        let open = "brickwork_breaker_state{service=\"weather\"} 1\n";
        match metrics.contains(open) {
            true => Ok(()),
            false => Err(metrics),
        }
    });
    let app = get("/api/app").expect("it answers").json();
    let services = app["services"].as_array().expect("services");
    let weather = services.iter().find(|row| row["service"] == "weather");
    let weather = weather.expect("it is in the manifest");
    assert_eq!(weather["state"], "breaker open", "{weather}");
    let breaker = &weather["breaker"];
    assert_eq!(breaker["why"], "chaos: failed on purpose", "{breaker}");
    let page = get("/").expect("it answers").body;
    assert!(page.contains(">breaker open</td>"), "{page}");
    let log = until("a probe has failed", PATIENCE, || {
        let log = process.stderr();
        match log.contains("circuit breaker stays open") {
            true => Ok(log),
            false => Err(log),
        }
    });
    process.stop();
    assert!(!log.contains("half-open"), "one line for each probe: {log}");
    let opened = log.matches("circuit breaker opened").count();
    assert_eq!(opened, 1, "{log}");
    assert!(
        log.contains("service=weather failures=5 of=5 pause=1s"),
        "{log}"
    );
}
