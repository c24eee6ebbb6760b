//! Reading a database file of another process without changing anything.
//!
//! Creates no files either: a reader without write access would leave the index of the
//! write-ahead log behind. The caller knows whether another process has the file open.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::error::SqliteError;
use super::migration::{Schema, is_up_to_date};
use super::open::{Options, common};

/// Maximum time between closing a file and releasing its lock, when a process ends.
const CLOSING_MAX: Duration = Duration::from_secs(2);
/// Interval between attempts.
const EVERY: Duration = Duration::from_millis(20);

/// A database file that is only read.
///
/// ```
/// use brickwork::sqlite::{ReadOnlyDatabase, SqliteError};
///
/// fn count_orders(file: &std::path::Path, in_use: bool) -> Result<u32, SqliteError> {
///     ReadOnlyDatabase::open(file, in_use)?
///         .read(|db| Ok(db.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))?))
/// }
/// ```
#[derive(Debug)]
pub struct ReadOnlyDatabase {
    path: PathBuf,
    connection: Connection,
    /// The log index that SQLite created for this connection; removed on drop.
    index: Option<PathBuf>,
}

impl ReadOnlyDatabase {
    /// Opens a file. `in_use` is whether another process has it open. If not, the caller must
    /// prevent others from opening it as long as this value lives.
    ///
    /// # Errors
    /// The file can't be read, or is damaged.
    pub fn open(path: &Path, in_use: bool) -> Result<Self, SqliteError> {
        let beside = |end: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (log, index) = (beside("-wal"), beside("-shm"));
        let log = std::fs::metadata(&log);
        if in_use && log.is_err() {
            // SQLite would create one, beside the file of another process.
            return Err(SqliteError::Unusable {
                path: path.to_owned(),
                why: "it is being opened or closed".to_owned(),
            });
        }
        let logged = log.is_ok_and(|log| log.len() > 0);
        let (parameters, created) = match (in_use, logged, index.exists()) {
            // The log index exists, and is shared with the writer.
            (true, ..) => ("mode=ro", None),
            (false, false, _) => ("immutable=1", None),
            (false, true, true) => ("mode=ro&readonly_shm=1", None),
            // SQLite creates an index to read the log.
            (false, true, false) => ("mode=ro", Some(index)),
        };
        let connect = || -> Result<Connection, SqliteError> {
            let connection = Connection::open_with_flags(
                uri(path, parameters),
                OpenFlags::SQLITE_OPEN_READ_ONLY
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX
                    | OpenFlags::SQLITE_OPEN_URI,
            )?;
            common(&connection, &Options::default())?;
            connection.pragma_update(None, "query_only", true)?;
            // Opens the write-ahead log. From now on a writer that closes the file leaves it.
            connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
            Ok(connection)
        };
        let connection = connect().map_err(|error| error.of(path))?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            index: created,
        })
    }

    /// Opens a file that its user locks. `look` returns whether it is in use, and a lock that
    /// keeps others away if it is not. Blocks the thread.
    ///
    /// A process that ends closes the file before it releases the lock. In between the file has
    /// no log, and can be read only by those who have the lock. So this looks again.
    ///
    /// # Errors
    /// The errors of `look` and [`open`](Self::open).
    pub fn open_locked<L>(
        path: &Path,
        look: impl Fn() -> Result<(bool, L), SqliteError>,
    ) -> Result<(Self, L), SqliteError> {
        let deadline = Instant::now() + CLOSING_MAX;
        loop {
            let (in_use, lock) = look()?;
            match Self::open(path, in_use) {
                Err(SqliteError::Unusable { .. }) if in_use && Instant::now() < deadline => {
                    std::thread::sleep(EVERY);
                }
                opened => return opened.map(|database| (database, lock)),
            }
        }
    }

    /// Returns whether all steps of the schema have run.
    ///
    /// # Errors
    /// The file belongs to another owner or version, or can't be read.
    pub fn is_up_to_date(&self, schema: &Schema) -> Result<bool, SqliteError> {
        let path = &self.path;
        is_up_to_date(&self.connection, path, schema).map_err(|error| error.of(path))
    }

    /// Runs a closure on a snapshot of the data.
    ///
    /// # Errors
    /// The error of the closure, or the file can't be read.
    pub fn read<R>(
        &self,
        work: impl FnOnce(&Connection) -> Result<R, SqliteError>,
    ) -> Result<R, SqliteError> {
        let read =
            || -> Result<R, SqliteError> { work(&*self.connection.unchecked_transaction()?) };
        read().map_err(|error| error.of(&self.path))
    }
}

impl Drop for ReadOnlyDatabase {
    fn drop(&mut self) {
        if let Some(index) = &self.index {
            // The next opening creates it again from the log.
            let _gone = std::fs::remove_file(index);
        }
    }
}

/// Returns the URI of a file with parameters for SQLite.
fn uri(path: &Path, parameters: &str) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut text = b"file://".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => text.extend(format!("%{byte:02x}").bytes()),
            _ => text.push(*byte),
        }
    }
    text.push(b'?');
    text.extend(parameters.bytes());
    OsString::from_vec(text).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sqlite::{Database, Migration, Part, WriterPool};

    fn schema() -> Schema {
        let table = "CREATE TABLE item (n INTEGER PRIMARY KEY) STRICT";
        Schema {
            owner: "the test".into(),
            parts: vec![Part {
                name: "items",
                steps: vec![Migration::new("items", table)],
            }],
        }
    }

    fn files(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
        let files = std::fs::read_dir(folder).expect("a folder");
        let files = files.map(|file| file.expect("a file"));
        files
            .map(|file| (file.file_name(), std::fs::read(file.path()).expect("bytes")))
            .collect()
    }

    fn items(path: &Path, in_use: bool) -> i64 {
        let reader = ReadOnlyDatabase::open(path, in_use).expect("it can be read");
        assert!(reader.is_up_to_date(&schema()).expect("it is ours"));
        let count = |connection: &Connection| {
            let count = connection.query_row("SELECT count(*) FROM item", [], |row| row.get(0));
            Ok(count?)
        };
        reader.read(count).expect("it can be read")
    }

    async fn add(database: &Database) {
        let insert = |tx: &crate::sqlite::Transaction<'_>| -> Result<(), SqliteError> {
            tx.execute("INSERT INTO item DEFAULT VALUES", [])?;
            Ok(())
        };
        database
            .write("a test", insert)
            .await
            .expect("it is written");
    }

    #[tokio::test]
    async fn reading_changes_no_file_and_sees_all_commits_in_every_state_of_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        // Characters that a URI must escape.
        let inner = folder.path().join("a %41?b=c#d é");
        let path = inner.join("it.sqlite");
        let writers = WriterPool::new(1);
        let database = Database::open(&path, &schema(), Options::default(), &writers);
        let database = database.expect("it opens");
        add(&database).await;
        // While a writer has the file open.
        assert_eq!(items(&path, true), 1);
        add(&database).await;
        let live = files(&inner);
        assert_eq!(live.len(), 3, "with a log and its index");
        assert_eq!(items(&path, true), 2);
        assert_eq!(files(&inner).len(), 3);

        // As a killed process leaves it, with and without the index.
        for kept in [3, 2] {
            let other = folder.path().join(format!("killed with {kept}"));
            std::fs::create_dir(&other).expect("a folder");
            for (name, bytes) in &live {
                if kept == 3 || !name.to_string_lossy().ends_with("-shm") {
                    std::fs::write(other.join(name), bytes).expect("a file");
                }
            }
            let before = files(&other);
            assert_eq!(before.len(), kept);
            assert_eq!(items(&other.join("it.sqlite"), false), 2);
            assert!(files(&other) == before, "{kept} files are as they were");
        }

        // Closed gracefully: one file.
        database.close().await;
        let before = files(&inner);
        assert_eq!(before.len(), 1);
        assert_eq!(items(&path, false), 2);
        assert!(files(&inner) == before);

        // Closed, and the lock is not released yet.
        ReadOnlyDatabase::open(&path, true).expect_err("it has no log");
        let looks = std::cell::Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            Ok((looks.get() < 3, looks.get()))
        };
        let (_, seen) = ReadOnlyDatabase::open_locked(&path, look).expect("it can be read");
        assert_eq!(seen, 3);
        assert!(files(&inner) == before);
    }

    #[test]
    fn a_missing_damaged_or_foreign_file_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("it.sqlite");
        ReadOnlyDatabase::open(&path, false).expect_err("there is none");
        assert!(!path.exists());
        std::fs::write(&path, "no database ".repeat(1000)).expect("a file");
        let opened =
            ReadOnlyDatabase::open(&path, false).and_then(|reader| reader.is_up_to_date(&schema()));
        assert!(opened.expect_err("it is no database").is_damage());
        std::fs::remove_file(&path).expect("it goes");
        let theirs = Connection::open(&path).expect("it opens");
        theirs.execute_batch("CREATE TABLE t (n)").expect("a table");
        drop(theirs);
        let opened =
            ReadOnlyDatabase::open(&path, false).and_then(|reader| reader.is_up_to_date(&schema()));
        assert!(
            matches!(opened, Err(SqliteError::OwnedByAnother { .. })),
            "{opened:?}"
        );
    }
}
