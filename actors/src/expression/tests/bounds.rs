//! Bounds of evaluations, and the functions that keep them.

use super::*;

/// A payload with a list of this many numbers and a text of as many bytes.
fn large(items: usize) -> String {
    let list = vec!["2"; items].join(",");
    format!("{{\"items\":[{list}],\"text\":\"{}\"}}", "a".repeat(items))
}

#[test]
fn an_evaluation_that_takes_too_long_or_too_much_memory_is_stopped_with_a_reason() {
    let payload = large(8_000);
    for source in [
        "msg.items.exists(a, msg.items.exists(b, a + b == 1))",
        "msg.items.all(a, msg.items.all(b, b == 2))",
        "msg.items.exists(a, msg.items.exists(b, b.c == a)) || true",
        "msg.items.map(a, msg.items)",
        "msg.items.map(a, [msg.items, msg.text])",
        "msg.items.map(a, msg.text + msg.text)",
        "msg.items.map(a, msg.text.upperAscii())",
        "msg.items.map(a, msg.text.split(''))",
        "msg.items.exists(a, msg.items + [a] == [])",
        "msg.items.exists(a, msg.items == msg.items.map(b, b + 1))",
        "msg.items.exists(a, 5 in msg.items)",
        "msg.items.exists(a, msg.items.exists(b, msg.items[0.5] == a))",
        "msg.items.exists(a, msg.text.contains('b'))",
        "msg.items.exists(a, msg.text.matches('b'))",
        "msg.items.exists(a, msg.text.matches(msg.text))",
        "msg.items.exists(a, size(msg.?items.orValue([])) == 0)",
        "msg.items.exists_one(a, optional.of(msg.items).hasValue())",
        "msg.text.replace('a', msg.text)",
        "msg.text.replace('', msg.text)",
        "msg.text.split('').join(msg.text)",
        "msg.items.map(a, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'.replace('x', msg.text))",
        "msg.items.map(a, msg.items.filter(b, b == 2)).filter(c, c == [])",
    ] {
        let started = std::time::Instant::now();
        let failure = text(source, &payload).expect_err(source);
        assert_eq!(failure.kind(), FailureKind::Reject);
        assert!(
            failure.text().contains("is stopped: it"),
            "{source}: {failure}"
        );
        let elapsed = started.elapsed();
        assert!(elapsed.as_secs() < 20, "{source}: {elapsed:?}");
        // The thread evaluates the next message as if nothing had happened.
        assert_eq!(text("msg.a + 1", r#"{"a":1}"#).as_deref(), Ok("2"));
    }
}

#[test]
fn an_evaluation_whose_work_grows_with_its_message_is_not_given_up() {
    let payload = large(10_000);
    for (source, expected) in [
        ("size(msg.items.filter(i, i == 2))", "10000"),
        (
            "size(msg.items.map(i, i * 2 + 1).filter(i, i > 4))",
            "10000",
        ),
        ("size(msg.items.map(i, {'n': i, 'twice': [i, i]}))", "10000"),
        ("msg.items.all(i, i == 2 && i < 3)", "true"),
        ("size(msg.text.replace('a', 'bb'))", "20000"),
        ("size(msg.text.split('').join('-'))", "19999"),
        ("msg.text.indexOf('b') + msg.text.lastIndexOf('a')", "9998"),
        ("msg.text.matches('^a+$') && !msg.text.matches('b')", "true"),
        ("msg == msg", "true"),
    ] {
        assert_eq!(text(source, &payload).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn functions_of_texts_agree_with_their_definition() {
    let payload = r#"{"t":"tacocat","u":"a©αT©","e":"","p":"^t.*t$","l":["x","y"]}"#;
    for (source, expected) in [
        ("msg.t.replace('c', '__')", r#""ta__o__at""#),
        ("msg.t.replace('c', '_', 1)", r#""ta_ocat""#),
        ("msg.t.replace('c', '_', 0)", r#""tacocat""#),
        ("msg.t.replace('c', '_', -1)", r#""ta_o_at""#),
        ("msg.e.replace('', 'x')", r#""x""#),
        (
            "msg.l.join() + msg.l.join('-') + [].join(',')",
            r#""xyx-y""#,
        ),
        ("msg.t.split('c')", r#"["ta","o","at"]"#),
        ("msg.t.split('c', 2)", r#"["ta","ocat"]"#),
        ("msg.t.split('c', 0)", "[]"),
        ("msg.u.split('')", r#"["a","©","α","T","©"]"#),
        ("msg.u.split('', 2)", r#"["a","©αT©"]"#),
        ("msg.e.split('')", "[]"),
        ("msg.e.split(',')", r#"[""]"#),
        ("msg.u.indexOf('©')", "1"),
        ("msg.u.indexOf('©', 2)", "4"),
        ("msg.u.indexOf('x')", "-1"),
        ("msg.u.indexOf('', 9)", "5"),
        ("msg.u.lastIndexOf('©')", "4"),
        ("msg.u.lastIndexOf('©', 3)", "1"),
        ("msg.u.lastIndexOf('©α', 1)", "1"),
        ("msg.u.lastIndexOf('')", "5"),
        ("msg.u.lastIndexOf('', 2)", "2"),
        ("'bananananana'.lastIndexOf('nana', 7)", "6"),
        ("msg.t.matches(msg.p) && matches(msg.t, 'coc')", "true"),
        (
            "'%s is %.2f of %d'.format([msg.t, 1.5, 2])",
            r#""tacocat is 1.50 of 2""#,
        ),
        (
            "strings.quote(msg.t) + msg.t.reverse().substring(4)",
            r#""\"tacocat\"cat""#,
        ),
        (
            "optional.of(msg.t).orValue('') + msg.?none.orValue('x')",
            r#""tacocatx""#,
        ),
        ("msg.?t.optMap(t, t + '!').value()", r#""tacocat!""#),
    ] {
        assert_eq!(text(source, payload).as_deref(), Ok(expected), "{source}");
    }
    for source in [
        "msg.u.indexOf('©', 5)",
        "msg.u.indexOf('©', -1)",
        "msg.u.lastIndexOf('©', 5)",
        "[1].join()",
        "msg.t.matches('(' + msg.e)",
        "msg.t.replace('c')",
    ] {
        assert!(text(source, payload).is_err(), "{source}");
    }
}

#[test]
fn a_wrong_regular_expression_is_a_mistake_of_the_manifest() {
    let wrong = Expression::compile("msg.a.matches('(a')").unwrap_err();
    assert!(
        wrong.contains("wrong regular expression: unclosed group"),
        "{wrong}"
    );
    assert!(wrong.contains("at column 15"), "{wrong}");
    assert!(Expression::compile("matches(msg.a, '(a{1000}){1000}')").is_err());
    assert!(Expression::compile("msg.a.matches('^a+$') || msg.a.matches(msg.b)").is_ok());
}
