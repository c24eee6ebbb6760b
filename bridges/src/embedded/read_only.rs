//! Looking at a folder of queues that this process doesn't use, and changing nothing in it.
//!
//! Nobody begins to use it meanwhile, or somebody does all the time.

use std::io::ErrorKind;
use std::path::Path;

use brickwork::Lock;
use brickwork::sqlite::rusqlite::Connection;
use brickwork::sqlite::{ReadOnlyDatabase, SqliteError};

use super::catalog;
use super::open::{file, lock_file};
use super::schema::schema;

/// What is seen of a folder.
pub(super) struct ReadOnlyFolder {
    /// The process that uses it, such as `process 17`.
    pub(super) holder: Option<String>,
    /// `None` if there are no queues in it yet.
    queues: Option<ReadOnlyDatabase>,
    /// Whether the tables are those of now.
    pub(super) is_up_to_date: bool,
    /// Held to the last.
    _nobody_else: Option<Lock>,
}

impl ReadOnlyFolder {
    /// Looks. Blocks its thread for a moment.
    ///
    /// # Errors
    /// What is there can't be read, or isn't queues of this version.
    pub(super) fn of(folder: &Path) -> Result<Self, SqliteError> {
        let lock = lock_file(folder);
        let (holder, nobody_else) = match Lock::look(&lock, str::to_owned) {
            Ok(nobody_else) => (None, nobody_else),
            Err(error) if error.kind() == ErrorKind::AddrInUse => (Some(error.to_string()), None),
            Err(error) => return Err(unusable(&lock, &error)),
        };
        let path = file(folder);
        let is_there = path.try_exists().map_err(|error| unusable(&path, &error))?;
        let mut sight = Self {
            holder,
            queues: None,
            is_up_to_date: true,
            _nobody_else: nobody_else,
        };
        if is_there {
            let glimpse = ReadOnlyDatabase::open(&path, sight.holder.is_some())?;
            sight.is_up_to_date = glimpse.is_up_to_date(&schema())?;
            sight.queues = Some(glimpse);
        }
        Ok(sight)
    }

    /// Reads what is there, as it was at one moment; `None` if there is nothing yet.
    ///
    /// # Errors
    /// What the closure returns, or it can't be read.
    pub(super) fn read<R>(
        &self,
        work: impl FnOnce(&Connection) -> Result<R, SqliteError>,
    ) -> Result<Option<R>, SqliteError> {
        match &self.queues {
            Some(queues) if self.is_up_to_date => queues.read(work).map(Some),
            // One of no tables at all has no queues either.
            _ => Ok(None),
        }
    }

    /// The app whose queues are there.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn owner(&self) -> Result<Option<String>, SqliteError> {
        Ok(self.read(catalog::owner)?.flatten())
    }
}

/// Who uses a folder, in words.
pub(super) fn user(holder: &str, owner: Option<&str>) -> String {
    match owner {
        Some(app) => format!("{holder} (the app {app})"),
        None => holder.to_owned(),
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> SqliteError {
    SqliteError::Unusable {
        path: path.to_owned(),
        why: error.to_string(),
    }
}
