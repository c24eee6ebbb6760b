use brickwork::Envelope;
use serde_json::{Value, json};

use super::*;

fn ports() -> ChildPorts {
    ChildPorts {
        outputs: ["out", "urgent"].map(str::to_owned).into(),
        asks: vec!["price".to_owned()],
    }
}

fn answer_in(line: &[u8]) -> (Cow<'_, str>, Answer) {
    match parse(line, &ports()).unwrap() {
        (id, ChildLine::Answer(answer)) => (id, answer),
        (_, ChildLine::Ask(ask)) => panic!("{ask:?}"),
    }
}

#[test]
fn a_request_is_one_line_with_the_payload_unchanged() {
    let mut envelope = Envelope::new("is\"sue", "{ \"n\" :\n 1.50, \"s\": \"a\\nb\" }");
    envelope.topic = "issues.opened".into();
    envelope.headers.insert("a\n".into(), "ü".into());
    envelope.headers.insert("b".into(), "".into());
    let line = request("id-1", &envelope.into(), 3).unwrap();
    let text = std::str::from_utf8(&line).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    assert!(
        text.ends_with("\"msg\":{\"n\":1.50,\"s\":\"a\\nb\"}}\n"),
        "{text}"
    );
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(
        value,
        json!({
            "id": "id-1", "topic": "issues.opened", "type": "is\"sue", "attempt": 3,
            "headers": {"a\n": "ü", "b": ""}, "msg": {"n": 1.5, "s": "a\nb"},
        })
    );
}

#[test]
fn a_payload_that_is_not_json_is_rejected() {
    let message = Envelope::new("t", "nonsense").into();
    let failure = request("i", &message, 1).unwrap_err();
    assert_eq!(failure.kind(), brickwork::FailureKind::Reject);
}

#[test]
fn emitted_payloads_are_taken_unchanged() {
    let line = br#"{"emit":[{"port":"urgent","msg":{"n":1.50}},{"port":"out","type":"t","msg":null}],"id":"i\u0031"}"#;
    let (id, answer) = answer_in(line);
    assert_eq!(id, "i1");
    let emitted = |output, kind: Option<&str>, payload: &'static str| Emitted {
        output,
        kind: kind.map(Arc::from),
        payload: payload.into(),
    };
    let expected = vec![
        emitted(1, None, r#"{"n":1.50}"#),
        emitted(0, Some("t"), "null"),
    ];
    let reply = None;
    let emitted = expected;
    assert_eq!(answer, Answer::Done { emitted, reply });
}

#[test]
fn a_reply_stands_beside_the_emitted_messages() {
    let line = br#"{"id":"i","emit":[],"reply":{"n":1.50}}"#;
    let (_, answer) = answer_in(line);
    let (emitted, reply) = (Vec::new(), Some(r#"{"n":1.50}"#.into()));
    assert_eq!(answer, Answer::Done { emitted, reply });
}

#[test]
fn a_failed_message_is_retried_delayed_or_rejected_as_the_answer_says() {
    let two_hours = std::time::Duration::from_secs(7200);
    for (more, failure) in [
        ("", Failure::retry("no")),
        (r#","retry":true"#, Failure::retry("no")),
        (r#","retry":false"#, Failure::reject("no")),
        (r#","after":"2h""#, Failure::after(two_hours, "no")),
        (r#","defer":"2h""#, Failure::defer(two_hours, "no")),
        (
            r#","retry":true,"defer":"2h""#,
            Failure::defer(two_hours, "no"),
        ),
    ] {
        let line = format!(r#"{{"id":"i","error":"no"{more}}}"#);
        let (_, answer) = answer_in(line.as_bytes());
        assert_eq!(answer, Answer::Failed(failure), "{more}");
    }
}

#[test]
fn a_request_has_an_id_of_its_own_and_its_payload_is_taken_unchanged() {
    let line = br#"{"id":"i","ask":"q","port":"price","msg":{"n":1.50},"type":"t"}"#;
    let (id, parsed) = parse(line, &ports()).unwrap();
    let expected = Ask {
        id: "q".into(),
        port: 0,
        kind: Some("t".into()),
        payload: r#"{"n":1.50}"#.into(),
    };
    assert_eq!((&*id, parsed), ("i", ChildLine::Ask(expected)));
}

#[test]
fn a_reply_is_one_line() {
    let payload = one_line(b"{ \"n\":\n1.50}").unwrap();
    let text = reply("a\"", "q\n", &Ok(payload));
    assert_eq!(
        text,
        b"{\"id\":\"a\\\"\",\"ask\":\"q\\n\",\"reply\":{\"n\":1.50}}\n"
    );
    let text = reply("a", "q", &Err("no\nreply".to_owned()));
    assert_eq!(
        text,
        b"{\"id\":\"a\",\"ask\":\"q\",\"error\":\"no\\nreply\"}\n"
    );
    assert_eq!(one_line(b"").unwrap(), b"null");
    assert!(one_line(b"nonsense").is_err());
}

#[test]
fn a_line_that_is_not_an_answer_is_refused_with_the_id_of_its_message_if_it_has_one() {
    let cases: [(&[u8], Option<&str>, &str); 17] = [
        (b"ready!", None, "logs belong on stderr"),
        (b"", None, "not an answer"),
        (b"\xff", None, "utf-8"),
        (b"[]", None, "not an answer"),
        (br#"{"emit":[]}"#, None, "missing field `id`"),
        (
            br#"{"id":"i"}"#,
            Some("i"),
            "without exactly one of emit and error",
        ),
        (
            br#"{"id":"i","emit":[],"error":"x"}"#,
            Some("i"),
            "without exactly one",
        ),
        (
            br#"{"id":"i","error":"x","reply":1}"#,
            Some("i"),
            "without exactly one",
        ),
        (
            br#"{"id":"i","emit":[],"more":1}"#,
            Some("i"),
            "unknown field `more`",
        ),
        (
            br#"{"id":"i","emit":[{"port":"up","msg":1}]}"#,
            Some("i"),
            "\"up\", which is not one of its outputs (out, urgent)",
        ),
        (
            br#"{"id":"i","ask":"q","port":"out","msg":1}"#,
            Some("i"),
            "it asked on \"out\", which is not one of its asks (price)",
        ),
        (
            br#"{"id":"i","ask":"q","port":"price"}"#,
            Some("i"),
            "a request without port and msg",
        ),
        (
            br#"{"id":"i","ask":"q","port":"price","msg":1,"emit":[]}"#,
            Some("i"),
            "a request that is an answer",
        ),
        (
            br#"{"id":"i","emit":[],"port":"out"}"#,
            Some("i"),
            "without ask",
        ),
        (
            br#"{"id":"i","error":"x","after":"1s","defer":"1s"}"#,
            Some("i"),
            "more than one of",
        ),
        (
            br#"{"id":"i","error":"x","after":"soon"}"#,
            Some("i"),
            "not a duration",
        ),
        (
            br#"{"id":"i","emit":[],"defer":"1s"}"#,
            Some("i"),
            "without exactly one",
        ),
    ];
    for (line, id, text) in cases {
        let broken = parse(line, &ports()).unwrap_err();
        assert_eq!(broken.id.as_deref(), id, "{broken:?}");
        assert!(broken.text.contains(text), "{broken:?}");
    }
}

#[test]
fn a_long_wrong_line_is_cut_in_the_error() {
    let broken = parse(&vec![b'x'; 100_000], &ports()).unwrap_err();
    assert!(broken.text.len() < 500, "{}", broken.text.len());
}
