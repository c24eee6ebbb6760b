//! `file-out`: appends messages to a file, one line of JSON each.
//!
//! Owns the promise that a message which counts as done is a whole line of the file: it
//! was handed to the operating system (and with `sync` to the disk) before. A line may
//! be there twice when the process died between writing and settling. Refuses payloads
//! that aren't JSON.

mod lines;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brickwork::Batch;
use brickwork::HandleBatch;
use brickwork::config::ManifestPath;
use brickwork::prelude::*;
use serde::Deserialize;

use crate::json::JsonText;
use crate::ports::IN;
use lines::LineFile;

/// What shares one write: as many messages as are there, up to this.
const BATCH: Batch = Batch {
    max: 256,
    within: Duration::ZERO,
};

/// Appends each payload to a file as one line.
#[derive(Debug)]
pub struct FileOut {
    file: Arc<Shared>,
}

/// Config of `file-out`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileOutConfig {
    /// The file, relative to the manifest. It and its folders are made when they are
    /// missing. No other program may write to it; one that rotates it by renaming is
    /// noticed.
    pub path: ManifestPath,
    /// Whether a message counts as done only when the disk has its line, so that a power
    /// failure loses nothing; otherwise a crash of the process loses nothing.
    #[serde(default)]
    pub sync: bool,
}

/// The one file of all instances of a service.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    file: Mutex<LineFile>,
}

impl Shared {
    fn open(path: PathBuf, sync: bool) -> Result<Self, Failure> {
        let file = LineFile::open(&path, sync).map_err(|error| failure(&path, &error))?;
        Ok(Self {
            path,
            file: Mutex::new(file),
        })
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        // A panic in there leaves at worst a torn end, which the next write repairs.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.append(&self.path, lines)
    }
}

fn failure(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::retry(format!("can't write to {}: {error}", path.display()))
}

/// The lines of the payloads that are JSON, and an outcome for each payload, good until
/// the lines are written.
fn lines_of<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<Result<(), Failure>>) {
    let mut lines = Vec::new();
    let outcomes = payloads
        .map(|payload| match JsonText::check(payload) {
            Ok(json) => {
                json.compact_into(&mut lines);
                lines.push(b'\n');
                Ok(())
            }
            Err(text) => Err(Failure::reject(format!(
                "the payload can't be a line: {text}"
            ))),
        })
        .collect();
    (lines, outcomes)
}

impl Service for FileOut {
    const NAME: &'static str = "file-out";
    const SUMMARY: &'static str = "appends messages to a file, one line of JSON each";
    const EXAMPLE: &'static str = r#"[services.keep]
use = "file-out"
in = "alerts"
config.path = "out/alerts.jsonl"
"#;
    const FAILURES: &'static [&'static str] = &[
        "rejects a message whose payload is not JSON",
        "tries again when the file can't be written (disk full, no permission); nothing of a failed write stays in the file",
        "at its start cuts off a last line that a crash left unfinished, and says so",
    ];
    type Config = FileOutConfig;

    fn ports(_: &FileOutConfig, ports: &mut Ports<Self>) {
        ports.batch(&IN, BATCH);
    }

    fn check(config: &FileOutConfig) -> Result<(), Vec<ConfigError>> {
        if config.path.file_name().is_none() {
            return Err(vec![ConfigError::new("path", "it names no file")]);
        }
        Ok(())
    }

    async fn start(config: &FileOutConfig, cx: &mut Context) -> Result<Self, Failure> {
        let (path, sync) = (config.path.0.clone(), config.sync);
        let open = async || tokio::task::spawn_blocking(move || Shared::open(path, sync)).await?;
        Ok(Self {
            file: cx.shared(open).await?,
        })
    }
}

impl HandleBatch<Raw> for FileOut {
    async fn handle_batch(&mut self, batch: Vec<Raw>, _: &mut Context) -> Vec<Result<(), Failure>> {
        let (lines, mut outcomes) = lines_of(batch.iter().map(|raw| &*raw.payload));
        if lines.is_empty() {
            return outcomes;
        }
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || file.append(&lines)).await;
        let failed = match written {
            Ok(Ok(())) => return outcomes,
            Ok(Err(error)) => failure(&self.file.path, &error),
            Err(error) => Failure::from(error),
        };
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            *outcome = Err(failed.clone());
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use brickwork::FailureKind;

    use super::*;

    #[test]
    fn each_payload_is_one_line_and_what_is_not_json_is_rejected() {
        let payloads: [&[u8]; 4] = [b"{\"a\": 1}\n", b"nonsense", b"\n[1,\n2]", b""];
        let (lines, outcomes) = lines_of(payloads.into_iter());
        assert_eq!(lines, b"{\"a\":1}\n[1,2]\n");
        let ok: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(ok, [true, false, true, false]);
        let failure = outcomes[1].as_ref().unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Reject);
        assert!(failure.text().contains("not JSON"), "{failure}");
    }

    #[test]
    fn writers_that_share_a_file_do_not_mix_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let shared = Shared::open(path.clone(), false).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let shared = &shared;
                scope.spawn(move || {
                    for n in 0..200 {
                        let text = format!("{{\"w\":{writer},\"n\":{n}}}\n").repeat(3);
                        shared.append(text.as_bytes()).unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 4 * 200 * 3);
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let failure = Shared::open(folder.path().to_owned(), false).unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Retry);
        let path = folder.path().display().to_string();
        assert!(failure.text().contains(&path), "{failure}");
    }

    #[test]
    fn a_path_without_a_file_is_refused() {
        assert!(FileOut::check(&FileOutConfig::default()).is_err());
    }
}
