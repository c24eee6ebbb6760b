use super::*;

const GITHUB: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
const TOLERANCE: Duration = Duration::from_secs(300);

fn check(scheme: SignatureScheme, secrets: &[&str]) -> SignatureCheck {
    let secrets: Vec<Secret> = secrets
        .iter()
        .map(|secret| serde_json::from_value((*secret).into()).unwrap())
        .collect();
    SignatureCheck::new(scheme, &secrets, TOLERANCE, "https://mycompany.com/").unwrap()
}

fn request(uri: &str, pairs: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(uri);
    for (name, value) in pairs {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// Whether a request with these headers is accepted.
fn accepts(check: &SignatureCheck, pairs: &[(&str, &str)], body: &[u8], now_s: u64) -> bool {
    let signed = check.read(&request("/", pairs), now_s);
    signed.is_ok_and(|signed| check.matches(body, false, &signed))
}

/// Signs with the crate alone, for schemes whose vendor publishes no example.
fn sign(secret: &str, parts: &[&[u8]]) -> Vec<u8> {
    let key = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac(&key, parts).finalize().into_bytes().to_vec()
}

#[test]
fn the_example_in_the_documentation_of_github_matches() {
    let check = check(SignatureScheme::GitHub, &["It's a Secret to Everybody"]);
    for text in [GITHUB.to_owned(), GITHUB.to_uppercase()] {
        let header = [("X-Hub-Signature-256", &*format!("sha256={text}"))];
        assert!(accepts(&check, &header, b"Hello, World!", 0));
        assert!(!accepts(&check, &header, b"Hello, World?", 0));
        assert!(!accepts(&check, &header, b"", 0));
    }
    let other = format!("sha256={}", GITHUB.replace('7', "8"));
    let header = [("X-Hub-Signature-256", &*other)];
    assert!(!accepts(&check, &header, b"Hello, World!", 0));
}

#[test]
fn the_example_in_the_documentation_of_slack_matches_while_it_is_recent() {
    const TIME: u64 = 1_531_420_618;
    let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow\
        &channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner\
        &command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands\
        %2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let check = check(
        SignatureScheme::Slack,
        &["8f742231b10e8888abcd99yyyzzz85a5"],
    );
    let pairs = [
        ("X-Slack-Request-Timestamp", "1531420618"),
        (
            "X-Slack-Signature",
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        ),
    ];
    for (now_s, right) in [
        (TIME, true),
        (TIME + 300, true),
        (TIME + 301, false),
        (TIME - 301, false),
    ] {
        assert_eq!(accepts(&check, &pairs, body, now_s), right, "{now_s}");
    }
    assert!(
        !accepts(&check, &pairs[1..], body, TIME),
        "without its time"
    );
}

#[test]
fn the_example_of_standard_webhooks_matches() {
    const TIME: u64 = 1_614_265_330;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let check = check(SignatureScheme::Standard, &[secret]);
    let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    for header in [
        signature.to_owned(),
        format!("v1a,other v1,{} {signature}", STANDARD.encode([7; BYTES])),
    ] {
        let pairs = [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", &header),
        ];
        assert!(accepts(&check, &pairs, br#"{"test": 2432232314}"#, TIME));
        assert!(!accepts(&check, &pairs, br#"{"test": 2432232315}"#, TIME));
        assert!(!accepts(
            &check,
            &pairs[1..],
            br#"{"test": 2432232314}"#,
            TIME
        ));
    }
    let broken: Secret = serde_json::from_str("\"whsec_?\"").unwrap();
    assert!(SignatureCheck::new(SignatureScheme::Standard, [&broken], TOLERANCE, "").is_err());
}

#[test]
fn stripe_signs_time_and_body_and_may_send_two_signatures() {
    let check = check(SignatureScheme::Stripe, &["whsec_new", "whsec_old"]);
    let body = br#"{"id":"evt_1"}"#;
    for secret in ["whsec_new", "whsec_old"] {
        let right = hex_of(&sign(secret, &[b"1000.", body]));
        let header = format!("t=1000,v1={},v1={right},v0=00", "0".repeat(64));
        let pairs = [("Stripe-Signature", &*header)];
        assert!(accepts(&check, &pairs, body, 1100));
        assert!(!accepts(&check, &pairs, body, 1400));
        let moved = header.replace("t=1000", "t=1001");
        assert!(!accepts(
            &check,
            &[("Stripe-Signature", &moved)],
            body,
            1100
        ));
    }
    let unknown = hex_of(&sign("whsec_other", &[b"1000.", body]));
    let header = format!("t=1000,v1={unknown}");
    assert!(!accepts(
        &check,
        &[("Stripe-Signature", &header)],
        body,
        1000
    ));
}

#[test]
fn the_other_schemes_sign_the_body_or_send_the_secret() {
    let body = b"body";
    let mac = sign("key", &[body]);
    for (scheme, header) in [
        (SignatureScheme::PagerDuty, format!("v1={}", hex_of(&mac))),
        (SignatureScheme::Sentry, hex_of(&mac)),
        (SignatureScheme::Shopify, STANDARD.encode(&mac)),
        (SignatureScheme::GitLab, "key".to_owned()),
    ] {
        let right = [(scheme.header(), &*header)];
        assert!(
            accepts(&check(scheme, &["key"]), &right, body, 0),
            "{scheme:?}"
        );
        assert!(accepts(&check(scheme, &["new", "key"]), &right, body, 0));
        assert!(!accepts(&check(scheme, &["other"]), &right, body, 0));
        let cut = [(scheme.header(), &header[1..])];
        assert!(!accepts(&check(scheme, &["key"]), &cut, body, 0));
    }
}

/// The examples of Twilio's documentation and of its libraries.
#[test]
fn the_examples_of_twilio_match() {
    let check = check(SignatureScheme::Twilio, &["12345"]);
    let accepts = |uri: &str, signature: &str, body: &[u8], is_form: bool| {
        let signed = check.read(&request(uri, &[("X-Twilio-Signature", signature)]), 0);
        signed.is_ok_and(|signed| check.matches(body, is_form, &signed))
    };
    let uri = "/myapp.php?foo=1&bar=2";
    for (from, signature) in [
        ("%2B12349013030", "0/KCTR6DLpKmkAf8muzZqo1nDgQ="),
        ("%2B14158675309", "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    ] {
        let body = format!(
            "To=%2B18005551212&CallSid=CA1234567890ABCDE&Digits=1234&From={from}&Caller={from}"
        );
        assert!(accepts(uri, signature, body.as_bytes(), true));
        let twice = format!("{body}&Digits=1234");
        assert!(accepts(uri, signature, twice.as_bytes(), true));
        let more = format!("{body}&Digits=12345");
        assert!(!accepts(uri, signature, more.as_bytes(), true));
        assert!(!accepts(
            "/myapp.php?foo=1",
            signature,
            body.as_bytes(),
            true
        ));
        assert!(!accepts(uri, signature, body.as_bytes(), false), "no form");
        assert!(!accepts(uri, &signature[1..], body.as_bytes(), true));
    }
    // A body that is no form is signed by its digest in the query.
    let body = br#"{"property": "value", "boolean": true}"#;
    let uri = format!("{uri}&bodySHA256={}", hex_of(&Sha256::digest(body)));
    let url = format!("https://mycompany.com{uri}");
    let key = Hmac::<Sha1>::new_from_slice(b"12345").unwrap();
    let signature = STANDARD.encode(mac(&key, &[url.as_bytes()]).finalize().into_bytes());
    assert!(accepts(&uri, &signature, body, false));
    assert!(!accepts(&uri, &signature, b"{}", false));
    assert!(!accepts(&uri, &signature, b"", false));
}

#[test]
fn a_malformed_signature_is_refused_with_the_right_form() {
    let check = check(SignatureScheme::GitHub, &["key"]);
    let cut = &GITHUB[2..];
    for text in [
        "",
        "sha256=",
        GITHUB,
        &format!("sha1={GITHUB}"),
        &format!("sha256={cut}"),
        &format!("sha256={cut}zz"),
        &format!("sha256={GITHUB}00"),
        &format!("sha256=+{}", &GITHUB[1..]),
    ] {
        let error = check.read(&request("/", &[("X-Hub-Signature-256", text)]), 0);
        let error = error.expect_err(text);
        assert!(error.contains("X-Hub-Signature-256: sha256=HEX"), "{error}");
    }
    assert!(check.read(&request("/", &[]), 0).is_err());
    let right = format!("sha256={GITHUB}");
    let twice = request("/", &[("X-Hub-Signature-256", &*right); 2]);
    assert!(check.read(&twice, 0).is_err(), "two are ambiguous");
}
