//! `http-in`, through the shipped binary: honest answers, and nothing that a client can
//! use up.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use brickwork_tests::binary::{brickwork, workspace};
use brickwork_tests::http::{self, Response};
use brickwork_tests::process::{Process, free_address, until};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const JSON: (&str, &str) = ("Content-Type", "application/json");
const SECRET: &str = "a-secret-that-nobody-sees";

/// An app that keeps what it got by HTTP: one line a message, with its envelope.
struct App {
    folder: TempDir,
    address: SocketAddr,
    process: Process,
}

impl App {
    /// With more keys for the config of `http-in`, and more of a manifest.
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

    /// What was kept when so many lines are there.
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

    /// Stops it by a signal: exit code 0.
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
    let error = response.json()["error"].clone();
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
    }
    let kept = app.kept(2);
    for message in &kept {
        // What a handler makes of a message has an id that its parent's gives.
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
fn what_is_wrong_is_answered_with_its_status_and_what_to_do() {
    let app = App::start("body_max = \"1KiB\"\nid_header = \"X-Id\"", "");
    let id = ("X-Id", "one");
    let large = vec![b' '; 1025];
    for (code, path, headers, body) in [
        (404, "/", &[JSON, id][..], &b"{}"[..]),
        (404, "/hook/", &[JSON, id], b"{}"),
        (415, "/hook", &[id], b"{}"),
        (415, "/hook", &[("Content-Type", "text/plain"), id], b"{}"),
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
        assert_eq!(answer.json().get("error").is_some(), code != 202, "{case}");
    }
    let answer = http::get(app.address, "/hook").expect("there is an answer");
    assert_eq!((answer.code, answer.header("allow")), (405, Some("POST")));
    // Chunks say no length: it is counted as they come.
    let chunks = format!(
        "POST /hook HTTP/1.1\r\nHost: h\r\nX-Id: c\r\nContent-Type: application/json\r\n\
         Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("100\r\n{}\r\n", " ".repeat(256)).repeat(5)
    );
    assert_eq!(app.exchange(&chunks).code, 413);
    assert_eq!(app.exchange("nonsense\r\n\r\n").code, 400);
    let head = format!("POST /hook HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(app.exchange(&head).code, 431);
    assert_eq!(app.kept(2).len(), 2, "what was refused went nowhere");
}

#[test]
fn of_several_things_that_are_wrong_the_first_in_the_order_is_answered() {
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
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\nConnection: close\r\n\r\n{}",
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
fn only_who_knows_the_secret_gets_in_and_it_is_never_shown() {
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
fn slow_heads_and_bodies_get_408_and_idle_connections_are_closed() {
    let app = App::start(
        "header_timeout = \"400ms\"\nbody_timeout = \"500ms\"\nidle_timeout = \"600ms\"",
        "",
    );
    let started = Instant::now();
    let mut silent = app.connect();
    let mut head = app.connect();
    head.write_all(b"POST /hook HT").expect("it can be written");
    let mut body = app.connect();
    let whole = "POST /hook HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
                 Content-Length: 2\r\n\r\n{}";
    body.write_all(&whole.as_bytes()[..whole.len() - 1])
        .expect("it can be written");
    let mut idle = app.connect();
    idle.write_all(whole.as_bytes()).expect("it can be written");
    let late = http::answer(&mut head).expect("there is an answer");
    assert_eq!(late.code, 408);
    assert_eq!(late.header("connection"), Some("close"));
    error_of(&late);
    let late = http::answer(&mut body).expect("there is an answer");
    assert_eq!((late.code, late.header("connection")), (408, Some("close")));
    let accepted = http::answer(&mut idle).expect("there is an answer");
    assert_eq!(accepted.code, 202);
    let mut nothing = Vec::new();
    silent
        .read_to_end(&mut nothing)
        .expect("it is closed in order");
    assert!(nothing.is_empty());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "nobody waits for long"
    );
}

/// Reads one answer of a connection that goes on.
fn one_answer(stream: &mut TcpStream) -> (u16, String) {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the head goes on");
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer)
        .expect("a head is text")
        .to_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .expect("it says its length");
    let length = length
        .split('\r')
        .next()
        .and_then(|digits| digits.parse().ok());
    let mut body = vec![0; length.expect("a number")];
    stream.read_exact(&mut body).expect("the body goes on");
    (head[9..12].parse().expect("a status"), head)
}

fn request(body: &str) -> String {
    format!(
        "POST /hook HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_connection_is_used_again_also_after_a_refusal_and_when_requests_come_at_once() {
    let app = App::start("", "");
    let mut stream = app.connect();
    let (good, bad) = (request("{}"), request("oops"));
    let elsewhere = good.replace("/hook", "/elsewhere");
    let all = [&*good, &bad, &good, &elsewhere, &good];
    for request in all {
        stream.write_all(request.as_bytes()).expect("it is open");
        one_answer(&mut stream);
    }
    stream
        .write_all(all.concat().as_bytes())
        .expect("it is open");
    let codes: Vec<u16> = (0..5).map(|_| one_answer(&mut stream).0).collect();
    assert_eq!(codes, [202, 400, 202, 404, 202]);
    // Who asks first whether to send its body isn't told to when it is refused.
    let asks = good.replace("Host: h", "Host: h\r\nExpect: 100-continue");
    let head = asks.trim_end_matches("{}").replace("/hook", "/elsewhere");
    stream.write_all(head.as_bytes()).expect("it is open");
    let (code, head) = one_answer(&mut stream);
    assert!(code == 404 && head.contains("connection: close"), "{head}");
    let mut stream = app.connect();
    stream
        .write_all(asks.trim_end_matches("{}").as_bytes())
        .expect("it is open");
    let mut told = [0; 25];
    stream.read_exact(&mut told).expect("it is told to go on");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").expect("it is open");
    assert_eq!(one_answer(&mut stream).0, 202);
    app.kept(7);
}

#[test]
fn idle_connections_give_their_places_to_those_who_wait() {
    let app = App::start("connections = 4", "");
    let idle: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = app.connect();
            stream
                .write_all(request("{}").as_bytes())
                .expect("it is open");
            assert_eq!(one_answer(&mut stream).0, 202);
            stream
        })
        .collect();
    let started = Instant::now();
    assert_eq!(app.post(&[JSON], b"{}").code, 202);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "idle_timeout is a minute"
    );
    drop(idle);
}

#[test]
fn the_memory_of_all_bodies_together_has_a_bound() {
    let app = App::start("body_max = \"64KiB\"\nmemory_max = \"64KiB\"", "");
    let body = format!("[{}0]", " ".repeat(50_000));
    let whole = request(&body);
    let (mut first, refused) = until("the second is refused", PATIENCE, || {
        // Most of it is here, and the rest doesn't come. If it isn't read yet when the
        // other one comes, it is the one that is refused: then once more.
        let mut first = app.connect();
        let begun = first.write_all(&whole.as_bytes()[..40_000]);
        begun.map_err(|error| error.to_string())?;
        assert_eq!(app.post(&[JSON], b"{}").code, 202, "small ones have room");
        let answer = app.post(&[JSON], body.as_bytes());
        match answer.code {
            503 => Ok((first, answer)),
            other => Err(other.to_string()),
        }
    });
    assert_eq!(refused.header("retry-after"), Some("5"));
    first
        .write_all(&whole.as_bytes()[40_000..])
        .expect("it is open");
    assert_eq!(one_answer(&mut first).0, 202);
    assert_eq!(app.post(&[JSON], body.as_bytes()).code, 202);
}

/// Something slow before what is kept.
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

#[test]
fn a_slow_service_behind_means_503_and_what_was_accepted_is_handled() {
    let app = App::start("", &slow(1, 4));
    let mut accepted = Vec::new();
    let mut refused = 0;
    while accepted.len() < 30 || refused < 30 {
        let answer = app.post(&[JSON], b"{}");
        match answer.code {
            202 => accepted.push(answer.json()["id"].as_str().expect("an id").to_owned()),
            503 => {
                assert_eq!(answer.header("retry-after"), Some("5"));
                error_of(&answer);
                refused += 1;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    assert_eq!(app.kept(accepted.len()).len(), accepted.len());
}

#[test]
fn an_address_in_use_is_waited_for() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = taken.local_addr().expect("a listener has an address");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let process = run(folder.path(), address, "", "");
    until("it says so", PATIENCE, || {
        let log = process.stderr();
        let said =
            log.contains(&format!("can't listen on {address}")) && log.contains("config.listen");
        if said { Ok(()) } else { Err(log) }
    });
    drop(taken);
    until("it listens", PATIENCE, || {
        match http::post(address, "/hook", &[JSON], b"{}") {
            Ok(answer) if answer.code == 202 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn stopping_closes_idle_connections_and_answers_who_is_in_the_middle() {
    let mut app = App::start("", "");
    let mut idle = app.connect();
    idle.write_all(request("{}").as_bytes())
        .expect("it is open");
    assert_eq!(one_answer(&mut idle).0, 202);
    let whole = request("{}");
    let mut middle = app.connect();
    middle
        .write_all(&whole.as_bytes()[..whole.len() - 1])
        .expect("it is open");
    // Its head is there when another request after it has been answered.
    assert_eq!(app.post(&[JSON], b"{}").code, 202);
    let started = Instant::now();
    terminate(&app.process);
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing)
        .expect("it is closed in order");
    assert!(nothing.is_empty());
    assert!(
        TcpStream::connect(app.address).is_err(),
        "nobody else gets in"
    );
    middle.write_all(b"}").expect("it is open");
    let answer = http::answer(&mut middle).expect("there is an answer");
    assert_eq!(answer.code, 503, "{}", answer.body);
    assert_eq!(app.process.exit_code(PATIENCE), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
    app.process = run(app.folder.path(), app.address, "", "");
    app.listening();
}

#[test]
fn the_example_takes_its_deliveries_from_github_itself() {
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

/// Resident memory, in KiB.
fn resident(process: &Process) -> u64 {
    let file = format!("/proc/{}/status", process.id());
    let status = std::fs::read_to_string(file).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("a running process has resident memory")
}

/// What a client of the crowd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Good,
    Garbage,
    Unsigned,
    Huge,
    /// As huge, but in chunks: nothing says so before.
    HugeChunks,
    SlowHead,
    SlowBody,
}

const MANNERS: [Manner; 9] = [
    Manner::Good,
    Manner::SlowHead,
    Manner::Garbage,
    Manner::SlowBody,
    Manner::Unsigned,
    Manner::SlowHead,
    Manner::Huge,
    Manner::SlowBody,
    Manner::HugeChunks,
];

/// What one client sends at first, and what after everybody has connected.
fn words(manner: Manner, number: usize) -> (Vec<u8>, Vec<u8>) {
    let body = match manner {
        Manner::Garbage => b"{\"garbage\":".to_vec(),
        Manner::Huge => vec![b' '; 2_000_000],
        Manner::HugeChunks => {
            let chunk = format!("{:x}\r\n{}\r\n", 50_000, " ".repeat(50_000));
            (chunk.repeat(40) + "0\r\n\r\n").into_bytes()
        }
        // Large enough that a crowd of them is more than the budget.
        Manner::SlowBody => format!("[{}0]", " ".repeat(200_000)).into_bytes(),
        _ => format!("{{\"n\":{number}}}").into_bytes(),
    };
    let signed = match manner {
        Manner::Unsigned => signature(b"something else"),
        // Its length is enough for a refusal: no need to hash two megabytes.
        Manner::Huge | Manner::HugeChunks => signature(b""),
        _ => signature(&body),
    };
    let length = match manner {
        Manner::HugeChunks => "Transfer-Encoding: chunked".to_owned(),
        _ => format!("Content-Length: {}", body.len()),
    };
    let head = format!(
        "POST /hook HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nX-Id: {number}\r\n\
         X-Hub-Signature-256: {signed}\r\nConnection: close\r\n{length}\r\n\r\n"
    );
    let mut all = head.into_bytes();
    let at = match manner {
        Manner::SlowHead => all.len() - 10,
        Manner::SlowBody => all.len() + body.len() - 10,
        _ => 0,
    };
    all.extend(body);
    let rest = all.split_off(at);
    match manner {
        // The rest never comes.
        Manner::SlowHead | Manner::SlowBody => (all, Vec::new()),
        _ => (Vec::new(), rest),
    }
}

/// Counted as if it were a status: there was no answer, the connection was ended.
const CUT_OFF: u16 = 0;

fn cut_off(error: &io::Error) -> bool {
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    kinds.contains(&error.kind())
}

#[test]
fn a_crowd_of_a_thousand_gets_honest_answers_and_memory_stays_flat() {
    const CLIENTS: usize = 1000;
    /// `memory_max`, what connections and the queues behind may take, and the allocator.
    const GROWTH_KIB_MAX: u64 = 64 * 1024;
    let config = format!(
        "secret = \"{SECRET}\"\nid_header = \"X-Id\"\nmemory_max = \"16MiB\"\n\
         header_timeout = \"6s\"\nbody_timeout = \"6s\""
    );
    let mut app = App::start(&config, &slow(4, 20));
    let warm = words(Manner::Good, CLIENTS).1;
    let answer = http::exchange(app.address, &warm).expect("there is an answer");
    assert_eq!(answer.code, 202);
    // In the crowd there may be no room to read as much of it as is too much.
    let alone = words(Manner::HugeChunks, CLIENTS).1;
    let answer = http::exchange(app.address, &alone).expect("there is an answer");
    assert_eq!(answer.code, 413);
    let before = resident(&app.process);
    let started = Instant::now();
    // All are connected, and half of them in the middle of something, before anybody
    // goes on.
    let crowd: Vec<(Manner, TcpStream, Vec<u8>)> = (0..CLIENTS)
        .map(|number| {
            let manner = MANNERS[number % MANNERS.len()];
            let mut stream = app.connect();
            let (first, rest) = words(manner, number);
            // A body that is refused in the middle may find its connection closed.
            let _refused = stream.write_all(&first);
            (manner, stream, rest)
        })
        .collect();
    let (sender, answers) = std::sync::mpsc::channel();
    let mut clients: Vec<_> = (0..8).map(|_| Vec::new()).collect();
    for (place, client) in crowd.into_iter().enumerate() {
        clients[place * 8 / CLIENTS].push(client);
    }
    let mut most = before;
    std::thread::scope(|scope| {
        for clients in clients {
            let sender = sender.clone();
            scope.spawn(move || {
                let spoken: Vec<_> = clients
                    .into_iter()
                    .map(|(manner, mut stream, rest)| {
                        let written = stream.write_all(&rest);
                        (manner, stream, written)
                    })
                    .collect();
                for (manner, mut stream, written) in spoken {
                    let answer = written.and_then(|()| http::answer(&mut stream));
                    sender.send((manner, answer)).expect("somebody counts");
                }
            });
        }
        drop(sender);
        let mut codes: BTreeMap<(Manner, u16), usize> = BTreeMap::new();
        let mut accepted = vec![CLIENTS.to_string()];
        for (manner, answer) in &answers {
            let answer = match answer {
                // Who goes on sending what was refused may be cut off before it has read why.
                Err(error) if manner == Manner::HugeChunks && cut_off(&error) => {
                    *codes.entry((manner, CUT_OFF)).or_default() += 1;
                    continue;
                }
                answer => answer.unwrap_or_else(|error| panic!("{manner:?}: {error}")),
            };
            *codes.entry((manner, answer.code)).or_default() += 1;
            if answer.code == 202 {
                accepted.push(answer.json()["id"].as_str().expect("an id").to_owned());
            }
            if answer.code == 503 {
                assert!(answer.header("retry-after").is_some());
            }
            most = most.max(resident(&app.process));
        }
        println!("{codes:?}");
        assert_eq!(
            codes.values().sum::<usize>(),
            CLIENTS,
            "everybody is answered"
        );
        for (manner, code) in codes.keys() {
            let honest: &[u16] = match manner {
                Manner::Good => &[202, 503],
                Manner::Garbage => &[400, 503],
                Manner::Unsigned => &[401, 503],
                Manner::Huge => &[413],
                Manner::HugeChunks => &[413, 503, CUT_OFF],
                Manner::SlowHead => &[408],
                Manner::SlowBody => &[408, 503],
            };
            assert!(honest.contains(code), "{manner:?}: {code}");
        }
        for manner in MANNERS.into_iter().filter(|m| *m != Manner::HugeChunks) {
            let own = manner_code(manner);
            assert!(
                codes.contains_key(&(manner, own)),
                "{manner:?} has no {own}"
            );
        }
        accepted.sort();
        let mut kept: Vec<String> = app
            .kept(accepted.len())
            .iter()
            .map(|line| line["headers"]["x-id"].as_str().expect("an id").to_owned())
            .collect();
        kept.sort();
        assert_eq!(
            kept, accepted,
            "what was accepted was handled, and nothing else"
        );
    });
    most = most.max(resident(&app.process));
    println!(
        "{before} KiB before, {most} KiB at most, {:?}",
        started.elapsed()
    );
    assert!(
        most < before + GROWTH_KIB_MAX,
        "resident memory grew from {before} KiB to {most} KiB"
    );
    app.stop();
}

/// The answer that only clients of this manner get.
fn manner_code(manner: Manner) -> u16 {
    match manner {
        Manner::Good => 202,
        Manner::Garbage => 400,
        Manner::Unsigned => 401,
        Manner::Huge | Manner::HugeChunks => 413,
        Manner::SlowHead | Manner::SlowBody => 408,
    }
}
