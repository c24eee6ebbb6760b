//! An outside API that a test scripts: it answers, hangs, breaks off, and remembers its requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A request that the API has received.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// Method and path with query, such as `POST /orders`.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: String,
    /// Number of requests with the same target before this one.
    pub before: usize,
}

/// The behaviour of the API for one request.
#[derive(Debug, Clone)]
pub enum ApiReply {
    /// Status, headers and body.
    Answer(u16, Vec<(String, String)>, String),
    /// No answer, ever.
    Hang,
    /// The head and half of the body.
    Half,
    /// The connection is closed.
    Close,
}

#[derive(Default)]
struct Requests {
    all: Mutex<Vec<ApiRequest>>,
    came: Notify,
}

/// A running API, which ends when the value is dropped.
pub struct Api {
    /// Its address.
    pub address: SocketAddr,
    requests: Arc<Requests>,
    task: JoinHandle<()>,
}

impl ApiReply {
    /// An answer with a JSON body.
    pub fn json(status: u16, body: &str) -> Self {
        let kind = ("content-type".to_owned(), "application/json".to_owned());
        Self::Answer(status, vec![kind], body.to_owned())
    }

    /// An answer with one header.
    pub fn with_header(status: u16, name: &str, value: impl Into<String>) -> Self {
        Self::Answer(status, vec![(name.to_owned(), value.into())], String::new())
    }
}

impl Api {
    /// Starts an API that replies as the function says.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start(reply: impl Fn(&ApiRequest) -> ApiReply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let requests = Arc::new(Requests::default());
        let (seen, reply) = (requests.clone(), Arc::new(reply));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, reply) = (seen.clone(), reply.clone());
                tokio::spawn(async move {
                    // A client that goes away ends its connection.
                    let _gone = serve(stream, &seen, &*reply).await;
                });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// Returns the requests so far.
    ///
    /// # Panics
    /// If a connection has panicked.
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.requests
            .all
            .lock()
            .expect("no connection panics")
            .clone()
    }

    /// Waits until this many requests have come.
    pub async fn until(&self, count: usize) {
        loop {
            let came = self.requests.came.notified();
            if self.requests().len() >= count {
                return;
            }
            came.await;
        }
    }

    /// Returns the number of requests with a target that begins so.
    pub fn count(&self, target: &str) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|it| it.target.starts_with(target))
            .count()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: &Requests,
    reply: &(dyn Fn(&ApiRequest) -> ApiReply + Send + Sync),
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(mut request) = read(&mut stream, &mut bytes).await? {
        {
            let mut all = seen.all.lock().expect("no connection panics");
            request.before = all.iter().filter(|it| it.target == request.target).count();
            all.push(request.clone());
        }
        seen.came.notify_waiters();
        let (status, headers, body) = match reply(&request) {
            ApiReply::Answer(status, headers, body) => (status, headers, body),
            ApiReply::Hang => std::future::pending().await,
            ApiReply::Half => {
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
                return stream.write_all(half).await;
            }
            ApiReply::Close => return Ok(()),
        };
        let mut head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream
            .write_all(format!("{head}\r\n{body}").as_bytes())
            .await?;
    }
    Ok(())
}

/// Reads the next request; `None` at the end of the connection.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<Option<ApiRequest>> {
    loop {
        if let Some((request, length)) = parse(bytes) {
            bytes.drain(..length);
            return Ok(Some(request));
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// Parses a request that is complete, with its length.
fn parse(bytes: &[u8]) -> Option<(ApiRequest, usize)> {
    let text = String::from_utf8_lossy(bytes);
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let (target, _) = lines.next()?.rsplit_once(' ')?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |it| it.parse().unwrap_or(0));
    let body = rest.get(..length)?.to_owned();
    let request = ApiRequest {
        target: target.to_owned(),
        headers,
        body,
        before: 0,
    };
    Some((request, head.len() + 4 + length))
}
