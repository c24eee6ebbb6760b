//! Room on the disk: keeping some in reserve, and giving back what isn't used.
//!
//! What is waiting to be handled may fill a disk. Then deleting what was handled needs some
//! room, too: for the write-ahead log, and for moving it to the file. So a file of a fixed
//! size is kept, and given up when there is no room: what is there can be worked off, which
//! makes room. Only when that file can be made again is anything more taken over.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::Connection;

use super::schema::CHECKPOINT_PAGES;

/// What the write-ahead log may hold that isn't in the file yet, and a little more.
pub(super) const RESERVE_BYTES: usize = 8 * 1024 * 1024;
/// Less than this isn't worth the work, in bytes;
const FREE_MIN: i64 = 4 * 1024 * 1024;
/// nor is less than this part of the file.
const FREE_PART: i64 = 4;
/// What the file of the write-ahead log is cut to, in bytes,
const LOG_BYTES_KEPT: u32 = 16 * 1024 * 1024;
/// and while room is scarce.
const SCARCE_LOG_BYTES_KEPT: u32 = 1024 * 1024;
/// So many pages are given back with one commit.
const STEP_PAGES: u32 = 512;

/// The room in reserve.
#[derive(Debug)]
pub(super) struct Reserve(PathBuf);

impl Reserve {
    pub(super) fn of(folder: &Path) -> Self {
        Self(folder.join("reserve"))
    }

    /// Makes it, if it isn't there. Blocks its thread for a moment.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn make(&self) -> Result<(), SqliteError> {
        if self.is_made() {
            return Ok(());
        }
        self.fill().map_err(|error| {
            self.give_up();
            let (path, why) = (self.0.clone(), error.to_string());
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    SqliteError::Full { path, why }
                }
                _ => SqliteError::Unusable { path, why },
            }
        })
    }

    /// Whether it is there.
    pub(super) fn is_made(&self) -> bool {
        let length = std::fs::metadata(&self.0).map(|file| file.len());
        length.is_ok_and(|length| length == RESERVE_BYTES as u64)
    }

    fn fill(&self) -> io::Result<()> {
        let mut file = File::create(&self.0)?;
        // A file system may keep what is all alike, or nothing at all, in no room.
        let mut some = vec![0; 1024 * 1024];
        for _ in 0..RESERVE_BYTES / some.len() {
            fastrand::fill(&mut some);
            file.write_all(&some)?;
        }
        Ok(())
    }

    /// There is no room: what was kept for that is used now.
    pub(super) fn give_up(&self) {
        // If it isn't there it was given up before.
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// Tries whether the file can be written.
///
/// # Errors
/// It can't.
pub(super) fn probe(connection: &Connection) -> Result<(), SqliteError> {
    connection
        .prepare_cached("UPDATE app SET generation = generation")?
        .execute([])?;
    // What had to be small may be large again.
    keep_log(connection, CHECKPOINT_PAGES, LOG_BYTES_KEPT)
}

/// Gives some of what is free in the file back to the disk, if it is much, or if room is
/// scarce. Whether there is more.
///
/// # Errors
/// It can't be written.
pub(super) fn give_back(connection: &Connection, scarce: bool) -> Result<bool, SqliteError> {
    let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let (free, all) = (ask("PRAGMA freelist_count")?, ask("PRAGMA page_count")?);
    let bytes = free * ask("PRAGMA page_size")?;
    let worth_it = free > 0 && (scarce || (bytes >= FREE_MIN && free * FREE_PART >= all));
    // The file becomes smaller only when the log is moved to it, and after this nothing may
    // be written for long. Where room is scarce the log must not grow either.
    let (pages, bytes_kept) = match (scarce, worth_it) {
        (true, _) => (1, SCARCE_LOG_BYTES_KEPT),
        (false, true) => (1, LOG_BYTES_KEPT),
        (false, false) => (CHECKPOINT_PAGES, LOG_BYTES_KEPT),
    };
    keep_log(connection, pages, bytes_kept)?;
    if !worth_it {
        return Ok(false);
    }
    vacuum(connection, STEP_PAGES)?;
    // A file that was made by somebody else may not be able to.
    let freed = ask("PRAGMA freelist_count")? < free;
    if !scarce && !freed {
        keep_log(connection, CHECKPOINT_PAGES, LOG_BYTES_KEPT)?;
    }
    Ok(!scarce && freed)
}

/// Gives some of what is free in the file back to the disk, however little it is. Whether
/// there is more.
///
/// # Errors
/// It can't be written.
pub(super) fn give_back_more(connection: &Connection) -> Result<bool, SqliteError> {
    let free = || connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0));
    let before = free()?;
    vacuum(connection, STEP_PAGES)?;
    let after = free()?;
    Ok(0 < after && after < before)
}

fn vacuum(connection: &Connection, pages: u32) -> Result<(), SqliteError> {
    let mut step = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = step.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// How long the write-ahead log becomes, and how much of its file is kept when it starts
/// anew.
fn keep_log(connection: &Connection, pages: u32, bytes_kept: u32) -> Result<(), SqliteError> {
    for (name, value) in [
        ("wal_autocheckpoint", pages),
        ("journal_size_limit", bytes_kept),
    ] {
        let sql = format!("PRAGMA {name} = {value}");
        connection.query_row(&sql, [], |_| Ok(()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_room_until_it_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::of(folder.path());
        let length = || std::fs::metadata(&reserve.0).map(|file| file.len()).ok();
        for _ in 0..2 {
            reserve.make().expect("there is room");
            reserve.make().expect("it is there");
            assert_eq!(length(), Some(RESERVE_BYTES as u64));
            reserve.give_up();
            reserve.give_up();
            assert_eq!(length(), None);
        }
        let nowhere = Reserve::of(&folder.path().join("nowhere"));
        let error = nowhere.make().expect_err("there is no such folder");
        assert!(matches!(error, SqliteError::Unusable { .. }), "{error}");
    }

    /// A write-ahead log that holds what is to become of the file takes room of its own.
    #[test]
    fn what_is_free_is_given_back_to_the_disk_without_anything_else_being_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sqlite");
        let connection = Connection::open(&path).expect("it opens");
        let length = || std::fs::metadata(&path).expect("a file").len() as i64;
        let made = connection.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             CREATE TABLE much (some BLOB);
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 3000)
             INSERT INTO much SELECT randomblob(4000) FROM n;",
        );
        made.expect("there is room");
        keep_log(&connection, CHECKPOINT_PAGES, LOG_BYTES_KEPT).expect("it can be set");
        connection
            .execute("DELETE FROM much", [])
            .expect("it is there");
        assert!(length() > 2 * FREE_MIN, "{}", length());
        let mut steps = 0;
        loop {
            let begun = connection.unchecked_transaction().expect("it begins");
            let more = give_back(&begun, false).expect("it can be written");
            begun.commit().expect("it can be written");
            if !more {
                break;
            }
            steps += 1;
        }
        assert!(steps > 1 && length() < FREE_MIN, "{steps}: {}", length());
        let pages = "PRAGMA wal_autocheckpoint";
        let pages: u32 = connection
            .query_row(pages, [], |row| row.get(0))
            .expect("it says");
        assert_eq!(pages, CHECKPOINT_PAGES, "as before");
    }
}
