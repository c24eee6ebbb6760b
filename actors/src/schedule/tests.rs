//! The service in an app, with virtual time.

use std::time::{Duration, UNIX_EPOCH};

use brickwork::testing::Setup;
use serde_json::{Value, json};

use super::*;

fn config(value: Value) -> ScheduleConfig {
    serde_json::from_value(value).unwrap()
}

fn problems(value: Value) -> Vec<String> {
    let errors = Schedule::check(&config(value)).unwrap_err();
    errors.iter().map(|error| format!("{error:?}")).collect()
}

/// Starts the service at 05:59:30 UTC on 2026-03-28, a day before the clock is set ahead.
fn start(value: Value) -> brickwork::testing::TestApp {
    let at = UNIX_EPOCH + Duration::from_secs(1_774_677_570);
    Setup::of_source::<Schedule>(config(value)).at(at).start()
}

#[test]
fn a_firing_carries_its_scheduled_time_and_an_id_made_of_it() {
    let app = start(json!({ "cron": "0 7 * * *", "zone": "Europe/Berlin" }));
    let message = app.expect_message(&OUT);
    assert_eq!(message.id.to_string(), "schedule@2026-03-28T06:00:00Z");
    assert_eq!(&*message.kind, "schedule");
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    let expected = json!({
        "schedule": null, "scheduled": "2026-03-28T06:00:00Z", "previous": null, "missed": 0,
        "local": "2026-03-28T07:00:00+01:00",
    });
    assert_eq!(payload, expected);
    app.advance(Duration::from_secs(23 * 3600));
    let message = app.expect_message(&OUT);
    assert_eq!(message.id.to_string(), "schedule@2026-03-29T05:00:00Z");
    app.stop();
}

#[test]
fn schedules_of_a_table_fire_by_themselves_with_payloads_of_their_own() {
    let app = start(json!({
        "payload": "{'name': msg.schedule}",
        "schedules": {
            "second": { "every": "40s" },
            "first": { "every": "30s", "payload": "[msg.schedule, 1]", "type": "beat" },
        },
    }));
    let message = app.expect_message(&OUT);
    assert_eq!(
        (&*message.kind, message.subject.as_deref()),
        ("beat", Some("first"))
    );
    assert_eq!(&message.payload[..], br#"["first",1]"#);
    let message = app.expect_message(&OUT);
    assert_eq!(
        message.id.to_string(),
        "schedule/second@2026-03-28T06:00:00Z"
    );
    assert_eq!(&message.payload[..], br#"{"name":"second"}"#);
    app.stop();
}

#[test]
fn wrong_settings_are_reported_where_they_stand() {
    for (value, part) in [
        (json!({}), "it never fires"),
        (
            json!({ "cron": "@daily", "every": "1h" }),
            "exclude each other",
        ),
        (json!({ "every": "1ms" }), "less than 100ms"),
        (json!({ "every": "1h", "catch_up": "1s" }), "catch_up"),
        (
            json!({ "every": "1h", "zone": "Europe/Berlin" }),
            "no time zone",
        ),
        (json!({ "every": "1h", "payload": "msg.wrong" }), "wrong"),
        (
            json!({ "every": "1h", "payload": "msg.previous + 'x'" }),
            "previous",
        ),
        (
            json!({ "every": "1h", "schedules": { "a": { "every": "1h" } } }),
            "into the table",
        ),
        (json!({ "schedules": { "a": {} } }), "schedules.a"),
    ] {
        let problems = problems(value.clone());
        assert!(
            problems.iter().any(|text| text.contains(part)),
            "{value}: {problems:?}"
        );
    }
    for (policy, part) in [
        ("cancel_other", "can't be cancelled"),
        ("x", "no overlap policy"),
    ] {
        let value = json!({ "every": "1h", "overlap": policy });
        let error = serde_json::from_value::<ScheduleConfig>(value).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
