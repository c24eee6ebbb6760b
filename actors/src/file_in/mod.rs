//! `file-in`: emits each line of a file.
//!
//! Owns the way from a file to the transport: many lines under way at once, in order, and
//! a position that never passes one that hasn't arrived. Reading blocks, so it is done on
//! other threads, a chunk at a time. A source for files that end: it doesn't wait for
//! more.

mod extract;
mod in_flight;
mod lines;
mod position;
mod rate_limit;

use std::path::Path;
use std::time::Duration;

use brickwork::config::ManifestPath;
use brickwork::prelude::*;
use brickwork::{FailureKind, SendHandle};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::json::JsonPointer;
use crate::ports::OUT;
use extract::Extractor;
use in_flight::{InFlight, LinePosition};
use lines::{Line, LineReader};
use position::{Head, Position};
use rate_limit::Pace;

/// How many messages may be under way.
const IN_FLIGHT: usize = 256;
/// How many lines are sent in a turn.
const TURN: usize = 64;
/// When the source is to stop, how long it waits for what is under way. What arrives
/// later is sent again next time, under the same id.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Emits each line of a file as a message.
#[derive(Debug)]
pub struct FileIn;

/// Config of `file-in`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileInConfig {
    /// The file, one JSON value a line, relative to the manifest. Blank lines don't count.
    ///
    /// On a durable transport it is gone on with where it was left; a file that is
    /// another one (shorter than that, or with another start) is read from its start.
    pub path: ManifestPath,
    /// At most so many messages a second; as fast as the app takes them, if left out.
    #[serde(default)]
    pub rate: Option<f64>,
    /// How many times the file is read, one after the other.
    #[serde(default = "once")]
    pub repeat: u64,
    /// Where in a line the payload is, as a JSON pointer such as `/payload`; the whole
    /// line, if left out. A line in which something isn't where these pointers say is
    /// emitted as it stands, with a header `file-in-error` that says what.
    #[serde(default)]
    pub payload: Option<JsonPointer>,
    /// Where in a line the message id is. If left out, it is made of the service's
    /// label, the file's name and the line's offset: the same each time.
    #[serde(default)]
    pub id: Option<JsonPointer>,
    /// Where in a line the message type is; `line`, if left out.
    #[serde(default, rename = "type")]
    pub kind: Option<JsonPointer>,
}

fn once() -> u64 {
    1
}

impl Default for FileInConfig {
    fn default() -> Self {
        Self {
            path: ManifestPath::default(),
            rate: None,
            repeat: once(),
            payload: None,
            id: None,
            kind: None,
        }
    }
}

impl Source for FileIn {
    const NAME: &'static str = "file-in";
    const SUMMARY: &'static str = "emits each line of a file";
    const EXAMPLE: &'static str = r#"[services.intake]
use = "file-in"
out = "github.deliveries"
config = { path = "deliveries.jsonl", payload = "/payload", type = "/event" }
"#;
    const FAILURES: &'static [&'static str] = &[
        "runs again, after the restart back-off, when the file is missing or can't be read",
        "a line that isn't JSON is emitted as it is: whoever reads it rejects it",
        "a message larger than app.max_message is left out, with an error in the log",
        "a file that was replaced since it was left is read from its start, with a warning in the log",
    ];
    type Config = FileInConfig;

    fn ports(_: &FileInConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn check(config: &FileInConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if config.path.file_name().is_none() {
            errors.push(ConfigError::new("path", "it names no file"));
        }
        if let Some(rate) = config.rate
            && !(rate > 0.0 && rate.is_finite())
        {
            let text = format!("{rate} messages a second never come: say more than 0");
            errors.push(ConfigError::new("rate", text));
        }
        if !(1..=u64::from(u32::MAX)).contains(&config.repeat) {
            errors.push(ConfigError::new("repeat", "it is at least 1"));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn ends(_: &FileInConfig) -> bool {
        true
    }

    fn in_flight(_: &FileInConfig) -> usize {
        IN_FLIGHT
    }

    async fn run(config: &FileInConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let saved: Option<Position> = out.position()?;
        let Some((reader, head, start)) = on_disk(config, out, {
            let path = config.path.0.clone();
            move || open(&path, saved.as_ref())
        })
        .await?
        else {
            return Ok(());
        };
        let mut run = Run {
            config,
            out,
            taker: Extractor::new(config, out.service()),
            pace: Pace::new(config.rate),
            flight: InFlight::new(start),
            head,
            odd: 0,
            left_out: 0,
        };
        let read = run.read(reader, start).await;
        let arrived = run.land().await;
        read.and(arrived)
    }
}

/// Opens the file at the place to go on from.
fn open(
    path: &Path,
    saved: Option<&Position>,
) -> std::io::Result<(LineReader, Head, LinePosition)> {
    const START: LinePosition = LinePosition {
        round: 0,
        offset: 0,
    };
    let mut reader = LineReader::open(path)?;
    let head = Head::of(reader.file())?;
    let length = reader.file().metadata()?.len();
    let mark = match saved.map(|saved| saved.mark_in(&head, length)) {
        Some(Some(mark)) => mark,
        Some(None) => {
            warn!(path = %path.display(), "another file than the one that was left: it is read from its start");
            START
        }
        None => START,
    };
    if mark.offset > 0 {
        let (path, offset) = (path.display(), mark.offset);
        match mark.offset == length {
            true => info!(
                %path,
                offset,
                "all of it was read before: its place in it is kept in `positions` in app.data"
            ),
            false => info!(%path, offset, "reading goes on where it had come to"),
        }
    }
    reader.seek(mark.offset)?;
    Ok((reader, head, mark))
}

/// Does something with the file on a thread that may block; `None` if the source is to
/// stop meanwhile.
async fn on_disk<T: Send + 'static>(
    config: &FileInConfig,
    out: &SourceContext,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<Option<T>, Failure> {
    tokio::select! {
        biased;
        () = out.stopping() => Ok(None),
        done = tokio::task::spawn_blocking(work) => match done? {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let path = config.path.display();
                Err(Failure::retry(format!("can't read {path}: {error}")))
            }
        },
    }
}

/// One run of a source.
struct Run<'a> {
    config: &'a FileInConfig,
    out: &'a SourceContext,
    taker: Extractor<'a>,
    pace: Pace,
    flight: InFlight<SendHandle>,
    head: Head,
    /// Lines in which something wasn't where the config says.
    odd: u64,
    /// Lines that are too large to be messages.
    left_out: u64,
}

/// Whether there is a reason to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

impl Run<'_> {
    /// Sends every line from a mark on, until the end or a stop.
    async fn read(&mut self, mut reader: LineReader, start: LinePosition) -> Result<(), Failure> {
        let mut round = start.round;
        while round < self.config.repeat {
            let work = move || reader.read().map(|lines| (reader, lines));
            let Some((back, lines)) = on_disk(self.config, self.out, work).await? else {
                return Ok(());
            };
            reader = back;
            for (number, line) in lines.into_iter().enumerate() {
                // Neighbours on this thread have their turn, however fast it goes.
                if number % TURN == TURN - 1 {
                    tokio::task::yield_now().await;
                }
                if self.send(line, round).await? == Next::Stop {
                    return Ok(());
                }
            }
            if !reader.is_ended() {
                continue;
            }
            round += 1;
            if round < self.config.repeat {
                reader.seek(0)?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, line: Line, round: u64) -> Result<Next, Failure> {
        let at = self.pace.next(Instant::now());
        if self.wait(at).await? == Next::Stop {
            return Ok(Next::Stop);
        }
        let end = LinePosition {
            round,
            offset: line.end,
        };
        let Some(text) = &line.text else {
            self.leave_out(&line, end, "the line is larger than any message may be");
            return Ok(Next::Go);
        };
        let taken = self.taker.take(&line, text, round);
        if let Some(text) = &taken.error {
            self.odd += 1;
            let (path, offset) = (self.config.path.display(), line.start);
            if self.odd == 1 {
                warn!(%path, offset, error = text, "a line is not as the config says; later ones are logged at debug");
            } else {
                debug!(%path, offset, error = text, "a line is not as the config says");
            }
        }
        match self
            .out
            .submit(&OUT, MessageBuilder::new(taken.raw).id(taken.id))
            .await
        {
            Ok(ticket) => self.flight.sent(end, ticket),
            Err(_) if self.out.is_stopping() => return Ok(Next::Stop),
            Err(failure) if failure.kind() == FailureKind::Reject => {
                self.leave_out(&line, end, failure.text());
            }
            Err(failure) => return Err(failure),
        }
        Ok(Next::Go)
    }

    fn leave_out(&mut self, line: &Line, end: LinePosition, text: &str) {
        self.left_out += 1;
        let (path, offset) = (self.config.path.display(), line.start);
        error!(%path, offset, error = text, "a line is left out");
        self.flight.skipped(end);
    }

    /// Waits until a time, and counts and saves meanwhile what has arrived.
    async fn wait(&mut self, at: Instant) -> Result<Next, Failure> {
        // What has arrived out of order waits here for the first: bounded, too.
        const WAITING_MAX: usize = 4 * IN_FLIGHT;
        loop {
            self.flight.collect()?;
            let now = Instant::now();
            if self.flight.save_due().is_some_and(|due| due <= now) {
                self.save().await?;
            }
            if self.out.is_stopping() {
                return Ok(Next::Stop);
            }
            let full = self.flight.len() >= WAITING_MAX;
            if at <= now && !full {
                return Ok(Next::Go);
            }
            let wake = self.flight.save_due().map_or(at, |due| due.min(at));
            tokio::select! {
                () = self.out.stopping() => return Ok(Next::Stop),
                () = sleep_until(wake), if !full => {}
                arrived = self.flight.next() => arrived?,
            }
        }
    }

    /// Waits for what is under way, as long as the source may, and saves the position.
    async fn land(&mut self) -> Result<(), Failure> {
        let arrived = async {
            while !self.flight.is_empty() {
                self.flight.next().await?;
            }
            Ok::<(), Failure>(())
        };
        let stop = async {
            self.out.stopping().await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        let arrived = tokio::select! {
            arrived = arrived => arrived,
            () = stop => Ok(()),
        };
        // Not for ever: a disk that hangs must not hold up the end.
        let saved = match timeout(STOP_WITHIN, self.save()).await {
            Ok(saved) => saved,
            Err(_) => Err(Failure::retry("the position couldn't be saved in time")),
        };
        if self.odd + self.left_out > 0 {
            let path = self.config.path.display();
            info!(%path, odd = self.odd, left_out = self.left_out, "not every line was as it should be");
        }
        arrived.and(saved)
    }

    async fn save(&mut self) -> Result<(), Failure> {
        if let Some(mark) = self.flight.unsaved() {
            self.out.save_position(&self.head.position(mark)).await?;
            self.flight.saved(mark);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(config: serde_json::Value) -> Result<FileInConfig, serde_json::Error> {
        serde_json::from_value(config)
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        let wrong = config(json!({"path": "", "rate": 0.0, "repeat": 0})).unwrap();
        let errors = FileIn::check(&wrong).unwrap_err();
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["path", "rate", "repeat"]);
        let right = config(json!({"path": "a.jsonl", "rate": 0.5, "type": "/event"})).unwrap();
        assert_eq!((right.repeat, FileIn::check(&right)), (1, Ok(())));
        let error = config(json!({"path": "a", "payload": "payload"})).unwrap_err();
        assert!(error.to_string().contains("it starts with /"), "{error}");
    }

    #[test]
    fn a_file_is_opened_where_it_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "1\n2\n3\n").unwrap();
        let (mut reader, head, start) = open(&path, None).unwrap();
        assert_eq!(reader.read().unwrap().len(), 3);
        assert_eq!(start.offset, 0);
        let left = head.position(LinePosition {
            round: 0,
            offset: 4,
        });
        let (mut reader, _, start) = open(&path, Some(&left)).unwrap();
        assert_eq!((reader.read().unwrap().len(), start.offset), (1, 4));
        // Replaced meanwhile: from the start.
        std::fs::write(&path, "7\n8\n9\n").unwrap();
        let (mut reader, _, start) = open(&path, Some(&left)).unwrap();
        assert_eq!((reader.read().unwrap().len(), start.offset), (3, 0));
    }
}
