//! A database looked at by somebody else than who writes it: while that one runs, or when it
//! has ended. Nothing in its folder is changed.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rusqlite::{Connection, OpenFlags};

use super::SqliteError;
use super::open::{Options, reader};

/// A file whose writer has died is copied, with its log, up to this many bytes.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// A database that somebody else writes, or wrote.
#[derive(Debug)]
pub struct Look {
    /// Closed before the copy goes.
    connection: Connection,
    _copy: Option<Copy>,
}

impl Look {
    /// Looks beside whoever writes, perhaps another process.
    ///
    /// # Errors
    /// It can't be read.
    pub fn beside(path: &Path) -> Result<Self, SqliteError> {
        Ok(Self {
            connection: reader(path, &Options::default())?,
            _copy: None,
        })
    }

    /// Looks at what was left behind. Nobody may write meanwhile.
    ///
    /// What a process that died had in its log isn't in the file yet, and reading it there
    /// would change files: then a copy of both is read, in the folder for temporary files,
    /// for this user alone.
    ///
    /// # Errors
    /// It can't be read, or is too large to be copied.
    pub fn at_rest(path: &Path) -> Result<Self, SqliteError> {
        let unusable = |why: String| SqliteError::Unusable {
            path: path.to_owned(),
            why,
        };
        let log = with_suffix(path, "-wal");
        let copy = match length(&log) {
            0 => None,
            log_bytes => {
                let bytes = log_bytes + length(path);
                if bytes > COPY_BYTES_MAX {
                    return Err(unusable(format!(
                        "it was not closed in order, and its {bytes} bytes are too many to be \
                         copied: start the app and ask again"
                    )));
                }
                let copy = Copy::of(path, &log);
                Some(copy.map_err(|error| unusable(format!("it can't be copied: {error}")))?)
            }
        };
        let connection = match &copy {
            Some(copy) => Connection::open_with_flags(
                &copy.file,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            ),
            // Nothing is locked, and no file is made beside it.
            None => Connection::open_with_flags(
                format!("file:{}?immutable=1", escaped(path)),
                OpenFlags::SQLITE_OPEN_READ_ONLY
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX
                    | OpenFlags::SQLITE_OPEN_URI,
            ),
        };
        let connection = connection.map_err(|error| SqliteError::from(error).of(path))?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        Ok(Self {
            connection,
            _copy: copy,
        })
    }
}

impl std::ops::Deref for Look {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// A copy of a database and its log, which goes when it is dropped.
#[derive(Debug)]
struct Copy {
    folder: PathBuf,
    file: PathBuf,
}

impl Copy {
    fn of(path: &Path, log: &Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!(
            "brickwork-look-{}-{number}-{:016x}",
            std::process::id(),
            fastrand::u64(..)
        );
        let folder = std::env::temp_dir().join(name);
        // Fails if it is there: nobody else's is used.
        DirBuilder::new().mode(0o700).create(&folder)?;
        let copy = Self {
            file: folder.join("copy.sqlite"),
            folder,
        };
        let copied = [
            (path, copy.file.clone()),
            (log, with_suffix(&copy.file, "-wal")),
        ];
        for (from, to) in copied {
            // Not with the mode of the original, which may be read-only.
            io::copy(&mut File::open(from)?, &mut File::create_new(to)?)?;
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It is in the folder for temporary files: somebody will.
        let _stays = std::fs::remove_dir_all(&self.folder);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |it| it.len())
}

/// A path as part of a URI.
fn escaped(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                text.push(char::from(*byte));
            }
            other => text.push_str(&format!("%{other:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::*;

    type Files = BTreeMap<PathBuf, (SystemTime, Vec<u8>)>;

    fn files(folder: &Path) -> Files {
        let files = std::fs::read_dir(folder).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        paths
            .map(|path| {
                let modified = path.metadata().unwrap().modified().unwrap();
                (path.clone(), (modified, std::fs::read(path).unwrap()))
            })
            .collect()
    }

    fn numbers(look: &Look) -> i64 {
        let sum = look.query_row("SELECT sum(n) FROM t", [], |row| row.get(0));
        sum.unwrap()
    }

    #[test]
    fn what_was_left_behind_is_read_with_its_log_and_nothing_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source.sqlite");
        let writer = Connection::open(&source).unwrap();
        writer
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1);
                 PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (16);",
            )
            .unwrap();
        // As if the writer had died now; in a folder whose name has to be escaped.
        let left = folder.path().join("left #1?%");
        std::fs::create_dir(&left).unwrap();
        let died = left.join("a b.sqlite");
        std::fs::copy(&source, &died).unwrap();
        std::fs::copy(with_suffix(&source, "-wal"), with_suffix(&died, "-wal")).unwrap();
        let before = files(&left);
        let look = Look::at_rest(&died).unwrap();
        assert_eq!(numbers(&look), 17);
        let copy = look._copy.as_ref().unwrap().folder.clone();
        assert!(copy.is_dir());
        drop(look);
        assert!(!copy.exists());
        assert_eq!(files(&left), before);

        // Beside the one who writes.
        assert_eq!(numbers(&Look::beside(&source).unwrap()), 17);

        // One that was closed in order.
        drop(writer);
        let closed = left.join("closed.sqlite");
        std::fs::copy(&source, &closed).unwrap();
        let before = files(&left);
        let look = Look::at_rest(&closed).unwrap();
        assert_eq!(numbers(&look), 17);
        assert!(look.execute("INSERT INTO t VALUES (1)", []).is_err());
        drop(look);
        assert_eq!(files(&left), before);
        assert!(Look::at_rest(&left.join("none.sqlite")).is_err());
        assert_eq!(files(&left), before);
    }
}
