//! Webhooks that leave: `webhook-out` against receivers that verify, fail and die.

use std::process::Command;

use brickwork_tests::binary::brickwork;
use brickwork_tests::process::until;
use serde_json::Value;

use super::receiver::Endpoint;
use super::{App, PATIENCE};

/// An app that posts what it gets at `/send` to `URL`.
const SENDER: &str = r#"
[services.front]
use = "http-in"
out = { events = "events", enable = "enable" }
config = { listen = "ADDRESS", id_header = "X-Id", routes = { "/send" = "events", "/enable" = "enable" } }
[services.notify]
use = "webhook-out"
store = true
in = { in = "events", enable = "enable" }
out = { delivered = "kept", disabled = "kept" }
retry.attempts = 1
[services.notify.config]
url = "URL"
allow = ["127.0.0.1:*"]
secrets = ["whsec_bmV3LXNlY3JldA==", "whsec_b2xkLXNlY3JldA=="]
body = "{'type': meta.type, 'data': msg}"
enable = true
MORE
[services.keep]
use = "file-out"
in = "kept"
config.path = "kept.jsonl"
"#;

/// An app that accepts what is signed with the old secret.
const RECEIVER: &str = r#"
[services.hooks]
use = "http-in"
out = "hooks"
config = { listen = "ADDRESS", path = "/hook", signature = "standard", secret = "whsec_b2xkLXNlY3JldA==", id_header = "webhook-id" }
[services.envelope]
use = "map"
in = "hooks"
out = "kept"
config.to = { id = "meta.id", msg = "msg" }
[services.keep]
use = "file-out"
in = "kept"
config.path = "kept.jsonl"
"#;

fn sender(url: &str, more: &str) -> App {
    App::start(&SENDER.replace("URL", url).replace("MORE", more))
}

fn send(app: &App, id: &str, body: &str) {
    let headers = format!("Content-Type: application/json\r\nX-Id: {id}\r\n");
    let sent = app.send("POST", "/send", &headers, body);
    assert_eq!(sent.code, 202, "{}", sent.body);
}

/// Waits until the file of an app has this many lines.
fn kept(app: &App, count: usize) -> Vec<Value> {
    until("lines are kept", PATIENCE, || {
        let text = std::fs::read_to_string(app.folder.path().join("kept.jsonl"));
        let text = text.map_err(|error| error.to_string())?;
        let lines = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok());
        let lines: Vec<Value> = lines.collect();
        match lines.len() >= count {
            true => Ok(lines),
            false => Err(format!(
                "{} of {count} lines: {}",
                lines.len(),
                app.process.stderr()
            )),
        }
    })
}

/// Waits until the log has this many lines with a text.
fn logged(app: &App, text: &str, count: usize) -> Vec<String> {
    until("lines are logged", PATIENCE, || {
        let log = app.process.stderr();
        let lines = log.lines().filter(|line| line.contains(text));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        match lines.len() >= count {
            true => Ok(lines),
            false => Err(log),
        }
    })
}

#[test]
fn http_in_verifies_webhooks_of_webhook_out_while_the_secret_rotates() {
    let receiver = App::start(RECEIVER);
    let app = sender(&format!("'http://{}/hook'", receiver.address), "");
    send(&app, "order-17", r#"{"n":1}"#);
    let lines = kept(&receiver, 1);
    assert_eq!(lines[0]["id"], "order-17");
    assert_eq!(lines[0]["msg"]["data"], serde_json::json!({"n": 1}));
    assert_eq!(kept(&app, 1)[0], serde_json::json!({"n": 1}));
    // A request that is not signed is refused.
    assert_eq!(receiver.post("/hook", "{}").code, 401);
}

#[test]
fn a_webhook_is_tried_by_the_schedule_beyond_the_attempts_of_the_queue() {
    let endpoint = Endpoint::start(500);
    let url = format!("'http://{}/hook?key=s3cret'", endpoint.address);
    let app = sender(&url, r#"schedule = ["100ms", "1s", "100ms", "100ms"]"#);
    send(&app, "order-17", r#"{"n":1}"#);
    let tries = [endpoint.next(), endpoint.next(), endpoint.next()];
    endpoint.answer_with(204);
    let last = endpoint.next();
    for again in &tries {
        assert_eq!(again.header("webhook-id"), "order-17");
        assert_eq!(again.body, last.body);
    }
    // Each try is signed with its own time.
    let time = |it: &super::receiver::Arrived| it.header("webhook-timestamp").to_owned();
    assert_ne!(time(&tries[0]), time(&last));
    assert_ne!(
        tries[0].header("webhook-signature"),
        last.header("webhook-signature")
    );
    assert_eq!(kept(&app, 1).len(), 1);
    assert_eq!(endpoint.rest(), 0);
    assert!(!app.process.stderr().contains("s3cret"));
}

#[test]
fn a_webhook_is_given_up_after_its_last_try_and_can_be_replayed() {
    let endpoint = Endpoint::start(500);
    let url = format!("'http://{}/hook'", endpoint.address);
    let app = sender(&url, r#"schedule = ["50ms", "50ms"]"#);
    send(&app, "order-17", r#"{"n":1}"#);
    for _ in 0..3 {
        endpoint.next();
    }
    let text = "try 3 failed, which was the last one: the answer has status 500: never mind";
    let letters = logged(&app, "dead-lettered", 1);
    assert!(letters[0].contains(text), "{letters:?}");
    endpoint.answer_with(200);
    let mut replay = Command::new(brickwork());
    replay.args(["dlq", "replay", "app.toml", "--service", "notify", "--all"]);
    let replayed = replay
        .current_dir(app.folder.path())
        .output()
        .expect("it runs");
    assert!(replayed.status.success(), "{replayed:?}");
    assert_eq!(endpoint.next().header("webhook-id"), "order-17");
    assert_eq!(kept(&app, 1).len(), 1);
}

#[test]
fn a_dead_endpoint_is_disabled_said_so_and_enabled_again() {
    let endpoint = Endpoint::start(500);
    let url = format!("'http://{}/hook'", endpoint.address);
    let schedule = r#"schedule = ["300ms", "300ms", "300ms", "300ms", "300ms", "300ms"]"#;
    let app = sender(&url, &format!("{schedule}\ndisable_after = \"500ms\""));
    send(&app, "first", r#"{"n":1}"#);
    let events = kept(&app, 1);
    let name = format!("http://{}/hook", endpoint.address);
    assert_eq!(events[0]["endpoint"], name.as_str());
    assert_eq!(events[0]["error"], "the answer has status 500: never mind");
    logged(&app, "endpoint disabled", 1);
    let tries = 1 + endpoint.rest();
    // No more tries, although the endpoint is back.
    endpoint.answer_with(200);
    send(&app, "second", r#"{"n":2}"#);
    let letters = logged(&app, "dead-lettered", 2);
    let text = format!("{name} is disabled");
    assert!(letters.iter().all(|it| it.contains(&text)), "{letters:?}");
    assert_eq!(endpoint.rest(), 0, "after {tries} tries");

    let enable = format!(r#"{{"endpoint":"{name}"}}"#);
    let headers = "Content-Type: application/json\r\nX-Id: enable\r\n";
    assert_eq!(app.send("POST", "/enable", headers, &enable).code, 202);
    logged(&app, "endpoint enabled", 1);
    send(&app, "third", r#"{"n":3}"#);
    assert_eq!(endpoint.next().header("webhook-id"), "third");
}
