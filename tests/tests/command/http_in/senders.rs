//! Requests in the forms that real senders use: paths, methods, forms, hosts.

use super::*;

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// Sends a request without a body.
fn bare(app: &App, line: &str, headers: &str) -> Response {
    app.exchange(&format!(
        "{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"
    ))
}

#[test]
fn a_form_becomes_an_object_and_a_byte_order_mark_is_skipped() {
    let app = App::start(
        "content_types = [\"application/json\", \"application/x-www-form-urlencoded\"]",
        "",
    );
    let form = b"text=a+b%26c&to=1&to=2&payload=%7B%22n%22%3A1%7D";
    assert_eq!(app.post(&[FORM], form).code, 202);
    assert_eq!(app.post(&[JSON], b"\xef\xbb\xbf{\"n\": 1}").code, 202);
    for (headers, body) in [
        (FORM, &b"a=%ff"[..]),
        (JSON, b"\xef\xbb\xbf"),
        (JSON, b"\xef\xbb{}"),
    ] {
        assert_eq!(app.post(&[headers], body).code, 400, "{body:?}");
    }
    let kept = app.kept(2);
    let form = kept.iter().find(|it| it["msg"].get("text").is_some());
    let expected = serde_json::json!({"text": "a b&c", "to": ["1", "2"], "payload": "{\"n\":1}"});
    assert_eq!(form.expect("it is kept")["msg"], expected);
    assert!(kept.iter().any(|it| it["msg"]["n"] == 1), "{kept:?}");
}

#[test]
fn method_path_and_query_are_headers_of_the_message() {
    let app = App::start("", "");
    let headers = [JSON, ("http-query", "forged"), ("http-path", "/forged")];
    let path = "/hook?shop=7&token=hidden&page=2";
    let answer = http::post(app.address, path, &headers, b"{}").expect("there is an answer");
    assert_eq!(answer.code, 202, "{}", answer.body);
    let headers = &app.kept(1)[0]["headers"];
    for (name, value) in [
        ("http-method", "POST"),
        ("http-path", "/hook"),
        ("http-query", "shop=7&page=2"),
    ] {
        assert_eq!(headers[name], value, "{headers}");
    }
}

#[test]
fn several_paths_and_methods_of_one_port_have_their_own_outputs() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let address = free_address();
    let keep = |label: &str| {
        format!(
            "[services.{label}-kept]\nuse = \"map\"\nin = \"{label}\"\nout = \"{label}-map\"\n\
             config.to = {{ msg = \"msg\", path = \"meta.headers['http-path']\" }}\n\
             [services.{label}-file]\nuse = \"file-out\"\nin = \"{label}-map\"\n\
             config.path = \"{label}.jsonl\"\n"
        )
    };
    let manifest = format!(
        r#"
        [app]
        name = "routes"
        transport = "memory:"
        [admin]
        listen = "off"
        [services.intake]
        use = "http-in"
        out = {{ orders = "orders", items = "items" }}
        [services.intake.config]
        listen = "{address}"
        [services.intake.config.routes]
        "/orders" = "orders"
        "GET /orders" = "orders"
        "PUT /items/*" = "items"
        {}
        {}
        "#,
        keep("orders"),
        keep("items")
    );
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder.path());
    let process = Process::start(command, folder.path(), "it was just built");
    let app = App {
        folder,
        address,
        process,
    };
    app.listening();
    let posted = http::post(address, "/orders", &[JSON], b"{\"n\":1}");
    assert_eq!(posted.expect("there is an answer").code, 202);
    let host = "Host: localhost\r\n";
    assert_eq!(bare(&app, "GET /orders?a=1&a=2&b=x%20y", host).code, 202);
    let put = "Content-Type: application/json\r\nContent-Length: 2\r\n";
    let put = app.exchange(&format!(
        "PUT /items/7/8 HTTP/1.1\r\nConnection: close\r\n{host}{put}\r\n[]"
    ));
    assert_eq!(put.code, 202, "{}", put.body);
    let other = bare(&app, "DELETE /items/7", host);
    assert_eq!(
        (other.code, other.header("allow")),
        (405, Some("OPTIONS, PUT"))
    );
    let other = bare(&app, "DELETE /orders", host);
    assert_eq!(
        other.header("allow"),
        Some("GET, OPTIONS, POST"),
        "{}",
        other.body
    );
    assert_eq!(bare(&app, "GET /items", host).code, 404);
    let kept = |name: &str, count: usize| {
        until(name, PATIENCE, || {
            let text = std::fs::read_to_string(app.folder.path().join(name)).unwrap_or_default();
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            match lines.len() == count {
                true => Ok(lines.join("\n")),
                false => Err(text),
            }
        })
    };
    assert_eq!(
        kept("orders.jsonl", 2),
        "{\"msg\":{\"a\":[\"1\",\"2\"],\"b\":\"x y\"},\"path\":\"/orders\"}\n\
         {\"msg\":{\"n\":1},\"path\":\"/orders\"}"
    );
    assert_eq!(
        kept("items.jsonl", 1),
        "{\"msg\":[],\"path\":\"/items/7/8\"}"
    );
}

#[test]
fn on_loopback_without_a_secret_only_own_hosts_are_served() {
    let app = App::start("hosts = [\"hooks.example.com\"]", "");
    let post = |hosts: &str| {
        app.exchange(&format!(
            "POST /hook HTTP/1.1\r\n{hosts}Content-Type: application/json\r\n\
             Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        ))
        .code
    };
    for (hosts, code) in [
        ("Host: localhost:80\r\n", 202),
        ("Host: hooks.example.com\r\n", 202),
        ("Host: proxy\r\n", 202),
        ("Host: evil.example\r\n", 403),
        ("Host: 192.168.0.1\r\n", 403),
        ("", 400),
        ("Host: localhost\r\nHost: localhost\r\n", 400),
    ] {
        assert_eq!(post(hosts), code, "{hosts}");
    }
    app.kept(3);
    // A signature proves more than a name.
    let app = App::start(&format!("secret = \"{SECRET}\""), "");
    let body = b"{}";
    let signature = signature(body);
    let headers = [JSON, ("X-Hub-Signature-256", &signature)];
    let mut request = "POST /hook HTTP/1.1\r\nHost: hooks.example.com\r\n".to_owned();
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "Content-Length: 2\r\nConnection: close\r\n\r\n{}";
    assert_eq!(app.exchange(&request).code, 202);
}

#[test]
fn clients_that_send_nothing_make_room_for_others() {
    let app = App::start("connections = 8", "");
    let half_open: Vec<TcpStream> = (0..24)
        .map(|number| {
            let mut stream = app.connect();
            if number % 2 == 0 {
                stream.write_all(b"POST /ho").expect("it can be written");
            }
            stream
        })
        .collect();
    let started = Instant::now();
    assert_eq!(app.post(&[JSON], b"{}").code, 202);
    let elapsed = started.elapsed();
    assert!(
        elapsed < Duration::from_secs(8),
        "{elapsed:?}: header_timeout is 10 s"
    );
    drop(half_open);
}

#[test]
fn http_in_accepts_exactly_the_json_that_expressions_can_read() {
    let app = App::start("content_types = [\"application/json\", \"text/plain\"]", "");
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let bodies: Vec<(bool, Vec<u8>)> = vec![
        (false, nested(128).into()),
        (false, nested(100_000).into()),
        (true, b"1e308".to_vec()),
        (false, b"1e309".to_vec()),
        (true, b"1e-999".to_vec()),
        (true, vec![b'7'; 300]),
        (false, vec![b'7'; 400]),
        (true, br#""\ud83d\ude00""#.to_vec()),
        (false, br#""\ud83d""#.to_vec()),
        (false, br#""\ude00\ud83d""#.to_vec()),
        (true, br#""\u0000""#.to_vec()),
        (false, b"\"\x00\"".to_vec()),
        (false, b"\"\xff\"".to_vec()),
        (false, b"\"\xed\xa0\x80\"".to_vec()),
        (false, b"\"\xc0\xaf\"".to_vec()),
        (true, br#"{"a":1,"a":2}"#.to_vec()),
        (true, br#"{"":{"":[]}}"#.to_vec()),
        (false, b"[1,]".to_vec()),
        (false, b"NaN".to_vec()),
        (false, b"01".to_vec()),
        (false, b"[1 // one\n]".to_vec()),
        (true, b"\xef\xbb\xbf\t\r\n [0]".to_vec()),
        (false, b"\xfe\xff\x00[\x00]".to_vec()),
        (false, b"\xef\xbb\xbf\xef\xbb\xbf1".to_vec()),
        // The last one: serde_json can't read its line, which is one level deeper.
        (true, nested(127).into()),
    ];
    for (readable, body) in &bodies {
        let answer = app.post(&[JSON], body);
        let expected = if *readable { 202 } else { 400 };
        let start = String::from_utf8_lossy(&body[..body.len().min(40)]);
        assert_eq!(answer.code, expected, "{start}: {}", answer.body);
    }
    // The expressions behind `http-in` read each of those that were accepted.
    let accepted = bodies.iter().filter(|(readable, _)| *readable).count();
    app.kept(accepted - 1);
    assert!(
        !app.process.stderr().contains("dead-lettered"),
        "{}",
        app.process.stderr()
    );
}
