//! `file-out`: appends messages to a file, one line of JSON each.
//!
//! Owns one promise: an acked message is a whole line of the file, handed to the operating
//! system (with `sync`, to the disk) before the ack. If the process dies between writing and
//! acking, the line is written twice.

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

/// Messages that share one write.
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
    /// The file, relative to the manifest. Missing directories and a missing file are
    /// created. No other program may write to it; a program that rotates it by renaming is
    /// noticed.
    pub path: ManifestPath,
    /// Whether a message is acked only when its line is on the disk, so that a power failure
    /// loses nothing. Without it, a crash of the process loses nothing.
    #[serde(default)]
    pub sync: bool,
}

/// The file that all instances of a service share.
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
        // A panic with the lock held leaves at worst an unfinished line, repaired by the next
        // write.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.append(&self.path, lines)
    }
}

fn failure(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::retry(format!("can't write to {}: {error}", path.display()))
}

/// The lines of the payloads that are JSON, and one outcome per payload. An `Ok` is valid
/// only after the lines are written.
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
                "the payload can't be written as a line: {text}"
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
        "dead-letters a message whose payload is not JSON",
        "retries when the file can't be written (disk full, no permission); a failed write leaves nothing in the file",
        "cuts off an unfinished last line at the start, with a warning in the log",
    ];
    type Config = FileOutConfig;

    fn ports(_: &FileOutConfig, ports: &mut Ports<Self>) {
        ports.batch(&IN, BATCH);
    }

    fn check(config: &FileOutConfig) -> Result<(), Vec<ConfigError>> {
        if config.path.file_name().is_none() {
            return Err(vec![ConfigError::new(
                "path",
                "it names no file: set one, such as out.jsonl",
            )]);
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
    fn each_json_payload_is_one_line_and_other_payloads_are_rejected() {
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
    fn instances_that_share_a_file_do_not_mix_their_lines() {
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
    fn a_file_that_cannot_be_written_is_a_retry_that_names_the_file() {
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
