//! `file-in`: emits each line of a file.
//!
//! Sends many lines at once, in order. The saved position never passes a line that the
//! transport has not confirmed. Files are read on other threads, chunk by chunk, since reading
//! blocks. The source ends at the end of the file and does not wait for more.

mod extract;
mod in_flight;
mod lines;
mod position;

use std::path::Path;
use std::time::Duration;

use brickwork::config::ManifestPath;
use brickwork::prelude::*;
use brickwork::{FailureKind, RateLimiter, SendHandle};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::json::JsonPointer;
use crate::ports::OUT;
use extract::Extractor;
use in_flight::{InFlight, LinePosition};
use lines::{Line, LineReader};
use position::{Identity, Position};

/// Maximum messages in flight.
const IN_FLIGHT: usize = 256;
/// Lines sent before other tasks of the thread get a turn.
const LINES_PER_TURN: usize = 64;
/// Time for messages in flight when the source stops. A message that is confirmed later is
/// sent again after the restart, with the same id.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Emits each line of a file as a message.
#[derive(Debug)]
pub struct FileIn;

/// Config of `file-in`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileInConfig {
    /// The file, with one JSON value per line, relative to the manifest. Blank lines are
    /// skipped.
    ///
    /// On a durable transport, reading continues after the saved position. A replaced file
    /// (shorter than the position, with another beginning, or with other bytes before the
    /// position) is read from its start. A pipe, such as `/dev/stdin`, is read to its end.
    pub path: ManifestPath,
    /// Treatment of a last line without a line break. It may still be written, so by default it
    /// waits until it has one.
    #[serde(default)]
    pub unterminated: Unterminated,
    /// Maximum messages per second; by default as fast as the app takes them.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Number of times that the file is read.
    #[serde(default = "once")]
    pub repeat: u64,
    /// JSON pointer to the payload in a line, such as `/payload`; by default the whole line.
    /// A line without a value at one of the configured pointers is emitted unchanged, with a
    /// header `file-in-error` that names the pointer.
    #[serde(default)]
    pub payload: Option<JsonPointer>,
    /// JSON pointer to the message id in a line. By default the id consists of the service's
    /// label, the file's name, a key that tells the file apart from others of its name (a hash of
    /// its first line and the number of files before it), and the line's offset: the same each
    /// time, also for a copy on another machine.
    #[serde(default)]
    pub id: Option<JsonPointer>,
    /// JSON pointer to the message type in a line; by default the type is `line`.
    #[serde(default, rename = "type")]
    pub kind: Option<JsonPointer>,
}

/// Treatment of a last line without a line break.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unterminated {
    /// It is emitted when it has its line break, after another start of the source.
    #[default]
    Wait,
    /// The file is complete: it is emitted.
    Emit,
}

fn once() -> u64 {
    1
}

impl Default for FileInConfig {
    fn default() -> Self {
        Self {
            path: ManifestPath::default(),
            unterminated: Unterminated::default(),
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
        "restarts, with back-off, when the file is missing or can't be read",
        "emits a line that isn't JSON unchanged: its consumers dead-letter it",
        "skips a message larger than app.max_message, with an error in the log",
        "reads a replaced file from its start, with a warning in the log",
        "leaves a last line without a line break until it has one, with a warning in the log",
    ];
    type Config = FileInConfig;

    fn ports(_: &FileInConfig, ports: &mut SourcePorts) {
        ports.output(&OUT);
    }

    fn check(config: &FileInConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if config.path.file_name().is_none() {
            errors.push(ConfigError::new(
                "path",
                "it names no file: set one, such as in.jsonl",
            ));
        }
        if let Some(rate) = config.rate
            && !(rate > 0.0 && rate.is_finite())
        {
            let text = format!("{rate} is not a rate: it is a number greater than 0");
            errors.push(ConfigError::new("rate", text));
        }
        if !(1..=u64::from(u32::MAX)).contains(&config.repeat) {
            errors.push(ConfigError::new("repeat", "it is at least 1"));
        }
        crate::config_errors::result(errors)
    }

    fn ends(_: &FileInConfig) -> bool {
        true
    }

    fn in_flight(_: &FileInConfig) -> usize {
        IN_FLIGHT
    }

    async fn run(config: &FileInConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let saved: Option<Position> = out.position()?;
        let Some((reader, identity, start)) = on_disk(config, out, {
            let (path, unterminated) = (config.path.0.clone(), config.unterminated);
            move || open(&path, unterminated, saved.as_ref())
        })
        .await?
        else {
            return Ok(());
        };
        // A pipe can't be read again.
        let key = identity
            .as_ref()
            .map_or_else(|| brickwork::MessageId::new().to_string(), Identity::key);
        let mut run = Run {
            config,
            out,
            extractor: Extractor::new(config, out.service(), &key),
            rate: rate_limiter(config.rate),
            in_flight: InFlight::new(start),
            identity,
            malformed: 0,
            skipped: 0,
        };
        let read = run.read(reader, start).await;
        let confirmed = run.finish().await;
        read.and(confirmed)
    }
}

/// Limits the lines per second; without a rate, no line waits.
fn rate_limiter(rate: Option<f64>) -> RateLimiter {
    /// Late lines are made up for within this time, so that a pause of an hour is not followed
    /// by a flood.
    const CATCH_UP: Duration = Duration::from_millis(100);
    /// About a hundred years: the interval of a rate that is almost zero.
    const INTERVAL_MAX: Duration = Duration::from_secs(3_000_000_000);
    let interval = rate.map_or(Duration::ZERO, |rate| {
        Duration::try_from_secs_f64(1.0 / rate).unwrap_or(INTERVAL_MAX)
    });
    RateLimiter::new(interval, CATCH_UP)
}

/// Opens the file at the position to continue from. A pipe has no identity.
fn open(
    path: &Path,
    unterminated: Unterminated,
    saved: Option<&Position>,
) -> std::io::Result<(LineReader, Option<Identity>, LinePosition)> {
    const START: LinePosition = LinePosition {
        round: 0,
        offset: 0,
    };
    let mut reader = LineReader::open(path)?;
    let metadata = reader.file().metadata()?;
    if unterminated == Unterminated::Emit || !metadata.is_file() {
        reader.take_unterminated();
    }
    if !metadata.is_file() {
        return Ok((reader, None, START));
    }
    let mut identity = Identity::of(reader.file())?;
    let length = metadata.len();
    let resumed = saved.map(|saved| identity.resume(saved)).transpose()?;
    let position = match resumed {
        Some(Some(position)) => position,
        Some(None) => {
            warn!(path = %path.display(), "file was replaced, reading it from its start");
            START
        }
        None => START,
    };
    if position.offset > 0 {
        let (path, offset) = (path.display(), position.offset);
        match position.offset == length {
            true => info!(
                %path,
                offset,
                "file was read to its end before; its position is in `positions` in app.data"
            ),
            false => info!(%path, offset, "reading continues at the saved position"),
        }
    }
    reader.seek(position.offset)?;
    Ok((reader, Some(identity), position))
}

/// Runs file access on a thread that may block. Returns `None` if the source stops before it
/// is done.
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
    extractor: Extractor<'a>,
    rate: RateLimiter,
    in_flight: InFlight<SendHandle>,
    /// `None` for a pipe.
    identity: Option<Identity>,
    /// Lines without a value at a configured pointer.
    malformed: u64,
    /// Lines that are too large for a message.
    skipped: u64,
}

/// Whether to send the next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    Stop,
}

impl Run<'_> {
    /// Sends every line from a position on, until the end of the last round or a stop.
    async fn read(&mut self, mut reader: LineReader, start: LinePosition) -> Result<(), Failure> {
        let mut round = start.round;
        while round < self.config.repeat {
            let work = move || reader.read().map(|lines| (reader, lines));
            let Some((back, lines)) = on_disk(self.config, self.out, work).await? else {
                return Ok(());
            };
            reader = back;
            for (number, line) in lines.into_iter().enumerate() {
                // Other tasks of this thread get a turn.
                if number % LINES_PER_TURN == LINES_PER_TURN - 1 {
                    tokio::task::yield_now().await;
                }
                if self.send(line, round).await? == Next::Stop {
                    return Ok(());
                }
            }
            if !reader.is_ended() {
                continue;
            }
            if reader.is_torn() {
                let path = self.config.path.display();
                warn!(%path, "the last line has no line break and waits for it: see config.unterminated");
            }
            round += 1;
            if round < self.config.repeat && self.identity.is_some() {
                reader.seek(0)?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, line: Line, round: u64) -> Result<Next, Failure> {
        let at = self.rate.next(Instant::now());
        if self.wait(at).await? == Next::Stop {
            return Ok(Next::Stop);
        }
        let end = LinePosition {
            round,
            offset: line.end,
        };
        let Some(text) = &line.text else {
            self.skip(&line, end, "the line is larger than any message may be");
            return Ok(Next::Continue);
        };
        let extracted = self.extractor.extract(&line, text, round);
        if let Some(text) = &extracted.error {
            self.malformed += 1;
            let (path, offset) = (self.config.path.display(), line.start);
            if self.malformed == 1 {
                warn!(%path, offset, error = text, "malformed line; later ones are logged at debug");
            } else {
                debug!(%path, offset, error = text, "malformed line");
            }
        }
        let message = MessageBuilder::new(extracted.raw).id(extracted.id);
        match self.out.submit(&OUT, message).await {
            Ok(handle) => self.in_flight.sent(end, handle),
            Err(_) if self.out.is_stopping() => return Ok(Next::Stop),
            Err(failure) if failure.kind() == FailureKind::Reject => {
                self.skip(&line, end, failure.text());
            }
            Err(failure) => return Err(failure),
        }
        Ok(Next::Continue)
    }

    fn skip(&mut self, line: &Line, end: LinePosition, text: &str) {
        self.skipped += 1;
        let (path, offset) = (self.config.path.display(), line.start);
        error!(%path, offset, error = text, "line skipped");
        self.in_flight.skipped(end);
    }

    /// Waits until a time. Meanwhile collects confirms and saves the position.
    async fn wait(&mut self, at: Instant) -> Result<Next, Failure> {
        // Bounds the lines that were confirmed while an earlier one is still in flight.
        const WAITING_MAX: usize = 4 * IN_FLIGHT;
        loop {
            self.in_flight.collect()?;
            let now = Instant::now();
            if self.in_flight.save_due().is_some_and(|due| due <= now) {
                self.save().await?;
            }
            if self.out.is_stopping() {
                return Ok(Next::Stop);
            }
            let full = self.in_flight.len() >= WAITING_MAX;
            if at <= now && !full {
                return Ok(Next::Continue);
            }
            let wake = self.in_flight.save_due().map_or(at, |due| due.min(at));
            tokio::select! {
                () = self.out.stopping() => return Ok(Next::Stop),
                () = sleep_until(wake), if !full => {}
                confirmed = self.in_flight.next() => confirmed?,
            }
        }
    }

    /// Waits for the messages in flight, at most as long as a stop allows, and saves the
    /// position.
    async fn finish(&mut self) -> Result<(), Failure> {
        // The app may cut the stop short: the confirmed lines first.
        let collected = self.in_flight.collect();
        let saved_first = self.save_in_time().await;
        let confirmed = async {
            collected?;
            saved_first?;
            while !self.in_flight.is_empty() {
                self.in_flight.next().await?;
            }
            Ok::<(), Failure>(())
        };
        let stop = async {
            self.out.stopping().await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        let confirmed = tokio::select! {
            confirmed = confirmed => confirmed,
            () = stop => Ok(()),
        };
        let saved = self.save_in_time().await;
        if self.malformed + self.skipped > 0 {
            let path = self.config.path.display();
            info!(%path, malformed = self.malformed, skipped = self.skipped, "file read, with bad lines");
        }
        confirmed.and(saved)
    }

    /// Saves the position. A disk that hangs does not block the stop.
    async fn save_in_time(&mut self) -> Result<(), Failure> {
        match timeout(STOP_WITHIN, self.save()).await {
            Ok(saved) => saved,
            Err(_) => Err(Failure::retry("the position couldn't be saved in time")),
        }
    }

    async fn save(&mut self) -> Result<(), Failure> {
        if let (Some(position), Some(identity)) = (self.in_flight.unsaved(), &self.identity) {
            let saved = identity.position(position)?;
            self.out.save_position(&saved).await?;
            self.in_flight.saved(position);
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
    fn an_invalid_config_is_refused_with_its_place() {
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
    fn a_file_is_opened_at_the_saved_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "1\n2\n3\n").unwrap();
        let open = |saved: Option<&Position>| open(&path, Unterminated::Wait, saved).unwrap();
        let (mut reader, identity, start) = open(None);
        assert_eq!(reader.read().unwrap().len(), 3);
        assert_eq!(start.offset, 0);
        let second = LinePosition {
            round: 0,
            offset: 4,
        };
        let saved = identity.unwrap().position(second).unwrap();
        let (mut reader, _, start) = open(Some(&saved));
        assert_eq!((reader.read().unwrap().len(), start.offset), (1, 4));
        // A replaced file is read from its start.
        std::fs::write(&path, "7\n8\n9\n").unwrap();
        let (mut reader, _, start) = open(Some(&saved));
        assert_eq!((reader.read().unwrap().len(), start.offset), (3, 0));
    }
}
