//! Opening: a connection with the settings that the promises need.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::SqliteError;
use super::migration::{Schema, migrate};

/// How a database is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How much of the file is kept in memory at most, in KiB.
    pub cache_kib: u32,
    /// The size of a page in bytes, a power of two; for new files.
    pub page_bytes: u32,
    /// After so many pages in the WAL they are moved to the file.
    pub checkpoint_pages: u32,
    /// Space that is free inside the file can be given back; for new files.
    pub gives_back_space: bool,
    /// How long the statements of one job may take.
    pub job_max: Duration,
    /// How many statements stay prepared.
    pub statements: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_kib: 256,
            page_bytes: 4096,
            checkpoint_pages: 1000,
            gives_back_space: true,
            job_max: Duration::from_secs(5),
            statements: 32,
        }
    }
}

/// The WAL is cut to this size when it starts anew.
const WAL_BYTES_KEPT: i64 = 16 * 1024 * 1024;
/// Others of this process hold locks for moments only.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Opens the connection that writes, makes the file if there is none, and migrates it.
pub(super) fn writer(
    path: &Path,
    schema: &Schema,
    options: &Options,
) -> Result<Connection, SqliteError> {
    let is_new = prepare_file(path).map_err(|error| SqliteError::Unusable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    let connect = || -> Result<Connection, SqliteError> {
        let mut connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        // Set again, it would write to a file that may be damaged.
        if is_new {
            connection.pragma_update(None, "page_size", options.page_bytes)?;
            if options.gives_back_space {
                connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            }
        }
        common(&connection, options)?;
        let mode: String =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(SqliteError::Unusable {
                path: path.to_owned(),
                why: format!("SQLite can't keep a write-ahead log there, its mode is {mode}"),
            });
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", options.checkpoint_pages)?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate(&mut connection, path, schema)?;
        Ok(connection)
    };
    connect().map_err(|error| error.of(path))
}

/// Opens a connection that only reads.
pub(super) fn reader(path: &Path, options: &Options) -> Result<Connection, SqliteError> {
    let connect = || -> Result<Connection, SqliteError> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        common(&connection, options)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    connect().map_err(|error| error.of(path))
}

pub(super) fn common(connection: &Connection, options: &Options) -> Result<(), SqliteError> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "cache_size", -i64::from(options.cache_kib))?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A database is for its owner alone: no other one is opened from it.
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_prepared_statement_cache_capacity(options.statements);
    Ok(())
}

/// Makes the file and its folder, for this user alone, so that they outlive a power cut. Says
/// whether there is nothing in it.
fn prepare_file(path: &Path) -> io::Result<bool> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let make = |error: io::Error| {
        let text = format!("can't make the folder {}: {error}", folder.display());
        io::Error::new(error.kind(), text)
    };
    std::fs::create_dir_all(folder).map_err(make)?;
    let mut new = OpenOptions::new();
    new.read(true).write(true).create_new(true).mode(0o600);
    match new.open(path) {
        Ok(_made) => File::open(folder)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(std::fs::metadata(path)?.len() == 0)
}
