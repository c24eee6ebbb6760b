//! A glimpse: reading a file that this process doesn't keep, and changing nothing.
//!
//! Nothing is made, not even beside the file: SQLite would leave the index of its write-ahead
//! log behind when who looks may not write. What may be asked is up to the caller, who also
//! knows whether somebody else writes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::migration::is_up_to_date;
use super::open::{Options, common};
use super::{Schema, SqliteError};

/// A file that is read.
#[derive(Debug)]
pub struct ReadOnlyDatabase {
    path: PathBuf,
    connection: Connection,
    /// What goes with the glimpse: it wasn't there before.
    index: Option<PathBuf>,
}

impl ReadOnlyDatabase {
    /// Opens a file to look at. `in_use` says whether another process has it open; if not,
    /// the caller keeps all from opening it as long as this lives.
    ///
    /// # Errors
    /// It can't be read, or isn't what SQLite wrote.
    pub fn of(path: &Path, in_use: bool) -> Result<Self, SqliteError> {
        let beside = |end: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (log, index) = (beside("-wal"), beside("-shm"));
        let logged = std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
        let (how, made) = match (in_use, logged, index.exists()) {
            // The index is there, and shared with who writes.
            (true, ..) => ("mode=ro", None),
            (false, false, _) => ("immutable=1", None),
            (false, true, true) => ("mode=ro&readonly_shm=1", None),
            // Without an index, a log is read by making one.
            (false, true, false) => ("mode=ro", Some(index)),
        };
        let connect = || -> Result<Connection, SqliteError> {
            let connection = Connection::open_with_flags(
                address(path, how),
                OpenFlags::SQLITE_OPEN_READ_ONLY
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX
                    | OpenFlags::SQLITE_OPEN_URI,
            )?;
            common(&connection, &Options::default())?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        };
        let connection = connect().map_err(|error| error.of(path))?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            index: made,
        })
    }

    /// Whether it is what the schema says; if not, it would be migrated.
    ///
    /// # Errors
    /// It is somebody else's, or of another version, or can't be read.
    pub fn is_up_to_date(&self, schema: &Schema) -> Result<bool, SqliteError> {
        let path = &self.path;
        is_up_to_date(&self.connection, path, schema).map_err(|error| error.of(path))
    }

    /// Reads, all of it as it was at one moment.
    ///
    /// # Errors
    /// What the closure returns, or it can't be read.
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
            // SQLite makes it again, from the log, for who opens the file next.
            let _gone = std::fs::remove_file(index);
        }
    }
}

/// A file's name as SQLite takes it with parameters.
fn address(path: &Path, how: &str) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut text = b"file://".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => text.extend(format!("%{byte:02x}").bytes()),
            _ => text.push(*byte),
        }
    }
    text.push(b'?');
    text.extend(how.bytes());
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
            owner: "somebody".into(),
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
        let glimpse = ReadOnlyDatabase::of(path, in_use).expect("it can be read");
        assert!(glimpse.is_up_to_date(&schema()).expect("it is ours"));
        let count = |connection: &Connection| {
            let count = connection.query_row("SELECT count(*) FROM item", [], |row| row.get(0));
            Ok(count?)
        };
        glimpse.read(count).expect("it can be read")
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
    async fn looking_changes_nothing_and_sees_what_was_committed_in_every_state() {
        let folder = tempfile::tempdir().expect("a folder");
        // A name that an address must not be broken by.
        let inner = folder.path().join("a %41?b=c#d é");
        let path = inner.join("it.sqlite");
        let writers = WriterPool::new(1);
        let database = Database::open(&path, &schema(), Options::default(), &writers);
        let database = database.expect("it opens");
        add(&database).await;
        // While somebody writes.
        assert_eq!(items(&path, true), 1);
        add(&database).await;
        let live = files(&inner);
        assert_eq!(live.len(), 3, "with a log and its index");
        assert_eq!(items(&path, true), 2);
        assert_eq!(files(&inner).len(), 3);

        // As a process leaves it that is killed, with and without the index.
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

        // Closed in order: one file.
        database.close().await;
        let before = files(&inner);
        assert_eq!(before.len(), 1);
        assert_eq!(items(&path, false), 2);
        assert!(files(&inner) == before);
    }

    #[test]
    fn what_is_no_database_or_another_ones_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("it.sqlite");
        ReadOnlyDatabase::of(&path, false).expect_err("there is none");
        assert!(!path.exists());
        std::fs::write(&path, "no database ".repeat(1000)).expect("a file");
        let looked =
            ReadOnlyDatabase::of(&path, false).and_then(|glimpse| glimpse.is_up_to_date(&schema()));
        assert!(looked.expect_err("it is none").is_damage());
        std::fs::remove_file(&path).expect("it goes");
        let theirs = Connection::open(&path).expect("it opens");
        theirs.execute_batch("CREATE TABLE t (n)").expect("a table");
        drop(theirs);
        let looked =
            ReadOnlyDatabase::of(&path, false).and_then(|glimpse| glimpse.is_up_to_date(&schema()));
        assert!(
            matches!(looked, Err(SqliteError::OwnedByAnother { .. })),
            "{looked:?}"
        );
    }
}
