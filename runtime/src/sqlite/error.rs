//! Errors of a database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::ErrorCode;

/// An error of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqliteError {
    /// The file can't be opened or written.
    #[error("can't use {}: {why}", path.display())]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Error text of the system or of SQLite.
        why: String,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged: {why}; nothing in it was reset: put a copy back, or move it away to \
         begin without it", path.display()
    )]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Error text of SQLite.
        why: String,
    },
    /// The disk is full.
    #[error("there is no room for {}: {why}; free some, nothing that was committed is lost", path.display())]
    Full {
        /// Path of the file.
        path: PathBuf,
        /// Error text of SQLite.
        why: String,
    },
    /// The file belongs to another owner.
    #[error("{} holds the data of {owner}, and is not opened for {wanted}", path.display())]
    OwnedByAnother {
        /// Path of the file.
        path: PathBuf,
        /// Owner of the file.
        owner: String,
        /// Owner for whom it was to be opened.
        wanted: String,
    },
    /// The migrations of the file and those of the program do not match.
    #[error("{}: {why}", path.display())]
    Migration {
        /// Path of the file.
        path: PathBuf,
        /// The step and its problem.
        why: String,
    },
    /// The statements of a job took too long.
    #[error("the transaction of {name} was stopped: it took longer than {max:?}")]
    TooSlow {
        /// Name of the job.
        name: String,
        /// Maximum time.
        max: Duration,
    },
    /// A job panicked.
    #[error("the transaction of {name} panicked: {text}")]
    Panicked {
        /// Name of the job.
        name: String,
        /// Text of the panic.
        text: String,
    },
    /// The job asked for a rollback, and reports the reason itself.
    #[error("the transaction was undone, as it asked for")]
    Undone,
    /// The database was closed by this program.
    #[error("the database is closed")]
    Closed,
    /// Another error of SQLite, such as a violated constraint or a syntax error.
    #[error("{text}")]
    Sql {
        /// Error code of SQLite.
        code: Option<ErrorCode>,
        /// Error text.
        text: String,
    },
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql {
            code: error.sqlite_error_code(),
            text: error.to_string(),
        }
    }
}

impl SqliteError {
    /// Returns whether the disk is full, so that the same job may succeed later.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Returns whether the file is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Adds the file to an SQL error that the file causes: a full disk, damage, no access.
    #[must_use]
    pub fn of(self, file: &Path) -> Self {
        let Self::Sql {
            code: Some(code),
            text: why,
        } = &self
        else {
            return self;
        };
        let (path, why) = (file.to_owned(), why.clone());
        match code {
            ErrorCode::DiskFull => Self::Full { path, why },
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged { path, why },
            ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::SystemIoFailure
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::DatabaseBusy => Self::Unusable { path, why },
            _ => self,
        }
    }
}
