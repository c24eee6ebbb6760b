//! `throttle`: passes messages on at the rate of a limit.
//!
//! The limit is `[limits.NAME]` of the manifest, so several services can share it.

use std::time::Duration;

use brickwork::Limit;
use brickwork::config::{HumanDuration, LimitName};
use brickwork::prelude::*;

use crate::ports::current_message;

/// Maximum of `wait`.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Passes messages on, unchanged, when their limit lets them.
#[derive(Debug)]
pub struct Throttle {
    limit: Limit,
    wait: Duration,
}

/// Config of `throttle`.
#[config]
pub struct ThrottleConfig {
    /// Name of a limit of the manifest, `[limits.NAME]`.
    pub limit: LimitName,
    /// How long a message waits for its turn while the service holds it; at most half of the
    /// handler timeout. If its turn is later, the message waits outside of the service, for no
    /// attempt. By default 5s, and 0s if the limit has a key: a message that is held holds up
    /// those of other keys.
    pub wait: Option<HumanDuration>,
}

#[service(
    summary = "passes messages on at the rate of a limit",
    example = r#"[limits.chat]
rate = 1
per = "1s"
burst = 3

[services.slowly]
use = "throttle"
in = "alerts"
out = "alerts.slow"
config.limit = "chat"
"#,
    failures = [
        "defers a message whose turn is later than `wait`: it costs no attempt, and keeps its place among the messages of its key",
        "dead-letters a message without a key, if the limit has a key",
        "defers messages of new keys, while the limit has no room for more keys",
    ]
)]
impl Throttle {
    fn check(config: &ThrottleConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if config.limit.is_empty() {
            let text = "it is missing: name a limit of the manifest, [limits.NAME]";
            errors.push(ConfigError::new("limit", text));
        }
        if config.wait.is_some_and(|wait| wait.0 > WAIT_MAX) {
            errors.push(ConfigError::new("wait", "it is at most 1h"));
        }
        crate::config_errors::result(errors)
    }

    fn start(config: &ThrottleConfig, cx: &Context) -> Result<Self> {
        let limit = cx.limit(&config.limit)?;
        let wait = match config.wait {
            Some(wait) => wait.0,
            None if limit.has_key() => Duration::ZERO,
            None => Duration::from_secs(5),
        };
        Ok(Self { limit, wait })
    }

    #[input("in")]
    async fn pass(&mut self, raw: Raw, cx: &Context, out: Out<Raw>) -> Result {
        let (message, _) = current_message(cx);
        let wait_max = cx
            .remaining()
            .map_or(self.wait, |left| self.wait.min(left / 2));
        self.limit.pass(message, wait_max).await?;
        out.emit(raw)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use brickwork::testing::{Setup, TestApp};
    use serde_json::{Value, json};

    use super::*;

    const VALUES: Input<Value> = Input::new("in");
    const PASSED: Output<Value> = Output::new("out");

    fn throttle(config: Value, limit: &str) -> TestApp {
        let config = serde_json::from_value(config).unwrap();
        Setup::of::<Throttle>(config).with(limit).start()
    }

    /// Seconds between two times of the app.
    fn seconds(app: &TestApp, since: SystemTime) -> f64 {
        app.now().duration_since(since).unwrap().as_secs_f64()
    }

    #[test]
    fn messages_pass_in_order_at_the_rate_of_the_limit() {
        let app = throttle(
            json!({"limit": "slow"}),
            "[limits.slow]\nrate = 2\nper = \"1s\"\nburst = 3",
        );
        for n in 0..13 {
            app.send(&VALUES, json!(n));
        }
        let began = app.now();
        for n in 0..13 {
            assert_eq!(app.expect(&PASSED), json!(n));
        }
        // Three at once, ten more at two a second.
        let took = seconds(&app, began);
        assert!((4.5..5.5).contains(&took), "{took}");
        app.stop();
    }

    #[test]
    fn a_message_that_waits_for_long_costs_no_attempt_and_keeps_its_place() {
        let app = throttle(
            json!({"limit": "hourly"}),
            "[limits.hourly]\nrate = 1\nper = \"30m\"\nburst = 1\n\
             [services.throttle]\nretry.attempts = 1",
        );
        for n in 0..4 {
            app.send(&VALUES, json!(n));
        }
        let began = app.now();
        let passed: Vec<Value> = (0..4).map(|_| app.expect(&PASSED)).collect();
        assert_eq!(passed, [0, 1, 2, 3]);
        let took = seconds(&app, began);
        assert!((5_395.0..5_500.0).contains(&took), "{took}");
        app.expect_nothing(&PASSED);
        app.stop();
    }

    #[test]
    fn each_key_has_a_rate_of_its_own_and_none_holds_up_another() {
        let app = Setup::of_manifest(
            r#"
            [app]
            name = "keyed"
            [limits.customer]
            rate = 1
            per = "10s"
            burst = 1
            key = "msg.c"
            [services.fair]
            use = "throttle"
            in = "in"
            out = "out"
            config.limit = "customer"
            [topics]
            in.external = "in"
            out.external = "out"
            "#,
            crate::catalog(),
        )
        .start();
        for n in 0..5 {
            app.send(&VALUES, json!({"c": "busy", "n": n}));
        }
        app.send(&VALUES, json!({"c": "quiet", "n": 9}));
        app.send(&VALUES, json!({"n": 1}));
        let began = app.now();
        assert_eq!(app.expect(&PASSED)["n"], 0);
        assert_eq!(app.expect(&PASSED)["n"], 9);
        assert!(seconds(&app, began) < 1.0);
        for n in 1..5 {
            assert_eq!(app.expect(&PASSED)["n"], n);
        }
        let took = seconds(&app, began);
        assert!((39.0..42.0).contains(&took), "{took}");
        let letter = app.expect_dead_letter();
        let error = &letter.dead_letter.error;
        assert!(error.contains("no key for the limit `customer`"), "{error}");
        app.stop();
    }

    #[test]
    fn services_share_a_limit() {
        let app = Setup::of_manifest(
            r#"
            [app]
            name = "share"
            [limits.both]
            rate = 1
            per = "10s"
            burst = 2
            [services.a]
            use = "throttle"
            in = "a"
            out = "x"
            config = { limit = "both", wait = "14s" }
            [services.b]
            use = "throttle"
            in = "b"
            out = "x"
            config = { limit = "both", wait = "14s" }
            [topics]
            a.external = "in"
            b.external = "in"
            x.external = "out"
            "#,
            crate::catalog(),
        )
        .start();
        let began = app.now();
        for topic in ["a", "b", "a", "b"] {
            app.send(topic, json!(topic));
        }
        for _ in 0..4 {
            app.expect("x");
        }
        let took = seconds(&app, began);
        assert!((19.5..21.0).contains(&took), "{took}");
        app.stop();
    }

    #[test]
    fn a_wrong_config_is_refused() {
        for (wrong, path) in [
            (json!({}), "limit"),
            (json!({"limit": "a", "wait": "2h"}), "wait"),
        ] {
            let config = serde_json::from_value(wrong).unwrap();
            assert_eq!(Throttle::check(&config).unwrap_err()[0].path, path);
        }
    }
}
