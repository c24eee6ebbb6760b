//! A child: a process that is told of messages and answers.
//!
//! Owns its pipes, what it has in hand, and its end. Whatever ends it, each message in
//! its hand hears of it, with a verdict on the message's part in that. Starting another
//! one is the [keeper](super::child_manager)'s.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brickwork::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::process::{self, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::crash_attribution::{Verdict, verdict};
use super::group::Group;
use super::lines::{Lines, Read};
use super::protocol::{self, Answer};
use crate::log::shown;

/// A longer line of stderr becomes several events of the log.
const LOG_LINE_BYTES_MAX: usize = 4096;
/// How long a child that has closed a pipe may take to end.
const ENDING: Duration = Duration::from_secs(1);
/// How long what a child wrote before it ended may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How children of a service are started, and what they may write.
pub(super) struct SpawnOptions {
    pub(super) service: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) dir: PathBuf,
    /// All that is in its environment.
    pub(super) env: Vec<(String, String)>,
    pub(super) outputs: Vec<String>,
    pub(super) line_bytes_max: usize,
}

/// A running child. Dropping it kills it, with everything that it started.
pub(super) struct Child(Arc<Inner>);

struct Inner {
    launch: Arc<SpawnOptions>,
    pid: u32,
    group: Group,
    hand: Mutex<InFlight>,
    /// There is something to write, or the pipe is to be closed.
    work: Notify,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct InFlight {
    /// Who waits for an answer, by message.
    waiting: HashMap<Box<str>, oneshot::Sender<End>>,
    /// Lines that haven't been written to the pipe yet.
    unwritten: Vec<u8>,
    answered: bool,
    closing: bool,
    doom: Option<KillReason>,
    death: Option<ExitInfo>,
}

/// Why a child is killed.
struct KillReason {
    text: String,
    /// The message that is known to be the reason.
    culprit: Option<Box<str>>,
}

/// How a child ended.
#[derive(Debug, Clone)]
pub(super) struct ExitInfo {
    pub(super) text: Arc<str>,
    pub(super) at: Instant,
    /// Whether it had answered anything in its life.
    pub(super) answered: bool,
    /// Whether it had nothing in hand, so that no message tells of its end.
    pub(super) idle: bool,
}

/// How the wait for an answer ended.
pub(super) enum End {
    Answered(Answer),
    Lost(Verdict, Arc<str>),
}

/// Why a child wasn't told of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It has one of this id in hand already.
    Twice,
    /// It has ended, or is about to.
    Ending,
}

impl Child {
    /// Starts one.
    ///
    /// # Errors
    /// It can't be started.
    pub(super) fn start(launch: &Arc<SpawnOptions>) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let (program, dir) = (launch.program.display(), launch.dir.display());
            Failure::retry(format!("can't start {program} in {dir}: {error}"))
        };
        let mut process = Command::new(&launch.program)
            .args(&launch.args)
            .current_dir(&launch.dir)
            .env_clear()
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pid = process.id().expect("it was just started");
        let inner = Arc::new(Inner {
            launch: launch.clone(),
            pid,
            group: Group::of(pid),
            hand: Mutex::default(),
            work: Notify::new(),
            ended: watch::Sender::new(false),
        });
        let pipe = "the pipe was asked for";
        let stdin = process.stdin.take().expect(pipe);
        let stdout = process.stdout.take().expect(pipe);
        let stderr = process.stderr.take().expect(pipe);
        tokio::spawn(inner.clone().write(stdin));
        tokio::spawn(log(launch.clone(), pid, stderr));
        tokio::spawn(inner.clone().live(process, stdout));
        info!(service = %launch.service, pid, "child started");
        Ok(Self(inner))
    }

    /// Tells it of a message, by a line.
    ///
    /// # Errors
    /// It isn't told.
    pub(super) fn tell(&self, id: &str, line: &[u8]) -> Result<PendingMessage, Refused> {
        let (sender, answer) = oneshot::channel();
        let mut hand = self.0.hand();
        if hand.death.is_some() || hand.doom.is_some() || hand.closing {
            return Err(Refused::Ending);
        }
        if hand.waiting.contains_key(id) {
            return Err(Refused::Twice);
        }
        let id: Box<str> = id.into();
        hand.waiting.insert(id.clone(), sender);
        hand.unwritten.extend_from_slice(line);
        drop(hand);
        self.0.work.notify_one();
        let child = self.0.clone();
        Ok(PendingMessage { child, id, answer })
    }

    /// How it ended, if it has.
    pub(super) fn death(&self) -> Option<ExitInfo> {
        self.0.hand().death.clone()
    }

    /// Closes its stdin; after half of the time asks its group to end, after all of it
    /// kills the group. Resolves when it has ended.
    pub(super) async fn stop(self: Arc<Self>, within: Duration) {
        self.0.hand().closing = true;
        self.0.work.notify_one();
        let (service, pid) = (&self.0.launch.service, self.0.pid);
        if timeout(within / 2, self.ended()).await.is_ok() {
            return;
        }
        warn!(%service, pid, "child goes on after its stdin was closed, sending SIGTERM");
        self.0.group.terminate();
        if timeout(within / 2, self.ended()).await.is_ok() {
            return;
        }
        warn!(%service, pid, "child goes on after SIGTERM, killing it");
        self.0.group.kill();
        self.ended().await;
    }

    /// Ends it and its group at once.
    pub(super) fn kill(&self) {
        self.0.hand().closing = true;
        self.0.group.kill();
    }

    async fn ended(&self) {
        let mut ended = self.0.ended.subscribe();
        // The sender is held by `self`.
        let _open = ended.wait_for(|ended| *ended).await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A message that a child was told of. Dropping it before the answer is there means that
/// the time for it is over: the child hangs, and is killed.
pub(super) struct PendingMessage {
    child: Arc<Inner>,
    id: Box<str>,
    answer: oneshot::Receiver<End>,
}

impl PendingMessage {
    /// Waits for the answer. If there is none after `patience` and the child has other
    /// messages in hand, it is killed: it hangs, and nobody knows on which of them. Alone
    /// with it, this message has all the time that its handler has.
    pub(super) async fn end(mut self, patience: Duration) -> End {
        let end = match timeout(patience, &mut self.answer).await {
            Ok(end) => end,
            Err(_) => {
                self.child.hangs_in_company();
                (&mut self.answer).await
            }
        };
        end.expect("whoever forgets a message says why")
    }
}

impl Drop for PendingMessage {
    fn drop(&mut self) {
        let mut hand = self.child.hand();
        if hand.waiting.remove(&self.id).is_some() {
            let text = format!("it didn't answer {} in time", self.id);
            self.child.doom(&mut hand, text, Some(self.id.clone()));
        }
    }
}

impl Inner {
    fn hand(&self) -> MutexGuard<'_, InFlight> {
        // Nothing panics while it holds it.
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it, for a reason. The first reason counts.
    fn doom(&self, hand: &mut InFlight, text: String, culprit: Option<Box<str>>) {
        if hand.doom.is_none() && hand.death.is_none() {
            hand.doom = Some(KillReason { text, culprit });
            self.group.kill();
        }
    }

    fn hangs_in_company(&self) {
        let mut hand = self.hand();
        let in_hand = hand.waiting.len();
        if in_hand > 1 {
            let text = format!("it didn't answer in time, with {in_hand} messages in hand");
            self.doom(&mut hand, text, None);
        }
    }

    /// Writes what is to be written until stdin is to be closed. What comes while a write
    /// is under way goes with the next one.
    async fn write(self: Arc<Self>, mut stdin: ChildStdin) {
        let mut lines = Vec::new();
        let error = loop {
            self.work.notified().await;
            let closing = {
                let mut hand = self.hand();
                std::mem::swap(&mut lines, &mut hand.unwritten);
                hand.closing || hand.death.is_some()
            };
            if let Err(error) = stdin.write_all(&lines).await {
                break error;
            }
            if closing {
                return;
            }
            lines.clear();
        };
        drop(stdin);
        // Most likely it has ended, and how is worth more than this.
        sleep(ENDING).await;
        let text = format!("it doesn't read its stdin any more: {error}");
        self.doom(&mut self.hand(), text, None);
    }

    /// Reads answers until the child ends.
    async fn live(self: Arc<Self>, mut process: process::Child, stdout: ChildStdout) {
        let mut reading = pin!(self.read(stdout));
        let (status, read) = tokio::select! {
            status = process.wait() => (Some(status), false),
            () = &mut reading => (timeout(ENDING, process.wait()).await.ok(), true),
        };
        let status = match status {
            Some(status) => status,
            None => {
                {
                    let mut hand = self.hand();
                    if !hand.closing {
                        let text = "it closed its stdout".to_owned();
                        self.doom(&mut hand, text, None);
                    }
                }
                process.wait().await
            }
        };
        // At once: from now on its number may become another's.
        self.group.end();
        if !read && timeout(LAST_WORDS, reading).await.is_err() {
            warn!(service = %self.launch.service, pid = self.pid, "a process that left the child's group holds its stdout");
        }
        self.die(status);
    }

    /// Reads answers until the end of stdout, or one that breaks the protocol.
    async fn read(&self, stdout: ChildStdout) {
        let bytes_max = self.launch.line_bytes_max;
        let mut lines = Lines::new(stdout, bytes_max);
        loop {
            let (text, id) = match lines.next().await {
                Ok(Read::Line(line)) => match self.hear(line) {
                    Ok(()) => continue,
                    Err(protocol::Broken { id, text }) => (text, id),
                },
                Ok(Read::Part(part)) if part.len() > bytes_max => (
                    format!("it wrote a line longer than {bytes_max} bytes"),
                    None,
                ),
                // It ended in the middle of a line.
                Ok(Read::Part(_) | Read::End) | Err(_) => return,
            };
            let mut hand = self.hand();
            let culprit = id.map(String::into_boxed_str);
            let culprit = culprit.filter(|id| hand.waiting.contains_key(id));
            self.doom(&mut hand, format!("protocol error: {text}"), culprit);
            return;
        }
    }

    /// Hands an answer to who waits for it.
    fn hear(&self, line: &[u8]) -> Result<(), protocol::Broken> {
        let (id, answer) = protocol::answer(line, &self.launch.outputs)?;
        let waiting = {
            let mut hand = self.hand();
            let waiting = hand.waiting.remove(&*id);
            hand.answered |= waiting.is_some();
            waiting
        };
        let Some(waiting) = waiting else {
            let id = shown(id.as_bytes(), 255);
            let text = format!(
                "it answered {id:?}, which it doesn't have in hand: it never had, or it answered twice"
            );
            return Err(protocol::Broken { id: None, text });
        };
        // One that is cancelled at this moment is answered for nothing.
        let _gone = waiting.send(End::Answered(answer));
        Ok(())
    }

    /// Tells everyone whose message it had in hand.
    fn die(&self, status: io::Result<ExitStatus>) {
        let status = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let mut hand = self.hand();
        let (text, culprit) = match hand.doom.take() {
            Some(doom) => (format!("the child was killed: {}", doom.text), doom.culprit),
            None => (format!("the child ended: {status}"), None),
        };
        let in_hand = hand.waiting.len();
        let (service, pid) = (&self.launch.service, self.pid);
        if hand.closing {
            info!(%service, pid, %status, "child stopped");
        } else {
            warn!(%service, pid, in_hand, "{text}");
        }
        let text: Arc<str> = text.into();
        for (id, waiting) in hand.waiting.drain() {
            let verdict = verdict(&id, culprit.as_deref(), in_hand);
            // One that is cancelled at this moment has its own failure.
            let _gone = waiting.send(End::Lost(verdict, text.clone()));
        }
        hand.death = Some(ExitInfo {
            text,
            at: Instant::now(),
            answered: hand.answered,
            idle: in_hand == 0 && culprit.is_none(),
        });
        drop(hand);
        self.work.notify_one();
        self.ended.send_replace(true);
    }
}

/// Its stderr is the log.
async fn log(launch: Arc<SpawnOptions>, pid: u32, stderr: ChildStderr) {
    let mut lines = Lines::new(stderr, LOG_LINE_BYTES_MAX);
    while let Ok(Read::Line(line) | Read::Part(line)) = lines.next().await {
        info!(service = %launch.service, pid, "{}", shown(line, LOG_LINE_BYTES_MAX + 1));
        // Much of it at once must not hold up others on this thread.
        tokio::task::yield_now().await;
    }
}
