//! The connections of `zeromq-out`: each is a task with a queue of its own.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brickwork::LogThrottle;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep};
use tracing::{info, warn};

use super::acks::{FromReceiver, ping};
use super::endpoint::{self, Sockets};
use super::wire::{Incoming, Kind, Parser, command, handshake};
use super::{PING_EVERY, SILENCE_MAX};

/// Bytes per read.
const CHUNK_BYTES: usize = 16 << 10;
/// Maximum bytes of a message of the peer: an answer or a subscription.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Maximum connections to an endpoint that is bound.
const CONNECTIONS_MAX: usize = 64;
/// Maximum subscriptions of a peer.
const SUBSCRIPTIONS_MAX: usize = 1024;

/// A message on its way to a connection.
pub(super) struct Job {
    /// Frames of the message.
    pub(super) bytes: Bytes,
    /// Id of the message, if the peer acks it.
    pub(super) id: Option<Box<str>>,
    /// Told when the message was acked, or else written; `None` for a publication.
    pub(super) done: Option<oneshot::Sender<Delivered>>,
}

/// The outcome of a message that was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    Done,
    Later(String),
    Refused(String),
}

/// Settings of the connections.
pub(super) struct LinkSettings {
    pub(super) service: String,
    pub(super) kind: Kind,
    pub(super) bind: Option<String>,
    pub(super) connect: Vec<String>,
    /// Messages that a connection holds: unwritten, or without an ack.
    pub(super) window: usize,
}

/// The connections of a service. Dropping this value closes them.
pub(super) struct Link {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    settings: LinkSettings,
    state: Mutex<State>,
    sockets: Sockets,
    log: LogThrottle,
}

#[derive(Default)]
struct State {
    peers: Vec<Peer>,
    /// Number of the next connection.
    number: u64,
    /// Position of the peer that gets the next message.
    turn: usize,
    /// Why there is no connection.
    last_error: String,
}

struct Peer {
    number: u64,
    jobs: mpsc::Sender<Job>,
    subscriptions: Vec<Bytes>,
}

impl Link {
    /// Starts to connect or to listen.
    pub(super) fn start(settings: LinkSettings) -> Self {
        let shared = Arc::new(Shared {
            settings,
            state: Mutex::default(),
            sockets: Sockets::default(),
            log: LogThrottle::default(),
        });
        let task = tokio::spawn(shared.clone().run()).abort_handle();
        Self { shared, task }
    }

    /// Returns the sockets of all connections.
    pub(super) fn sockets(&self) -> &Sockets {
        &self.shared.sockets
    }

    /// Returns the queue of the connection whose turn it is.
    ///
    /// # Errors
    /// The reason why no connection is open.
    pub(super) fn peer(&self) -> Result<mpsc::Sender<Job>, String> {
        let mut state = self.shared.state();
        if state.peers.is_empty() {
            return Err(match state.last_error.is_empty() {
                true => "no peer is connected".to_owned(),
                false => format!("no peer is connected: {}", state.last_error),
            });
        }
        state.turn = (state.turn + 1) % state.peers.len();
        Ok(state.peers[state.turn].jobs.clone())
    }

    /// Publishes to every peer that has subscribed to the topic and keeps up.
    pub(super) fn publish(&self, topic: &[u8], bytes: &Bytes) {
        let state = self.shared.state();
        for peer in &state.peers {
            let mut subscriptions = peer.subscriptions.iter();
            if !subscriptions.any(|prefix| topic.starts_with(prefix)) {
                continue;
            }
            let job = Job {
                bytes: bytes.clone(),
                id: None,
                done: None,
            };
            if let Err(mpsc::error::TrySendError::Full(_)) = peer.jobs.try_send(job) {
                self.shared
                    .warn("a subscriber is too slow: messages are dropped for it");
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self, text: &str) {
        if let Some(suppressed) = self.log.event() {
            warn!(service = %self.settings.service, suppressed, "{text}");
        }
    }

    fn failed(&self, text: String) {
        self.warn(&text);
        self.state().last_error = text;
    }

    fn closed(&self, error: &io::Error) {
        self.failed(format!("connection closed: {error}"));
    }

    async fn run(self: Arc<Self>) {
        let mut sessions = JoinSet::new();
        let Some(bind) = &self.settings.bind else {
            for endpoint in self.settings.connect.clone() {
                sessions.spawn(self.clone().keep_connected(endpoint));
            }
            while sessions.join_next().await.is_some() {}
            return;
        };
        let mut tries = 0;
        let listener = loop {
            match endpoint::listen(bind).await {
                Ok(listener) => break listener,
                Err(error) => self.failed(format!("can't listen on {bind}: {error}")),
            }
            sleep(endpoint::reconnect_after(tries)).await;
            tries = tries.saturating_add(1);
        };
        info!(service = %self.settings.service, endpoint = %bind, "listening");
        if !endpoint::is_loopback(bind) {
            warn!(endpoint = %bind, "anyone who can reach this address gets messages: there is no encryption and no password");
        }
        match self.sockets.hold(&listener) {
            Ok(_held) => self.accept(listener, &mut sessions).await,
            Err(error) => self.failed(format!("can't listen on {bind}: {error}")),
        }
    }

    async fn accept(self: &Arc<Self>, listener: TcpListener, sessions: &mut JoinSet<()>) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    while sessions.try_join_next().is_some() {}
                    if sessions.len() >= CONNECTIONS_MAX {
                        self.warn("too many connections: the new one is closed");
                        continue;
                    }
                    let shared = self.clone();
                    sessions.spawn(async move { shared.serve(stream).await });
                }
                Err(error) => {
                    self.warn(&format!("can't accept a connection: {error}"));
                    sleep(endpoint::reconnect_after(1)).await;
                }
            }
        }
    }

    async fn keep_connected(self: Arc<Self>, endpoint: String) {
        let mut tries = 0;
        loop {
            match endpoint::connect(&endpoint).await {
                Ok(stream) => {
                    let since = Instant::now();
                    self.serve(stream).await;
                    if since.elapsed() > PING_EVERY {
                        tries = 0;
                    }
                }
                Err(error) => self.failed(format!("can't connect to {endpoint}: {error}")),
            }
            sleep(endpoint::reconnect_after(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    /// Serves one connection to its end.
    async fn serve(&self, mut stream: TcpStream) {
        let opened = async {
            endpoint::prepare(&stream)?;
            let held = self.sockets.hold(&stream)?;
            Ok::<_, io::Error>((handshake(&mut stream, self.settings.kind).await?, held))
        };
        let (buffer, _held) = match opened.await {
            Ok(opened) => opened,
            Err(error) => return self.closed(&error),
        };
        let (sender, jobs) = mpsc::channel(self.settings.window);
        let number = {
            let mut state = self.state();
            let number = state.number;
            state.number += 1;
            state.last_error.clear();
            state.peers.push(Peer {
                number,
                jobs: sender,
                subscriptions: Vec::new(),
            });
            number
        };
        // Also when this task is dropped.
        let _registered = Registered(self, number);
        let mut session = Session {
            shared: self,
            number,
            stream,
            jobs,
            pending: HashMap::new(),
        };
        if let Err(error) = session.run(buffer).await {
            self.closed(&error);
        }
    }
}

/// A peer among the connections, until this is dropped.
struct Registered<'a>(&'a Shared, u64);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let peers = &mut self.0.state().peers;
        peers.retain(|peer| peer.number != self.1);
    }
}

/// One connection.
struct Session<'a> {
    shared: &'a Shared,
    number: u64,
    stream: TcpStream,
    jobs: mpsc::Receiver<Job>,
    /// Messages without an ack. When the connection ends, their senders are dropped.
    pending: HashMap<Box<str>, oneshot::Sender<Delivered>>,
}

impl Session<'_> {
    async fn run(&mut self, mut buffer: BytesMut) -> io::Result<()> {
        let acks = self.shared.settings.kind == Kind::Dealer;
        let window = self.shared.settings.window;
        let mut parser = Parser::new(ANSWER_BYTES_MAX);
        let mut pings = interval(PING_EVERY);
        let mut heard = Instant::now();
        loop {
            while let Some(incoming) = parser.next(&mut buffer)? {
                match incoming {
                    Incoming::Command(body) => self.on_command(&body).await?,
                    Incoming::Message(parts) | Incoming::TooLarge(parts) => {
                        self.on_message(&parts)?;
                    }
                }
            }
            if self.pending.len() >= window {
                self.pending.retain(|_, done| !done.is_closed());
            }
            buffer.reserve(CHUNK_BYTES.saturating_sub(buffer.len()).max(1));
            tokio::select! {
                read = self.stream.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    heard = Instant::now();
                }
                job = self.jobs.recv(), if self.pending.len() < window => match job {
                    Some(job) => self.send(job).await?,
                    None => return Ok(()),
                },
                _ = pings.tick(), if acks => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is silent"));
                    }
                    endpoint::write(&mut self.stream, &ping()).await?;
                }
            }
        }
    }

    async fn send(&mut self, job: Job) -> io::Result<()> {
        // The handler of this message has given up: the message comes again.
        if job.done.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return Ok(());
        }
        match (job.id, job.done) {
            (Some(id), Some(done)) => {
                self.pending.insert(id, done);
                endpoint::write(&mut self.stream, &job.bytes).await
            }
            (_, done) => {
                endpoint::write(&mut self.stream, &job.bytes).await?;
                if let Some(done) = done {
                    let _gone = done.send(Delivered::Done);
                }
                Ok(())
            }
        }
    }

    async fn on_command(&mut self, body: &[u8]) -> io::Result<()> {
        if let Some(pong) = endpoint::pong(body) {
            return endpoint::write(&mut self.stream, &pong).await;
        }
        match command(body) {
            Some((b"SUBSCRIBE", topic)) => self.subscribe(true, topic),
            Some((b"CANCEL", topic)) => self.subscribe(false, topic),
            _ => Ok(()),
        }
    }

    fn on_message(&mut self, parts: &[Bytes]) -> io::Result<()> {
        match self.shared.settings.kind {
            Kind::Pub => match parts.first().and_then(|part| part.split_first()) {
                Some((1, topic)) => self.subscribe(true, topic),
                Some((0, topic)) => self.subscribe(false, topic),
                _ => Ok(()),
            },
            Kind::Dealer => self.on_answer(parts),
            _ => Ok(()),
        }
    }

    fn on_answer(&mut self, parts: &[Bytes]) -> io::Result<()> {
        let (id, outcome) = match FromReceiver::parse(parts) {
            Some(FromReceiver::Ack(id)) => (id, Delivered::Done),
            Some(FromReceiver::Later(id, text)) => (id, Delivered::Later(text)),
            Some(FromReceiver::Refused(id, text)) => (id, Delivered::Refused(text)),
            Some(FromReceiver::Pong) => return Ok(()),
            None => {
                let text = "the peer is no zeromq-in with mode = \"ack\"";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        };
        if let Some(done) = self.pending.remove(&*id) {
            let _gone = done.send(outcome);
        }
        Ok(())
    }

    fn subscribe(&mut self, on: bool, topic: &[u8]) -> io::Result<()> {
        let mut state = self.shared.state();
        let peer = state
            .peers
            .iter_mut()
            .find(|peer| peer.number == self.number);
        let Some(Peer { subscriptions, .. }) = peer else {
            return Ok(());
        };
        match subscriptions.iter().position(|known| known == topic) {
            Some(at) if !on => {
                subscriptions.swap_remove(at);
            }
            _ if on && subscriptions.len() >= SUBSCRIPTIONS_MAX => {
                let text = "the peer has too many subscriptions";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            // A subscription made twice must be cancelled twice.
            _ if on => subscriptions.push(Bytes::copy_from_slice(topic)),
            _ => {}
        }
        Ok(())
    }
}
