//! Opening of connections, with the settings that durability needs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::error::SqliteError;
use super::migration::{Schema, migrate};

/// Options of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Maximum page cache per connection, in KiB.
    pub cache_kib: u32,
    /// Page size in bytes, a power of two; for new files.
    pub page_bytes: u32,
    /// Pages in the write-ahead log that trigger a checkpoint.
    pub checkpoint_pages: u32,
    /// Whether free pages can be returned to the disk (incremental vacuum); for new files.
    pub incremental_vacuum: bool,
    /// Maximum time for the statements of one job.
    pub job_max: Duration,
    /// Prepared statements kept per connection.
    pub statements: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_kib: 256,
            page_bytes: 4096,
            checkpoint_pages: 1000,
            incremental_vacuum: true,
            job_max: Duration::from_secs(5),
            statements: 32,
        }
    }
}

/// Maximum size of the write-ahead log file after a checkpoint.
const WAL_BYTES_KEPT: i64 = 16 * 1024 * 1024;
/// Wait for the lock of another connection, which holds it for moments only.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Opens the writing connection, creates the file if it does not exist, and migrates it.
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
        // Only for a new file: setting them would write to an existing, maybe damaged one.
        if is_new {
            connection.pragma_update(None, "page_size", options.page_bytes)?;
            if options.incremental_vacuum {
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

/// Opens a read-only connection.
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

/// Applies the settings of every connection.
pub(super) fn common(connection: &Connection, options: &Options) -> Result<(), SqliteError> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "cache_size", -i64::from(options.cache_kib))?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A service must not open another database through its own.
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_prepared_statement_cache_capacity(options.statements);
    Ok(())
}

/// Creates the file, readable for this user only, and its folder, durably. Returns whether the
/// file is empty.
fn prepare_file(path: &Path) -> io::Result<bool> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder_error = |error: io::Error| {
        let text = format!("can't make the folder {}: {error}", folder.display());
        io::Error::new(error.kind(), text)
    };
    std::fs::create_dir_all(folder).map_err(folder_error)?;
    let mut new = OpenOptions::new();
    new.read(true).write(true).create_new(true).mode(0o600);
    match new.open(path) {
        Ok(_made) => File::open(folder)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(std::fs::metadata(path)?.len() == 0)
}
