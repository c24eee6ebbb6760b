//! `delay`: passes each message on later.
//!
//! The transport keeps a message that waits. If it is durable, the delay survives a restart.

use std::time::{Duration, SystemTime};

use brickwork::config::{HumanDuration, parse_duration};
use brickwork::prelude::*;
use chrono::DateTime;
use serde_json::Value;

use crate::expression::{Expression, Scope};
use crate::ports::current_message;

/// Maximum of `max`.
const MAX: Duration = Duration::from_secs(365 * 86_400);
/// Numbers from here on are milliseconds since 1970; below, seconds.
const MILLISECONDS_FROM: f64 = 1e11;

/// Passes each message on, unchanged, after a time or at a time.
#[derive(Debug)]
pub struct Delay {
    wait: Wait,
    max: Duration,
}

/// Config of `delay`: one of `for`, `by` and `until`.
#[config]
pub struct DelayConfig {
    /// The delay of every message, counted from when it is handled.
    #[serde(rename = "for")]
    pub fixed: Option<HumanDuration>,
    /// An expression over `msg` and `meta` for the delay: a text such as `'5m'`, a duration, or a
    /// number of seconds.
    pub by: Option<Expression>,
    /// An expression over `msg` and `meta` for the time at which the message is passed on: a text
    /// such as `'2026-12-01T09:00:00Z'`, a timestamp, or a number of seconds or milliseconds since
    /// 1970. A time in the past passes the message on at once.
    pub until: Option<Expression>,
    /// Maximum delay; at most 365d. A message with a longer one is dead-lettered.
    #[default(HumanDuration(Duration::from_secs(30 * 86_400)))]
    pub max: HumanDuration,
}

#[derive(Debug)]
enum Wait {
    Fixed(Duration),
    By(Expression),
    Until(Expression),
}

impl Wait {
    fn new(config: &DelayConfig) -> Option<Self> {
        match (config.fixed, &config.by, &config.until) {
            (Some(fixed), None, None) => Some(Self::Fixed(fixed.0)),
            (None, Some(by), None) => Some(Self::By(by.clone())),
            (None, None, Some(until)) => Some(Self::Until(until.clone())),
            _ => None,
        }
    }

    /// The delay of a message.
    fn of(&self, scope: &mut Scope<'_>, now: SystemTime) -> Result<Duration, Failure> {
        let mut value = |expression: &Expression| {
            let json = expression.json(scope)?;
            Ok::<Value, Failure>(serde_json::from_str(&json)?)
        };
        let (expression, delay) = match self {
            Self::Fixed(delay) => return Ok(*delay),
            Self::By(by) => (by, duration_of(&value(by)?)),
            Self::Until(until) => (until, time_until(&value(until)?, now)),
        };
        delay.map_err(|text| {
            Failure::reject(format!("the value of {:?} {text}", expression.source()))
        })
    }
}

/// Reads a delay.
fn duration_of(value: &Value) -> Result<Duration, String> {
    let wrong =
        || "is no delay: a text such as '5m' or a number of seconds was expected".to_owned();
    let seconds = |seconds: f64| match seconds < 0.0 {
        true => Err("is a negative delay".to_owned()),
        false => Duration::try_from_secs_f64(seconds).map_err(|_| wrong()),
    };
    match value {
        Value::Number(number) => seconds(number.as_f64().ok_or_else(wrong)?),
        Value::String(text) => match text.strip_suffix('s').map(str::parse::<f64>) {
            // The form of durations of expressions.
            Some(Ok(number)) => seconds(number),
            _ => parse_duration(text).map_err(|_| wrong()),
        },
        _ => Err(wrong()),
    }
}

/// Reads a time, and returns how far it is from now; zero if it is over.
fn time_until(value: &Value, now: SystemTime) -> Result<Duration, String> {
    let wrong = || {
        "is no time: a text such as '2026-12-01T09:00:00Z' or a number of seconds since 1970 was \
         expected"
            .to_owned()
    };
    let ms = match value {
        Value::Number(number) => {
            let number = number.as_f64().ok_or_else(wrong)?;
            if number >= MILLISECONDS_FROM {
                number
            } else {
                number * 1000.0
            }
        }
        Value::String(text) => {
            let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
            time.timestamp_millis() as f64
        }
        _ => return Err(wrong()),
    };
    let now_ms = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_millis() as f64);
    Duration::try_from_secs_f64(((ms - now_ms) / 1000.0).max(0.0)).map_err(|_| wrong())
}

#[service(
    summary = "passes each message on after a time, or at a time",
    example = r#"[services.remind]
use = "delay"
in = "invoices.sent"
out = "invoices.due"
config.until = "msg.due"
"#,
    failures = [
        "dead-letters a message on which an expression takes too many steps or too much memory",
        "dead-letters a message whose payload is not JSON, if an expression uses msg",
        "dead-letters a message whose delay or time can't be read, or is beyond `max`",
    ]
)]
impl Delay {
    fn check(config: &DelayConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if Wait::new(config).is_none() {
            let text = "it needs exactly one of for, by and until";
            errors.push(ConfigError::new("", text));
        }
        if config.max.0 > MAX {
            errors.push(ConfigError::new("max", "it is at most 365d"));
        }
        if config.fixed.is_some_and(|fixed| fixed > config.max) {
            let text = format!("it is longer than max, which is {}", config.max);
            errors.push(ConfigError::new("for", text));
        }
        crate::config_errors::result(errors)
    }

    fn start(config: &DelayConfig) -> Result<Self> {
        let wait = Wait::new(config);
        Ok(Self {
            wait: wait.ok_or_else(|| Failure::reject("there is no delay"))?,
            max: config.max.0,
        })
    }

    #[input("in")]
    fn pass(&mut self, raw: Raw, cx: &Context, out: Out<Raw>) -> Result {
        let (message, attempt) = current_message(cx);
        let delay = self.wait.of(&mut Scope::new(message, attempt), cx.now())?;
        if delay > self.max {
            return Err(Failure::reject(format!(
                "the delay of {} is longer than `max`, which is {}",
                HumanDuration(delay),
                HumanDuration(self.max)
            )));
        }
        out.emit_after(raw, delay)
    }
}

#[cfg(test)]
mod tests {
    use brickwork::testing::TestApp;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const VALUES: Input<Value> = Input::new("in");
    const LATER: Output<Value> = Output::new("out");

    fn config(config: Value) -> DelayConfig {
        serde_json::from_value(config).unwrap()
    }

    /// Sends values and expects each after its delay, in seconds.
    fn check(delay: Value, cases: &[(Value, f64)]) {
        let app = TestApp::of::<Delay>(config(delay));
        for (value, expected) in cases {
            let began = app.now();
            app.send(&VALUES, value.clone());
            assert_eq!(app.expect(&LATER), *value);
            let took = app.now().duration_since(began).unwrap().as_secs_f64();
            assert!((took - expected).abs() < 0.5, "{value}: {took}");
        }
        app.stop();
    }

    #[test]
    fn a_message_is_passed_on_after_its_delay() {
        check(json!({"for": "90s"}), &[(json!(1), 90.0)]);
        let cases = [
            (json!({"d": "5m"}), 300.0),
            (json!({"d": 2.5}), 2.5),
            (json!({"d": 0}), 0.0),
        ];
        check(json!({"by": "msg.d"}), &cases);
        check(json!({"by": "duration('50m')"}), &[(json!(1), 3000.0)]);
    }

    #[test]
    fn a_message_is_passed_on_at_its_time() {
        let app = TestApp::of::<Delay>(config(json!({"until": "msg"})));
        for (until, reached) in [
            (json!("2026-01-01T00:30:00+00:00"), 1_767_227_400.0),
            (json!(1_767_229_200), 1_767_229_200.0),
            (json!(1_767_231_000_000u64), 1_767_231_000.0),
            (json!("1999-01-01T00:00:00Z"), 1_767_231_000.0),
        ] {
            app.send(&VALUES, until.clone());
            assert_eq!(app.expect(&LATER), until);
            let now = app.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert!(
                (now.as_secs_f64() - reached).abs() < 2.0,
                "{until}: {now:?}"
            );
        }
        app.stop();
        check(
            json!({"until": "meta.time + duration('10m')"}),
            &[(json!(1), 600.0)],
        );
    }

    #[test]
    fn a_message_without_a_usable_time_is_dead_lettered_with_the_reason() {
        let app = TestApp::of::<Delay>(config(json!({"by": "msg.d", "max": "1h"})));
        for (payload, expected) in [
            (json!({"d": "soon"}), "the value of \"msg.d\" is no delay"),
            (json!({"d": null}), "is no delay"),
            (json!({"d": -1}), "is a negative delay"),
            (json!({"d": "61m"}), "61m is longer than `max`, which is 1h"),
            (json!({}), "\"d\" is missing"),
        ] {
            app.send(&VALUES, payload);
            let letter = app.expect_dead_letter();
            assert!(letter.dead_letter.error.contains(expected), "{letter:?}");
        }
        app.stop();
    }

    #[test]
    fn a_wrong_config_is_refused() {
        for (wrong, path) in [
            (json!({}), ""),
            (json!({"for": "1s", "by": "msg"}), ""),
            (json!({"for": "1s", "max": "366d"}), "max"),
            (json!({"for": "2h", "max": "1h"}), "for"),
        ] {
            assert_eq!(Delay::check(&config(wrong)).unwrap_err()[0].path, path);
        }
    }

    proptest! {
        #[test]
        fn any_number_or_text_is_a_delay_or_refused(number in any::<f64>(), text in ".{0,20}") {
            for value in [json!(number), json!(text)] {
                let _delay = duration_of(&value);
                let _delay = time_until(&value, SystemTime::UNIX_EPOCH);
            }
        }
    }
}
