//! The admin endpoint over real sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde_json::Value;

use super::{Admin, server};
use crate::metrics::Cause;
use crate::status::fixtures::{Fake, SECRET, app};

const LOOPBACK: &str = "127.0.0.1:0";

async fn start() -> (Fake, Admin) {
    let fake = app().await;
    let registry = Registry::new();
    crate::status::register(&registry, fake.view.clone()).unwrap();
    let admin = Admin::start(LOOPBACK.parse().unwrap(), fake.view.clone(), registry).unwrap();
    (fake, admin)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    let timeout = Some(Duration::from_secs(20));
    stream.set_read_timeout(timeout).unwrap();
    stream
}

/// Sends a request and returns the code, head and body of the answer.
fn ask(address: SocketAddr, request: &str, host: &str) -> (u16, String, String) {
    let mut stream = connect(address);
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head[9..12].parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

fn get(admin: &Admin, path: &str) -> (u16, String, String) {
    ask(admin.address(), &format!("GET {path}"), "localhost")
}

#[tokio::test]
async fn every_route_answers_in_its_format_without_secrets() {
    let (fake, admin) = start().await;
    fake.all_ready();
    for (path, content_type, contains) in [
        (
            "/",
            "text/html; charset=utf-8",
            "<h1>shop &lt;&amp;&gt;</h1>",
        ),
        ("/style.css", "text/css; charset=utf-8", "table"),
        (
            "/metrics",
            "text/plain; version=0.0.4",
            "brickwork_service_up{service=\"stock\"} 1",
        ),
        (
            "/health/live",
            "application/json",
            "{\"status\":\"live\",\"reasons\":[]}",
        ),
        (
            "/health/ready",
            "application/json",
            "{\"status\":\"ready\",\"reasons\":[]}",
        ),
        ("/api/app", "application/json", "\"service\":\"stock\""),
    ] {
        let (code, head, body) = get(&admin, path);
        assert_eq!(code, 200, "{path}: {body}");
        assert!(
            head.contains(&format!("content-type: {content_type}")),
            "{head}"
        );
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(
            head.contains("content-security-policy: default-src 'none'"),
            "{head}"
        );
        assert!(body.contains(contains), "{path}: {body}");
        assert!(!body.contains(SECRET), "{path}: {body}");
    }
    admin.stop();
}

#[tokio::test]
async fn groups_are_shown_with_strategy_services_and_restarts() {
    let (_fake, admin) = start().await;
    let (_, _, body) = get(&admin, "/api/app");
    let json: Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!([{
        "group": "sales", "strategy": "one_for_all", "services": ["stock", "intake"], "restarts": 2,
    }]);
    assert_eq!(json["groups"], expected);
    let (_, _, page) = get(&admin, "/");
    let row = "<tr><td>sales</td><td>one_for_all</td><td class=\"n\">2</td><td>stock, intake</td>";
    assert!(page.contains(row), "{page}");
}

#[tokio::test]
async fn an_app_that_is_not_ready_answers_503_with_the_reasons_as_json() {
    let (fake, admin) = start().await;
    fake.all_ready();
    let stock = &fake.view.services[1].env();
    stock.liveness.ready.store(0, Relaxed);
    stock.meters.restarted(Cause::Start);
    let (code, _, body) = get(&admin, "/health/ready");
    let json: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &json["status"]), (503, &"not ready".into()));
    assert_eq!(
        json["reasons"][0],
        "service stock has none of its 2 instances ready"
    );
    assert_eq!(
        get(&admin, "/health/live").0,
        200,
        "an app that is not ready is still live"
    );
    let (code, _, page) = get(&admin, "/");
    assert_eq!(code, 200);
    assert!(page.contains("<li>service stock has none of its 2 instances ready</li>"));
}

#[tokio::test]
async fn other_methods_and_unknown_paths_are_refused_with_a_hint() {
    let (_fake, admin) = start().await;
    let address = admin.address();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let (code, head, body) = ask(address, &format!("{method} /api/app"), "localhost");
        assert_eq!(code, 405, "{method}");
        assert!(head.contains("allow: get,head"), "{head}");
        assert!(body.contains("read-only"), "{body}");
    }
    let (code, _, body) = get(&admin, "/nothing");
    assert_eq!(code, 404);
    assert!(body.contains("/health/ready"), "{body}");
    let (code, head, body) = ask(address, "HEAD /metrics", "localhost");
    assert_eq!((code, body.as_str()), (200, ""));
    assert!(!head.contains("content-length: 0"), "{head}");
}

#[tokio::test]
async fn on_loopback_requests_for_other_host_names_are_refused() {
    let (_fake, admin) = start().await;
    let address = admin.address();
    let own = format!("127.0.0.1:{}", address.port());
    for host in ["localhost", "localhost:1", "[::1]:9464", own.as_str()] {
        assert_eq!(ask(address, "GET /api/app", host).0, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:9464",
        "localhost.evil.example",
    ] {
        let (code, _, body) = ask(address, "GET /api/app", host);
        assert_eq!(code, 403, "{host}");
        assert!(!body.contains("stock"), "{body}");
        let absolute = format!("GET http://{host}/api/app");
        assert_eq!(ask(address, &absolute, "localhost").0, 403, "{host}");
    }
}

#[tokio::test]
async fn the_error_for_a_port_in_use_names_the_address_and_the_key_to_change() {
    let taken = TcpListener::bind(LOOPBACK).unwrap();
    let address = taken.local_addr().unwrap();
    let fake = app().await;
    let error = Admin::start(address, fake.view.clone(), Registry::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("admin.listen"), "{text}");
}

#[tokio::test]
async fn the_endpoint_answers_while_the_runtime_of_the_app_is_blocked() {
    let (fake, admin) = start().await;
    fake.all_ready();
    // This call blocks the only thread of this test's runtime.
    assert_eq!(get(&admin, "/health/ready").0, 200);
}

#[tokio::test]
async fn connections_are_limited_and_a_closed_one_makes_room_for_another() {
    let (_fake, admin) = start().await;
    let address = admin.address();
    let mut idle: Vec<TcpStream> = (0..server::CONNECTIONS_MAX)
        .map(|_| connect(address))
        .collect();
    // A client with an answer has been accepted; its connection stays open.
    for stream in &mut idle {
        write!(
            stream,
            "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        .unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap();
    }
    let mut late = connect(address);
    write!(late, "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    late.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let error = late.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    ));
    idle.pop();
    late.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(late.read(&mut [0; 1]).unwrap(), 1);
}

#[tokio::test]
async fn two_hundred_clients_that_send_nothing_or_half_a_head_do_not_make_it_deaf() {
    let (_fake, admin) = start().await;
    let half_open = |number: usize| {
        let mut stream = connect(admin.address());
        if number.is_multiple_of(2) {
            write!(stream, "GET /health/live HT").unwrap();
        }
        stream
    };
    let _half_open: Vec<TcpStream> = (0..200).map(half_open).collect();
    let before = Instant::now();
    assert_eq!(get(&admin, "/health/live").0, 200);
    assert!(before.elapsed() < server::HEAD_TIMEOUT, "{before:?}");
}

#[tokio::test]
async fn a_request_without_a_host_or_with_two_is_refused_with_400() {
    let (_fake, admin) = start().await;
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        let mut stream = connect(admin.address());
        write!(
            stream,
            "GET /api/app HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{hosts}: {answer}");
        assert!(answer.contains("exactly one header Host"), "{answer}");
    }
}

#[tokio::test]
async fn stopping_joins_the_thread_and_frees_the_port_while_clients_are_connected() {
    let (_fake, admin) = start().await;
    let address = admin.address();
    let mut idle = connect(address);
    let mut half = connect(address);
    write!(half, "GET /metrics HT").unwrap();
    assert_eq!(get(&admin, "/health/live").0, 200);
    let before = Instant::now();
    admin.stop();
    assert!(before.elapsed() < Duration::from_secs(10));
    assert!(matches!(idle.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_head_is_disconnected() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let fake = app().await;
    let router = super::routes::router(fake.view.clone(), Registry::new(), true);
    let listener = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopping) = crate::service_thread::StopSignal::by_hand();
    let started = tokio::time::Instant::now();
    let client = async {
        let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc")
            .await
            .unwrap();
        let mut answer = Vec::new();
        // With or without an answer.
        let _closed = slow.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::select! {
        answer = client => answer,
        () = server::serve(listener, router, stopping) => panic!("the server ended"),
    };
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert!(started.elapsed() >= server::HEAD_TIMEOUT);
    assert!(started.elapsed() < 2 * server::HEAD_TIMEOUT);
}
