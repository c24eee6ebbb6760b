//! Uploads: bodies that go to files in the data folder, which messages refer to.
//!
//! A file is complete and durable before its message is sent: it is written beside its name,
//! synced, renamed, and its folder synced. Files have bounds: each in size, all together, and by
//! age if the config says so. A file without a message is left by a crash between the two; it
//! counts and ages as the others.

use std::cell::Cell;
use std::fs::{self, File};
use std::future::poll_fn;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use brickwork::MessageId;
use brickwork::prelude::*;
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::body::{BodyError, Reservation, length};

/// Bytes that are written at once.
const PIECE: usize = 256 * 1024;
/// Time between two looks for old files.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// End of the name of a file that is being written.
const PART: &str = ".part";

/// The folder of uploaded files.
pub(super) struct Uploads {
    folder: PathBuf,
    file_bytes_max: u64,
    folder_bytes_max: u64,
    keep: Option<Duration>,
    /// Bytes of all files, those being written included.
    bytes: Cell<u64>,
}

/// A file that was uploaded.
#[derive(Debug)]
pub(super) struct Upload {
    path: PathBuf,
    size: u64,
    sha256: String,
}

/// Why a body could not be kept.
#[derive(Debug)]
pub(super) enum UploadError {
    Body(BodyError),
    /// The uploads together have `uploads_max` bytes.
    Full,
    /// The file can't be written.
    Disk(io::Error),
}

/// A file that is being written.
struct Part {
    file: File,
    digest: Sha256,
}

impl Uploads {
    /// Opens the folder and removes files that were not complete when the app ended.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub(super) fn open(
        folder: &Path,
        file_bytes_max: u64,
        folder_bytes_max: u64,
        keep: Option<Duration>,
    ) -> Result<Self, Failure> {
        let prepared = fs::create_dir_all(folder)
            .and_then(|()| fs::canonicalize(folder))
            .and_then(|folder| remove_parts(&folder).map(|()| folder));
        let folder = prepared.map_err(|error| {
            let folder = folder.display();
            Failure::retry(format!("the folder of uploads {folder}: {error}"))
        })?;
        let uploads = Self {
            bytes: Cell::new(0),
            folder,
            file_bytes_max,
            folder_bytes_max,
            keep,
        };
        let found = clean(&uploads.folder, uploads.keep, SystemTime::now())?;
        uploads.bytes.set(found);
        Ok(uploads)
    }

    /// Maximum size of a file.
    pub(super) fn file_bytes_max(&self) -> u64 {
        self.file_bytes_max
    }

    /// Removes old files, and counts the bytes of the others, for ever.
    pub(super) async fn clean_for_ever(&self) -> ! {
        loop {
            sleep(CLEAN_EVERY).await;
            self.clean_now().await;
        }
    }

    async fn clean_now(&self) {
        let (folder, keep) = (self.folder.clone(), self.keep);
        let cleaned = spawn_blocking(move || clean(&folder, keep, SystemTime::now())).await;
        match cleaned {
            Ok(Ok(bytes)) => self.bytes.set(bytes),
            Ok(Err(error)) => {
                warn!(folder = %self.folder.display(), %error, "uploads could not be counted");
            }
            // The blocking task panicked, which its own log line says.
            Err(_) => {}
        }
    }

    /// Writes a body to a file. `within` bounds the time without new bytes.
    ///
    /// # Errors
    /// The body is too large or breaks off, or the file can't be written; nothing is left.
    pub(super) async fn receive(
        &self,
        body: &mut Incoming,
        within: Duration,
        memory: &mut Reservation,
    ) -> Result<Upload, UploadError> {
        let announced = length(body).unwrap_or(0);
        if announced > self.file_bytes_max {
            return Err(UploadError::Body(BodyError::TooLarge));
        }
        if self.bytes.get().saturating_add(announced) > self.folder_bytes_max {
            // Services remove files that they have handled.
            self.clean_now().await;
        }
        if !memory.grow(PIECE as u64) {
            return Err(UploadError::Body(BodyError::NoMemory));
        }
        let path = self.folder.join(MessageId::new().to_string());
        let part = path.with_extension(&PART[1..]);
        let mut taken = 0;
        let written = self.write(body, within, &part, &mut taken).await;
        let finished = match written {
            Ok(file) => match finish(file, &part, &path).await {
                Ok(sha256) => Ok(Upload {
                    path,
                    size: taken,
                    sha256,
                }),
                Err(error) => Err(UploadError::Disk(error)),
            },
            Err(error) => Err(error),
        };
        if finished.is_err() {
            self.bytes.set(self.bytes.get().saturating_sub(taken));
            let _removed = spawn_blocking(move || fs::remove_file(part)).await;
        }
        finished
    }

    async fn write(
        &self,
        body: &mut Incoming,
        within: Duration,
        path: &Path,
        taken: &mut u64,
    ) -> Result<Part, UploadError> {
        let path = path.to_owned();
        let file = blocking(move || File::create_new(path)).await?;
        let mut part = Part {
            file,
            digest: Sha256::new(),
        };
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE);
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            let frame = timeout(within, frame).await;
            let frame = frame.map_err(|_| UploadError::Body(BodyError::TooSlow))?;
            let data = match frame {
                None => break,
                Some(Err(_)) => return Err(UploadError::Body(BodyError::Broken)),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            if *taken + data.len() as u64 > self.file_bytes_max {
                return Err(UploadError::Body(BodyError::TooLarge));
            }
            self.take_room(&data)?;
            *taken += data.len() as u64;
            if piece.len() + data.len() > PIECE {
                part = part.append(std::mem::take(&mut piece)).await?;
            }
            piece.extend_from_slice(&data);
        }
        part.append(piece).await
    }

    fn take_room(&self, data: &Bytes) -> Result<(), UploadError> {
        let bytes = self.bytes.get() + data.len() as u64;
        if bytes > self.folder_bytes_max {
            return Err(UploadError::Full);
        }
        self.bytes.set(bytes);
        Ok(())
    }

    /// Removes the file of a message that was not accepted.
    pub(super) async fn discard(&self, upload: Upload) {
        self.bytes.set(self.bytes.get().saturating_sub(upload.size));
        let _removed = spawn_blocking(move || fs::remove_file(upload.path)).await;
    }
}

impl Upload {
    /// The payload of the message.
    pub(super) fn payload(&self, content_type: &str) -> Bytes {
        let payload = json!({
            "path": self.path.to_string_lossy(),
            "size": self.size,
            "sha256": self.sha256,
            "content_type": content_type,
        });
        payload.to_string().into()
    }
}

impl Part {
    async fn append(mut self, piece: Vec<u8>) -> Result<Self, UploadError> {
        blocking(move || {
            self.file.write_all(&piece)?;
            self.digest.update(&piece);
            Ok(self)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, UploadError> {
    let done = spawn_blocking(work).await;
    done.map_err(io::Error::other)
        .flatten()
        .map_err(UploadError::Disk)
}

/// Makes a file durable under its name. Returns its SHA-256.
async fn finish(part: Part, from: &Path, to: &Path) -> io::Result<String> {
    let (from, to) = (from.to_owned(), to.to_owned());
    let done = spawn_blocking(move || {
        part.file.sync_all()?;
        fs::rename(&from, &to)?;
        if let Some(folder) = to.parent() {
            File::open(folder)?.sync_all()?;
        }
        let digest = part.digest.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    });
    done.await.map_err(io::Error::other)?
}

fn remove_parts(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(PART) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Removes files that are older than `keep`. Returns the bytes of the others.
fn clean(folder: &Path, keep: Option<Duration>, now: SystemTime) -> io::Result<u64> {
    let mut bytes = 0;
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A service may remove a file meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let age = now.duration_since(metadata.modified()?).unwrap_or_default();
        if keep.is_some_and(|keep| age > keep) && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
            continue;
        }
        bytes += metadata.len();
    }
    if removed > 0 {
        info!(folder = %folder.display(), removed, "old uploads removed");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn incomplete_files_are_removed_at_the_start_and_others_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "12345").unwrap();
        fs::write(folder.path().join("b.part"), "123").unwrap();
        let uploads = Uploads::open(folder.path(), 10, 100, None).unwrap();
        assert_eq!(names(folder.path()), ["a"]);
        assert_eq!(uploads.bytes.get(), 5);
        let nowhere = folder.path().join("a/below");
        assert!(Uploads::open(&nowhere, 10, 100, None).is_err());
    }

    #[test]
    fn files_are_removed_by_age_or_never() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "12345").unwrap();
        let later = SystemTime::now() + Duration::from_secs(3600);
        assert_eq!(clean(folder.path(), None, later).unwrap(), 5);
        let day = Some(Duration::from_secs(86_400));
        assert_eq!(clean(folder.path(), day, later).unwrap(), 5);
        let minute = Some(Duration::from_secs(60));
        assert_eq!(clean(folder.path(), minute, later).unwrap(), 0);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn all_files_together_have_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(folder.path(), 10, 7, None).unwrap();
        assert!(uploads.take_room(&Bytes::from_static(b"1234")).is_ok());
        let refused = uploads.take_room(&Bytes::from_static(b"1234"));
        assert!(matches!(refused, Err(UploadError::Full)));
        assert_eq!(uploads.bytes.get(), 4);
    }
}
