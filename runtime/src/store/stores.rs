//! The stores of an app: their files, and the lock of each.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::OpenStore;
use super::open_store::StoreOwner;
use crate::failure::Failure;
use crate::lock::Lock;
use crate::sqlite::{Migration, ReadOnlyDatabase, SqliteError, WriterPool};

/// Maximum stores that write at the same time. A writer mostly waits for the disk.
const WRITER_THREADS: usize = 4;

/// The stores of an app's services, one file each in the app's data folder.
pub(crate) struct Stores {
    app: Arc<str>,
    folder: PathBuf,
    writers: WriterPool,
}

/// Wait for the lock of a process that is ending, or that only reads the store.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Returns the lock file of a service's store.
pub(crate) fn lock_file(data: &Path, service: &str) -> PathBuf {
    folder(data).join(format!("{service}.lock"))
}

/// Returns the database file of a service's store.
pub(crate) fn file(data: &Path, service: &str) -> PathBuf {
    folder(data).join(format!("{service}.sqlite"))
}

/// Opens the store of a service for reading, also while a process has it open. The lock, if there
/// is one, keeps other processes from opening the store; drop it last. Blocks the thread.
///
/// # Errors
/// There is no store, or it can't be read.
pub(crate) fn open_read_only(
    data: &Path,
    service: &str,
) -> Result<(ReadOnlyDatabase, Option<Lock>), SqliteError> {
    let lock = lock_file(data, service);
    let look = || match Lock::look(&lock, str::to_owned) {
        Ok(lock) => Ok((false, lock)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok((true, None)),
        Err(error) => Err(SqliteError::Unusable {
            path: lock.clone(),
            why: error.to_string(),
        }),
    };
    ReadOnlyDatabase::open_locked(&file(data, service), look)
}

fn folder(data: &Path) -> PathBuf {
    data.join("stores")
}

impl Stores {
    /// Returns the stores in an app's data folder.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn new(app: Arc<str>, data: &Path) -> Arc<Self> {
        Arc::new(Self {
            app,
            folder: folder(data),
            writers: WriterPool::new(WRITER_THREADS),
        })
    }

    /// Opens the store of a service and migrates it.
    ///
    /// # Errors
    /// Another process has the store open, it belongs to another service or app, or it can't
    /// be used. The text names the file and the remedy.
    pub(crate) async fn open(
        &self,
        service: &str,
        migrations: &'static [Migration],
    ) -> Result<OpenStore, Failure> {
        let file = self.folder.join(format!("{service}.sqlite"));
        let lock = self.folder.join(format!("{service}.lock"));
        let owner = StoreOwner {
            app: self.app.clone(),
            service: service.into(),
            migrations,
        };
        let writers = self.writers.clone();
        std::fs::create_dir_all(&self.folder)?;
        let locked = |owner: &str| {
            let file = file.display();
            format!(
                "{owner} has the store {file}: one process at a time runs a service with a store"
            )
        };
        let lock = Lock::wait(&lock, LOCK_WAIT, locked).await?;
        let opening =
            tokio::task::spawn_blocking(move || OpenStore::open(&file, &owner, &writers, lock));
        opening.await?
    }
}
