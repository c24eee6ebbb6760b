//! One child: a process that receives messages and answers them.
//!
//! Owns the child's pipes and its messages in flight. On the exit of the child, for whatever
//! reason, each message in flight gets a verdict: whether it caused the exit. The
//! [child manager](super::child_manager) starts the next child.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::process::{BoundedLine, BoundedLines, ChildPipes, ProcessExit, ProcessGroup};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::command::SpawnOptions;
use super::crash_attribution::{Verdict, verdict};
use super::protocol::{self, Answer, Ask, ChildLine, ChildPorts};
use super::stderr_log::log_stderr;
use crate::log::shown;

/// Time for a child to exit after it has closed a pipe.
const EXIT_WITHIN: Duration = Duration::from_secs(1);
/// Maximum requests without a reply per message.
const ASKS_MAX: usize = 16;
/// Unwritten bytes above which replies to requests wait.
const REPLIES_UNWRITTEN_MAX: usize = 1 << 20;
/// Time to read the stdout that is left after the exit.
const LAST_OUTPUT_WITHIN: Duration = Duration::from_secs(1);

/// A running child. Dropping it kills the child's process group.
pub(super) struct Child(Arc<Inner>);

pub(super) struct Inner {
    options: Arc<SpawnOptions>,
    ports: Arc<ChildPorts>,
    group: ProcessGroup,
    state: Mutex<InFlight>,
    /// Wakes the writer: there are unwritten lines, or stdin should close.
    wake_writer: Notify,
    /// Wakes replies that wait for room: the unwritten lines go to the pipe, or the child has
    /// exited.
    room: Notify,
    exited: watch::Sender<bool>,
}

/// A message in flight.
struct Waiting {
    handler: oneshot::Sender<Outcome>,
    /// The way of the child's requests to the handler; `None` if the child may send none.
    asks: Option<mpsc::Sender<Ask>>,
    /// The ids of the requests without a reply.
    open_asks: Vec<Box<str>>,
}

#[derive(Default)]
struct InFlight {
    /// The messages in flight, by message id.
    waiting: HashMap<Box<str>, Waiting>,
    /// Lines that were not written to the pipe yet.
    unwritten: Vec<u8>,
    answered: bool,
    closing: bool,
    kill_reason: Option<KillReason>,
    exit: Option<ExitInfo>,
}

/// The reason for killing a child.
struct KillReason {
    text: String,
    /// The message that certainly caused it.
    culprit: Option<Box<str>>,
}

/// How a child exited.
#[derive(Debug, Clone)]
pub(super) struct ExitInfo {
    pub(super) text: Arc<str>,
    pub(super) at: Instant,
    /// Whether the child had answered any message.
    pub(super) answered: bool,
    /// Whether no message was in flight, so that no handler reports the exit.
    pub(super) idle: bool,
}

/// The outcome of a message that was sent to a child.
pub(super) enum Outcome {
    Answered(Answer),
    /// The child exited without an answer.
    Lost(Verdict, Arc<str>),
}

/// A message that was sent to a child.
pub(super) struct Sent {
    pub(super) child: Arc<Inner>,
    pub(super) id: Box<str>,
    pub(super) outcome: oneshot::Receiver<Outcome>,
    /// The child's requests; `None` if it may send none.
    pub(super) asks: Option<mpsc::Receiver<Ask>>,
}

/// Why a message was not sent to a child.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A message with the same id is in flight.
    Duplicate,
    /// The child has exited or is stopping.
    Ending,
}

impl Child {
    /// Starts a child.
    ///
    /// # Errors
    /// The child can't be started.
    pub(super) fn start(
        options: &Arc<SpawnOptions>,
        ports: &Arc<ChildPorts>,
    ) -> Result<Self, Failure> {
        let (group, pipes) = options.spawn()?;
        let ChildPipes {
            stdin,
            stdout,
            stderr,
        } = pipes;
        let pid = group.id();
        let inner = Arc::new(Inner {
            options: options.clone(),
            ports: ports.clone(),
            group,
            state: Mutex::default(),
            wake_writer: Notify::new(),
            room: Notify::new(),
            exited: watch::Sender::new(false),
        });
        tokio::spawn(inner.clone().write(stdin));
        tokio::spawn(log_stderr(options.clone(), pid, stderr));
        tokio::spawn(inner.clone().run(stdout));
        info!(service = %options.service, pid, "child started");
        Ok(Self(inner))
    }

    /// Sends a message to the child: the line of its request.
    ///
    /// # Errors
    /// The message was not sent.
    pub(super) fn send(&self, id: &str, line: &[u8]) -> Result<Sent, Refused> {
        let (handler, outcome) = oneshot::channel();
        let (sender, asks) = match self.0.ports.asks.is_empty() {
            true => (None, None),
            false => {
                let (sender, asks) = mpsc::channel(ASKS_MAX);
                (Some(sender), Some(asks))
            }
        };
        let mut state = self.0.state();
        if state.exit.is_some() || state.kill_reason.is_some() || state.closing {
            return Err(Refused::Ending);
        }
        if state.waiting.contains_key(id) {
            return Err(Refused::Duplicate);
        }
        let id: Box<str> = id.into();
        let waiting = Waiting {
            handler,
            asks: sender,
            open_asks: Vec::new(),
        };
        state.waiting.insert(id.clone(), waiting);
        state.unwritten.extend_from_slice(line);
        drop(state);
        self.0.wake_writer.notify_one();
        Ok(Sent {
            child: self.0.clone(),
            id,
            outcome,
            asks,
        })
    }

    /// The exit of the child, if it has exited.
    pub(super) fn exit(&self) -> Option<ExitInfo> {
        self.0.state().exit.clone()
    }

    /// Closes the child's stdin, and resolves when the child has exited. Sends SIGTERM to its
    /// process group after half of the time, SIGKILL after all of it.
    pub(super) async fn stop(self: Arc<Self>, within: Duration) {
        self.0.state().closing = true;
        self.0.wake_writer.notify_one();
        self.0.group.stop(Some(within / 2), within).await;
        let mut exited = self.0.exited.subscribe();
        // `self` holds the sender, so it is not closed.
        let _open = exited.wait_for(|exited| *exited).await;
    }

    /// Kills the child's process group.
    pub(super) fn kill(&self) {
        self.0.state().closing = true;
        self.0.group.kill();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, InFlight> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the child. The first reason counts.
    fn kill_because(&self, state: &mut InFlight, text: String, culprit: Option<Box<str>>) {
        if state.kill_reason.is_none() && state.exit.is_none() {
            state.kill_reason = Some(KillReason { text, culprit });
            self.group.kill();
        }
    }

    /// Gives up a message: its handler's time is over.
    pub(super) fn give_up(&self, id: &str) {
        let mut state = self.state();
        if state.waiting.remove(id).is_some() {
            let text = format!("it didn't answer {id} in time");
            self.kill_because(&mut state, text, Some(id.into()));
        }
    }

    /// Writes the reply to a request, when the child has read enough of the lines before. Does
    /// nothing if the message is no longer in flight.
    pub(super) async fn reply(&self, id: &str, ask: &str, reply: &Result<Vec<u8>, String>) {
        let line = protocol::reply(id, ask, reply);
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            {
                let state = &mut *self.state();
                let Some(waiting) = state.waiting.get_mut(id) else {
                    return;
                };
                if state.unwritten.len() < REPLIES_UNWRITTEN_MAX {
                    waiting.open_asks.retain(|open| **open != *ask);
                    state.unwritten.extend_from_slice(&line);
                    break;
                }
            }
            room.await;
        }
        self.wake_writer.notify_one();
    }

    pub(super) fn kill_if_several_in_flight(&self) {
        let mut state = self.state();
        let in_flight = state.waiting.len();
        if in_flight > 1 {
            let text = format!("it didn't answer in time, with {in_flight} messages in flight");
            self.kill_because(&mut state, text, None);
        }
    }

    /// Writes lines to stdin until stdin should close. Lines that arrive during a write go
    /// with the next one.
    async fn write(self: Arc<Self>, mut stdin: pipe::Sender) {
        let mut lines = Vec::new();
        let error = loop {
            self.wake_writer.notified().await;
            let closing = {
                let mut state = self.state();
                std::mem::swap(&mut lines, &mut state.unwritten);
                state.closing || state.exit.is_some()
            };
            self.room.notify_waiters();
            if let Err(error) = stdin.write_all(&lines).await {
                break error;
            }
            if closing {
                return;
            }
            lines.clear();
        };
        drop(stdin);
        // Most likely the child has exited, and its exit status says more than this error.
        sleep(EXIT_WITHIN).await;
        let text = format!("it doesn't read its stdin any more: {error}");
        self.kill_because(&mut self.state(), text, None);
    }

    /// Reads answers until the child exits.
    async fn run(self: Arc<Self>, stdout: pipe::Receiver) {
        let mut reading = pin!(self.read(stdout));
        let (exit, read) = tokio::select! {
            exit = self.group.exited() => (Some(exit), false),
            () = &mut reading => (timeout(EXIT_WITHIN, self.group.exited()).await.ok(), true),
        };
        let exit = match exit {
            Some(exit) => exit,
            None => {
                {
                    let mut state = self.state();
                    if !state.closing {
                        let text = "it closed its stdout".to_owned();
                        self.kill_because(&mut state, text, None);
                    }
                }
                self.group.exited().await
            }
        };
        if !read && timeout(LAST_OUTPUT_WITHIN, reading).await.is_err() {
            warn!(service = %self.options.service, pid = self.group.id(), "stdout of the child stays open: a process that left its group holds it");
        }
        self.on_exit(&exit);
    }

    /// Reads answers until the end of stdout or a protocol error.
    async fn read(&self, stdout: pipe::Receiver) {
        let bytes_max = self.options.line_bytes_max;
        let mut lines = BoundedLines::new(stdout, bytes_max);
        loop {
            let (text, id) = match lines.next().await {
                Ok(BoundedLine::Line(line)) => match self.on_line(line) {
                    Ok(()) => continue,
                    Err(protocol::Broken { id, text }) => (text, id),
                },
                Ok(BoundedLine::Part(part)) if part.len() > bytes_max => (
                    format!("it wrote a line longer than {bytes_max} bytes"),
                    None,
                ),
                // The child exited in the middle of a line, or after one.
                Ok(BoundedLine::Part(_) | BoundedLine::End) | Err(_) => return,
            };
            let mut state = self.state();
            let culprit = id.map(String::into_boxed_str);
            let culprit = culprit.filter(|id| state.waiting.contains_key(id));
            self.kill_because(&mut state, format!("protocol error: {text}"), culprit);
            return;
        }
    }

    /// Passes a line on to the handler that waits for it.
    fn on_line(&self, line: &[u8]) -> Result<(), protocol::Broken> {
        let (id, line) = protocol::parse(line, &self.ports)?;
        let state = &mut *self.state();
        let Some(waiting) = state.waiting.get_mut(&*id) else {
            let act = match line {
                ChildLine::Answer(_) => "answered",
                ChildLine::Ask(_) => "asked while it handles",
            };
            let id = shown(id.as_bytes(), 255);
            let text = format!(
                "it {act} {id:?}, which is not in flight: it never was, or was answered before"
            );
            return Err(protocol::Broken { id: None, text });
        };
        match line {
            ChildLine::Answer(answer) => {
                state.answered = true;
                if let Some(waiting) = state.waiting.remove(&*id) {
                    // The handler may have been cancelled at this moment.
                    let _gone = waiting.handler.send(Outcome::Answered(answer));
                }
                Ok(())
            }
            ChildLine::Ask(ask) => waiting.on_ask(ask).map_err(|text| protocol::Broken {
                id: Some(id.into_owned()),
                text,
            }),
        }
    }

    /// Gives each message in flight its verdict.
    fn on_exit(&self, exit: &ProcessExit) {
        let mut state = self.state();
        let (text, culprit) = match state.kill_reason.take() {
            Some(reason) => (
                format!("the child was killed: {}", reason.text),
                reason.culprit,
            ),
            None => (format!("the child ended: {exit}"), None),
        };
        let in_flight = state.waiting.len();
        let (service, pid) = (&self.options.service, self.group.id());
        if state.closing {
            info!(%service, pid, status = %exit, "child stopped");
        } else {
            warn!(%service, pid, in_flight, "{text}");
        }
        let text: Arc<str> = text.into();
        for (id, waiting) in state.waiting.drain() {
            let verdict = verdict(&id, culprit.as_deref(), in_flight);
            // The handler may have been cancelled at this moment.
            let _gone = waiting.handler.send(Outcome::Lost(verdict, text.clone()));
        }
        state.exit = Some(ExitInfo {
            text,
            at: Instant::now(),
            answered: state.answered,
            idle: in_flight == 0 && culprit.is_none(),
        });
        drop(state);
        self.wake_writer.notify_one();
        self.room.notify_waiters();
        self.exited.send_replace(true);
    }
}

impl Waiting {
    /// Passes a request on to the handler.
    fn on_ask(&mut self, ask: Ask) -> Result<(), String> {
        if self.open_asks.len() >= ASKS_MAX {
            return Err(format!(
                "it has {ASKS_MAX} requests without a reply for one message, and sent another one"
            ));
        }
        if self.open_asks.contains(&ask.id) {
            let id = shown(ask.id.as_bytes(), 255);
            return Err(format!(
                "it sent a request with the id {id:?} before the reply to another one with this id"
            ));
        }
        self.open_asks.push(ask.id.clone());
        if let Some(asks) = &self.asks {
            // The handler may have been cancelled at this moment.
            let _gone = asks.try_send(ask);
        }
        Ok(())
    }
}
