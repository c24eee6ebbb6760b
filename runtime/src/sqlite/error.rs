//! What can be wrong with a database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::ErrorCode;

/// Why something with a database didn't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqliteError {
    /// It can't be opened, or not be written to.
    #[error("can't use {}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system or SQLite says.
        why: String,
    },
    /// It isn't what SQLite wrote.
    #[error(
        "{} is damaged: {why}; nothing in it was reset: put a copy back, or move it away to \
         begin without it", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// There is no room for what was to be written.
    #[error("there is no room for {}: {why}; free some, nothing that was taken over is lost", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// Its data is somebody else's.
    #[error("{} holds the data of {owner}, and is not opened for {wanted}", path.display())]
    OwnedByAnother {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who wanted it.
        wanted: String,
    },
    /// What it holds and what the program knows don't go together.
    #[error("{}: {why}", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// Which step, and what is wrong with it.
        why: String,
    },
    /// A job used more time than it may.
    #[error("the transaction of {name} was stopped: it took longer than {max:?}")]
    TooSlow {
        /// Whose it was.
        name: String,
        /// How long it might take.
        max: Duration,
    },
    /// A job panicked.
    #[error("the transaction of {name} panicked: {text}")]
    Panicked {
        /// Whose it was.
        name: String,
        /// What the panic said.
        text: String,
    },
    /// The job itself wanted it undone, and says why by itself.
    #[error("the transaction was undone, as it asked for")]
    Undone,
    /// It was closed, by this side.
    #[error("the database is closed")]
    Closed,
    /// Anything else that SQLite refuses: a constraint, a mistake in a statement.
    #[error("{text}")]
    Sql {
        /// What SQLite calls it.
        code: Option<ErrorCode>,
        /// What it says.
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
    /// Whether the same may work later, when there is room again.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether the file isn't what it was.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// The same with the file that it is about, where that is to blame.
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
