//! `http-in` to `file-out` on memory, beside the HTTP library alone: the same hyper with the same
//! limits reads the body, checks that it is JSON and answers 202. One thread serves, another one
//! sends requests over 64 open connections; the time ends when the last message is in the file.
//!
//! `cargo bench -p brickwork-bench --bench http`

#![allow(missing_docs, reason = "a program")]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use actix::System;
use brickwork::transport::Transports;
use brickwork::{App, Clock, MessageId, Workers, manifest};
use brickwork_bench::rounds::{Rounds, machine};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::IgnoredAny;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::time::timeout;

const CONNECTIONS: usize = 64;
const REQUESTS_EACH: usize = 1_000;
const ROUNDS: usize = 9;

/// 112 bytes in one line.
const BODY: &str = "{\"order\":1000000,\"sku\":\"brick-red-2x4\",\"quantity\":12,\
    \"customer\":\"a-customer-of-ours\",\"note\":\"leave at the door\"}";
const BODY_BYTES_MAX: u64 = 1 << 20;
const HEAD_BYTES_MAX: usize = 16 * 1024;

fn main() {
    println!("{}\n", machine());
    let folder = std::env::temp_dir().join(format!("brickwork-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let ours = serve_ours(&folder);
    let alone = serve_alone();
    let kept = folder.join("kept.jsonl");
    let title = format!(
        "thousand requests a second, {} bytes of JSON, {CONNECTIONS} connections",
        BODY.len()
    );
    Rounds::new(title, "k/s")
        .with("http-in to file-out", || ask(ours, Some(&kept)))
        .with("hyper alone", || ask(alone, None))
        .run(ROUNDS);
    std::fs::remove_dir_all(&folder).expect("it was there");
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built")
}

/// Starts an app on a thread, which ends with the program.
fn serve_ours(folder: &Path) -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    let address = free.expect("there are free ports");
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n\
         [services.http-in]\nout = \"posted\"\nconfig.listen = \"{address}\"\n\
         [services.file-out]\nin = \"posted\"\nmailbox = 512\n\
         queue.high_water = 1000000\nconfig.path = \"kept.jsonl\"\n"
    );
    let file: PathBuf = folder.join("app.toml");
    std::fs::write(&file, text).expect("the manifest can be written");
    let (started, is_started) = mpsc::channel();
    std::thread::spawn(move || {
        let (catalog, transports) = (brickwork_actors::catalog(), Transports::new());
        let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports)
            .unwrap_or_else(|report| panic!("{}", report.render(false)));
        System::new().block_on(async {
            let app = App::start(plan, &transports, Workers::Here, Clock::SYSTEM).await;
            let app = app.unwrap_or_else(|error| panic!("{error}"));
            started.send(()).expect("the receiver waits");
            std::future::pending::<()>().await;
            drop(app);
        });
    });
    is_started.recv().expect("it starts");
    address
}

/// Starts the library alone on a thread.
fn serve_alone() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ports");
    let address = listener.local_addr().expect("a listener has an address");
    listener.set_nonblocking(true).expect("it is set");
    std::thread::spawn(move || {
        LocalSet::new().block_on(&runtime(), async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it listens");
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("it is set");
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .max_buf_size(HEAD_BYTES_MAX)
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::task::spawn_local(connection);
            }
        });
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let json = HeaderValue::from_static("application/json");
    let right = parts.method == Method::POST
        && parts.uri.path() == "/"
        && parts.headers.get(CONTENT_TYPE) == Some(&json)
        && body
            .size_hint()
            .upper()
            .is_some_and(|length| length <= BODY_BYTES_MAX);
    assert!(right, "all requests are alike");
    let read = async {
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.expect("clients don't break off");
            bytes.extend_from_slice(frame.data_ref().expect("there are no trailers"));
        }
        bytes
    };
    let bytes = timeout(Duration::from_secs(10), read).await;
    let bytes = bytes.expect("clients aren't slow");
    serde_json::from_slice::<IgnoredAny>(&bytes).expect("the body is JSON");
    let answer = format!("{{\"id\":\"{}\"}}", MessageId::new());
    let mut answer = Response::new(Full::new(Bytes::from(answer)));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer.headers_mut().insert(CONTENT_TYPE, json);
    Ok(answer)
}

/// Sends requests over all connections. Returns thousand requests per second, until the last one
/// is answered and, with a file, written.
fn ask(address: SocketAddr, kept: Option<&Path>) -> f64 {
    thread_local!(static CLIENT: RefCell<Runtime> = RefCell::new(runtime()));
    let length = |file: &Path| std::fs::metadata(file).map_or(0, |data| data.len());
    let before = kept.map_or(0, length);
    CLIENT.with_borrow(|client| {
        let tasks = LocalSet::new();
        let connect = async || {
            let stream = TcpStream::connect(address).await.expect("it listens");
            stream.set_nodelay(true).expect("it is set");
            stream
        };
        let streams = client.block_on(futures_util::future::join_all(
            (0..CONNECTIONS).map(|_| connect()),
        ));
        let started = Instant::now();
        tasks.block_on(client, async {
            let asking = streams
                .into_iter()
                .map(|s| tokio::task::spawn_local(talk(s)));
            for asked in futures_util::future::join_all(asking).await {
                asked.expect("every request is accepted");
            }
        });
        let requests = CONNECTIONS * REQUESTS_EACH;
        if let Some(kept) = kept {
            let all = before + (requests * (BODY.len() + 1)) as u64;
            while length(kept) < all {
                assert!(
                    started.elapsed() < Duration::from_secs(60),
                    "messages are missing"
                );
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        requests as f64 / started.elapsed().as_secs_f64() / 1e3
    })
}

/// Sends one request after the other.
async fn talk(mut stream: TcpStream) {
    let request = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    // All answers of a server have the same length.
    let mut length = None;
    let mut answer = [0; 1024];
    for _ in 0..REQUESTS_EACH {
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it is open");
        let mut read = 0;
        while length.is_none_or(|length| read < length) {
            let more = stream.read(&mut answer[read..]).await.expect("it is open");
            assert!(more > 0, "the connection stays open");
            read += more;
            length = length.or_else(|| whole(&answer[..read]));
        }
        let accepted = answer.starts_with(b"HTTP/1.1 202 ");
        assert!(accepted, "{}", String::from_utf8_lossy(&answer[..read]));
    }
}

/// Returns the length of an answer once its head has arrived.
fn whole(answer: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(answer).expect("it is text");
    let (head, _) = text.split_once("\r\n\r\n")?;
    let length = head.split("content-length: ").nth(1)?.lines().next()?;
    Some(head.len() + 4 + length.parse::<usize>().expect("a number"))
}
