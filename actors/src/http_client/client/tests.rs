//! The client against a server that answers each connection with given bytes.

use std::sync::Mutex;
use std::time::Duration;

use brickwork::supervision::BreakerPolicy;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A server that handles one request for each connection.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Reads a request with its body.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return text;
        }
    }
}

/// Starts a server that gives these answers in order; `None` never answers.
async fn server(answers: Vec<Option<Vec<u8>>>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let text = request(&mut stream).await;
            let tunnel = text.starts_with("CONNECT ");
            seen.lock().unwrap().push(text);
            if tunnel {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let text = request(&mut stream).await;
                seen.lock().unwrap().push(text);
            }
            match answer {
                Some(bytes) => stream.write_all(&bytes).await.unwrap(),
                None => std::future::pending().await,
            }
        }
    });
    Server { address, requests }
}

fn http(head: &str, body: &[u8]) -> Option<Vec<u8>> {
    let length = body.len();
    let mut bytes =
        format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
            .into_bytes();
    bytes.extend_from_slice(body);
    Some(bytes)
}

fn client(address: &str, change: impl FnOnce(&mut ClientSettings)) -> HttpClient {
    let mut settings = ClientSettings {
        allow: vec![address.to_owned()],
        timeout: Duration::from_millis(500),
        ..ClientSettings::default()
    };
    change(&mut settings);
    HttpClient::new(&settings).unwrap()
}

fn post(address: &str) -> OutsideRequest {
    let mut request = OutsideRequest::new(Method::POST, format!("http://{address}/a?b=c#d"));
    request.body = Some(Bytes::from_static(b"{}"));
    request.headers.push(("X-One".to_owned(), "1".to_owned()));
    request
}

#[tokio::test]
async fn a_request_and_its_answer_pass_unchanged() {
    let server = server(vec![http("201 Created\r\nX-Two: 2", b"done")]).await;
    let client = client(&server.address, |_| ());
    let answer = client.call(post(&server.address)).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (201, &b"done"[..]));
    assert_eq!(answer.header("x-two"), Some("2"));
    let request = server.requests.lock().unwrap().remove(0);
    assert!(
        request.starts_with("POST /a?b=c HTTP/1.1\r\nx-one: 1\r\n"),
        "{request}"
    );
    assert!(
        request.contains(&format!("host: {}\r\n", server.address)),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
}

#[tokio::test]
async fn an_answer_that_opens_the_breaker_or_comes_while_it_is_open_spends_no_attempt() {
    let server = server(vec![http("500 Oh", b""), http("500 Oh", b"")]).await;
    let client = client(&server.address, |settings| {
        settings.breaker = Some(BreakerPolicy {
            min_messages: 2,
            ..BreakerPolicy::default()
        });
    });
    let url = post(&server.address).url;
    let mut spent = Vec::new();
    for _ in 0..3 {
        let result = client.call(post(&server.address)).await;
        match client.judge(&url, "", &result, SystemTime::now()) {
            Verdict::Later { spends_attempt, .. } => spent.push(spends_attempt),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(spent, [true, false, false]);
    assert_eq!(
        server.requests.lock().unwrap().len(),
        2,
        "the third is not sent"
    );
}

#[tokio::test]
async fn an_outcome_is_unknown_only_if_the_request_was_sent() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
    for answer in [
        None,
        Some(half),
        Some(Vec::new()),
        Some(b"nonsense\r\n\r\n".to_vec()),
    ] {
        let server = server(vec![answer.clone()]).await;
        let client = client(&server.address, |_| ());
        let error = client.call(post(&server.address)).await.unwrap_err();
        assert!(
            matches!(error, CallError::Unknown(_)),
            "{answer:?}: {error}"
        );
    }
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let error = client(&address, |_| ())
        .call(post(&address))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::NotSent(_)), "{error}");
    let missing = "https://name.invalid/secret-path";
    let client = client("name.invalid", |_| ());
    let error = client.call(OutsideRequest::new(Method::GET, missing)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::NotSent(_)), "{error}");
    assert!(!error.to_string().contains("secret-path"), "{error}");
}

#[tokio::test]
async fn an_answer_is_bounded_also_after_decompression() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![0; 10_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 20_000);
    let mut small = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut small, b"plain").unwrap();
    let brotli = b"\x0b\x02\x80plain\x03".to_vec();
    let gzip = "200 OK\r\nContent-Encoding: gzip";
    for (answer, expected) in [
        (http("200 OK", &vec![b'x'; 20_001]), None),
        (http(gzip, &bomb), None),
        (http("200 OK", &vec![b'x'; 20_000]), Some(20_000)),
        (http(gzip, &small.finish().unwrap()), Some(5)),
        (http("200 OK\r\nContent-Encoding: br", &brotli), Some(5)),
    ] {
        let server = server(vec![answer]).await;
        let client = client(&server.address, |settings| settings.max_response = 20_000);
        match (client.call(post(&server.address)).await, expected) {
            (Ok(answer), Some(bytes)) => assert_eq!(answer.body.len(), bytes),
            (Err(error), None) => assert_eq!(error, CallError::TooLarge(20_000)),
            (other, _) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn redirects_are_refused_or_checked_one_by_one() {
    let moved = |to: &str| http(&format!("302 Found\r\nLocation: {to}"), b"");
    let first = server(vec![
        moved("/b"),
        moved("http://127.0.0.2:1/"),
        moved("/c"),
        http("200 OK", b"here"),
    ])
    .await;
    let refused = |result: Result<Answer, CallError>, text: &str| {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, CallError::Refused(reason) if reason.contains(text)),
            "{error}"
        );
    };
    let closed = client(&first.address, |_| ());
    refused(
        closed.call(post(&first.address)).await,
        "max_redirects is 0",
    );
    let follows = client(&first.address, |settings| settings.max_redirects = 1);
    refused(
        follows.call(post(&first.address)).await,
        "127.0.0.2:1 is not in allow",
    );
    let answer = follows.call(post(&first.address)).await.unwrap();
    assert_eq!(&answer.body[..], b"here");
    let last = first.requests.lock().unwrap().pop().unwrap();
    assert!(last.starts_with("GET /c HTTP/1.1\r\n"), "{last}");
}

#[tokio::test]
async fn a_request_that_is_not_allowed_is_never_sent() {
    let client = client("127.0.0.1:1", |_| ());
    let with = |name: &str, value: &str| {
        let mut request = post("127.0.0.1:1");
        request.headers.push((name.to_owned(), value.to_owned()));
        request
    };
    let mut connect = post("127.0.0.1:1");
    connect.method = Method::CONNECT;
    for request in [
        with("X-A", "1\r\nX-B: 2"),
        with("X-A\r\nX-B", "1"),
        with("Host", "other"),
        with("Transfer-Encoding", "chunked"),
        connect,
        post("127.0.0.1:2"),
        OutsideRequest::new(Method::GET, "http://a:b@127.0.0.1:1/"),
        OutsideRequest::new(Method::GET, "no URL"),
    ] {
        let error = client.call(request).await.unwrap_err();
        assert!(matches!(error, CallError::Refused(_)), "{error}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_refused() {
    let server = server(vec![http("200 OK", b"")]).await;
    let port = server.address.rsplit_once(':').unwrap().1;
    // The name is allowed as a name; its address is not.
    let settings = ClientSettings {
        allow: vec!["http://*:*".to_owned()],
        ..ClientSettings::default()
    };
    let client = HttpClient::new(&settings).unwrap();
    let url = format!("http://localhost:{port}/");
    let error = client.call(OutsideRequest::new(Method::GET, url)).await;
    let error = error.unwrap_err();
    assert!(
        matches!(&error, CallError::Refused(text) if text.contains("private")),
        "{error}"
    );
    assert!(server.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_is_told_only_targets_that_are_allowed() {
    let proxy = server(vec![http("200 OK", b"hi")]).await;
    let url = format!("\"http://user:p%40ss@{}\"", proxy.address);
    let with_proxy = |allow: &str| {
        client(allow, |settings| {
            settings.proxy = Some(serde_json::from_str(&url).unwrap())
        })
    };
    let private = OutsideRequest::new(Method::GET, "http://localhost:1/");
    let error = with_proxy("http://*:*").call(private).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    let named = OutsideRequest::new(Method::GET, "http://name.invalid:99/x");
    let answer = with_proxy("http://name.invalid:99")
        .call(named)
        .await
        .unwrap();
    assert_eq!(&answer.body[..], b"hi");
    let connect = proxy.requests.lock().unwrap().remove(0);
    assert!(
        connect.starts_with("CONNECT name.invalid:99 HTTP/1.1\r\n"),
        "{connect}"
    );
    assert!(
        connect.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"),
        "{connect}"
    );
}

mod tokens;
