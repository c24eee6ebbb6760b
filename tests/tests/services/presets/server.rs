//! A server that answers as the products do, and remembers the requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

use super::products::PRODUCTS;

/// A request, as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

/// The server. It ends with the test's process.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                std::thread::spawn(move || serve(&stream, &kept));
            }
        });
        Self { address, seen }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

/// Answers the one request of a connection.
fn serve(stream: &TcpStream, seen: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream);
    let Some(request) = read(&mut reader) else {
        return;
    };
    let product = PRODUCTS.iter().find(|it| it.path == request.path);
    let (status, kind, body) = match product {
        Some(product) => (product.status, product.answer_type, product.answer),
        None if request.path == "/token" => {
            let token = r#"{"access_token": "ya29", "token_type": "Bearer", "expires_in": 3599}"#;
            (200, "application/json", token)
        }
        None => (404, "application/json", "{}"),
    };
    seen.lock().push(request);
    let answer = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // A client that has gone has no use for an answer.
    let _gone = reader.into_inner().write_all(answer.as_bytes());
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap_or(0));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    Some(Seen {
        method,
        path,
        headers,
        body,
    })
}
