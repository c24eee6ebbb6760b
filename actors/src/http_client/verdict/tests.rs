use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::HeaderValue;

use super::*;

fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    Answer {
        status,
        headers: map,
        body: Bytes::from(body.to_owned()),
    }
}

fn kind(status: u16) -> &'static str {
    match verdict(&Ok(answer(status, &[], "")), UNIX_EPOCH) {
        Verdict::Succeeded => "succeeded",
        Verdict::Later { .. } => "later",
        Verdict::Rejected { .. } => "rejected",
    }
}

#[test]
fn the_status_decides() {
    for status in [200, 201, 202, 204, 206] {
        assert_eq!(kind(status), "succeeded", "{status}");
    }
    for status in [401, 408, 425, 429, 500, 502, 503, 504, 520] {
        assert_eq!(kind(status), "later", "{status}");
    }
    for status in [301, 304, 400, 403, 404, 409, 410, 422, 501, 505] {
        assert_eq!(kind(status), "rejected", "{status}");
    }
}

#[test]
fn retry_after_is_read_in_both_forms_and_capped() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let later = "Sun, 06 Nov 1994 08:50:07 GMT";
    let seconds = |number| Some(Duration::from_secs(number));
    let now = httpdate::parse_http_date(date).unwrap();
    for (value, own_date, now, expected) in [
        ("7", None, UNIX_EPOCH, seconds(7)),
        ("0", None, UNIX_EPOCH, seconds(0)),
        ("99999999999999999999999", None, UNIX_EPOCH, seconds(3600)),
        ("86400", None, UNIX_EPOCH, seconds(3600)),
        ("-1", None, UNIX_EPOCH, None),
        ("soon", None, UNIX_EPOCH, None),
        ("", None, UNIX_EPOCH, None),
        (later, Some(date), UNIX_EPOCH, seconds(30)),
        (later, None, now, seconds(30)),
        (date, Some(later), UNIX_EPOCH, seconds(0)),
        (later, None, UNIX_EPOCH, seconds(3600)),
    ] {
        let mut headers = vec![("retry-after", value)];
        headers.extend(own_date.map(|date| ("date", date)));
        let answer = answer(429, &headers, "");
        assert_eq!(retry_after(&answer.headers, now), expected, "{value:?}");
    }
}

#[test]
fn a_rate_limit_with_its_wait_and_an_open_breaker_spend_no_attempt() {
    let spends = |result| match verdict(&result, UNIX_EPOCH) {
        Verdict::Later {
            spends_attempt,
            after,
            ..
        } => (spends_attempt, after),
        other => panic!("{other:?}"),
    };
    let wait = [("retry-after", "5")];
    let five = Some(Duration::from_secs(5));
    assert_eq!(spends(Ok(answer(429, &wait, ""))), (false, five));
    assert_eq!(spends(Ok(answer(429, &[], ""))), (true, None));
    assert_eq!(spends(Ok(answer(503, &wait, ""))), (false, five));
    assert_eq!(spends(Ok(answer(500, &wait, ""))), (true, five));
    assert_eq!(spends(Ok(answer(503, &[], ""))), (true, None));
    let until = UNIX_EPOCH + Duration::from_secs(5);
    let reason = String::new();
    assert_eq!(
        spends(Err(CallError::Open { until, reason })),
        (false, five)
    );
    assert!(!spends(Err(CallError::Busy(String::new()))).0);
    assert_eq!(spends(Err(CallError::Unknown(String::new()))), (true, None));
}

#[test]
fn a_reason_has_the_start_of_the_body_in_one_line() {
    let body = format!("no\n such\torder\u{0} {}", "x".repeat(10_000));
    let Verdict::Rejected { reason } = verdict(&Ok(answer(404, &[], &body)), UNIX_EPOCH) else {
        panic!("a 404 rejects");
    };
    assert!(reason.starts_with("the answer has status 404: no such order x"));
    assert!(
        reason.len() < 4096 && reason.ends_with('…'),
        "{}",
        reason.len()
    );
}
