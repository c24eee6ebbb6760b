//! Read-only view of a folder that another process may use.
//!
//! If no process uses the folder, the view locks it: none can start meanwhile.

use std::io::ErrorKind;
use std::path::Path;

use brickwork::Lock;
use brickwork::sqlite::rusqlite::Connection;
use brickwork::sqlite::{ReadOnlyDatabase, SqliteError};

use super::catalog;
use super::open::{file, lock_file};
use super::schema::schema;

/// See the module.
pub(super) struct ReadOnlyFolder {
    /// The process that uses the folder, such as `process 17`.
    pub(super) owner_process: Option<String>,
    /// `None` if the file does not exist yet.
    queues: Option<ReadOnlyDatabase>,
    /// Whether the tables are those of this version.
    pub(super) is_up_to_date: bool,
    /// Held while the view exists.
    _lock: Option<Lock>,
}

impl ReadOnlyFolder {
    /// Opens a folder. Blocks its thread for a moment.
    ///
    /// # Errors
    /// The file cannot be read, or is no file of queues.
    pub(super) fn open(folder: &Path) -> Result<Self, SqliteError> {
        let lock = lock_file(folder);
        let look = || match Lock::look(&lock, str::to_owned) {
            Ok(our_lock) => Ok((false, (None, our_lock))),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                Ok((true, (Some(error.to_string()), None)))
            }
            Err(error) => Err(unusable(&lock, &error)),
        };
        let path = file(folder);
        let is_there = path.try_exists().map_err(|error| unusable(&path, &error))?;
        let (queues, (owner_process, our_lock)) = match is_there {
            true => {
                let (database, locked) = ReadOnlyDatabase::open_locked(&path, look)?;
                (Some(database), locked)
            }
            false => (None, look()?.1),
        };
        let mut view = Self {
            owner_process,
            queues,
            is_up_to_date: true,
            _lock: our_lock,
        };
        if let Some(database) = &view.queues {
            view.is_up_to_date = database.is_up_to_date(&schema())?;
        }
        Ok(view)
    }

    /// Calls `work` with one snapshot of the file. Returns `None` if there is no file yet, or
    /// one of another version.
    ///
    /// # Errors
    /// The file cannot be read, or `work` failed.
    pub(super) fn read<R>(
        &self,
        work: impl FnOnce(&Connection) -> Result<R, SqliteError>,
    ) -> Result<Option<R>, SqliteError> {
        match &self.queues {
            Some(queues) if self.is_up_to_date => queues.read(work).map(Some),
            _ => Ok(None),
        }
    }

    /// Returns the app whose queues are in the folder.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn owner(&self) -> Result<Option<String>, SqliteError> {
        Ok(self.read(catalog::owner)?.flatten())
    }
}

/// Describes the process that uses a folder, and its app.
pub(super) fn user(process: &str, owner: Option<&str>) -> String {
    match owner {
        Some(app) => format!("{process} (the app {app})"),
        None => process.to_owned(),
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> SqliteError {
    SqliteError::Unusable {
        path: path.to_owned(),
        why: error.to_string(),
    }
}
