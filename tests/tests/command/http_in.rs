//! The service type `http-in`: each request gets an honest answer, and no client can exhaust the
//! server.

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::http::{self, Response};
use brickwork_tests::process::{Process, free_address, until};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

mod connections;
mod crowd;
mod fuzz;
mod handshakes;
mod pressure;
mod senders;
mod signatures;

const PATIENCE: Duration = Duration::from_secs(30);

const JSON: (&str, &str) = ("Content-Type", "application/json");

const SECRET: &str = "a-secret-that-nobody-sees";

/// An app that writes each message that it got by HTTP to a file, with its envelope.
struct App {
    folder: TempDir,
    address: SocketAddr,
    process: Process,
}

impl App {
    /// Starts the app with additional config keys of `http-in` and additional tables of the
    /// manifest.
    fn start(config: &str, more: &str) -> Self {
        Self::start_at(free_address(), config, more)
    }

    fn start_at(address: SocketAddr, config: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let process = run(folder.path(), address, config, more);
        let app = Self {
            folder,
            address,
            process,
        };
        app.listening();
        app
    }

    fn listening(&self) {
        until("it listens", PATIENCE, || {
            TcpStream::connect(self.address).map_err(|error| error.to_string())
        });
    }

    fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Response {
        http::post(self.address, "/hook", headers, body).expect("there is an answer")
    }

    fn exchange(&self, bytes: &str) -> Response {
        http::exchange(self.address, bytes.as_bytes()).expect("there is an answer")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is set");
        stream
    }

    /// Waits until the file has `count` lines and returns them.
    fn kept(&self, count: usize) -> Vec<Value> {
        until("all are kept", PATIENCE, || {
            let file = self.folder.path().join("kept.jsonl");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<Value> = text
                .lines()
                .map_while(|line| serde_json::from_str(line).ok())
                .collect();
            if lines.len() >= count {
                Ok(lines)
            } else {
                Err(format!("{} of {count} lines", lines.len()))
            }
        })
    }

    /// Stops the app by a signal and expects exit code 0.
    fn stop(&mut self) {
        terminate(&self.process);
        assert_eq!(self.process.exit_code(PATIENCE), Some(0));
    }
}

fn run(folder: &Path, address: SocketAddr, config: &str, more: &str) -> Process {
    let more = if more.is_empty() {
        "[services.work]\nuse = \"filter\"\nin = \"posted\"\nout = \"worked\"\n\
         config.when = \"true\"\n"
    } else {
        more
    };
    let manifest = format!(
        r#"
        [app]
        name = "http"
        transport = "memory:"
        log.level = "debug"
        [admin]
        listen = "off"
        [services.intake]
        use = "http-in"
        out = "posted"
        [services.intake.config]
        listen = "{address}"
        path = "/hook"
        {config}
        {more}
        [services.envelope]
        use = "map"
        in = "worked"
        out = "enveloped"
        config.to = {{ id = "meta.id", type = "meta.type", headers = "meta.headers", msg = "msg" }}
        [services.keep]
        use = "file-out"
        in = "enveloped"
        config.path = "kept.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder);
    let process = Process::start(command, folder, "it was just built");
    process.line(PATIENCE, |line| line.contains("runs:").then_some(()));
    process
}

fn terminate(process: &Process) {
    let mut kill = Command::new("kill");
    kill.arg(process.id().to_string());
    assert!(kill.status().expect("kill runs").success());
}

fn signature(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length will do");
    mac.update(body);
    let bytes = mac.finalize().into_bytes();
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

fn error_of(response: &Response) -> String {
    let error = response.json()["detail"].clone();
    error.as_str().expect("an error is a text").to_owned()
}

#[test]
fn a_message_is_accepted_with_its_id_type_and_headers_but_without_credentials() {
    let app = App::start(
        "id_header = \"X-GitHub-Delivery\"\ntype_header = \"X-GitHub-Event\"",
        "",
    );
    let headers = [
        JSON,
        ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("X-GitHub-Event", "issues"),
        ("User-Agent", "GitHub-Hookshot/044aadd"),
        ("Authorization", "Bearer of-bad-news"),
        ("Cookie", "a=b"),
    ];
    for _ in 0..2 {
        let answer = app.post(&headers, b"{\"action\":\"opened\"}");
        assert_eq!(answer.code, 202, "{}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["id"], "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        let id = answer.header("x-message-id");
        assert_eq!(id, Some("72d3162e-cc78-11e3-81ab-4c9367dc0958"));
    }
    let kept = app.kept(2);
    for message in &kept {
        // The id of an output is derived from the id of its parent.
        assert_eq!(
            message["id"], kept[0]["id"],
            "the same id, the same message"
        );
        assert_eq!(message["type"], "issues");
        assert_eq!(message["msg"]["action"], "opened");
        assert_eq!(message["headers"]["x-github-event"], "issues");
        assert_eq!(message["headers"]["user-agent"], "GitHub-Hookshot/044aadd");
        for gone in ["authorization", "cookie", "content-type", "content-length"] {
            assert!(message["headers"].get(gone).is_none(), "{message}");
        }
    }
}

#[test]
fn each_problem_of_a_request_has_its_status_and_remedy() {
    let app = App::start("body_max = \"1KiB\"\nid_header = \"X-Id\"", "");
    let id = ("X-Id", "one");
    let large = vec![b' '; 1025];
    for (code, path, headers, body) in [
        (404, "/", &[JSON, id][..], &b"{}"[..]),
        (404, "/hook/", &[JSON, id], b"{}"),
        (415, "/hook", &[id], b"{}"),
        (415, "/hook", &[("Content-Type", "text/plain"), id], b"{}"),
        (
            415,
            "/hook",
            &[JSON, id, ("Content-Encoding", "gzip")],
            b"\x1f",
        ),
        (413, "/hook", &[JSON, id], &large),
        (400, "/hook", &[JSON], b"{}"),
        (400, "/hook", &[JSON, ("X-Id", "a\tb")], b"{}"),
        (400, "/hook", &[JSON, id], b"{\"a\":"),
        (400, "/hook", &[JSON, id], b"garbage"),
        (400, "/hook", &[JSON, id], b""),
        (400, "/hook", &[JSON, id], b"{} {}"),
        (202, "/hook", &[JSON, id], b"{}"),
        (
            202,
            "/hook?a=b",
            &[("Content-Type", "application/ld+json; x=y"), id],
            b" [1]\n",
        ),
    ] {
        let answer = http::post(app.address, path, headers, body).expect("there is an answer");
        let case = format!("{path} {headers:?}: {}", answer.body);
        assert_eq!(answer.code, code, "{case}");
        assert_eq!(answer.json().get("detail").is_some(), code != 202, "{case}");
    }
    let answer = http::get(app.address, "/hook").expect("there is an answer");
    assert_eq!(
        (answer.code, answer.header("allow")),
        (405, Some("OPTIONS, POST"))
    );
    // A chunked body has no length in advance: its bytes are counted as they arrive.
    let chunks = format!(
        "POST /hook HTTP/1.1\r\nHost: localhost\r\nX-Id: c\r\nContent-Type: application/json\r\n\
         Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("100\r\n{}\r\n", " ".repeat(256)).repeat(5)
    );
    assert_eq!(app.exchange(&chunks).code, 413);
    assert_eq!(app.exchange("nonsense\r\n\r\n").code, 400);
    let head = format!(
        "POST /hook HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    assert_eq!(app.exchange(&head).code, 431);
    assert_eq!(app.kept(2).len(), 2, "refused messages went nowhere");
}

#[test]
fn of_several_problems_of_a_request_the_first_is_answered() {
    let app = App::start(
        &format!("secret = \"{SECRET}\"\nbody_max = \"100B\"\nid_header = \"X-Id\""),
        "",
    );
    let (long, garbage) = (&[b'x'; 101][..], &b"garbage"[..]);
    let text = ("Content-Type", "text/plain");
    let wrong = signature(b"another body");
    let wrong = ("X-Hub-Signature-256", wrong.as_str());
    let right = signature(garbage);
    let right = ("X-Hub-Signature-256", right.as_str());
    let mut codes = Vec::new();
    let put = format!(
        "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 101\r\nConnection: close\r\n\r\n{}",
        "x".repeat(101)
    );
    codes.push(app.exchange(&put).code);
    codes.push(app.exchange(&put.replace("PUT /", "PUT /hook")).code);
    codes.push(app.post(&[text], long).code);
    codes.push(app.post(&[JSON], long).code);
    codes.push(app.post(&[JSON], garbage).code);
    codes.push(app.post(&[JSON, wrong], garbage).code);
    codes.push(app.post(&[JSON, right], garbage).code);
    assert_eq!(codes, [404, 405, 415, 413, 401, 401, 400]);
}

#[test]
fn only_clients_with_the_secret_are_accepted_and_it_is_never_shown() {
    let mut app = App::start(&format!("secret = \"{SECRET}\""), "");
    let body = b"{\"action\":\"opened\"}";
    let right = signature(body);
    let cut = &right[..right.len() - 1];
    for (code, headers) in [
        (401, &[JSON][..]),
        (401, &[JSON, ("X-Hub-Signature-256", cut)]),
        (401, &[JSON, ("X-Hub-Signature-256", &signature(b"{}"))]),
        (401, &[JSON, ("X-Hub-Signature", &right)]),
        (202, &[JSON, ("X-Hub-Signature-256", &right)]),
    ] {
        let answer = app.post(headers, body);
        assert_eq!(answer.code, code, "{headers:?}");
        assert!(!answer.body.contains(SECRET) && !answer.body.contains(&right[7..]));
    }
    let kept = app.kept(1);
    assert!(kept[0]["headers"].get("x-hub-signature-256").is_none());
    app.stop();
    let log = app.process.stderr();
    assert!(log.contains("refused"), "{log}");
    assert!(!log.contains(SECRET) && !log.contains(&right[7..]), "{log}");
}

#[test]
fn the_example_accepts_signed_deliveries_of_github() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let example = workspace().join("examples/2-github-alerts");
    for file in ["app.toml", "live.toml"] {
        std::fs::copy(example.join(file), folder.path().join(file)).expect("it can be copied");
    }
    let address = free_address();
    let overlay =
        format!("[admin]\nlisten = \"off\"\n[services.intake.config]\nlisten = \"{address}\"\n");
    std::fs::write(folder.path().join("test.toml"), overlay).expect("it can be written");
    let mut command = Command::new(brickwork());
    command
        .args([
            "run",
            "app.toml",
            "--with",
            "live.toml",
            "--with",
            "test.toml",
        ])
        .env("GITHUB_WEBHOOK_SECRET", SECRET)
        .current_dir(folder.path());
    let _process = Process::start(command, folder.path(), "it was just built");
    until("it listens", PATIENCE, || {
        TcpStream::connect(address).map_err(|error| error.to_string())
    });
    let deliveries = std::fs::read_to_string(example.join("github-webhooks.jsonl"));
    for (number, line) in deliveries.expect("they are there").lines().enumerate() {
        let delivery: Value = serde_json::from_str(line).expect("a line is JSON");
        let body = delivery["payload"].to_string();
        let event = delivery["event"].as_str().expect("an event is a text");
        let (signature, id) = (signature(body.as_bytes()), format!("delivery-{number}"));
        let headers = [
            JSON,
            ("X-GitHub-Event", event),
            ("X-GitHub-Delivery", &id),
            ("X-Hub-Signature-256", &signature),
        ];
        let answer = http::post(address, "/github", &headers, body.as_bytes());
        let answer = answer.expect("there is an answer");
        assert_eq!(answer.code, 202, "{id}: {}", answer.body);
    }
    let sorted = |file: &Path| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for file in ["issues.jsonl", "checks.jsonl", "security.jsonl"] {
        let expected = sorted(&example.join("expected").join(file));
        until(file, PATIENCE, || {
            let got = sorted(&folder.path().join("out").join(file));
            if got == expected {
                Ok(())
            } else {
                Err(format!("{got:#?}"))
            }
        });
    }
}

/// Returns a manifest with a slow service before the file.
fn slow(instances: u32, high_water: u32) -> String {
    format!(
        r#"
        [services.work]
        use = "chaos"
        in = "posted"
        out = "worked"
        instances = {instances}
        mailbox = 1
        queue.high_water = {high_water}
        config = {{ stall = 1.0, for = "20ms" }}
        "#
    )
}
