//! The first of each key passes, as it is; the others don't.

use std::time::Duration;

use brickwork::testing::{Fault, FaultPoint, Setup};
use brickwork_actors::Dedup;
use serde_json::json;

use super::*;

const DUPLICATES: Output<Value> = Output::new("duplicates");
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_first_of_each_key_passes_unchanged_and_no_other() {
    let app = dedup(json!({"key": "msg.k"}));
    let first = Raw {
        headers: [("h".into(), "1".into())].into_iter().collect(),
        subject: Some("s".into()),
        ..Raw::bytes("order", &b" {\"k\": 1}"[..])
    };
    let sent = app.send(&BYTES, first);
    for (k, n) in [(1, 1), (1, 2), (2, 3)] {
        app.send(&IN, json!({"k": k, "n": n}));
    }
    app.send(&IN, json!({"k": "1"}));
    let passed = app.expect_message(&OUT);
    assert_eq!(passed.payload, sent.payload);
    assert_eq!(&*passed.kind, "order");
    assert_eq!(passed.headers, sent.headers);
    assert_eq!(passed.subject, sent.subject);
    assert_eq!(passed.parent, Some(sent.id.clone()));
    assert_eq!(passed.id, sent.id.child("dedup", "out", 0));
    assert_eq!(app.expect(&OUT)["n"], 3);
    assert_eq!(app.expect(&OUT)["k"], "1");
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn without_a_key_each_id_passes_once() {
    let app = dedup(json!({}));
    for id_text in ["a", "b", "a"] {
        app.send(&IN, MessageBuilder::new(json!(id_text)).id(id(id_text)));
    }
    assert_eq!(app.expect(&OUT), "a");
    assert_eq!(app.expect(&OUT), "b");
    app.expect_nothing(&OUT);
    app.stop();
}

#[test]
fn duplicates_go_where_the_config_wants_them() {
    let app = dedup(json!({"key": "msg.k", "duplicates": true}));
    app.send(&IN, json!({"k": 1, "n": 1}));
    app.send(
        &IN,
        MessageBuilder::new(json!({"k": 1, "n": 2})).id(id("second")),
    );
    // It is done: neither a first one nor another duplicate.
    app.send(
        &IN,
        MessageBuilder::new(json!({"k": 1, "n": 2})).id(id("second")),
    );
    assert_eq!(app.expect(&OUT)["n"], 1);
    assert_eq!(app.expect(&DUPLICATES)["n"], 2);
    app.expect_nothing(&OUT);
    app.expect_nothing(&DUPLICATES);
    app.stop();
}

#[test]
fn a_key_is_forgotten_after_its_time_counted_from_what_passed() {
    let app = dedup(json!({"key": "msg", "within": "1h"}));
    for (n, after) in [(1, HOUR / 2), (2, HOUR / 2), (3, HOUR / 4)] {
        app.send(&IN, MessageBuilder::new(json!("k")).id(id(&n.to_string())));
        app.idle();
        app.advance(after);
    }
    // The third came an hour after the first, and is a first one again.
    app.send(&IN, json!("k"));
    for expected in ["1", "3"] {
        assert_eq!(app.expect_message(&OUT).parent, Some(id(expected)));
    }
    app.expect_nothing(&OUT);
    app.stop();
}

/// Those that came again after their time are not the oldest.
#[test]
fn the_oldest_keys_are_forgotten_when_there_are_too_many() {
    let app = dedup(json!({"key": "msg", "keys": 1000, "within": "1h"}));
    let count = || {
        let file = app.folder().join("data/stores/dedup.sqlite");
        let store = brickwork::sqlite::rusqlite::Connection::open(file).expect("a database");
        let count = "SELECT count(*) FROM dedup_key";
        let count = store.query_row(count, [], |row| row.get::<_, i64>(0));
        count.expect("it counts")
    };
    let send = |keys: std::ops::Range<u32>| {
        for key in keys {
            app.send(&IN, json!(key));
        }
        app.idle();
    };
    let passed = || app.summary().services[0].emitted;
    send(0..1000);
    app.advance(HOUR);
    send(0..1);
    assert_eq!(passed(), 1001, "its time was over");
    send(1000..1900);
    send(0..1);
    assert_eq!(passed(), 1901, "it is among the last thousand");
    send(1900..4000);
    assert_eq!(passed(), 4001);
    assert!((1000..1064).contains(&count()), "{}", count());
    send(3001..4000);
    assert_eq!(passed(), 4001, "these are remembered");
    send(0..1);
    assert_eq!(passed(), 4002, "this is not");
    app.stop();
}

#[test]
fn a_message_without_a_key_is_given_up() {
    let app = dedup(json!({"key": "msg.k"}));
    app.send(&BYTES, Raw::bytes("t", &b"nonsense"[..]));
    app.send(&IN, json!({}));
    app.send(&IN, json!({"k": null}));
    app.send(&IN, json!({"k": 1}));
    for expected in ["not JSON", "\"k\" is missing", "is null"] {
        let letter = app.expect_dead_letter();
        assert!(letter.dead_letter.error.contains(expected), "{letter:?}");
    }
    assert_eq!(app.expect(&OUT)["k"], 1);
    app.stop();
}

/// A key that is remembered without its message would lose that.
#[test]
fn what_fails_and_is_tried_again_passes_once() {
    let config = serde_json::from_value(json!({"key": "msg"})).expect("a config");
    let setup = Setup::of::<Dedup>(config);
    let faults = [
        Fault::panic(FaultPoint::Handle).times(2),
        Fault::fail(FaultPoint::Publish).times(5),
    ];
    let app = faults.into_iter().fold(setup, Setup::inject).start();
    for key in 0..20 {
        app.send(&IN, json!(key % 10));
    }
    app.idle();
    let mut ids = std::collections::BTreeMap::new();
    while ids.len() < 10 {
        let message = app.expect_message(&OUT);
        // It may be published twice, under its id.
        let before = ids.insert(message.payload.clone(), message.id.clone());
        assert!(before.is_none_or(|before| before == message.id));
    }
    app.stop();
}

#[test]
fn each_key_passes_once_with_many_instances_too() {
    let config = serde_json::from_value(json!({"key": "msg"})).expect("a config");
    let app = Setup::of::<Dedup>(config)
        .with("services.dedup.instances = 8")
        .start();
    for n in 0..300 {
        app.send(&IN, json!(n % 100));
    }
    app.idle();
    let mut passed: Vec<i64> = (0..100)
        .map(|_| app.expect(&OUT).as_i64().expect("a number"))
        .collect();
    passed.sort_unstable();
    assert_eq!(passed, (0..100).collect::<Vec<_>>());
    app.expect_nothing(&OUT);
    app.stop();
}
