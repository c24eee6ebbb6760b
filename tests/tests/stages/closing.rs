//! When a group is closed, and what is emitted of it.

use std::time::Duration;

use brickwork::testing::{Fault, FaultPoint};
use serde_json::json;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn line(key: &str, n: i64) -> Value {
    json!({"k": key, "n": n})
}

#[test]
fn a_group_is_closed_by_its_count_with_its_messages_in_order() {
    let app = aggregate(json!({"key": "msg.k", "count": 3, "each": "msg.n"}));
    for n in 1..=4 {
        app.send(&IN, line("a", n));
        app.send(&IN, line("b", 10 * n));
    }
    expect_group(&app, json!("a"), "count", json!([1, 2, 3]));
    expect_group(&app, json!("b"), "count", json!([10, 20, 30]));
    app.expect_nothing(&OUT);
    // The fourth of each has opened another group.
    for n in 5..=6 {
        app.send(&IN, line("a", n));
    }
    expect_group(&app, json!("a"), "count", json!([4, 5, 6]));
    app.stop();
}

#[test]
fn a_group_tells_the_times_of_its_messages_and_has_an_id_that_they_give_it() {
    let app = aggregate(json!({"count": 2, "type": "pair"}));
    app.send(&IN, json!(1));
    app.advance(SECOND);
    let last = app.send(&IN, json!(2));
    let message = app.expect_message(&OUT);
    assert_eq!(&*message.kind, "pair");
    assert_eq!(message.id, last.id.child("aggregate", "out", 0));
    let group: Value = serde_json::from_slice(&message.payload).expect("JSON");
    let expected = json!({
        "key": null, "count": 2, "closed": "count", "messages": [1, 2],
        "first": "2026-01-01T00:00:00.000Z", "last": "2026-01-01T00:00:01.000Z",
    });
    // The start of the app takes some milliseconds of virtual time at most.
    for field in ["key", "count", "closed", "messages"] {
        assert_eq!(group[field], expected[field], "{group}");
    }
    for field in ["first", "last"] {
        let at = |value: &Value| value[field].as_str().expect("a time")[..19].to_owned();
        assert_eq!(at(&group), at(&expected), "{group}");
    }
    app.stop();
}

#[test]
fn a_group_is_emitted_as_a_bare_list_if_wanted() {
    let app = aggregate(json!({"count": 2, "as": "list"}));
    app.send(&BYTES, Raw::bytes("t", &b" { \"a\" : [ ] }\n"[..]));
    app.send(&IN, json!("x"));
    let message = app.expect_message(&OUT);
    assert_eq!(&*message.payload, br#"[{"a":[]},"x"]"#);
    app.stop();
}

#[test]
fn a_group_is_closed_by_the_size_of_its_messages() {
    let app = aggregate(json!({"size": "20B"}));
    for _ in 0..5 {
        // Ten bytes each.
        app.send(&IN, json!("12345678"));
    }
    for _ in 0..2 {
        expect_group(&app, Value::Null, "size", json!(["12345678", "12345678"]));
    }
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn a_group_is_closed_by_the_message_that_says_so() {
    let app = aggregate(json!({"key": "msg.k", "until": "msg.last"}));
    app.send(&IN, json!({"k": 1}));
    app.send(&IN, json!({"k": 1, "last": false}));
    app.send(&IN, json!({"k": 2, "last": true}));
    app.send(&IN, json!({"k": 1, "last": true}));
    app.send(&IN, json!({"k": 1}));
    expect_group(&app, json!(2), "until", json!([{"k": 2, "last": true}]));
    let messages = json!([{"k": 1}, {"k": 1, "last": false}, {"k": 1, "last": true}]);
    expect_group(&app, json!(1), "until", messages);
    app.expect_nothing(&OUT);
    app.stop();
}

/// A message in between doesn't put it off.
#[test]
fn a_group_is_closed_some_time_after_its_first_message() {
    let app = aggregate(json!({"within": "10s"}));
    let began = app.now();
    app.send(&IN, json!(1));
    app.advance(6 * SECOND);
    app.send(&IN, json!(2));
    expect_group(&app, Value::Null, "within", json!([1, 2]));
    let took = app.now().duration_since(began).expect("time goes on");
    assert!((10 * SECOND..11 * SECOND).contains(&took), "{took:?}");
    app.stop();
}

#[test]
fn a_group_is_closed_some_time_after_its_last_message() {
    let app = aggregate(json!({"idle": "10s"}));
    let began = app.now();
    for n in 1..=3 {
        app.send(&IN, json!(n));
        app.advance(6 * SECOND);
    }
    expect_group(&app, Value::Null, "idle", json!([1, 2, 3]));
    let took = app.now().duration_since(began).expect("time goes on");
    assert!((22 * SECOND..23 * SECOND).contains(&took), "{took:?}");
    app.stop();
}

#[test]
fn of_two_times_the_earlier_one_counts() {
    let app = aggregate(json!({"key": "msg.k", "within": "20s", "idle": "8s"}));
    app.send(&IN, line("quiet", 1));
    for n in 1..=6 {
        app.send(&IN, line("busy", n));
        app.advance(5 * SECOND);
    }
    expect_group(&app, json!("quiet"), "idle", json!([line("quiet", 1)]));
    let busy = |numbers: std::ops::RangeInclusive<i64>| -> Value {
        numbers.map(|n| line("busy", n)).collect()
    };
    expect_group(&app, json!("busy"), "within", busy(1..=4));
    expect_group(&app, json!("busy"), "idle", busy(5..=6));
    app.stop();
}

#[test]
fn a_message_that_comes_late_opens_a_group_of_its_own() {
    let app = aggregate(json!({"key": "msg.k", "count": 2, "within": "5s"}));
    for n in 1..=3 {
        app.send(&IN, line("a", n));
    }
    expect_group(
        &app,
        json!("a"),
        "count",
        json!([line("a", 1), line("a", 2)]),
    );
    expect_group(&app, json!("a"), "within", json!([line("a", 3)]));
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn a_message_that_comes_again_is_in_its_group_once() {
    let app = aggregate(json!({"count": 3}));
    for n in [1, 2, 1, 2, 2, 3, 3] {
        app.send(&IN, MessageBuilder::new(json!(n)).id(id(&n.to_string())));
    }
    expect_group(&app, Value::Null, "count", json!([1, 2, 3]));
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn what_cannot_be_in_a_group_is_given_up_and_harms_no_other() {
    let app = aggregate(json!({"key": "msg.k", "count": 2}));
    app.send(&IN, line("a", 1));
    app.send(&BYTES, Raw::bytes("t", &b"nonsense"[..]));
    app.send(&IN, json!({}));
    app.send(&IN, json!({"k": null}));
    app.send(&IN, json!({"k": "x".repeat(1100)}));
    app.send(&IN, line("a", 2));
    for expected in [
        "not JSON",
        "\"k\" is missing",
        "is null",
        "1024 are allowed",
    ] {
        let letter = app.expect_dead_letter();
        assert!(letter.dead_letter.error.contains(expected), "{letter:?}");
    }
    expect_group(
        &app,
        json!("a"),
        "count",
        json!([line("a", 1), line("a", 2)]),
    );
    app.stop();
}

/// Whatever isn't JSON is for `each` to make it.
#[test]
fn what_is_kept_of_a_message_needs_no_payload_that_is_json() {
    let app = aggregate(json!({"count": 2, "as": "list", "each": "meta.type"}));
    app.send(&BYTES, Raw::bytes("a", &b"nonsense"[..]));
    app.send(&BYTES, Raw::bytes("b", &b""[..]));
    assert_eq!(app.expect(&OUT), json!(["a", "b"]));
    app.stop();
}

#[test]
fn with_many_instances_each_message_is_in_one_group_and_each_group_comes_once() {
    let app = set_up(json!({"key": "msg.k", "count": 7, "within": "1s", "each": "msg.n"}))
        .with("services.aggregate.instances = 8")
        .start();
    for n in 0..500 {
        app.send(&IN, json!({"k": n % 11, "n": n}));
    }
    let mut seen = Vec::new();
    while seen.len() < 500 {
        let group = app.expect(&OUT);
        let numbers = group["messages"].as_array().expect("a list");
        seen.extend(numbers.iter().map(|n| n.as_i64().expect("a number")));
    }
    app.expect_nothing(&OUT);
    seen.sort_unstable();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    app.stop();
}

#[test]
fn whatever_fails_on_the_way_no_message_is_lost_or_in_two_groups() {
    let setup = set_up(json!({"key": "msg.k", "count": 5, "within": "3s", "each": "msg.n"}));
    let faults = [
        Fault::panic(FaultPoint::Handle).after(1).times(3),
        Fault::panic(FaultPoint::Tick).times(3),
        Fault::fail(FaultPoint::Publish).after(2).times(9),
    ];
    let app = faults
        .into_iter()
        .fold(setup, brickwork::testing::Setup::inject)
        .start();
    for n in 0..203 {
        app.send(&IN, json!({"k": n % 4, "n": n}));
    }
    let mut groups = std::collections::BTreeMap::new();
    let count = |groups: &std::collections::BTreeMap<_, Vec<i64>>| {
        groups.values().map(Vec::len).sum::<usize>()
    };
    while count(&groups) < 203 {
        let message = app.expect_message(&OUT);
        let group: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let numbers = group["messages"].as_array().expect("a list").iter();
        let numbers = numbers.map(|n| n.as_i64().expect("a number")).collect();
        // It may be published twice, under its id.
        let before = groups.insert(message.id.clone(), numbers);
        assert!(before.is_none_or(|before| before == groups[&message.id]));
    }
    let mut all: Vec<i64> = groups.into_values().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..203).collect::<Vec<_>>());
    app.stop();
}
