//! The service type `poll`, through the shipped binary, against an API that fails: `kill -9` in the
//! middle of polls loses no record, and a record that is sent again is the same message.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brickwork::transport::Transports;
use brickwork_tests::api::{self, ApiReply};
use brickwork_tests::app::{TestApp, really};
use brickwork_tests::parts;
use brickwork_tests::process::{Process, until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// Records of a page.
const PAGE: usize = 3;

/// An answer in place of the records.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Status(u16, &'static str),
    /// The connection ends in the middle of the body.
    Half,
    /// The body is not JSON.
    Page,
}

#[derive(Debug, Default)]
struct State {
    /// Record number and value of the cursor, in the order of their values.
    records: Vec<(u64, u64)>,
    /// Answers of the next requests.
    faults: Vec<Fault>,
    /// Times and paths of requests.
    requests: Vec<(Instant, String)>,
}

/// An API with pages, whose records have few different cursor values.
#[derive(Clone)]
struct Api {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Api {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let api = Self {
            address,
            state: Arc::default(),
        };
        let serving = api.clone();
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that was killed is no fault of the API.
                let _gone = serving.answer(stream);
            }
        });
        api
    }

    fn with<R>(&self, with: impl FnOnce(&mut State) -> R) -> R {
        with(&mut self.state.lock().expect("no test panics with it"))
    }

    fn add(&self, numbers: std::ops::Range<u64>, value: u64) {
        self.with(|state| {
            state.records.extend(numbers.map(|number| (number, value)));
            state
                .records
                .sort_by_key(|(number, value)| (*value, *number));
        });
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                read => request.extend_from_slice(&buffer[..read]),
            }
        }
        let head = String::from_utf8_lossy(&request).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (fault, body) = self.with(|state| {
            state.requests.push((Instant::now(), path.clone()));
            let fault = (!state.faults.is_empty()).then(|| state.faults.remove(0));
            (fault, page(&state.records, &path))
        });
        let (status, headers, body) = match fault {
            Some(Fault::Status(status, headers)) => (status, headers, "{}".to_owned()),
            Some(Fault::Page) => (200, "", "<html>please log in</html>".to_owned()),
            Some(Fault::Half) | None => (200, "", body),
        };
        let head = format!(
            "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n{headers}Connection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let body = match fault {
            Some(Fault::Half) => &body[..body.len() / 2],
            _ => &body,
        };
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
    }
}

fn parameter(path: &str, name: &str) -> Option<u64> {
    let (_, query) = path.split_once('?')?;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .find_map(|(_, value)| value.parse().ok())
}

/// The page of a request, with the way to the next page.
fn page(records: &[(u64, u64)], path: &str) -> String {
    let since = parameter(path, "since").unwrap_or(0);
    let offset = usize::try_from(parameter(path, "offset").unwrap_or(0)).expect("a small number");
    let found: Vec<&(u64, u64)> = records
        .iter()
        .filter(|(_, value)| *value >= since)
        .collect();
    let shown = found.iter().skip(offset).take(PAGE);
    let orders: Vec<Value> = shown
        .map(|(number, value)| json!({ "number": number, "at": value, "name": "ö\u{1F600}" }))
        .collect();
    let next = (offset + PAGE < found.len())
        .then(|| format!("/orders?since={since}&offset={}", offset + PAGE));
    json!({ "orders": orders, "next": next }).to_string()
}

fn write(folder: &Path, api: &Api, more: &str) {
    let address = api.address;
    let manifest = format!(
        r#"
        [app]
        name = "sync"
        transport = "embedded:data/queues"
        [admin]
        listen = "off"
        [services.orders]
        use = "poll"
        out = "orders"
        [services.orders.config]
        every = "100ms"
        url = "'http://{address}/orders'"
        query.since = "msg.cursor"
        records = "msg.orders"
        id = "msg.number"
        cursor.field = "msg.at"
        pages.next_url = "msg.next"
        allow = ["{address}"]
        {more}
        [services.marked]
        use = "map"
        in = "orders"
        out = "marked"
        config.to = {{ id = "meta.id", number = "msg.number", attempt = "meta.attempt" }}
        [services.keep]
        use = "file-out"
        in = "marked"
        config.path = "out.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
}

fn run(folder: &Path) -> Process {
    parts::run(folder, folder, &[])
}

/// Returns the message ids of each record.
fn received(folder: &Path) -> BTreeMap<u64, BTreeSet<String>> {
    let mut received: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for value in parts::whole_lines(&folder.join("out.jsonl")) {
        let number = value["number"].as_u64().expect("a number");
        let id = value["id"].as_str().expect("an id").to_owned();
        received.entry(number).or_default().insert(id);
    }
    received
}

/// Waits until as many records were received, each as one message.
fn expect(folder: &Path, count: usize) {
    let received = until("all records arrive", PATIENCE, || {
        let received = received(folder);
        match received.len() {
            len if len >= count => Ok(received),
            len => Err(format!("{len} of {count}")),
        }
    });
    assert_eq!(received.len(), count);
    for (number, ids) in &received {
        assert_eq!(
            ids.len(),
            1,
            "record {number} came as several messages: {ids:?}"
        );
    }
}

#[test]
fn polls_that_are_killed_lose_no_record_and_send_none_as_another_message() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (folder, api) = (folder.path(), Api::start());
    write(folder, &api, "");
    let mut next = 0;
    for life in 0..8_u64 {
        let app = run(folder);
        // Records with the value of the last ones, too.
        for value in [life, life, life + 1] {
            api.add(next..next + 4, value);
            next += 4;
            let requests = api.with(|state| state.requests.len());
            let goal = requests + 1 + fastrand::usize(0..4);
            until("the API is polled", PATIENCE, || {
                let requests = api.with(|state| state.requests.len());
                if requests >= goal {
                    Ok(())
                } else {
                    Err(format!("{requests} requests"))
                }
            });
        }
        app.stop();
    }
    let _app = run(folder);
    expect(folder, usize::try_from(next).expect("a small number"));
    // Nothing is new: the next polls send nothing.
    let lines = std::fs::read_to_string(folder.join("out.jsonl")).expect("lines");
    let requests = api.with(|state| state.requests.len());
    until("more polls", PATIENCE, || {
        match api.with(|state| state.requests.len()) {
            now if now > requests + 3 => Ok(()),
            now => Err(format!("{now} requests")),
        }
    });
    let later = std::fs::read_to_string(folder.join("out.jsonl")).expect("lines");
    assert_eq!(lines, later, "records at the boundary are sent once");
}

#[test]
fn a_poll_goes_on_after_every_kind_of_failure_and_waits_as_long_as_it_is_asked() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (folder, api) = (folder.path(), Api::start());
    write(folder, &api, "");
    api.add(0..7, 5);
    api.with(|state| {
        state.faults = vec![
            Fault::Half,
            Fault::Page,
            Fault::Status(500, ""),
            Fault::Status(404, ""),
            Fault::Status(429, "Retry-After: 3\r\n"),
        ];
    });
    let app = run(folder);
    expect(folder, 7);
    let requests = api.with(|state| state.requests.clone());
    let asked = requests[5].0 - requests[4].0;
    assert!(asked >= Duration::from_secs(3), "{asked:?} after 429");
    let stderr = app.stderr();
    assert!(stderr.contains("poll failed, trying again"), "{stderr}");
}

#[test]
fn a_long_first_poll_of_sorted_records_goes_on_where_it_was_killed() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (folder, api) = (folder.path(), Api::start());
    write(folder, &api, "cursor.ascending = true");
    for value in 0..40 {
        api.add(value * 2..value * 2 + 2, value);
    }
    let app = run(folder);
    until("half of the pages", PATIENCE, || {
        match received(folder).len() {
            len if len >= 30 => Ok(()),
            len => Err(format!("{len} records")),
        }
    });
    app.stop();
    let before = api.with(|state| std::mem::take(&mut state.requests)).len();
    let _app = run(folder);
    expect(folder, 80);
    let first = api.with(|state| state.requests[0].1.clone());
    let since = parameter(&first, "since").expect("a cursor");
    assert!(before > 8 && since >= 10, "{before} requests, then {first}");
}

#[test]
fn a_poll_renews_a_refused_token() {
    really(async {
        let api = api::Api::start(|request| {
            let token = request.headers.get("authorization").map(String::as_str);
            match (request.target.as_str(), token) {
                ("POST /token", _) => {
                    let token = format!("token-{}", request.before);
                    let body = json!({ "access_token": token, "expires_in": 3600 });
                    ApiReply::json(200, &body.to_string())
                }
                // The first token is no longer valid at the second poll.
                (_, Some("Bearer token-0")) if request.before == 0 => {
                    ApiReply::json(200, r#"[{"number":1}]"#)
                }
                (_, Some("Bearer token-1")) => ApiReply::json(200, r#"[{"number":2}]"#),
                _ => ApiReply::json(401, "{}"),
            }
        })
        .await;
        let manifest = format!(
            r#"
            [app]
            name = "token"
            transport = "memory:"
            [admin]
            listen = "off"
            [topics.orders]
            external = "out"
            [services.orders]
            use = "poll"
            out = "orders"
            [services.orders.config]
            every = "100ms"
            url = "'http://{0}/orders'"
            allow = ["{0}"]
            auth.oauth2 = {{ token_url = "http://{0}/token", client_id = "me", client_secret = "hidden" }}
            "#,
            api.address
        );
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (catalog, transports) = (brickwork_actors::catalog(), Transports::new());
        let app = TestApp::start_in(folder, &manifest, &catalog, &transports).await;
        let mut orders = app.probe("orders").await;
        loop {
            let message = orders.within(PATIENCE).await.expect("polls go on");
            let order: Value = serde_json::from_slice(&message.payload).expect("JSON");
            if order["number"] == 2 {
                break;
            }
        }
        assert_eq!(api.count("POST /token"), 2);
        app.stop().await;
    });
}
