//! `zeromq-out`: sends messages to another app, or to programs that speak ZeroMQ.

use std::sync::Arc;
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::{AbandonHook, Message, config::HumanDuration};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::acks;
use super::endpoint;
use super::link::{Delivered, Job, Link, LinkSettings};
use super::wire::{Kind, encode};
use crate::ports::{IN, current_message};

/// Delay of a message that finds no connection, or whose receiver is busy.
const LATER: Duration = Duration::from_millis(500);
/// Delay of a message whose connection was lost.
const LOST: Duration = Duration::from_millis(100);

/// Sends messages over ZeroMQ.
pub struct ZeromqOut {
    mode: OutMode,
    ack_timeout: Duration,
    topic: Option<String>,
    link: Arc<Link>,
    _hook: Option<AbandonHook>,
}

/// Config of `zeromq-out`. Set exactly one of `bind` and `connect`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ZeromqOutConfig {
    /// Pattern of the link. `ack` needs `connect`, with one endpoint.
    pub mode: OutMode,
    /// Endpoints to connect to, such as `tcp://127.0.0.1:5555`. There is no encryption.
    pub connect: Vec<String>,
    /// Endpoint to listen on. There is no password: an address other than loopback belongs into
    /// a private network.
    pub bind: Option<String>,
    /// Topic of `pub`, the first part of each message; by default the message's topic in the
    /// app.
    pub topic: Option<String>,
    /// Maximum messages that a connection holds: without an ack, or for `pub` unwritten.
    pub window: usize,
    /// Time to wait for the ack, or for `push` until the message is written. After it the
    /// message is sent again and loses no attempt. At most three quarters of `handler_timeout`.
    pub ack_timeout: HumanDuration,
}

/// Pattern of a link, at its sending end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutMode {
    /// DEALER to the `zeromq-in` of another app: at least once.
    #[default]
    Ack,
    /// PUSH to programs that pull, by turns: messages may be lost.
    Push,
    /// PUB to programs that subscribe: messages may be lost.
    Pub,
}

impl Default for ZeromqOutConfig {
    fn default() -> Self {
        Self {
            mode: OutMode::Ack,
            connect: Vec::new(),
            bind: None,
            topic: None,
            window: 64,
            ack_timeout: HumanDuration(Duration::from_secs(10)),
        }
    }
}

impl ZeromqOutConfig {
    fn window(&self) -> usize {
        self.window.clamp(1, 1024)
    }
}

impl Service for ZeromqOut {
    const NAME: &'static str = "zeromq-out";
    const SUMMARY: &'static str =
        "sends messages to another app, at least once, or to programs that speak ZeroMQ";
    const EXAMPLE: &'static str = r#"[services.to-billing]
use = "zeromq-out"
in = "orders.placed"
config.connect = ["tcp://127.0.0.1:5555"]
"#;
    const FAILURES: &'static [&'static str] = &[
        "ack, push: defers messages, without the loss of an attempt, while there is no connection; connects again with back-off",
        "ack: sends a message again, with the same id, when the connection is lost or no ack comes in time, and later when the receiver is under backpressure",
        "ack: dead-letters a message that the receiver refuses, such as one larger than its app.max_message",
        "push: loses the messages that the network or the receiver holds when the connection breaks; a message that is sent again after a crash or a timeout may arrive twice",
        "pub: loses messages for which there is no subscriber, and those for a subscriber that is too slow, with a warning in the log",
    ];
    type Config = ZeromqOutConfig;

    fn ports(_: &ZeromqOutConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    fn check(config: &ZeromqOutConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = endpoint::errors(config.bind.as_deref(), &config.connect);
        let mut error = |path: &str, text: &str| errors.push(ConfigError::new(path, text));
        if config.mode == OutMode::Ack {
            if config.bind.is_some() {
                error("bind", "with mode = \"ack\" the sending end connects");
            }
            if config.connect.len() > 1 {
                error("connect", "with mode = \"ack\" it has one endpoint");
            }
        }
        if config.mode != OutMode::Pub && config.topic.is_some() {
            error("topic", "only mode = \"pub\" has a topic");
        }
        if !(1..=1024).contains(&config.window) {
            error("window", "a connection holds 1 to 1024 messages");
        }
        if config.ack_timeout.0.is_zero() {
            error("ack_timeout", "it is longer than 0s");
        }
        crate::config_errors::result(errors)
    }

    /// Each instance waits for one ack.
    fn concurrency(config: &ZeromqOutConfig) -> usize {
        match config.mode {
            OutMode::Ack => config.window(),
            OutMode::Push | OutMode::Pub => 1,
        }
    }

    async fn start(config: &ZeromqOutConfig, cx: &mut Context) -> Result<Self, Failure> {
        let settings = LinkSettings {
            service: cx.service().to_owned(),
            kind: match config.mode {
                OutMode::Ack => Kind::Dealer,
                OutMode::Push => Kind::Push,
                OutMode::Pub => Kind::Pub,
            },
            bind: config.bind.clone(),
            connect: config.connect.clone(),
            window: config.window(),
        };
        let link = cx.shared(async || Ok(Link::start(settings))).await?;
        let sockets = link.sockets().clone();
        let first = cx.instance() == 0;
        Ok(Self {
            mode: config.mode,
            ack_timeout: config.ack_timeout.0,
            topic: config.topic.clone(),
            link,
            _hook: first.then(|| cx.on_abandoned(move || sockets.shut_down())),
        })
    }
}

impl Handle<Raw> for ZeromqOut {
    async fn handle(&mut self, _: Raw, cx: &mut Context) -> Result<(), Failure> {
        let (message, _) = current_message(cx);
        let (id, bytes) = match self.mode {
            OutMode::Pub => {
                let topic = self.topic.as_deref().unwrap_or(&message.topic).as_bytes();
                self.link
                    .publish(topic, &frames(&[topic, &message.payload]));
                return Ok(());
            }
            OutMode::Push => (None, frames(&[&message.payload])),
            OutMode::Ack => (Some(id(message)), acks::message(message)),
        };
        let jobs = self.link.peer().map_err(|text| {
            // The next message would find no connection either.
            cx.pause(LATER);
            Failure::defer(LATER, text)
        })?;
        let (done, delivered) = oneshot::channel();
        let job = Job {
            bytes,
            id,
            done: Some(done),
        };
        let sent = async {
            jobs.send(job).await.ok()?;
            delivered.await.ok()
        };
        let share = cx.remaining().unwrap_or(Duration::MAX) / 4 * 3;
        match timeout(self.ack_timeout.min(share), sent).await {
            Ok(Some(Delivered::Done)) => Ok(()),
            Ok(Some(Delivered::Later(text))) => {
                cx.pause(LATER);
                Err(Failure::defer(
                    LATER,
                    format!("the receiver is busy: {text}"),
                ))
            }
            Ok(Some(Delivered::Refused(text))) => {
                Err(Failure::reject(format!("the receiver refused it: {text}")))
            }
            Ok(None) => Err(Failure::defer(LOST, "the connection was lost")),
            Err(_) => Err(Failure::defer(LOST, "no ack in time")),
        }
    }
}

fn id(message: &Message) -> Box<str> {
    message.id.to_string().into()
}

fn frames(parts: &[&[u8]]) -> Bytes {
    let mut bytes = Vec::new();
    encode(parts, &mut bytes);
    bytes.into()
}
