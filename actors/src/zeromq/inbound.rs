//! `zeromq-in`: messages of another app, or of a program that speaks ZeroMQ.

use std::io;

use brickwork::config::ByteSize;
use brickwork::prelude::*;
use brickwork::transport::TransportError;
use brickwork::{LogThrottle, Message, SendHandle, TrySubmitError};
use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::acks::{self, FromReceiver, FromSender};
use super::endpoint::{self, Sockets};
use super::wire::{Incoming, Kind, Parser, encode, handshake};
use super::{PING_EVERY, SILENCE_MAX};
use crate::ports::OUT;

/// Bytes per read.
const CHUNK_BYTES: usize = 64 << 10;
/// Beginning of the names of headers that only the runtime sets.
const RESERVED: &str = "brickwork-";
/// Header with the first part of a message of a publisher.
const TOPIC_HEADER: &str = "zeromq-topic";
/// Room for the head of a message beside its payload.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Receives messages over ZeroMQ.
#[derive(Debug)]
pub struct ZeromqIn;

/// Config of `zeromq-in`. Set exactly one of `bind` and `connect`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ZeromqInConfig {
    /// Pattern of the link. `ack` needs `bind`.
    pub mode: InMode,
    /// Endpoint to listen on, such as `tcp://127.0.0.1:5555`. There is no encryption and no
    /// password: an address other than loopback belongs into a private network.
    pub bind: Option<String>,
    /// Endpoints to connect to.
    pub connect: Vec<String>,
    /// Beginnings of the topics that `sub` subscribes to; by default every topic.
    pub topics: Vec<String>,
    /// Maximum size of a message. With `ack` a larger one is refused; otherwise its connection is
    /// closed.
    pub message_max: ByteSize,
    /// Maximum open connections; more are closed.
    pub connections: usize,
    /// Maximum messages that wait for the transport. Then a sender of `ack` is told to come
    /// later; others wait.
    pub in_flight: usize,
}

/// Pattern of a link, at its receiving end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InMode {
    /// ROUTER for the `zeromq-out` of another app: at least once.
    #[default]
    Ack,
    /// PULL for programs that push: messages may be lost.
    Pull,
    /// SUB for programs that publish: messages may be lost.
    Sub,
}

impl Default for ZeromqInConfig {
    fn default() -> Self {
        Self {
            mode: InMode::Ack,
            bind: None,
            connect: Vec::new(),
            topics: Vec::new(),
            message_max: ByteSize(1 << 20),
            connections: 64,
            in_flight: 256,
        }
    }
}

impl Source for ZeromqIn {
    const NAME: &'static str = "zeromq-in";
    const SUMMARY: &'static str =
        "messages of another app, at least once, or of programs that speak ZeroMQ";
    const EXAMPLE: &'static str = r#"[services.from-shop]
use = "zeromq-in"
out = "orders.placed"
config.bind = "tcp://127.0.0.1:5555"
"#;
    const FAILURES: &'static [&'static str] = &[
        "restarts with back-off while its address can't be listened on",
        "connects again, with back-off, when a connection is lost",
        "closes the connection of a peer that breaks the protocol or is of another type of socket, with a warning in the log",
        "ack: tells the sender to come later while the app is under backpressure, and that a message is refused if it is larger than message_max or app.max_message",
        "pull, sub: loses the messages that a connection holds when it breaks; closes the connection that sends more than message_max, and skips a message larger than app.max_message, with a warning in the log",
    ];
    type Config = ZeromqInConfig;

    fn ports(_: &ZeromqInConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn check(config: &ZeromqInConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = endpoint::errors(config.bind.as_deref(), &config.connect);
        let mut error = |path: &str, text: &str| errors.push(ConfigError::new(path, text));
        if config.mode == InMode::Ack && !config.connect.is_empty() {
            error("connect", "with mode = \"ack\" the receiving end binds");
        }
        if config.mode != InMode::Sub && !config.topics.is_empty() {
            error("topics", "only mode = \"sub\" has topics");
        }
        if !(1..=1024).contains(&config.connections) {
            error("connections", "a listener has 1 to 1024 connections");
        }
        if !(1..=4096).contains(&config.in_flight) {
            error("in_flight", "a source has 1 to 4096 messages in flight");
        }
        if !(1..=1 << 30).contains(&config.message_max.0) {
            error("message_max", "a message may have up to 1GiB");
        }
        crate::config_errors::result(errors)
    }

    fn in_flight(config: &ZeromqInConfig) -> usize {
        config.in_flight.clamp(1, 4096)
    }

    async fn run(config: &ZeromqInConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let receiver = Receiver {
            config,
            out,
            sockets: Sockets::default(),
            log: LogThrottle::default(),
        };
        let sockets = receiver.sockets.clone();
        let _hook = out.on_abandoned(move || sockets.shut_down());
        let ended = match &config.bind {
            Some(bind) => {
                let listener = endpoint::listen(bind).await.map_err(|error| {
                    Failure::retry(format!("can't listen on {bind}: {error}; free it or set config.bind to another address"))
                })?;
                info!(service = %out.service(), endpoint = %bind, "listening");
                if !endpoint::is_loopback(bind) {
                    warn!(endpoint = %bind, "anyone who can reach this address can send: there is no encryption and no password");
                }
                let _held = receiver.sockets.hold(&listener)?;
                out.or_stop(receiver.accept(listener)).await
            }
            None => out.or_stop(receiver.connect()).await,
        };
        match ended {
            Ok(Err(failure)) => Err(failure),
            // The source is to stop.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// One run of the source.
struct Receiver<'a> {
    config: &'a ZeromqInConfig,
    out: &'a SourceContext,
    sockets: Sockets,
    log: LogThrottle,
}

/// A message that waits for the transport, and the answer to its sender.
type Confirming = LocalBoxFuture<'static, FromReceiver>;

impl Receiver<'_> {
    fn kind(&self) -> Kind {
        match self.config.mode {
            InMode::Ack => Kind::Router,
            InMode::Pull => Kind::Pull,
            InMode::Sub => Kind::Sub,
        }
    }

    /// Serves every connection to the listener.
    async fn accept(&self, listener: TcpListener) -> Result<(), Failure> {
        let mut sessions = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if sessions.len() < self.config.connections => {
                        sessions.push(self.session(stream));
                    }
                    Ok(_) => self.warn("too many connections: the new one is closed"),
                    Err(error) => {
                        self.warn(&format!("can't accept a connection: {error}"));
                        sleep(endpoint::reconnect_after(1)).await;
                    }
                },
                Some(ended) = sessions.next(), if !sessions.is_empty() => self.ended(ended),
            }
        }
    }

    /// Keeps a connection to every endpoint.
    async fn connect(&self) -> Result<(), Failure> {
        let endpoints = self.config.connect.iter();
        let connections = endpoints.map(|endpoint| self.keep_connected(endpoint));
        let mut connections: FuturesUnordered<_> = connections.collect();
        while connections.next().await.is_some() {}
        Ok(())
    }

    async fn keep_connected(&self, endpoint: &str) {
        let mut tries = 0;
        loop {
            match endpoint::connect(endpoint).await {
                Ok(stream) => {
                    let since = Instant::now();
                    self.ended(self.session(stream).await);
                    if since.elapsed() > PING_EVERY {
                        tries = 0;
                    }
                }
                Err(error) => self.warn(&format!("can't connect to {endpoint}: {error}")),
            }
            sleep(endpoint::reconnect_after(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    fn ended(&self, ended: io::Result<()>) {
        match ended {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => self.warn(&format!("connection closed: {error}")),
        }
    }

    fn warn(&self, text: &str) {
        if let Some(suppressed) = self.log.event() {
            warn!(service = %self.out.service(), suppressed, "{text}");
        }
    }

    /// Receives the messages of one connection.
    async fn session(&self, mut stream: TcpStream) -> io::Result<()> {
        endpoint::prepare(&stream)?;
        let _held = self.sockets.hold(&stream)?;
        let mut buffer = handshake(&mut stream, self.kind()).await?;
        if self.config.mode == InMode::Sub {
            endpoint::write(&mut stream, &self.subscriptions()).await?;
        }
        let bytes_max = usize::try_from(self.config.message_max.0).unwrap_or(usize::MAX);
        let mut parser = match self.config.mode {
            // The sender learns that the message is too large, and goes on with the others.
            InMode::Ack => Parser::new(bytes_max.saturating_add(HEAD_BYTES_MAX)).skipping(),
            InMode::Pull | InMode::Sub => Parser::new(bytes_max),
        };
        let mut confirming: FuturesUnordered<Confirming> = FuturesUnordered::new();
        loop {
            while let Some(incoming) = parser.next(&mut buffer)? {
                let answer = match incoming {
                    Incoming::Command(body) => endpoint::pong(&body),
                    Incoming::TooLarge(parts) => Some(self.refuse(&parts)?),
                    Incoming::Message(parts) => self.on_message(parts, &mut confirming).await?,
                };
                if let Some(answer) = answer {
                    endpoint::write(&mut stream, &answer).await?;
                }
                tokio::task::consume_budget().await;
            }
            buffer.reserve(CHUNK_BYTES.saturating_sub(buffer.len()).max(1));
            tokio::select! {
                biased;
                Some(answer) = confirming.next(), if !confirming.is_empty() => {
                    endpoint::write(&mut stream, &answer.encode()).await?;
                }
                read = self.read(&mut stream, &mut buffer) => if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                },
            }
        }
    }

    /// Reads bytes; with acks, the other end is never silent for long.
    async fn read(&self, stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
        if self.config.mode != InMode::Ack {
            return stream.read_buf(buffer).await;
        }
        match timeout(SILENCE_MAX, stream.read_buf(buffer)).await {
            Ok(read) => read,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer is silent",
            )),
        }
    }

    fn subscriptions(&self) -> Vec<u8> {
        let all = [String::new()];
        let topics = match self.config.topics.is_empty() {
            true => &all[..],
            false => &self.config.topics,
        };
        let mut bytes = Vec::new();
        for topic in topics {
            encode(&[&[&[1], topic.as_bytes()].concat()], &mut bytes);
        }
        bytes
    }

    /// Returns the answer to a message that is too large.
    fn refuse(&self, parts: &[Bytes]) -> io::Result<Vec<u8>> {
        let id = acks::id_of_too_large(parts).map_err(wrong)?;
        Ok(self.too_large(id).encode())
    }

    fn too_large(&self, id: String) -> FromReceiver {
        let max = self.config.message_max;
        FromReceiver::Refused(id, format!("it is larger than message_max, {max}"))
    }

    /// Takes a message. Returns the frames of an answer that can be given at once.
    async fn on_message(
        &self,
        parts: Vec<Bytes>,
        confirming: &mut FuturesUnordered<Confirming>,
    ) -> io::Result<Option<Vec<u8>>> {
        if self.config.mode != InMode::Ack {
            self.submit(parts).await?;
            return Ok(None);
        }
        let message = match FromSender::parse(&parts).map_err(wrong)? {
            FromSender::Ping => return Ok(Some(FromReceiver::Pong.encode())),
            FromSender::Message(message) => message,
        };
        let id = message.id.to_string();
        if message.payload.len() as u64 > self.config.message_max.0 {
            return Ok(Some(self.too_large(id).encode()));
        }
        let answer = match self.out.try_submit(&OUT, builder(&message)) {
            Ok(handle) => {
                confirming.push(answer_when_confirmed(id, handle).boxed_local());
                return Ok(None);
            }
            Err(TrySubmitError::Refused(failure)) => {
                FromReceiver::Refused(id, failure.text().to_owned())
            }
            Err(busy) => FromReceiver::Later(id, busy.to_string()),
        };
        Ok(Some(answer.encode()))
    }

    /// Sends a message of a foreign program on, and waits for room, not for the confirm.
    async fn submit(&self, mut parts: Vec<Bytes>) -> io::Result<()> {
        let payload = parts.pop().unwrap_or_default();
        let mut raw = Raw::bytes("message", payload);
        if let Some(topic) = parts.first() {
            let topic = String::from_utf8_lossy(topic);
            raw.headers.insert(TOPIC_HEADER.into(), topic.into());
        }
        match self.out.submit(&OUT, raw).await {
            Ok(_confirmed_later) => {}
            Err(_) if self.out.is_stopping() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(failure) => self.warn(&format!("message skipped: {failure}")),
        }
        Ok(())
    }
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

async fn answer_when_confirmed(id: String, handle: SendHandle) -> FromReceiver {
    match handle.await {
        Ok(()) => FromReceiver::Ack(id),
        Err(error @ TransportError::Unpublishable(_)) => {
            FromReceiver::Refused(id, error.to_string())
        }
        Err(error) => FromReceiver::Later(id, error.to_string()),
    }
}

/// The message with its id, type, subject and headers.
fn builder(message: &Message) -> MessageBuilder<Raw> {
    let headers = message.headers.iter();
    let headers = headers.filter(|(name, _)| !name.starts_with(RESERVED));
    MessageBuilder::new(Raw {
        kind: message.kind.clone(),
        content_type: message.content_type.clone(),
        headers: headers
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        subject: message.subject.clone(),
        payload: message.payload.clone(),
    })
    .id(message.id.clone())
}
