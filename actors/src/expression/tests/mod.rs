//! Tests of expressions.

mod bounds;
mod numbers;

use brickwork::Envelope;
use brickwork::FailureKind;
use serde_json::json;

use super::*;

fn message(payload: &str) -> Message {
    let mut envelope = Envelope::new("issues", payload.to_owned());
    envelope.id = "d-1".parse().unwrap();
    envelope.source = "/github/intake".into();
    envelope.topic = "github.deliveries".into();
    envelope.time_ms = 1_500;
    envelope.headers.insert("x-hub".into(), "abc".into());
    envelope.headers.insert("X-Shop".into(), "1".into());
    envelope.into()
}

fn holds(condition: &Condition, payload: &str) -> Result<bool, Failure> {
    condition.holds(&mut Scope::new(&message(payload), 2))
}

fn value(expression: &str, payload: &str) -> Result<serde_json::Value, Failure> {
    let message = message(payload);
    let expression = Expression::compile(expression).unwrap();
    let json = expression.json(&mut Scope::new(&message, 2))?;
    Ok(serde_json::from_str(&json)?)
}

#[test]
fn a_condition_sees_payload_and_envelope() {
    let yes = [
        "meta.type == 'issues' && msg.action == 'opened'",
        "meta.id == 'd-1' && meta.source == '/github/intake' && meta.attempt == 2",
        "meta.topic.startsWith('github.') && meta.headers['x-hub'] == 'abc'",
        "meta.time == timestamp('1970-01-01T00:00:01.5Z')",
        "msg.n == 3 && msg.n > 2 && msg.n + 1 == 4 && msg.f > 1.0 && msg.n < 3.5",
        "msg.labels.exists(l, l.name == 'bug') && size(msg.labels) == 2",
        "has(msg.action) && !has(msg.nothing)",
        "msg.title.matches('^Sp.*r$') && msg.title.lowerAscii().contains('spell')",
        "msg.none == null",
        "true",
    ];
    let payload = r#"{"action":"opened","n":3,"f":1.5,"title":"Spell \"err\" or",
        "labels":[{"name":"a"},{"name":"bug"}],"none":null}"#;
    for source in yes {
        let condition = Condition::compile(source).unwrap();
        assert_eq!(holds(&condition, payload), Ok(true), "{source}");
        assert_eq!(condition.missing(), 0, "{source}");
    }
}

#[test]
fn a_missing_field_makes_a_condition_false_and_is_counted() {
    for (source, payload) in [
        ("msg.a.b == 1", r#"{}"#),
        ("msg.a.b == 1", r#"{"a":{}}"#),
        ("msg.a.b == 1", r#"{"a":null}"#),
        ("msg.a.b == 1", r#"{"a":7}"#),
        ("msg.a[0] == 1", r#"{"a":[]}"#),
        ("msg['a'] == 1", r#"{}"#),
        ("meta.headers.nothing == 'x'", "{}"),
        ("!(msg.a == 1)", "{}"),
        ("msg.a == 1", "[]"),
    ] {
        let condition = Condition::compile(source).unwrap();
        assert_eq!(
            holds(&condition, payload),
            Ok(false),
            "{source} on {payload}"
        );
        assert_eq!(condition.missing(), 1, "{source} on {payload}");
    }
    // The result does not depend on the missing field.
    let either = Condition::compile("msg.a == 1 || msg.b == 2").unwrap();
    assert_eq!(holds(&either, r#"{"b":2}"#), Ok(true));
    assert_eq!(either.missing(), 0);
}

#[test]
fn a_condition_without_a_boolean_value_rejects_the_message_with_the_reason() {
    for (source, payload, expected) in [
        (
            "msg.a",
            r#"{"a":"x"}"#,
            "has type string, it is not true or false",
        ),
        ("msg.a > 1", r#"{"a":"x"}"#, "can't be evaluated"),
        ("msg.a == 1", "", "the payload is empty, JSON was expected"),
        (
            "msg.a == 1",
            "nonsense",
            "the payload is not JSON: expected ident at line 1",
        ),
        (
            "msg.a == 1",
            "{} x",
            "the payload is not JSON: trailing characters",
        ),
    ] {
        let condition = Condition::compile(source).unwrap();
        let failure = holds(&condition, payload).unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Reject);
        assert!(failure.text().contains(expected), "{source}: {failure}");
    }
}

#[test]
fn an_error_contains_no_values_of_the_message() {
    let condition = Condition::compile("msg.card - msg.pin > 1").unwrap();
    let failure = holds(&condition, r#"{"card":"4111","pin":"0000"}"#).unwrap_err();
    assert!(!failure.text().contains("4111"), "{failure}");
    let condition = Condition::compile("msg.card < msg.pin").unwrap();
    let failure = holds(&condition, r#"{"card":"4111","pin":{}}"#).unwrap_err();
    assert!(!failure.text().contains("4111"), "{failure}");
}

#[test]
fn a_payload_that_no_expression_uses_may_be_anything() {
    let condition = Condition::compile("meta.type == 'issues'").unwrap();
    assert_eq!(holds(&condition, "\u{0}not json"), Ok(true));
}

#[test]
fn a_payload_that_is_nested_too_deep_is_rejected_without_a_stack_overflow() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let condition = Condition::compile("msg == 1").unwrap();
    let failure = holds(&condition, &deep).unwrap_err();
    assert!(failure.text().contains("recursion limit"), "{failure}");
}

#[test]
fn a_value_is_converted_to_json() {
    let payload = r#"{"n":3,"f":1.0,"big":18446744073709551615,"s":"x","l":[1,null],
        "o":{"b":true}}"#;
    for (source, expected) in [
        ("msg.n", json!(3)),
        ("msg.f", json!(1.0)),
        ("msg.big", json!(18446744073709551615u64)),
        ("msg.l", json!([1, null])),
        ("msg.o", json!({"b": true})),
        ("msg.s + '-' + string(msg.n)", json!("x-3")),
        ("{'b': 1, 'a': [msg.s]}", json!({"a": ["x"], "b": 1})),
        ("has(msg.none) ? msg.none : 'default'", json!("default")),
        ("meta.time", json!("1970-01-01T00:00:01.500Z")),
        ("meta.headers", json!({"x-hub": "abc", "x-shop": "1"})),
        ("msg.l.map(x, x == null)", json!([false, true])),
    ] {
        assert_eq!(value(source, payload), Ok(expected), "{source}");
    }
}

#[test]
fn a_missing_field_rejects_the_message_and_is_named() {
    let failure = value("msg.issue.title", r#"{"issue":{}}"#).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Reject);
    assert_eq!(
        failure.text(),
        "the field \"title\" is missing, in \"msg.issue.title\": guard it with has()"
    );
}

#[test]
fn the_deepest_allowed_expression_can_be_evaluated() {
    let chain = |terms: usize| format!("1{}", " + 1".repeat(terms - 1));
    let deepest = compile::DEPTH_MAX;
    assert!(Expression::compile(&chain(deepest + 1)).is_err());
    // Smaller than the default stack, in a debug build, whose frames are the largest.
    let thread = std::thread::Builder::new().stack_size(1_500 << 10);
    let evaluated = thread.spawn(move || value(&chain(deepest), "{}")).unwrap();
    assert_eq!(evaluated.join().unwrap(), Ok(json!(deepest)));
    // Operands of the same operator do not nest.
    let many = vec!["msg.a == 1"; 200].join(" || ");
    assert_eq!(value(&many, r#"{"a":2}"#), Ok(json!(false)));
}

#[test]
fn configs_contain_expressions_as_strings() {
    let condition: Condition = serde_json::from_str("\"msg.a == 1\"").unwrap();
    assert_eq!(condition.source(), "msg.a == 1");
    let error = serde_json::from_str::<Condition>("\"msg.a = 1\"").unwrap_err();
    assert!(error.to_string().contains("=="), "{error}");
    assert!(serde_json::from_str::<Expression>("17").is_err());
}

fn text(expression: &str, payload: &str) -> Result<String, Failure> {
    let message = message(payload);
    let expression = Expression::compile(expression).unwrap();
    expression.json(&mut Scope::new(&message, 2))
}

#[test]
fn names_of_headers_have_no_case() {
    for source in [
        "meta.headers['x-shop'] == '1' && meta.headers['X-SHOP'] == '1'",
        "meta.headers['X-Hub'] == 'abc' && meta['headers']['X-Hub'] == 'abc'",
        "'X-Shop' in meta.headers && !('X-Shop2' in meta.headers)",
        "meta.headers[msg.name] == '1' && msg.name in meta.headers",
        "meta.headers[?'X-Shop'].orValue('') == '1'",
        "[{'headers': {'A': 1}}].all(meta, meta.headers['A'] == 1)",
    ] {
        let held = text(source, r#"{"name":"X-sHoP"}"#);
        assert_eq!(held.as_deref(), Ok("true"), "{source}");
    }
    assert_eq!(
        text("has(meta.headers.Nothing)", "1").as_deref(),
        Ok("false")
    );
}

#[test]
fn parts_of_a_payload_give_the_values_that_the_whole_payload_gives() {
    let payload = r#"{"a":{"b":1,"c":[{"x":1},{"y":"\u00e4"}]},"d":[[]],"a":{"b":2,"z":null},
        "e":"text","\u0066":{"g":{"h":[1.5]}}}"#;
    for source in [
        "msg.a.b",
        "has(msg.a.c)",
        "[has(msg.a.z), has(msg.d), has(msg.none)]",
        "msg.?e.?f.hasValue()",
        "msg.d.x",
        "msg.e.x",
        "msg.f.g.h[0] + msg['a']['b']",
        "msg.a.b.c",
        "type(msg.a) == map && msg.e == 'text' && size(msg.d) == 1",
    ] {
        // Beside a use of the whole payload, an expression reads everything.
        let whole = format!("[{source}, size(msg)][0]");
        let outcome = |source: &str| {
            text(source, payload).map_err(|failure| {
                let (_, reason) = failure
                    .text()
                    .split_once(" can't be evaluated: ")
                    .unwrap_or(("", failure.text()));
                reason.replace(", size(msg)][0]", "").replace("\"[", "\"")
            })
        };
        assert_eq!(outcome(source), outcome(&whole), "{source}");
    }
    // The rest of the payload must be readable, too.
    for wrong in ["1e400", "\"\\ud83d\"", "[1,]", "nul"] {
        let failure = text("msg.a", &format!("{{\"a\":1,\"b\":{wrong}}}")).unwrap_err();
        assert!(failure.text().contains("is not JSON"), "{failure}");
    }
}

#[test]
fn expressions_of_one_scope_may_read_different_parts() {
    let message = message(r#"{"a":{"b":1,"c":2},"d":3}"#);
    let scope = &mut Scope::new(&message, 1);
    for (source, expected) in [
        ("msg.a.b", "1"),
        ("msg.a.c", "2"),
        ("msg.a.b + msg.d", "4"),
        ("size(msg)", "2"),
        ("msg.a.c", "2"),
    ] {
        let json = Expression::compile(source).unwrap().json(scope);
        assert_eq!(json.as_deref(), Ok(expected), "{source}");
    }
}
