//! A receiver of webhooks: a thread that answers with a status, which the test changes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::PATIENCE;

/// A request that arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    head: Vec<String>,
    pub(super) body: String,
}

pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    status: Arc<AtomicU16>,
    arrived: Receiver<Arrived>,
}

impl Arrived {
    pub(super) fn header(&self, name: &str) -> &str {
        let values = self.head.iter().filter_map(|line| line.split_once(": "));
        let mut values = values.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        values.next().expect("the header is there").1
    }
}

impl Endpoint {
    /// Starts to answer with this status. The thread ends with the process of the test.
    pub(super) fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let (sender, arrived) = channel();
        let status = Arc::new(AtomicU16::new(status));
        let answers = status.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (sender, answers) = (sender.clone(), answers.clone());
                // A connection that breaks off is none of the test's.
                std::thread::spawn(move || serve(stream, &sender, &answers));
            }
        });
        Self {
            address,
            status,
            arrived,
        }
    }

    pub(super) fn answer_with(&self, status: u16) {
        self.status.store(status, Relaxed);
    }

    /// Waits for the next request.
    pub(super) fn next(&self) -> Arrived {
        self.arrived
            .recv_timeout(PATIENCE)
            .expect("a request comes")
    }

    /// The requests that came and were not taken.
    pub(super) fn rest(&self) -> usize {
        self.arrived.try_iter().count()
    }
}

fn serve(stream: TcpStream, sender: &Sender<Arrived>, status: &AtomicU16) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let mut arrived = Arrived {
            head,
            body: String::new(),
        };
        let length: usize = arrived.header("content-length").parse().expect("a number");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        arrived.body = String::from_utf8(body).expect("it is text");
        let status = status.load(Relaxed);
        // The test may have ended.
        let _ = sender.send(arrived);
        let body = "never mind";
        let length = body.len();
        write!(
            writer,
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
    }
}
