//! Random requests over raw sockets: the app stays up, answers honestly, and loses nothing.
//!
//! `BRICKWORK_SEED` repeats a run, `BRICKWORK_FULL` makes it ten minutes long.

use brickwork_tests::seed::Seed;
use fastrand::Rng;
use std::collections::BTreeSet;

use super::*;

const CLIENTS: u64 = 3;
/// Time between two harmless requests of a client.
const EVERY: u32 = 20;

/// The statuses that a request can get; 500 is none of them.
const CODES: [u16; 15] = [
    100, 200, 202, 204, 400, 403, 404, 405, 408, 413, 414, 415, 431, 501, 503,
];

fn pick<'a>(random: &mut Rng, list: &[&'a str]) -> &'a str {
    list[random.usize(..list.len())]
}

/// Bytes of which most are printable.
fn noise(random: &mut Rng, max: usize) -> Vec<u8> {
    let length = random.usize(..=max);
    let any = random.u8(..8) == 0;
    let byte = |random: &mut Rng| {
        if any {
            random.u8(..)
        } else {
            random.u8(b' '..=b'~')
        }
    };
    (0..length).map(|_| byte(random)).collect()
}

fn target(random: &mut Rng) -> Vec<u8> {
    let known = [
        "/hook",
        "/hook",
        "/hook",
        "/hook",
        "/hook?a=b&c",
        "/hook?%ff=%",
        "/",
        "*",
        "//hook",
        "/hook/../hook",
        "/%68ook",
        "/hook#x",
        "http://localhost/hook",
        "http://evil.example/hook",
        "localhost:80",
        "",
        "/hook?hub.mode=subscribe&hub.verify_token=x",
    ];
    match random.u8(..12) {
        0 => [b"/hook?", &noise(random, 200)[..]].concat(),
        1 => [b"/", &noise(random, 40)[..]].concat(),
        2 => [&b"/hook?"[..], &vec![b'a'; random.usize(..20_000)]].concat(),
        _ => pick(random, &known).into(),
    }
}

fn header(random: &mut Rng) -> Vec<u8> {
    let names = [
        "X-Id",
        "Accept",
        "Cookie",
        "Connection",
        "Expect",
        "Upgrade",
        "Content-Type",
        "Host",
        "Content-Encoding",
        "Transfer-Encoding",
        "Content-Length",
        "http-path",
        "brickwork-tenant",
        "X-Hub-Signature-256",
        "TE",
        "Trailer",
        "Keep-Alive",
        "x-forwarded-for",
    ];
    let values = [
        "",
        "close",
        "keep-alive",
        "100-continue",
        "h2c",
        "chunked",
        "gzip",
        "identity",
        "-1",
        "0",
        "18446744073709551616",
        "7, 7",
        "text/plain",
        "application/json",
        "a/b;c=\"d",
        "localhost",
    ];
    let name = match random.u8(..8) {
        0 => noise(random, 20),
        _ => pick(random, &names).into(),
    };
    let value = match random.u8(..4) {
        0 => noise(random, 60),
        _ => pick(random, &values).into(),
    };
    let separator = pick(random, &[": ", ":", " : ", ":\t", ""]);
    let end = pick(
        random,
        &["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "],
    );
    [&name[..], separator.as_bytes(), &value, end.as_bytes()].concat()
}

fn body(random: &mut Rng) -> Vec<u8> {
    let texts = [
        "{}",
        "[1,2,3]",
        "{\"a\":{\"b\":[null,true,1e5]}}",
        "\"\\ud83d\\ude00\"",
        "1e400",
        "\"\\ud83d\"",
        "[",
        "",
        "a=b&c=%20",
        "%",
        "\u{feff}{}",
    ];
    match random.u8(..6) {
        0 => noise(random, 300),
        1 => {
            let levels = random.usize(..300);
            format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into()
        }
        2 => vec![b' '; random.usize(..100_000)],
        3 => {
            let mut text = pick(random, &texts).as_bytes().to_vec();
            if !text.is_empty() {
                let at = random.usize(..text.len());
                text[at] = random.u8(..);
            }
            text
        }
        _ => pick(random, &texts).into(),
    }
}

fn chunked(random: &mut Rng, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(random.usize(1..=body.len().clamp(1, 5000))) {
        let size = match random.u8(..40) {
            0 => "fffffffffffffffff".to_owned(),
            1 => "zz".to_owned(),
            2 => format!("{:x};a=\"b\"", chunk.len()),
            3 => format!("{:x}", chunk.len() + 1),
            _ => format!("{:X}", chunk.len()),
        };
        bytes.extend_from_slice(size.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(
        pick(
            random,
            &["0\r\n\r\n", "0\r\n\r\n", "0\r\na: b\r\n\r\n", "0\r\n", ""],
        )
        .as_bytes(),
    );
    bytes
}

fn random_request(random: &mut Rng) -> Vec<u8> {
    if random.u8(..30) == 0 {
        return noise(random, 3000);
    }
    let methods = [
        "POST", "POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "CONNECT", "PRI", "post",
        "",
    ];
    let versions = [
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "",
    ];
    let mut bytes = pick(random, &methods).as_bytes().to_vec();
    bytes.push(b' ');
    bytes.extend(target(random));
    bytes.push(b' ');
    bytes.extend_from_slice(pick(random, &versions).as_bytes());
    bytes.extend_from_slice(b"\r\n");
    if random.u8(..10) > 0 {
        let host = pick(
            random,
            &[
                "localhost",
                "localhost",
                "127.0.0.1:1",
                "evil.example",
                "[::1",
            ],
        );
        bytes.extend(format!("Host: {host}\r\n").bytes());
    }
    if random.u8(..10) > 0 {
        let types = [
            "application/json",
            "application/json",
            "application/x-www-form-urlencoded",
            "text/plain",
            "*/*",
        ];
        bytes.extend(format!("Content-Type: {}\r\n", pick(random, &types)).bytes());
    }
    for _ in 0..random.usize(..6) * random.usize(..2) {
        bytes.extend(header(random));
    }
    if random.u8(..100) == 0 {
        (0..200).for_each(|n| bytes.extend(format!("x-{n}: y\r\n").bytes()));
    }
    let content = body(random);
    let content = match random.u8(..8) {
        0 | 1 => {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            chunked(random, &content)
        }
        2 => {
            let wrong = random.usize(..2 * content.len() + 2);
            bytes.extend(format!("Content-Length: {wrong}\r\n").bytes());
            content
        }
        _ => {
            bytes.extend(format!("Content-Length: {}\r\n", content.len()).bytes());
            content
        }
    };
    bytes.extend_from_slice(b"\r\n");
    bytes.extend(content);
    bytes
}

/// Sends random requests on one connection, perhaps cut. Returns what came back.
fn storm(app: SocketAddr, random: &mut Rng) -> Vec<u8> {
    let Ok(mut stream) = TcpStream::connect(app) else {
        panic!("the app does not accept a connection");
    };
    // Some wait for the answer to a request that they don't finish.
    let patience_ms = if random.u8(..40) == 0 {
        1000
    } else {
        random.u64(1..50)
    };
    let timeout = Some(Duration::from_millis(patience_ms));
    stream.set_read_timeout(timeout).expect("it can be set");
    let mut bytes: Vec<u8> = Vec::new();
    for _ in 0..random.usize(1..4) {
        bytes.extend(random_request(random));
    }
    if random.u8(..6) == 0 {
        bytes.truncate(random.usize(..=bytes.len()));
    }
    let mut answer = Vec::new();
    let pieces = random.usize(1..4);
    for piece in bytes.chunks(bytes.len() / pieces + 1) {
        // The app may have closed the connection.
        if stream.write_all(piece).is_err() {
            break;
        }
        if random.u8(..4) == 0 {
            std::thread::yield_now();
        }
    }
    if random.u8(..8) > 0 {
        if random.bool() {
            let _closed = stream.shutdown(std::net::Shutdown::Write);
        }
        // A timeout or a cut connection: the bytes so far count.
        let _cut = stream.read_to_end(&mut answer);
    }
    answer
}

/// The statuses in a stream of answers, and the ids of accepted messages.
fn read_answers(answers: &[u8]) -> (Vec<u16>, Vec<String>) {
    let text = String::from_utf8_lossy(answers);
    let (mut codes, mut ids) = (Vec::new(), Vec::new());
    for answer in text.split("HTTP/1.").skip(1) {
        codes.extend(answer.get(2..5).and_then(|code| code.parse::<u16>().ok()));
        if answer.get(2..5) == Some("202")
            && let Some((_, id)) = answer.split_once("{\"id\":\"")
            && let Some((id, _)) = id.split_once('"')
        {
            ids.push(id.to_owned());
        }
    }
    (codes, ids)
}

#[test]
fn random_requests_neither_end_the_app_nor_lose_an_accepted_message() {
    let full = std::env::var_os("BRICKWORK_FULL").is_some();
    let time = Duration::from_secs(if full { 600 } else { 20 });
    let seed = Seed::or(fastrand::u64(..));
    println!("{seed:?}");
    let mut random = seed.random();
    let mut app = App::start(
        "content_types = [\"application/json\", \"application/x-www-form-urlencoded\"]\n\
         body_max = \"64KiB\"\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n\
         connections = 64\nverify_token = \"token\"",
        "",
    );
    let deadline = Instant::now() + time;
    let address = app.address;
    let client = move |mut random: Rng| {
        let (mut codes, mut ids) = (BTreeSet::new(), Vec::new());
        let mut sent = 0_u32;
        while Instant::now() < deadline {
            let (seen, accepted) = read_answers(&storm(address, &mut random));
            codes.extend(seen);
            ids.extend(accepted);
            sent += 1;
            if sent.is_multiple_of(EVERY) {
                let answer = http::post(address, "/hook", &[JSON], b"{}");
                let answer = answer.expect("there is an answer");
                assert_eq!(answer.code, 202, "{}", answer.body);
                ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
            }
        }
        (codes, ids, sent)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|_| {
            let random = random.fork();
            scope.spawn(move || client(random))
        });
        let clients: Vec<_> = clients.collect();
        let ended = clients.into_iter().map(|client| client.join());
        ended
            .map(|outcome| outcome.expect("every harmless request was accepted"))
            .collect()
    });
    let mut accepted: BTreeSet<String> = BTreeSet::new();
    let (mut codes, mut sent) = (BTreeSet::new(), 0);
    for (seen, ids, connections) in outcomes {
        codes.extend(seen);
        accepted.extend(ids);
        sent += connections;
    }
    println!(
        "{sent} connections, {} accepted, statuses {codes:?}",
        accepted.len()
    );
    let known: BTreeSet<u16> = CODES.into();
    assert!(codes.is_subset(&known), "{codes:?}");
    for code in [202, 400, 403, 404, 405, 408, 413, 415, 431] {
        assert!(codes.contains(&code), "{code} did not occur: {codes:?}");
    }
    assert!(!app.process.has_ended());
    until("every accepted message is kept", PATIENCE, || {
        let kept = std::fs::read(app.folder.path().join("kept.jsonl")).unwrap_or_default();
        let kept = kept.iter().filter(|byte| **byte == b'\n').count();
        match kept >= accepted.len() {
            true => Ok(()),
            false => Err(format!("{kept} of {}", accepted.len())),
        }
    });
    app.stop();
    let log = app.process.stderr();
    assert!(!log.contains("panicked"), "{log}");
    drop(seed);
}
