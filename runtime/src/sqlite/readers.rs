//! Reading connections, which do not wait for the writer.

use std::path::PathBuf;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::error::SqliteError;
use super::job;
use super::open::{Options, reader};

/// Maximum concurrent readers per database.
const READERS_MAX: usize = 4;

/// The reading connections of one database. One idle connection is kept.
pub(super) struct Readers {
    path: PathBuf,
    options: Options,
    idle: Mutex<Option<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf, options: Options) -> Self {
        Self {
            path,
            options,
            idle: Mutex::default(),
            permits: Semaphore::new(READERS_MAX),
        }
    }

    /// Waits for the permission to read.
    pub(super) async fn acquire(&self) -> Result<tokio::sync::SemaphorePermit<'_>, SqliteError> {
        self.permits
            .acquire()
            .await
            .map_err(|_| SqliteError::Closed)
    }

    /// Runs a closure on a snapshot of the committed data, on the current thread.
    pub(super) fn read<R, E: From<SqliteError>>(
        &self,
        name: &str,
        work: impl FnOnce(&Connection) -> Result<R, E>,
    ) -> Result<R, E> {
        let idle = self.idle.lock().take();
        let connection = match idle {
            Some(connection) => connection,
            None => reader(&self.path, &self.options)?,
        };
        // In one transaction all statements see the same snapshot.
        let snapshot = connection.unchecked_transaction();
        let snapshot = snapshot.map_err(SqliteError::from)?;
        let result = job::catch(name, || work(&snapshot))?;
        drop(snapshot);
        *self.idle.lock() = Some(connection);
        result
    }

    pub(super) fn close(&self) {
        self.permits.close();
        *self.idle.lock() = None;
    }
}
