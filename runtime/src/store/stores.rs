//! Where the stores of an app are, and who has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::OpenStore;
use super::open_store::StoreOwner;
use crate::failure::Failure;
use crate::lock::Lock;
use crate::sqlite::{Migration, WriterPool};

/// So many stores write at the same time: each waits for the disk most of the time.
const THREADS: usize = 4;

/// The stores of an app's services: a file each, in its data folder.
pub(crate) struct Stores {
    app: Arc<str>,
    folder: PathBuf,
    writers: WriterPool,
}

/// A process that has just ended, or somebody who looks, may need a moment to be gone.
const GONE_WAIT: Duration = Duration::from_secs(2);

/// The lock of a service's store, in an app's data folder.
pub(crate) fn lock_file(data: &Path, service: &str) -> PathBuf {
    folder(data).join(format!("{service}.lock"))
}

/// The file of a service's store, in an app's data folder.
pub(crate) fn file(data: &Path, service: &str) -> PathBuf {
    folder(data).join(format!("{service}.sqlite"))
}

fn folder(data: &Path) -> PathBuf {
    data.join("stores")
}

impl Stores {
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn new(app: Arc<str>, data: &Path) -> Arc<Self> {
        Arc::new(Self {
            app,
            folder: folder(data),
            writers: WriterPool::new(THREADS),
        })
    }

    /// Opens the store of a service, and makes it what the service expects.
    ///
    /// # Errors
    /// Another process has it, it is somebody else's, or can't be used: the text says which
    /// file and what to do.
    pub(crate) async fn open(
        &self,
        service: &str,
        migrations: &'static [Migration],
    ) -> Result<OpenStore, Failure> {
        let file = self.folder.join(format!("{service}.sqlite"));
        let lock = self.folder.join(format!("{service}.lock"));
        let own = StoreOwner {
            app: self.app.clone(),
            service: service.into(),
            migrations,
        };
        let writers = self.writers.clone();
        std::fs::create_dir_all(&self.folder)?;
        let taken = |owner: &str| {
            let file = file.display();
            format!(
                "{owner} has the store {file}: one process at a time runs a service with a store"
            )
        };
        let lock = Lock::wait(&lock, GONE_WAIT, taken).await?;
        let opening =
            tokio::task::spawn_blocking(move || OpenStore::open(&file, &own, &writers, lock));
        opening.await?
    }
}
