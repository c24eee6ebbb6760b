//! `http-call` against an API that fails in every way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use brickwork::Message;
use brickwork::transport::Transports;
use brickwork_tests::api::{Api, ApiReply};
use brickwork_tests::app::{Probe, TestApp, really};
use serde_json::{Value, json};

/// Time in which a message comes.
const PATIENCE: Duration = Duration::from_secs(20);

fn manifest(name: &str, service: &str) -> String {
    let refused = match service.contains("rejected") {
        true => "[topics.refused]\nexternal = \"out\"",
        false => "",
    };
    let answers = match service.contains("answers") {
        true => "[topics.answers]\nexternal = \"out\"",
        false => "",
    };
    format!(
        r#"
        [app]
        name = "{name}"
        transport = "memory:"
        [admin]
        listen = "off"
        [topics.calls]
        external = "in"
        {answers}
        {refused}
        [services.call]
        use = "http-call"
        in = "calls"
        retry = {{ attempts = 3, backoff = {{ min = "50ms", max = "100ms" }} }}
        {service}
        "#
    )
}

async fn start(name: &str, service: &str) -> TestApp {
    let folder = tempfile::tempdir().unwrap();
    let catalog = brickwork_actors::catalog();
    let transports = Transports::new();
    TestApp::start_in(folder, &manifest(name, service), &catalog, &transports).await
}

/// Returns the next messages, by the value of a header or of a field of the payload.
async fn collect(
    probe: &mut Probe,
    count: usize,
    by: impl Fn(&Message) -> String,
) -> BTreeMap<String, u32> {
    let mut all = BTreeMap::new();
    for _ in 0..count {
        let message = probe.within(PATIENCE).await;
        *all.entry(by(&message.unwrap_or_else(|| panic!("only {all:?} came"))))
            .or_default() += 1;
    }
    all
}

fn payload(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

#[test]
fn every_way_in_which_a_call_fails_once_ends_with_its_answer() {
    really(async {
        let api = Api::start(|request| {
            let path = request.target.trim_start_matches("POST /").to_owned();
            if request.before > 0 {
                return ApiReply::json(200, &format!("{{\"path\":\"{path}\"}}"));
            }
            let now = httpdate::fmt_http_date(SystemTime::now());
            match path.as_str() {
                "hang" => ApiReply::Hang,
                "half" => ApiReply::Half,
                "reset" => ApiReply::Close,
                "seconds" => ApiReply::with_header(429, "retry-after", "1"),
                "date" => {
                    let then = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1));
                    let headers = vec![("retry-after".to_owned(), then), ("date".to_owned(), now)];
                    ApiReply::Answer(503, headers, String::new())
                }
                status => ApiReply::json(status.parse().unwrap(), "{}"),
            }
        })
        .await;
        let app = start(
            "fails-once",
            &format!(
                r#"out = {{ out = "answers" }}
            config.url = "'http://{}/' + msg.path"
            config.timeout = "500ms"
            config.connect_timeout = "500ms"
            config.breaker.min_messages = 100
            config.idempotency_header = "Idempotency-Key""#,
                api.address
            ),
        )
        .await;
        let mut answers = app.probe("answers").await;
        let paths = [
            "hang", "half", "reset", "seconds", "date", "401", "408", "500", "502", "504",
        ];
        for path in paths {
            app.send("calls", json!({ "path": path })).await;
        }
        let path = |message: &Message| payload(message)["path"].as_str().unwrap().to_owned();
        let all = collect(&mut answers, paths.len(), path).await;
        app.idle().await;
        assert_eq!(all.len(), paths.len(), "{all:?}");
        let row = app.summary("call");
        assert_eq!(
            (row.ok, row.dead_letters),
            (paths.len() as u64, 0),
            "{row:?}"
        );
        for path in paths {
            let mut of_path = api.requests();
            of_path.retain(|request| request.target == format!("POST /{path}"));
            let keys: Vec<_> = of_path
                .iter()
                .map(|it| &it.headers["idempotency-key"])
                .collect();
            assert!(keys.len() >= 2 && keys[0] == keys[1], "{path}: {keys:?}");
        }
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn refusals_are_emitted_with_status_and_reason_or_dead_lettered_with_the_body() {
    really(async {
        let api = Api::start(|request| match request.target.as_str() {
            "POST /moved" => {
                ApiReply::with_header(302, "location", "http://169.254.169.254/latest")
            }
            "POST /big" => ApiReply::json(200, &"x".repeat(3000)),
            _ => ApiReply::json(422, "{\"error\":\"no such order\"}"),
        })
        .await;
        let config = format!(
            r#"config.url = "msg.url"
            config.max_redirects = 3
            config.max_response = "2KiB"
            config.allow = ["{}"]"#,
            api.address
        );
        let wired = format!("out = {{ out = \"answers\", rejected = \"refused\" }}\n{config}");
        let app = start("refused", &wired).await;
        let mut refused = app.probe("refused").await;
        for (url, status, reason) in [
            (
                format!("http://{}/422", api.address),
                Some("422"),
                "no such order",
            ),
            (
                format!("http://{}/moved", api.address),
                None,
                "http://169.254.169.254 is not in allow",
            ),
            (
                format!("http://{}/big", api.address),
                None,
                "larger than max_response",
            ),
            ("http://169.254.169.254/x".to_owned(), None, "not in allow"),
            (
                "http://a:b@127.0.0.1/x".to_owned(),
                None,
                "user and password",
            ),
            (
                "http://0x7f000001:1/x".to_owned(),
                None,
                "http://127.0.0.1:1 is not in allow",
            ),
        ] {
            app.send("calls", json!({ "url": url })).await;
            let message = refused.within(PATIENCE).await.unwrap();
            assert_eq!(payload(&message), json!({ "url": url }));
            assert_eq!(
                message.headers.get("http-status").map(|it| &**it),
                status,
                "{url}"
            );
            let error = &message.headers["http-error"];
            assert!(error.contains(reason), "{url}: {error}");
        }
        app.idle().await;
        assert!(app.stop().await.is_clean());

        let app = start(
            "refused-unwired",
            &format!("out = {{ out = \"answers\" }}\n{config}"),
        )
        .await;
        let mut letters = app.dead_letters("call").await;
        app.send(
            "calls",
            json!({ "url": format!("http://{}/422", api.address) }),
        )
        .await;
        let letter = letters.within(PATIENCE).await.unwrap();
        let text = format!("{:?}", letter.headers);
        assert!(
            text.contains("status 422") && text.contains("no such order"),
            "{text}"
        );
        app.stop().await;
    });
}

#[test]
fn a_hundred_messages_with_an_expired_token_renew_it_once() {
    really(async {
        let expired = Arc::new(AtomicBool::new(false));
        let is_expired = expired.clone();
        let api = Api::start(move |request| {
            let token = if is_expired.load(Ordering::SeqCst) {
                "second"
            } else {
                "first"
            };
            if request.target == "POST /token" {
                let body = json!({ "access_token": token, "expires_in": 3600 });
                return ApiReply::json(200, &body.to_string());
            }
            match request.headers["authorization"] == format!("Bearer {token}") {
                true => ApiReply::json(200, "{}"),
                false => ApiReply::json(401, "{}"),
            }
        })
        .await;
        let app = start("token", &format!(
            r#"out = {{ out = "answers" }}
            instances = 4
            config.in_flight = 25
            config.in_flight_per_host = 100
            config.adaptive = false
            config.url = "'http://{0}/x'"
            config.auth.oauth2 = {{ token_url = "http://{0}/token", client_id = "me", client_secret = "hidden-secret" }}"#,
            api.address
        ))
        .await;
        let mut answers = app.probe("answers").await;
        for n in 0..100 {
            app.send("calls", json!({ "n": n })).await;
        }
        collect(&mut answers, 100, |_| String::new()).await;
        assert_eq!(api.count("POST /token"), 1);
        expired.store(true, Ordering::SeqCst);
        for n in 0..100 {
            app.send("calls", json!({ "n": n })).await;
        }
        collect(&mut answers, 100, |_| String::new()).await;
        app.idle().await;
        assert_eq!(api.count("POST /token"), 2);
        let row = app.summary("call");
        assert_eq!(
            (row.ok, row.retry, row.dead_letters),
            (200, 0, 0),
            "{row:?}"
        );
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn a_host_that_fails_costs_no_attempt_and_delays_no_other_host() {
    really(async {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = broken.clone();
        let bad = Api::start(move |_| match is_broken.load(Ordering::SeqCst) {
            true => ApiReply::json(500, "{}"),
            false => ApiReply::json(200, "\"bad\""),
        })
        .await;
        let good = Api::start(|_| ApiReply::json(200, "\"good\"")).await;
        let app = start(
            "one-host-fails",
            &format!(
                r#"out = {{ out = "answers" }}
            config.url = "msg.url"
            config.allow = ["{}", "{}"]
            config.breaker.pause_min = "200ms"
            config.breaker.pause_max = "400ms""#,
                bad.address, good.address
            ),
        )
        .await;
        let mut answers = app.probe("answers").await;
        for n in 0..100 {
            for api in [&bad, &good] {
                app.send(
                    "calls",
                    json!({ "url": format!("http://{}/{n}", api.address) }),
                )
                .await;
            }
        }
        let name = |message: &Message| payload(message).as_str().unwrap().to_owned();
        let all = collect(&mut answers, 100, name).await;
        assert_eq!(all, [("good".to_owned(), 100)].into());
        // The outage lasts longer than the attempts of a message would.
        bad.until(20).await;
        assert!(app.app.not_ready().is_empty(), "{:?}", app.app.not_ready());
        broken.store(false, Ordering::SeqCst);
        let all = collect(&mut answers, 100, name).await;
        assert_eq!(all, [("bad".to_owned(), 100)].into());
        app.idle().await;
        let row = app.summary("call");
        assert_eq!((row.ok, row.dead_letters), (200, 0), "{row:?}");
        // A few requests ran when the breaker opened; after that, one at a time.
        assert!(bad.requests().len() < 160, "{}", bad.requests().len());
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn an_unknown_outcome_is_rejected_if_the_config_says_so() {
    really(async {
        let api = Api::start(|_| ApiReply::Half).await;
        let app = start(
            "unknown",
            &format!(
                r#"out = {{ out = "answers", rejected = "refused" }}
            config.url = "'http://{}/pay'"
            config.on_unknown = "reject""#,
                api.address
            ),
        )
        .await;
        let mut refused = app.probe("refused").await;
        app.send("calls", json!({})).await;
        let message = refused.within(PATIENCE).await.unwrap();
        assert!(message.headers["http-error"].contains("outcome of the request is unknown"));
        app.idle().await;
        assert_eq!(api.requests().len(), 1);
        assert!(app.stop().await.is_clean());
    });
}

#[test]
fn expressions_make_request_payload_and_outcome() {
    really(async {
        let api = Api::start(|request| {
            let limited = request.before == 0;
            let mut headers = vec![("X-Remaining".to_owned(), u8::from(!limited).to_string())];
            headers.push(("X-Reset".to_owned(), "1".to_owned()));
            let body = format!("{{\"ok\":{},\"echo\":\"{}\"}}", !limited, request.body);
            ApiReply::Answer(200, headers, body)
        })
        .await;
        let app = start("expressions", &format!(
            r#"out = {{ out = "answers" }}
            config.method = "PUT"
            config.url = "'http://{}/items/' + string(msg.n)"
            config.format = "form"
            config.body = "{{'n': msg.n}}"
            config.outcome = "response.headers['X-Remaining'] == '0' ? int(response.headers['x-reset']) : (response.body.ok ? 'ok' : 'reject')"
            config.emit = "{{'n': msg.n, 'echo': response.body.echo, 'status': response.status}}"
            config.type = "item""#,
            api.address
        ))
        .await;
        let mut answers = app.probe("answers").await;
        app.send("calls", json!({ "n": 7 })).await;
        let message = answers.within(PATIENCE).await.unwrap();
        assert_eq!(
            payload(&message),
            json!({ "n": 7, "echo": "n=7", "status": 200 })
        );
        assert_eq!(
            (&*message.kind, &*message.headers["http-status"]),
            ("item", "200")
        );
        assert_eq!(api.count("PUT /items/7"), 2);
        assert_eq!(app.summary("call").retry, 0);
        app.stop().await;
    });
}

#[test]
fn a_call_whose_answer_is_not_needed_has_no_output() {
    really(async {
        let api = Api::start(|request| match request.target.as_str() {
            "POST /422" => ApiReply::json(422, "{}"),
            _ => ApiReply::json(200, "{}"),
        })
        .await;
        let url = format!("config.url = \"'http://{}/' + msg.path\"", api.address);
        let config = format!("out.rejected = \"refused\"\n{url}");
        let app = start("no-output", &config).await;
        let mut refused = app.probe("refused").await;
        for path in ["chat", "422"] {
            app.send("calls", json!({ "path": path })).await;
        }
        let message = refused.within(PATIENCE).await.unwrap();
        assert_eq!(payload(&message), json!({ "path": "422" }));
        app.idle().await;
        assert_eq!(api.count("POST /chat"), 1);
        let row = app.summary("call");
        assert_eq!((row.ok, row.retry, row.dead_letters), (2, 0, 0), "{row:?}");
        app.stop().await;

        // The short form means the first output.
        let app = start("short-form", &format!("out = \"answers\"\n{url}")).await;
        let mut answers = app.probe("answers").await;
        app.send("calls", json!({ "path": "chat" })).await;
        assert!(answers.within(PATIENCE).await.is_some());
        app.stop().await;
    });
}

#[test]
fn a_limit_by_customer_delays_that_customer_alone() {
    really(async {
        let api = Api::start(|_| ApiReply::json(200, "{}")).await;
        let service = format!(
            r#"out = "answers"
            config.url = "'http://{}/'"
            config.limit = "customer"
            config.emit = "msg"
            [limits.customer]
            rate = 5
            per = "1s"
            key = "msg.customer""#,
            api.address
        );
        let app = start("limit", &service).await;
        let mut answers = app.probe("answers").await;
        let began = Instant::now();
        for _ in 0..15 {
            app.send("calls", json!({ "customer": "busy" })).await;
        }
        app.send("calls", json!({ "customer": "quiet" })).await;
        let customer = |message: &Message| payload(message)["customer"].to_string();
        while !collect(&mut answers, 1, customer)
            .await
            .contains_key("\"quiet\"")
        {}
        assert!(api.requests().len() < 15, "{}", api.requests().len());
        api.until(16).await;
        // Five at once, ten more at five a second.
        assert!(began.elapsed() > Duration::from_millis(1_800));
        app.idle().await;
        let row = app.summary("call");
        assert_eq!((row.ok, row.retry, row.dead_letters), (16, 0, 0), "{row:?}");
        app.stop().await;
    });
}

#[test]
fn a_message_to_a_host_whose_breaker_is_open_takes_no_turn_of_the_limit() {
    really(async {
        let bad = Api::start(|request| match request.before {
            0 | 1 => ApiReply::json(500, "{}"),
            _ => ApiReply::json(200, "\"bad\""),
        })
        .await;
        let good = Api::start(|_| ApiReply::json(200, "\"good\"")).await;
        let service = format!(
            r#"out = "answers"
            config.url = "msg"
            config.allow = ["{}", "{}"]
            config.limit = "four"
            config.in_flight = 1
            config.breaker = {{ min_messages = 2, pause_min = "500ms", pause_max = "500ms" }}
            [limits.four]
            rate = 1
            per = "1h"
            burst = 4"#,
            bad.address, good.address
        );
        let app = start("no-turn", &service).await;
        let mut answers = app.probe("answers").await;
        for api in [&good, &bad, &bad, &bad] {
            app.send("calls", json!(format!("http://{}/", api.address)))
                .await;
        }
        // The first three take a turn each, the probe takes the fourth.
        let all = collect(&mut answers, 2, |message| payload(message).to_string()).await;
        assert_eq!(all.keys().collect::<Vec<_>>(), ["\"bad\"", "\"good\""]);
        app.stop().await;
    });
}
