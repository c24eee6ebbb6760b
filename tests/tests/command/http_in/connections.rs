//! Connections of `http-in`: slow clients, reuse, limits and shutdown.

use super::*;

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
    let whole = "POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
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
        "no client waits for long"
    );
}

/// Reads one answer of a keep-alive connection.
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
        "POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_connection_is_reused_after_a_refusal_and_for_pipelined_requests() {
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
    // A client that sends `Expect: 100-continue` isn't told to continue when its request is
    // refused.
    let asks = good.replace("Host: localhost", "Host: localhost\r\nExpect: 100-continue");
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
fn idle_connections_are_closed_for_waiting_ones() {
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
        // Most of the first body has arrived, and the rest does not come. If the server has not
        // read it yet when the second request comes, it refuses the first one: then the test
        // repeats.
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

#[test]
fn a_slow_service_causes_503_and_accepted_messages_are_handled() {
    let app = App::start("", &slow(1, 4));
    let mut accepted = Vec::new();
    let (mut refused, mut full) = (0, 0);
    while accepted.len() < 30 || refused < 30 {
        let answer = app.post(&[JSON], b"{}");
        match answer.code {
            202 => accepted.push(answer.json()["id"].as_str().expect("an id").to_owned()),
            503 => {
                assert_eq!(answer.header("retry-after"), Some("5"));
                let error = error_of(&answer);
                full += u32::from(error.contains("the queue work.in has "));
                refused += 1;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    assert!(full > 0, "the answer names the queue that is too full");
    assert_eq!(app.kept(accepted.len()).len(), accepted.len());
}

#[test]
fn http_in_waits_for_an_address_in_use() {
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
fn stopping_closes_idle_connections_and_answers_started_requests() {
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
    // A later request was answered, so the head of this one has arrived.
    assert_eq!(app.post(&[JSON], b"{}").code, 202);
    let started = Instant::now();
    terminate(&app.process);
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing)
        .expect("it is closed in order");
    assert!(nothing.is_empty());
    assert!(
        TcpStream::connect(app.address).is_err(),
        "no other client is admitted"
    );
    middle.write_all(b"}").expect("it is open");
    let answer = http::answer(&mut middle).expect("there is an answer");
    assert_eq!(answer.code, 503, "{}", answer.body);
    assert_eq!(app.process.exit_code(PATIENCE), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
    app.process = run(app.folder.path(), app.address, "", "");
    app.listening();
}
