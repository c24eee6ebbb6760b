//! Handshakes of providers: the challenge comes back, and nothing becomes a message.

use super::*;

#[test]
fn the_challenge_of_slack_is_sent_back_if_it_is_signed() {
    let app = App::start(&format!("secret = \"{SECRET}\"\nsignature = \"slack\""), "");
    let body = br#"{"token":"x","challenge":"3eZbrw1aBm2rZgRNFdxV","type":"url_verification"}"#;
    let headers = signatures::slack(body, signatures::now_s());
    let signed: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let answer = app.post(&[&[JSON], &signed[..]].concat(), body);
    assert_eq!(
        (answer.code, answer.json()["challenge"].as_str()),
        (200, Some("3eZbrw1aBm2rZgRNFdxV"))
    );
    assert_eq!(app.post(&[JSON], body).code, 401);
    let event = br#"{"type":"event_callback"}"#;
    let headers = signatures::slack(event, signatures::now_s());
    let signed: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(app.post(&[&[JSON], &signed[..]].concat(), event).code, 202);
    assert_eq!(app.kept(1).len(), 1, "the handshake is no message");
}

#[test]
fn a_handshake_by_get_needs_the_token() {
    let app = App::start("verify_token = \"meatyhamhock\"", "");
    let get = |path: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        app.exchange(&request)
    };
    let query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock";
    let answer = get(&format!("/hook?{query}"));
    assert_eq!((answer.code, answer.body.as_str()), (200, "1158201444"));
    assert!(
        answer
            .header("content-type")
            .is_some_and(|it| it.starts_with("text/plain"))
    );
    assert_eq!(
        get(&format!("/hook?{}", query.replace("hock", "hack"))).code,
        403
    );
    assert_eq!(get(&format!("/other?{query}")).code, 404);
    assert_eq!(get("/hook?a=b").code, 405);
    assert_eq!(app.post(&[JSON], b"{}").code, 202);
    assert_eq!(app.kept(1).len(), 1);
}
