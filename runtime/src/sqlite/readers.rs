//! Connections that read: beside whoever writes, without waiting for it.

use std::path::PathBuf;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::open::{Options, reader};
use super::{SqliteError, job};

/// So many read at once from one database.
const READERS_MAX: usize = 4;

/// The connections of one database that read. One is kept when nobody does.
pub(super) struct Readers {
    path: PathBuf,
    options: Options,
    idle: Mutex<Option<Connection>>,
    turns: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf, options: Options) -> Self {
        Self {
            path,
            options,
            idle: Mutex::default(),
            turns: Semaphore::new(READERS_MAX),
        }
    }

    /// A turn to read.
    pub(super) async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, SqliteError> {
        self.turns.acquire().await.map_err(|_| SqliteError::Closed)
    }

    /// Reads, on the current thread, what was committed when it began.
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
        // However many statements look: they see the same moment.
        let moment = connection.unchecked_transaction();
        let moment = moment.map_err(SqliteError::from)?;
        let result = job::caught(name, || work(&moment))?;
        drop(moment);
        *self.idle.lock() = Some(connection);
        result
    }

    pub(super) fn close(&self) {
        self.turns.close();
        *self.idle.lock() = None;
    }
}
