//! `process`: a child program, in any language, is a service.
//!
//! Owns the way of a message to a child and back, and one promise: only a message that
//! certainly broke a child loses an attempt. Payloads are passed on unread.
//!
//! # Protocol
//!
//! The child reads one JSON object per line on stdin, one per message:
//!
//! ```json
//! {"id":"…","topic":"issues.opened","type":"issues","attempt":1,"headers":{"k":"v"},"msg":{…}}
//! ```
//!
//! It answers each with one line on stdout, in any order:
//!
//! ```json
//! {"id":"…","emit":[{"port":"out","msg":{…}}]}
//! {"id":"…","error":"what went wrong","retry":true}
//! ```
//!
//! An `emit` answer acks the message and lists the messages to emit, in order; the list may
//! be empty. An emitted message keeps the headers and the subject of the handled message, and
//! its type unless `"type"` stands beside `port`. A caller that asked, such as `http-in` with
//! `reply`, gets the `"reply"` that stands beside `emit`, or else the payload of the first
//! emitted message, or `null`. An `error` answer means that the message
//! failed: it is retried after the service's back-off, or dead-lettered at once with
//! `"retry":false`. A line on stderr is a log line.
//!
//! Every other line on stdout is a protocol error: not JSON, an id that is not in flight, a
//! port that is not in `outputs` or `asks`, a request too many, an unknown field, a line longer than `line_max`. So is
//! closing stdout. After a protocol error the child is killed and another one is started.
//!
//! # Exit of a child
//!
//! A child may exit by itself, be killed for a protocol error, or hang (no answer within
//! `handler_timeout`) and be killed for that. The next child starts at once, or after a
//! back-off while children exit without having answered anything. All messages in flight are
//! tried again. A message that was alone in flight, or that the protocol error names, has
//! failed an attempt. Otherwise the cause is unknown: no message has failed an attempt, but
//! each of them is from now on sent to a child with no other message in flight, so only the
//! culprit is dead-lettered. A message in company must be answered within seven eighths of
//! `handler_timeout`: so a hanging child is noticed before its messages fail one by one.
//!
//! # Stop
//!
//! When no message is in flight, stdin is closed. After half of `stop_timeout` the process
//! group gets SIGTERM, at its end SIGKILL. After the exit of the child, the rest of its group
//! is killed. If this program itself is killed, the child reads the end of its stdin.
//!
//! | file | content |
//! | --- | --- |
//! | `config` | the service's config and its validation |
//! | `protocol` | the lines of requests and answers |
//! | `child` | one child: its pipes, messages in flight, exit |
//! | `pending` | one message in flight, and the child's requests for it |
//! | `child_manager` | one child after the other, for the slots that share it |
//! | `crash_attribution` | the verdict on messages in flight after an exit |
//! | `command` | the child's command line and environment |
//! | `source` | `process-source`: a child that sends messages |
//! | `source_config`, `source_protocol` | its config and the lines of its protocol |
//! | `stderr_log` | the child's stderr in the log, within a budget |

mod child;
mod child_manager;
mod command;
mod config;
mod crash_attribution;
mod pending;
mod protocol;
mod source;
mod source_config;
mod source_protocol;
mod stderr_log;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brickwork::Message;
use brickwork::prelude::*;
use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use crate::ports::current_message;
use child::{Outcome, Refused};
use child_manager::{ChildManager, ChildSlot};
pub use config::ProcessConfig;
use crash_attribution::{Suspects, Verdict};
use pending::PendingMessage;
use protocol::{Answer, Ask, ChildPorts, Emitted};
pub use source::{ProcessSource, ProcessSourceConfig};

const IN: Input<Raw, Raw> = Input::new("in");

/// Delay of a message after another message ended its child.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Delay of a message that found the child busy for long.
const BUSY_DELAY: Duration = Duration::from_millis(250);
/// Time of a handler without a deadline.
const NO_DEADLINE: Duration = Duration::from_secs(86_400);
/// Time between two checks for the exit of an idle child.
const EXIT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Type of a reply, and its payload if the child neither replies nor emits.
const REPLY: &str = "reply";
const NULL: &str = "null";

const EXIT_CHECK: Tick = Tick::new("alive");

/// Sends messages to a child program and emits its answers.
pub struct Process {
    registry: Arc<Registry>,
    _hook: Option<brickwork::AbandonHook>,
    slot: ChildSlot,
    /// Whether this instance reports the child's exits to the host: true for the first slot of
    /// the child, so that each exit is reported once.
    first: bool,
    permits: u32,
    outputs: Vec<Output<Raw>>,
    asks: Vec<Request<Raw, Raw>>,
    stop_timeout: Duration,
}

/// The children of a service, and the suspects among its messages.
#[derive(Default)]
struct Registry {
    managers: Mutex<HashMap<u32, Arc<ChildManager>>>,
    suspects: Suspects,
}

impl Registry {
    fn manager(
        &self,
        number: u32,
        make: impl FnOnce() -> Result<ChildManager, Failure>,
    ) -> Result<Arc<ChildManager>, Failure> {
        let mut managers = self.managers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = managers.get(&number) {
            return Ok(manager.clone());
        }
        let manager = Arc::new(make()?);
        managers.insert(number, manager.clone());
        Ok(manager)
    }
}

impl Service for Process {
    const NAME: &'static str = "process";
    const SUMMARY: &'static str = "a child program in any language, by JSON lines on its pipes";
    const EXAMPLE: &'static str = r#"[services.triage]
use = "process"
in = "issues.opened"
out = "issues.labelled"
config.command = ["node", "triage.js"]
"#;
    const FAILURES: &'static [&'static str] = &[
        "restarts with back-off while the program can't be started",
        "kills a child that hangs or breaks the protocol, with its process group; after the exit of a child, starts another one and retries the messages in flight; only a message that certainly broke the child loses an attempt",
        "pauses between starts while children exit without an answer",
        "retries a message that the child answers with an error, after the service's back-off or a time that the child names, or dead-letters it with \"retry\":false",
        "tells the child why a request has no reply, and kills a child with more than 16 requests without a reply for one message",
        "dead-letters a message whose payload is not JSON, or for which the child emits more than app.max_message",
        "leaves out lines of a child that floods its stderr, and logs their number",
    ];
    type Config = ProcessConfig;

    fn ports(config: &ProcessConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
        for name in &config.outputs {
            ports.output(&Output::<Raw>::named(name));
        }
        for name in &config.asks {
            ports.request(&Request::<Raw, Raw>::named(name));
        }
        ports.tick(EXIT_CHECK, EXIT_CHECK_INTERVAL);
    }

    fn check(config: &ProcessConfig) -> Result<(), Vec<ConfigError>> {
        crate::config_errors::result(config.errors())
    }

    /// Each instance is a slot of a child: one message in flight.
    fn concurrency(config: &ProcessConfig) -> usize {
        config.in_flight.clamp(1, config::IN_FLIGHT_MAX)
    }

    async fn start(config: &ProcessConfig, cx: &mut Context) -> Result<Self, Failure> {
        let registry = cx.shared(async || Ok(Registry::default())).await?;
        let permits = Self::concurrency(config) as u32;
        let manager = registry.manager(cx.instance() / permits, || {
            let options = config.command().spawn_options(cx.service())?;
            let ports = ChildPorts {
                outputs: config.outputs.clone(),
                asks: config.asks.clone(),
            };
            Ok(ChildManager::new(options, ports, permits as usize))
        })?;
        let first = cx.instance().is_multiple_of(permits);
        if first {
            manager.ensure_started()?;
        }
        let abandoned = manager.clone();
        let hook = first.then(|| cx.on_abandoned(move || abandoned.abandon()));
        Ok(Self {
            registry,
            _hook: hook,
            slot: ChildSlot::new(manager),
            first,
            permits,
            outputs: config.outputs.iter().map(Output::named).collect(),
            asks: config.asks.iter().map(Request::named).collect(),
            stop_timeout: config.stop_timeout.0,
        })
    }

    /// Fails if the child has exited with no message in flight: the host counts and shows the
    /// failure, and restarts this instance, which starts another child.
    async fn tick(&mut self, _: Tick, _: &mut Context) -> Result<(), Failure> {
        match self
            .first
            .then(|| self.slot.manager().take_idle_exit())
            .flatten()
        {
            Some(exit) => Err(Failure::retry(exit)),
            None => Ok(()),
        }
    }

    async fn stop(&mut self, _: &mut Context) -> Result<(), Failure> {
        self.slot.release(self.stop_timeout).await;
        Ok(())
    }
}

impl Handle<Raw, Raw> for Process {
    async fn handle(&mut self, _: Raw, cx: &mut Context) -> Result<Raw, Failure> {
        let (message, attempt) = current_message(cx);
        let (message, id) = (message.clone(), message.id.to_string());
        let line = protocol::request(&id, &message, attempt)?;
        match self.send(&id, &line, &message, cx).await? {
            Outcome::Answered(answer) => {
                self.registry.suspects.clear(&id);
                self.apply(answer, &message, cx)
            }
            Outcome::Lost(Verdict::Guilty, text) => {
                self.registry.suspects.add(&id);
                Err(Failure::retry(text))
            }
            Outcome::Lost(Verdict::Suspect, text) => {
                self.registry.suspects.add(&id);
                Err(Failure::defer(RETRY_DELAY, text))
            }
            Outcome::Lost(Verdict::Innocent, text) => Err(Failure::defer(RETRY_DELAY, text)),
        }
    }
}

impl Process {
    /// Sends a message to the child, a suspect alone, and waits for the outcome.
    async fn send(
        &self,
        id: &str,
        line: &[u8],
        message: &Message,
        cx: &Context,
    ) -> Result<Outcome, Failure> {
        let _permit = self.permit(id, cx).await?;
        let child = self.slot.manager().child().map_err(|delay| {
            // The next message would find no child either.
            cx.pause(delay.wait);
            Failure::defer(delay.wait, delay.text)
        })?;
        let sent = child.send(id, line).map_err(|refused| {
            let text = match refused {
                Refused::Duplicate => "the child has a message of this id in flight",
                Refused::Ending => "the child is ending",
            };
            Failure::defer(RETRY_DELAY, text)
        })?;
        drop(child);
        let time = cx.remaining().unwrap_or(NO_DEADLINE);
        // The child needs the rest of the time for its answer.
        let until = Instant::now() + time * 3 / 4;
        let serve = async |ask: Ask| self.serve(ask, message, until, cx).await;
        let pending = PendingMessage::from(sent);
        Ok(pending.outcome(time - time / 8, serve).await)
    }

    /// Sends a request of the child. Returns the reply on one line, or the reason why there is
    /// none.
    async fn serve(
        &self,
        ask: Ask,
        message: &Message,
        until: Instant,
        cx: &Context,
    ) -> Result<Vec<u8>, String> {
        let raw = raw(message, ask.kind, ask.payload);
        match timeout_at(until, cx.ask(&self.asks[ask.port], raw)).await {
            Ok(Ok(reply)) => protocol::one_line(&reply.payload)
                .map_err(|text| format!("the reply can't be sent to a child: {text}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no reply in time".to_owned()),
        }
    }

    /// Acquires one permit of the child; all of them for a suspect.
    async fn permit(&self, id: &str, cx: &Context) -> Result<SemaphorePermit<'_>, Failure> {
        let suspect = self.registry.suspects.has(id);
        let permits = &self.slot.manager().permits;
        let wanted = if suspect { self.permits } else { 1 };
        if let Ok(permit) = permits.try_acquire_many(wanted) {
            return Ok(permit);
        }
        // The rest of the time is for the child. A suspect needs longer to be alone.
        let share = if suspect { 2 } else { 4 };
        let patience = cx.remaining().unwrap_or(Duration::MAX) / share;
        match timeout(patience, permits.acquire_many(wanted)).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) if suspect => Err(Failure::defer(
                BUSY_DELAY,
                "the child had other messages in flight for too long",
            )),
            Err(_) => Err(Failure::defer(
                BUSY_DELAY,
                "the child handled a suspect message alone for too long",
            )),
        }
    }

    /// Emits the messages of an answer. Returns the reply for a caller that asked.
    fn apply(&self, answer: Answer, message: &Message, cx: &mut Context) -> Result<Raw, Failure> {
        let (emitted, reply) = match answer {
            Answer::Done { emitted, reply } => (emitted, reply),
            Answer::Failed(failure) => return Err(failure),
        };
        let first = emitted.first().map(|first| first.payload.clone());
        let reply = reply.or(first).unwrap_or_else(|| NULL.into());
        for Emitted {
            output,
            kind,
            payload,
        } in emitted
        {
            cx.emit(&self.outputs[output], raw(message, kind, payload))?;
        }
        Ok(Raw::bytes(REPLY, reply))
    }
}

/// A message of the child, with the headers and the subject of the handled message, and its
/// type unless the child named one.
fn raw(message: &Message, kind: Option<Arc<str>>, payload: Bytes) -> Raw {
    Raw {
        kind: kind.unwrap_or_else(|| message.kind.clone()),
        content_type: None,
        headers: message.headers.clone(),
        subject: message.subject.clone(),
        payload,
    }
}
