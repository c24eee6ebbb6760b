//! Groups that would become too large, too many groups, and configs that make no sense.

use std::time::Duration;

use serde_json::json;

use super::*;

/// Nothing larger goes out: 2000 bytes are what the runtime allows.
const SMALL: &str = "app.max_message = \"2000B\"";

#[test]
fn a_group_is_closed_before_it_becomes_too_large_for_a_message() {
    let app = set_up(json!({"count": 1000, "within": "1m"}))
        .with(SMALL)
        .start();
    let text = "x".repeat(498);
    for _ in 0..8 {
        app.send(&IN, json!(text));
    }
    for closed in ["full", "full", "within"] {
        let message = app.expect_message(&OUT);
        let group: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let count = if closed == "full" { 3 } else { 2 };
        assert_eq!(
            (&group["closed"], &group["count"]),
            (&json!(closed), &json!(count))
        );
        assert!(message.payload.len() <= 2000, "{}", message.payload.len());
    }
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn a_message_that_closes_the_group_before_it_can_close_its_own_too() {
    let app = set_up(json!({"until": "size(msg) > 1000"}))
        .with(SMALL)
        .start();
    let (short, long) = ("x".repeat(900), "x".repeat(1100));
    app.send(&IN, json!(short));
    let last = app.send(&IN, json!(long));
    for (closed, text, nth) in [("full", &short, 0), ("until", &long, 1)] {
        let message = app.expect_message(&OUT);
        let group: Value = serde_json::from_slice(&message.payload).expect("JSON");
        assert_eq!(group["closed"], closed);
        assert_eq!(group["messages"], json!([text]));
        assert_eq!(message.id, last.id.child("aggregate", "out", nth));
    }
    app.stop();
}

#[test]
fn a_message_that_fits_into_no_group_is_given_up() {
    let app = set_up(json!({"count": 2})).with(SMALL).start();
    app.send(&IN, json!("x".repeat(1900)));
    let letter = app.expect_dead_letter();
    assert!(
        letter.dead_letter.error.contains("max_message allows 2000"),
        "{letter:?}"
    );
    app.stop();
}

#[test]
fn the_oldest_group_is_closed_when_too_many_are_open() {
    let app = aggregate(json!({"key": "msg", "count": 2, "groups": 3}));
    for key in [1, 2, 3, 1, 4, 5, 6] {
        app.send(&IN, json!(key));
    }
    expect_group(&app, json!(1), "count", json!([1, 1]));
    expect_group(&app, json!(2), "room", json!([2]));
    expect_group(&app, json!(3), "room", json!([3]));
    app.expect_nothing(&OUT);
    app.stop();
}

/// More than one transaction closes.
#[test]
fn thousands_of_groups_that_are_due_at_once_are_all_closed() {
    const KEYS: i64 = 2_500;
    let app = aggregate(json!({"key": "msg", "within": "30m", "as": "list"}));
    for key in 0..KEYS {
        app.send(&IN, json!(key));
    }
    // For these, too, it isn't idle before.
    let began = app.now();
    app.idle();
    let took = app.now().duration_since(began).expect("time goes on");
    assert!(took < Duration::from_secs(1860), "{took:?}");
    for key in 0..KEYS {
        assert_eq!(app.expect(&OUT), json!([key]));
    }
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn what_is_wrong_in_a_manifest_is_reported_before_anything_runs() {
    let wrong = r#"
        [app]
        name = "shop"
        transport = "memory:"
        [services.once]
        use = "dedup"
        in = "a"
        out = "b"
        config.key = "msg.k ="
        config.within = "0s"
        [services.collect]
        use = "aggregate"
        store = true
        in = "b"
        out = "c"
        config.key = "mgs.k"
        config.until = "msg.last = true"
        config.size = "0B"
        config.as = "table"
        [topics]
        a.external = "in"
        c.external = "out"
    "#;
    let folder = tempfile::tempdir().expect("a folder can be made");
    let report = |text: &str| {
        let file = folder.path().join("app.toml");
        std::fs::write(&file, text).expect("it can be written");
        let loaded = brickwork::manifest::load(
            &file,
            &brickwork::manifest::Options::default(),
            &brickwork_actors::catalog(),
            &brickwork_bridges::all(),
        );
        loaded.err().map(|report| report.render(false))
    };
    let text = report(wrong).expect("it is wrong");
    for part in ["msg.k =", "mgs", "==", "table"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    // What is left once the forms are right.
    let less = wrong
        .replace("config.key = \"msg.k =\"", "")
        .replace("mgs", "msg")
        .replace("msg.last = true", "msg.last")
        .replace("config.as = \"table\"", "");
    let text = report(&less).expect("it is wrong");
    for part in ["it is zero: set a time", "must be more than 0"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let less = less
        .replace("config.within = \"0s\"", "")
        .replace("config.size = \"0B\"", "");
    let text = report(&less).expect("it is wrong");
    assert!(text.contains("store = true"), "{text}");
    let right = less.replace("use = \"dedup\"", "use = \"dedup\"\nstore = true");
    assert_eq!(report(&right), None);
}
