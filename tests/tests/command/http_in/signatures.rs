//! Signatures of webhooks over HTTP: a good one is accepted, a bad and an old one are not.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Seconds since 1970-01-01 UTC.
pub(super) fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("the clock is right").as_secs()
}

fn mac(text: &[u8]) -> Vec<u8> {
    mac_by(SECRET, text)
}

fn mac_by(secret: &str, text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length will do");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The headers of a request that Slack signs.
pub(super) fn slack(body: &[u8], time_s: u64) -> Vec<(&'static str, String)> {
    slack_by(SECRET, body, time_s)
}

fn slack_by(secret: &str, body: &[u8], time_s: u64) -> Vec<(&'static str, String)> {
    let signed = [format!("v0:{time_s}:").as_bytes(), body].concat();
    vec![
        ("X-Slack-Request-Timestamp", time_s.to_string()),
        (
            "X-Slack-Signature",
            format!("v0={}", hex(&mac_by(secret, &signed))),
        ),
    ]
}

fn standard(body: &[u8], time_s: u64) -> Vec<(&'static str, String)> {
    let signed = [format!("msg_1.{time_s}.").as_bytes(), body].concat();
    vec![
        ("webhook-id", "msg_1".to_owned()),
        ("webhook-timestamp", time_s.to_string()),
        (
            "webhook-signature",
            format!("v1,{}", STANDARD.encode(mac(&signed))),
        ),
    ]
}

fn stripe(body: &[u8], time_s: u64) -> Vec<(&'static str, String)> {
    let signed = [format!("{time_s}.").as_bytes(), body].concat();
    vec![(
        "Stripe-Signature",
        format!("t={time_s},v1={}", hex(&mac(&signed))),
    )]
}

fn shopify(body: &[u8], _: u64) -> Vec<(&'static str, String)> {
    vec![("X-Shopify-Hmac-Sha256", STANDARD.encode(mac(body)))]
}

#[test]
fn a_good_signature_is_accepted_and_a_bad_or_an_old_one_is_not() {
    type Sign = fn(&[u8], u64) -> Vec<(&'static str, String)>;
    let schemes: [(&str, Sign, bool); 4] = [
        ("slack", slack, true),
        ("standard", standard, true),
        ("stripe", stripe, true),
        ("shopify", shopify, false),
    ];
    for (scheme, sign, has_time) in schemes {
        let app = App::start(
            &format!("secret = \"{SECRET}\"\nsignature = \"{scheme}\""),
            "",
        );
        let post = |body: &[u8], signed: &[(&str, String)]| {
            let signed = signed.iter().map(|(name, value)| (*name, value.as_str()));
            let headers: Vec<(&str, &str)> = std::iter::once(JSON).chain(signed).collect();
            app.post(&headers, body).code
        };
        let (body, now_s) = (br#"{"n":1}"#, now_s());
        assert_eq!(post(body, &sign(body, now_s)), 202, "{scheme}");
        assert_eq!(
            post(br#"{"n":2}"#, &sign(body, now_s)),
            401,
            "{scheme}: bad"
        );
        assert_eq!(post(body, &[]), 401, "{scheme}: none");
        let old = post(body, &sign(body, now_s - 301));
        assert_eq!(old, if has_time { 401 } else { 202 }, "{scheme}: old");
        let kept = app.kept(1);
        let names: Vec<&String> = kept[0]["headers"]
            .as_object()
            .expect("headers")
            .keys()
            .collect();
        assert!(
            !names.iter().any(|name| name.contains("signature")),
            "{names:?}"
        );
    }
}

#[test]
fn both_secrets_of_a_rotation_are_accepted_and_the_tolerance_of_time_is_configured() {
    let app = App::start(
        &format!(
            "secret = \"the-next-secret-of-these-tests\"\n\
             previous_secret = \"{SECRET}\"\n\
             signature = \"slack\"\nsignature_tolerance = \"1h\""
        ),
        "",
    );
    let (body, now_s) = (br#"{"n":1}"#, now_s());
    let post = |secret: &str, time_s: u64| {
        let signed = slack_by(secret, body, time_s);
        let signed = signed.iter().map(|(name, value)| (*name, value.as_str()));
        let headers: Vec<(&str, &str)> = std::iter::once(JSON).chain(signed).collect();
        app.post(&headers, body).code
    };
    assert_eq!(post("the-next-secret-of-these-tests", now_s), 202);
    assert_eq!(post(SECRET, now_s), 202, "the secret before");
    assert_eq!(post("the-secret-of-another", now_s), 401);
    assert_eq!(post(SECRET, now_s - 3_000), 202, "50 minutes");
    assert_eq!(post(SECRET, now_s - 3_700), 401, "more than an hour");
}

#[test]
fn a_form_that_twilio_signed_is_accepted_and_another_is_not() {
    let app = App::start(
        "secret = \"12345\"\nsignature = \"twilio\"\npublic_url = \"https://mycompany.com/\"\n\
         content_types = [\"application/x-www-form-urlencoded\"]",
        "",
    );
    // The signature of `https://mycompany.com/hook?foo=1&bar=2` with these fields, made by
    // Twilio's algorithm with Python.
    let headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("X-Twilio-Signature", TWILIO),
    ];
    let body = b"To=%2B18005551212&From=%2B14158675309&Digits=1234";
    let post = |path: &str, body: &[u8]| {
        let answer = http::post(app.address, path, &headers, body);
        answer.expect("there is an answer").code
    };
    assert_eq!(post("/hook?foo=1&bar=2", body), 202);
    assert_eq!(post("/hook?foo=1&bar=3", body), 401);
    assert_eq!(post("/hook?foo=1&bar=2", b"To=%2B18005551212"), 401);
    assert_eq!(app.kept(1)[0]["msg"]["From"], "+14158675309");
}

const TWILIO: &str = "zIWvalwOXXPU8bApFGLIjrCwuDA=";
