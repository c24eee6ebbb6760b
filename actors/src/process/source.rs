//! `process-source`: a child program, in any language, is a source.
//!
//! A type of the catalog is either a service or a source, so this is a type of its own beside
//! `process`, with the same way to start, log and stop a child.
//!
//! # Protocol
//!
//! The first line on the child's stdin has the position to continue from, or `null`:
//!
//! ```json
//! {"position":…}
//! ```
//!
//! The child writes one line on stdout per message. `port`, `type`, `subject`, `headers` and
//! `position` may be left out:
//!
//! ```json
//! {"id":"…","msg":{…},"port":"out","type":"…","subject":"…","headers":{"k":"v"},"position":…}
//! {"position":…}
//! ```
//!
//! The id must be stable: the same message, sent again, has the same id. The message's id is
//! `LABEL/ID`. A line on stdin follows when the transport has accepted messages:
//!
//! ```json
//! {"ack":"…"}
//! {"refused":"…","error":"…"}
//! ```
//!
//! Acks are cumulative: an ack covers this message and all before it, except refused ones, so
//! that a child that does not read them costs no memory. A refused message can never be sent,
//! for example because it is too large.
//!
//! # Position
//!
//! A position is any JSON value. It is saved when every message up to its line was accepted or
//! refused, at the latest 200 ms later, and given to the next child. Messages after it come
//! again with the same ids.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::process::{BoundedLine, BoundedLines, ChildPipes, ProcessExit, ProcessGroup};
use brickwork::{FailureKind, SendHandle};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use super::command::SpawnOptions;
pub use super::source_config::ProcessSourceConfig;
use super::source_protocol::{ChildPosition, SourceMessage, ToChild, parse};
use super::stderr_log::log_stderr;

/// Time between two saves of the position.
const SAVE_EVERY: Duration = Duration::from_millis(200);
/// Time for a child to exit after it has closed its stdout, and for the rest of its stdout
/// after the exit.
const EXIT_WITHIN: Duration = Duration::from_secs(1);
/// Time for messages in flight when the source stops, and for the last position and ack.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Unwritten bytes of lines to the child above which no more of its lines are read.
const UNWRITTEN_MAX: usize = 64 << 10;
/// Lines that are read before other tasks of the thread get a turn.
const LINES_PER_TURN: u32 = 64;

/// Sends the messages of a child program.
#[derive(Debug)]
pub struct ProcessSource;

impl Source for ProcessSource {
    const NAME: &'static str = "process-source";
    const SUMMARY: &'static str =
        "messages of a child program in any language, by JSON lines on its pipes";
    const EXAMPLE: &'static str = r#"[services.sensors]
use = "process-source"
out = "measured"
config.command = ["python3", "sensors.py"]
"#;
    const FAILURES: &'static [&'static str] = &[
        "restarts with back-off, from the saved position, when the child exits, can't be started or breaks the protocol; with ends = true an exit with code 0 is the end of the source",
        "restarts, from the saved position, when the transport did not confirm a message; messages then come again with the same ids",
        "refuses a message that can never be sent, such as one larger than app.max_message: told to the child, with an error in the log",
        "leaves out lines of a child that floods its stderr, and logs their number",
    ];
    type Config = ProcessSourceConfig;

    fn ports(config: &ProcessSourceConfig, ports: &mut SourcePorts) {
        for name in &config.outputs {
            ports.output(&Output::<Raw>::named(name));
        }
    }

    fn check(config: &ProcessSourceConfig) -> Result<(), Vec<ConfigError>> {
        crate::config_errors::result(config.errors())
    }

    fn ends(config: &ProcessSourceConfig) -> bool {
        config.ends
    }

    fn in_flight(config: &ProcessSourceConfig) -> usize {
        config.window()
    }

    async fn run(config: &ProcessSourceConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let position: Option<ChildPosition> = out.position()?;
        let options = Arc::new(config.command().spawn_options(out.service())?);
        let (group, pipes) = options.spawn()?;
        let group = Arc::new(group);
        let abandoned = group.clone();
        let _hook = out.on_abandoned(move || abandoned.kill());
        let pid = group.id();
        info!(service = %options.service, pid, "child started");
        let ChildPipes {
            stdin,
            stdout,
            stderr,
        } = pipes;
        tokio::spawn(log_stderr(options.clone(), pid, stderr));
        let mut lines = BoundedLines::new(stdout, options.line_bytes_max);
        let mut run = Run::new(config, out, &options, stdin, position);
        let end = run.read(&group, &mut lines).await;
        run.settle().await;
        match end {
            Ok(End::Stop) => {
                run.stop(&group, &mut lines).await;
                info!(service = %options.service, pid, "child stopped");
                Ok(())
            }
            Ok(End::Exit(exit)) if exit.success && config.ends => match run.in_flight.is_empty() {
                true => Ok(()),
                false => Err(Failure::retry("messages were not confirmed in time")),
            },
            Ok(End::Exit(exit)) => Err(Failure::retry(format!("the child ended: {exit}"))),
            Err(failure) => {
                group.kill_and_wait().await;
                Err(failure)
            }
        }
    }
}

/// How the reading of a child's lines ends, if without a failure.
enum End {
    Stop,
    Exit(ProcessExit),
}

/// A line whose message is in flight, was refused, or that has a position alone.
struct InFlight {
    id: Box<str>,
    position: Option<ChildPosition>,
    handle: Option<SendHandle>,
    refused: Option<String>,
}

/// A message that waits for room in the window, or for the end of backpressure.
type Submitting<'a> = Pin<Box<dyn Future<Output = Result<SendHandle, Failure>> + 'a>>;

/// One run of a source.
struct Run<'a> {
    out: &'a SourceContext,
    outputs: Vec<Output<Raw>>,
    names: &'a [String],
    service: &'a str,
    stop_within: Duration,
    window: usize,
    /// In the order of the child's lines.
    in_flight: VecDeque<InFlight>,
    stdin: Option<pipe::Sender>,
    /// Lines to the child that were not written yet.
    unwritten: Vec<u8>,
    /// The last accepted message, if its ack is not among the unwritten lines.
    ack: Option<Box<str>>,
    /// The position to save.
    unsaved: Option<ChildPosition>,
    saved_at: Instant,
    lines: u32,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a ProcessSourceConfig,
        out: &'a SourceContext,
        options: &'a SpawnOptions,
        stdin: pipe::Sender,
        position: Option<ChildPosition>,
    ) -> Self {
        let mut unwritten = Vec::new();
        let position = position.as_deref();
        ToChild::Start { position }.append_to(&mut unwritten);
        Self {
            out,
            outputs: config.outputs.iter().map(Output::named).collect(),
            names: &config.outputs,
            service: &options.service,
            stop_within: config.stop_within(),
            window: config.window(),
            in_flight: VecDeque::new(),
            stdin: Some(stdin),
            unwritten,
            ack: None,
            unsaved: None,
            saved_at: Instant::now(),
            lines: 0,
        }
    }

    /// Reads the child's lines and sends its messages, until the child or the app stops.
    async fn read(
        &mut self,
        group: &ProcessGroup,
        lines: &mut BoundedLines<pipe::Receiver>,
    ) -> Result<End, Failure> {
        let (out, outputs) = (self.out, self.outputs.clone());
        let bytes_max = lines.bytes_max();
        let mut submitting: Option<Submitting<'_>> = None;
        let mut exited = None;
        loop {
            self.fill_unwritten();
            let room = self.in_flight.len() < self.window && self.unwritten.len() < UNWRITTEN_MAX;
            let reads = submitting.is_none() && room;
            let line = tokio::select! {
                biased;
                () = out.stopping() => return Ok(End::Stop),
                confirmed = first(&mut self.in_flight), if self.first_is_sent(submitting.is_some()) => {
                    self.on_outcome(confirmed)?;
                    continue;
                }
                submitted = poll_fn(|cx| submitting.as_mut().map_or(Poll::Pending, |it| it.as_mut().poll(cx))),
                    if submitting.is_some() => {
                    submitting = None;
                    if self.on_submitted(submitted)? { continue } else { return Ok(End::Stop) }
                }
                written = write(&mut self.stdin, &self.unwritten), if self.writes() => {
                    self.on_written(written);
                    continue;
                }
                () = sleep_until(self.saved_at + SAVE_EVERY), if self.unsaved.is_some() => {
                    self.save().await?;
                    continue;
                }
                exit = group.exited(), if exited.is_none() => {
                    exited = Some(exit);
                    continue;
                }
                () = sleep(EXIT_WITHIN), if exited.is_some() && reads => None,
                line = lines.next(), if reads => Some(line),
            };
            match line {
                Some(Ok(BoundedLine::Line(line))) => {
                    if let Some(message) = self.on_line(line)? {
                        let (id, output) = (message.message_id, &outputs[message.output]);
                        let message = MessageBuilder::new(message.raw).id(id);
                        submitting = Some(Box::pin(out.submit(output, message)));
                    }
                    self.lines = self.lines.wrapping_add(1);
                    if self.lines.is_multiple_of(LINES_PER_TURN) {
                        tokio::task::yield_now().await;
                    }
                }
                Some(Ok(BoundedLine::Part(part))) if part.len() > bytes_max => {
                    let text = format!("protocol error: a line is longer than {bytes_max} bytes");
                    return Err(Failure::retry(text));
                }
                Some(Ok(BoundedLine::Part(_))) => {
                    let text = "the child ended in the middle of a line";
                    return Err(Failure::retry(text));
                }
                Some(Ok(BoundedLine::End) | Err(_)) | None => {
                    let exit = match exited {
                        Some(exit) => Some(exit),
                        None => timeout(EXIT_WITHIN, group.exited()).await.ok(),
                    };
                    let exit = exit.ok_or_else(|| Failure::retry("the child closed its stdout"))?;
                    return Ok(End::Exit(exit));
                }
            }
        }
    }

    /// Returns whether the first line has an outcome, or waits for one. The last line has none
    /// while its message is being submitted.
    fn first_is_sent(&self, submitting: bool) -> bool {
        self.in_flight.len() > usize::from(submitting)
    }

    /// Adds a line of the child to those in flight. Returns the message to submit, if it has one.
    fn on_line(&mut self, line: &[u8]) -> Result<Option<SourceMessage>, Failure> {
        let line = parse(line, self.service, self.names)
            .map_err(|text| Failure::retry(format!("protocol error: {text}")))?;
        let id = line.message.as_ref().map(|message| message.id.clone());
        self.in_flight.push_back(InFlight {
            id: id.unwrap_or_default(),
            position: line.position,
            handle: None,
            refused: None,
        });
        Ok(line.message)
    }

    /// Records the outcome of a submission. Returns whether the source goes on.
    fn on_submitted(&mut self, submitted: Result<SendHandle, Failure>) -> Result<bool, Failure> {
        let last = self.in_flight.back_mut().expect("its line is in flight");
        match submitted {
            Ok(handle) => last.handle = Some(handle),
            Err(_) if self.out.is_stopping() => {
                self.in_flight.pop_back();
                return Ok(false);
            }
            Err(failure) if failure.kind() == FailureKind::Reject => {
                last.refused = Some(failure.text().to_owned());
            }
            Err(failure) => return Err(failure),
        }
        Ok(true)
    }

    /// Removes the first line in flight: its message was accepted or refused, or it has none.
    fn on_outcome(
        &mut self,
        outcome: Result<(), brickwork::transport::TransportError>,
    ) -> Result<(), Failure> {
        let Some(mut first) = self.in_flight.pop_front() else {
            return Ok(());
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_permanent() => first.refused = Some(error.to_string()),
            Err(error) => {
                // No later position may be saved.
                self.in_flight.clear();
                return Err(error.into());
            }
        }
        if let Some(text) = &first.refused {
            let (service, id) = (self.service, &first.id);
            error!(%service, %id, error = text, "message of the child refused");
            let (refused, error) = (&**id, text.as_str());
            ToChild::Refused { refused, error }.append_to(&mut self.unwritten);
        } else if first.handle.is_some() {
            self.ack = Some(first.id);
        }
        if first.position.is_some() && self.out.keeps_position() {
            self.unsaved = first.position;
        }
        Ok(())
    }

    fn fill_unwritten(&mut self) {
        if self.unwritten.is_empty()
            && let Some(id) = self.ack.take()
        {
            ToChild::Ack { ack: &id }.append_to(&mut self.unwritten);
        }
    }

    fn writes(&self) -> bool {
        self.stdin.is_some() && !self.unwritten.is_empty()
    }

    fn on_written(&mut self, written: std::io::Result<usize>) {
        match written {
            Ok(bytes) => {
                self.unwritten.drain(..bytes);
            }
            // The child has closed its stdin: it wants no acks.
            Err(_) => {
                self.stdin = None;
                self.unwritten.clear();
            }
        }
        if self.stdin.is_none() {
            self.ack = None;
        }
    }

    async fn save(&mut self) -> Result<(), Failure> {
        self.saved_at = Instant::now();
        match self.unsaved.take() {
            Some(position) => self.out.save_position(&position).await,
            None => Ok(()),
        }
    }

    /// Waits for the messages in flight, within bounds, and saves the position.
    async fn settle(&mut self) {
        if self.in_flight.back().is_some_and(|last| {
            !last.id.is_empty() && last.handle.is_none() && last.refused.is_none()
        }) {
            // This message was not submitted.
            self.in_flight.pop_back();
        }
        // The app may cut the stop short: the confirmed messages come first. After a failure here
        // the source stops, or starts again, all the same.
        self.save_in_time().await;
        let confirmed = async {
            while !self.in_flight.is_empty() {
                let outcome = first(&mut self.in_flight).await;
                self.on_outcome(outcome)?;
            }
            Ok::<(), Failure>(())
        };
        let _late = timeout(STOP_WITHIN, confirmed).await;
        self.save_in_time().await;
    }

    /// Saves the position. A disk that hangs does not block the stop.
    async fn save_in_time(&mut self) {
        match timeout(STOP_WITHIN, self.save()).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                warn!(service = %self.service, error = failure.text(), "position not saved");
            }
            Err(_) => warn!(service = %self.service, "position not saved in time"),
        }
    }

    /// Writes the last ack, closes the child's stdin, and waits for its exit. Reads and drops
    /// lines that the child still writes: their messages come again after the start.
    async fn stop(&mut self, group: &ProcessGroup, lines: &mut BoundedLines<pipe::Receiver>) {
        let drained = async {
            while let Ok(BoundedLine::Line(_) | BoundedLine::Part(_)) = lines.next().await {}
            std::future::pending::<()>().await;
        };
        let ended = async {
            self.fill_unwritten();
            if let Some(stdin) = &mut self.stdin {
                // A child that does not read gets no last ack.
                let _unread = timeout(STOP_WITHIN, stdin.write_all(&self.unwritten)).await;
            }
            self.stdin = None;
            let within = self.stop_within;
            group.stop(Some(within / 2), within).await;
        };
        tokio::select! {
            () = drained => {}
            () = ended => {}
        }
    }
}

/// Waits for the outcome of the first line in flight; for ever if there is none.
async fn first(
    in_flight: &mut VecDeque<InFlight>,
) -> Result<(), brickwork::transport::TransportError> {
    match in_flight.front_mut() {
        None => std::future::pending().await,
        Some(InFlight { handle: None, .. }) => Ok(()),
        Some(InFlight {
            handle: Some(handle),
            ..
        }) => handle.await,
    }
}

/// Writes bytes to the child; never ends if its stdin is closed.
async fn write(stdin: &mut Option<pipe::Sender>, bytes: &[u8]) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(bytes).await,
        None => std::future::pending().await,
    }
}
