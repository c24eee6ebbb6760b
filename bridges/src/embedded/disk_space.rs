//! Room on the disk: keeping some in reserve, and giving back what isn't used.
//!
//! What is waiting to be handled may fill a disk. Then deleting what was handled needs some
//! room, too: for the write-ahead log, and for moving it to the file. So a file of a fixed
//! size is kept, and given up when there is no room: what is there can be worked off, which
//! makes room. Only when half of that file can be made again is anything more taken over.
//!
//! And then from services alone, who publish what the work makes of it: the other half is for
//! them. Sources would take all the room that there is, each time, and nothing would be worked
//! off. They wait until room is plenty, or nothing is left that could make any.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::Connection;

use super::schema::CHECKPOINT_PAGES;

/// What the write-ahead log may hold that isn't in the file yet, and a little more.
pub(super) const RESERVE_BYTES: usize = 8 * 1024 * 1024;
/// With this much of it, in bytes, services may publish.
pub(super) const RESERVE_HALF_BYTES: usize = RESERVE_BYTES / 2;
/// As much free as is used is plenty, and so is this, in bytes.
const PLENTY_BYTES: u64 = 64 * 1024 * 1024;
/// With less than this free, in bytes, everything that isn't used is given back.
const TIGHT_BYTES: u64 = 2 * RESERVE_BYTES as u64;
/// Less than this isn't worth the work, in bytes;
const FREE_MIN: u64 = 4 * 1024 * 1024;
/// nor is less than this part of the file.
const FREE_PART: u64 = 4;
/// What the file of the write-ahead log is cut to, in bytes,
const LOG_BYTES_KEPT: u32 = 16 * 1024 * 1024;
/// and while room is scarce.
const SCARCE_LOG_BYTES_KEPT: u32 = 1024 * 1024;
/// So many pages are given back with one commit,
const STEP_PAGES: u32 = 512;
/// and while room is scarce: each may be written to the log first.
const SCARCE_STEP_PAGES: u32 = 128;

/// How much room there is for what comes, once there is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpaceLevel {
    /// For what services publish.
    Scarce,
    /// For sources, too.
    Plenty,
}

/// The room in reserve.
#[derive(Debug)]
pub(super) struct ReserveFile(PathBuf);

impl ReserveFile {
    pub(super) fn of(folder: &Path) -> Self {
        Self(folder.join("reserve"))
    }

    /// Makes so much of it, if less is there. Blocks its thread for a moment.
    ///
    /// # Errors
    /// There is no room for that. What there was stays.
    pub(super) fn make(&self, bytes: usize) -> Result<(), SqliteError> {
        let before = self.bytes();
        if before >= bytes as u64 {
            return Ok(());
        }
        self.fill(before, bytes as u64).map_err(|error| {
            // What could be written takes the room that others need.
            let cut = OpenOptions::new().write(true).open(&self.0);
            let cut = cut.and_then(|file| file.set_len(before));
            if before == 0 || cut.is_err() {
                self.give_up();
            }
            let (path, why) = (self.0.clone(), error.to_string());
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    SqliteError::Full { path, why }
                }
                _ => SqliteError::Unusable { path, why },
            }
        })
    }

    /// How much of it is there.
    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.0).map_or(0, |file| file.len())
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes() >= RESERVE_BYTES as u64
    }

    /// Whether any of it is there, to be given up.
    pub(super) fn helps(&self) -> bool {
        self.bytes() > 0
    }

    fn fill(&self, mut from: u64, to: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0)?;
        // A file system may keep what is all alike, or nothing at all, in no room.
        let mut some = vec![0; 1024 * 1024];
        while from < to {
            fastrand::fill(&mut some);
            let part = some.len().min((to - from) as usize);
            file.write_all(&some[..part])?;
            from += part as u64;
        }
        Ok(())
    }

    /// How many bytes are free on its disk, as far as can be learnt.
    fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(self.0.parent()?).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Whether there is room for the whole of it: to try would take what there is from
    /// others for a moment.
    pub(super) fn fits(&self) -> bool {
        let missing = (RESERVE_BYTES as u64).saturating_sub(self.bytes());
        self.free_bytes().is_none_or(|bytes| bytes >= missing)
    }

    /// Whether room is no concern, with the whole of it made: as much is free as is used.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn is_plenty(&self, connection: &Connection) -> Result<bool, SqliteError> {
        let Some(on_disk) = self.free_bytes() else {
            return Ok(true);
        };
        let size = size_of(connection)?;
        let made = self.bytes().min(RESERVE_BYTES as u64);
        let free = on_disk + size.free_bytes();
        let free = free.saturating_sub(RESERVE_BYTES as u64 - made);
        Ok(free >= size.used_bytes().min(PLENTY_BYTES))
    }

    /// There is no room: what was kept for that is used now.
    pub(super) fn give_up(&self) {
        // If it isn't there it was given up before.
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// How large the file is, in pages.
struct Size {
    page: u64,
    all: u64,
    free: u64,
}

impl Size {
    fn free_bytes(&self) -> u64 {
        self.free * self.page
    }

    fn used_bytes(&self) -> u64 {
        (self.all - self.free.min(self.all)) * self.page
    }
}

fn size_of(connection: &Connection) -> Result<Size, SqliteError> {
    let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    // SQLite's counts are never negative.
    let ask = |sql: &str| Ok::<_, SqliteError>(ask(sql)?.unsigned_abs());
    Ok(Size {
        page: ask("PRAGMA page_size")?,
        all: ask("PRAGMA page_count")?,
        free: ask("PRAGMA freelist_count")?,
    })
}

/// Tries whether the file can be written.
///
/// # Errors
/// It can't.
pub(super) fn probe(connection: &Connection) -> Result<(), SqliteError> {
    connection
        .prepare_cached("UPDATE app SET generation = generation")?
        .execute([])?;
    Ok(())
}

/// Room is no concern any more: what had to be small may be large again.
///
/// # Errors
/// It can't be set.
pub(super) fn relax(connection: &Connection) -> Result<(), SqliteError> {
    keep_log(connection, CHECKPOINT_PAGES, LOG_BYTES_KEPT)
}

/// Gives some of what is free in the file back to the disk, if it is much, or if room is
/// scarce. Whether there is more.
///
/// # Errors
/// It can't be written.
pub(super) fn nack_requeue(
    connection: &Connection,
    scarce: Option<&ReserveFile>,
) -> Result<bool, SqliteError> {
    let before = size_of(connection)?;
    let much = before.free_bytes() >= FREE_MIN && before.free * FREE_PART >= before.all;
    let worth_it = before.free > 0 && (scarce.is_some() || much);
    // The file becomes smaller only when the log is moved to it, and after this nothing may
    // be written for long. Where room is scarce the log must not grow either.
    let (pages, bytes_kept, step) = match (scarce, worth_it) {
        (Some(_), _) => (1, SCARCE_LOG_BYTES_KEPT, SCARCE_STEP_PAGES),
        (None, true) => (1, LOG_BYTES_KEPT, STEP_PAGES),
        (None, false) => (CHECKPOINT_PAGES, LOG_BYTES_KEPT, STEP_PAGES),
    };
    keep_log(connection, pages, bytes_kept)?;
    if !worth_it {
        return Ok(false);
    }
    vacuum(connection, step)?;
    // A file that was made by somebody else may not be able to.
    let freed = size_of(connection)?.free < before.free;
    if scarce.is_none() && !freed {
        relax(connection)?;
    }
    let free_bytes = scarce.and_then(ReserveFile::free_bytes);
    Ok(freed && free_bytes.is_none_or(|bytes| bytes < TIGHT_BYTES))
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
        let reserve = ReserveFile::of(folder.path());
        let length = || std::fs::metadata(&reserve.0).map(|file| file.len()).ok();
        for _ in 0..2 {
            for bytes in [RESERVE_HALF_BYTES, RESERVE_BYTES, RESERVE_BYTES] {
                reserve.make(bytes).expect("there is room");
                assert_eq!(length(), Some(bytes as u64));
            }
            reserve.make(RESERVE_HALF_BYTES).expect("it is there");
            assert_eq!(length(), Some(RESERVE_BYTES as u64), "what there is stays");
            reserve.give_up();
            reserve.give_up();
            assert_eq!(length(), None);
        }
        let nowhere = ReserveFile::of(&folder.path().join("nowhere"));
        let error = nowhere
            .make(RESERVE_BYTES)
            .expect_err("there is no such folder");
        assert!(matches!(error, SqliteError::Unusable { .. }), "{error}");
    }

    /// A write-ahead log that holds what is to become of the file takes room of its own.
    #[test]
    fn what_is_free_is_given_back_to_the_disk_without_anything_else_being_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sqlite");
        let connection = Connection::open(&path).expect("it opens");
        let length = || std::fs::metadata(&path).expect("a file").len();
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
            let more = nack_requeue(&begun, None).expect("it can be written");
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
