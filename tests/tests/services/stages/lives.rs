//! State that survives a restart of the app in the same folder.

use std::time::Duration;

use brickwork::testing::Setup;
use brickwork_actors::Dedup;
use serde_json::json;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn open_groups_continue_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let live = || set_up(json!({"key": "msg.k", "count": 4})).data(folder.path());
    let mut app = live().start();
    for n in 1..=9 {
        app.send(
            &IN,
            MessageBuilder::new(json!({"k": 1, "n": n})).id(id(&n.to_string())),
        );
        if n % 4 == 0 {
            let messages = (n - 3..=n).map(|n| json!({"k": 1, "n": n})).collect();
            expect_group(&app, json!(1), "count", messages);
        }
        app.idle();
        app.stop();
        app = live().start();
        // The message was handled in an earlier run.
        app.send(
            &IN,
            MessageBuilder::new(json!({"k": 1, "n": n})).id(id(&n.to_string())),
        );
    }
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn a_group_that_expires_while_the_app_is_down_is_closed_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let live = || set_up(json!({"within": "30m"})).data(folder.path());
    let app = live().start();
    app.send(&IN, json!(1));
    app.advance(SECOND);
    let later = app.now() + 3600 * SECOND;
    app.stop();
    let app = live().at(later).start();
    // The message is late, though no tick has come yet.
    app.send(&IN, json!(2));
    expect_group(&app, Value::Null, "within", json!([1]));
    expect_group(&app, Value::Null, "within", json!([2]));
    app.stop();
}

#[test]
fn open_groups_follow_a_changed_config() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let live = |config| set_up(config).data(folder.path());
    let app = live(json!({"key": "msg", "count": 3})).start();
    app.send(&IN, json!(1));
    app.send(&IN, json!(2));
    app.idle();
    let later = app.now() + 60 * SECOND;
    app.stop();
    // Both groups are due now, one of them overdue.
    let app = live(json!({"key": "msg", "within": "2m", "idle": "3m"}))
        .at(later)
        .start();
    app.send(&IN, json!(2));
    expect_group(&app, json!(1), "within", json!([1]));
    expect_group(&app, json!(2), "within", json!([2, 2]));
    let took = app.now().duration_since(later).expect("time goes on");
    assert!(took < 70 * SECOND, "{took:?}");
    app.stop();
}

/// No message is lost, and a message that can't be sent delays no other.
#[test]
fn a_group_larger_than_the_new_message_limit_is_emitted_in_parts() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let live = |max: &str, config| {
        let max = format!("app.max_message = \"{max}\"");
        set_up(config).with(&max).data(folder.path())
    };
    let app = live("100KiB", json!({"key": "msg[0]", "count": 9})).start();
    for n in 0..5 {
        app.send(&IN, json!(["many", n, "x".repeat(700)]));
    }
    app.send(&IN, json!(["large", 0, "x".repeat(5000)]));
    app.idle();
    let later = app.now();
    app.stop();
    let config = json!({"key": "msg[0]", "within": "10s"});
    let app = live("2000B", config.clone()).at(later).start();
    for (closed, numbers) in [("full", 0..2), ("full", 2..4), ("within", 4..5)] {
        let group = app.expect(&OUT);
        assert_eq!(group["closed"], closed);
        let kept: Vec<i64> = group["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|message| message[1].as_i64().expect("a number"))
            .collect();
        assert_eq!(kept, numbers.collect::<Vec<_>>());
    }
    app.expect_nothing(&OUT);
    let later = app.now() + 60 * SECOND;
    app.stop();
    let app = live("100KiB", config).at(later).start();
    assert_eq!(app.expect(&OUT)["key"], "large");
    app.stop();
}

#[test]
fn keys_are_remembered_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let live = || {
        let config = serde_json::from_value(json!({"key": "msg"})).expect("a config");
        Setup::of::<Dedup>(config).data(folder.path())
    };
    let app = live().start();
    app.send(&IN, json!(1));
    assert_eq!(app.expect(&OUT), 1);
    let soon = app.now() + 3600 * SECOND;
    app.stop();
    let app = live().at(soon).start();
    app.send(&IN, json!(1));
    app.send(&IN, json!(2));
    assert_eq!(app.expect(&OUT), 2);
    app.expect_nothing(&OUT);
    let day = soon + 23 * 3600 * SECOND;
    app.stop();
    let app = live().at(day).start();
    app.send(&IN, json!(1));
    assert_eq!(app.expect(&OUT), 1);
    app.stop();
}
