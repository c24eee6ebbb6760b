//! Disk space: the reserve file, free-space checks, and vacuum.
//!
//! A full disk must still let consumers work: deleting a handled message takes space in the
//! write-ahead log, and again when the log is moved to the file. So a reserve file of fixed
//! size exists, and is removed when the disk is full. The work that follows frees space.
//!
//! Messages are accepted again when half of the reserve can be made. Then only services may
//! publish: the other half is for their outputs. Sources would fill the disk again and again,
//! and nothing would be handled. They wait until space is plenty, or until no consumer is left
//! that could free more.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::Connection;

use super::schema::CHECKPOINT_PAGES;

/// Size of the reserve: the content of the write-ahead log before a checkpoint, and a little
/// more.
pub(super) const RESERVE_BYTES: usize = 8 * 1024 * 1024;
/// Size of the reserve with which services may publish.
pub(super) const RESERVE_HALF_BYTES: usize = RESERVE_BYTES / 2;
/// Space is plenty if this much is free, or as much as is used.
const PLENTY_BYTES: u64 = 64 * 1024 * 1024;
/// Every free page is returned if the disk has less than this.
const TIGHT_BYTES: u64 = 2 * RESERVE_BYTES as u64;
/// Minimum free bytes in the file for a vacuum.
const VACUUM_MIN_BYTES: u64 = 4 * 1024 * 1024;
/// Minimum free part of the file for a vacuum: one in this many pages.
const VACUUM_MIN_PART: u64 = 4;
/// Size to which the write-ahead log is truncated.
const LOG_BYTES_KEPT: u32 = 16 * 1024 * 1024;
/// The same while space is low.
const LOW_SPACE_LOG_BYTES_KEPT: u32 = 1024 * 1024;
/// Pages that one commit returns to the disk.
const STEP_PAGES: u32 = 512;
/// The same while space is low: each page may be written to the log first.
const LOW_SPACE_STEP_PAGES: u32 = 128;

/// Disk space for new messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpaceLevel {
    /// For messages of services only.
    Low,
    /// For messages of sources, too.
    Normal,
}

/// The reserve file of a folder.
#[derive(Debug)]
pub(super) struct ReserveFile(PathBuf);

impl ReserveFile {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.join("reserve"))
    }

    /// Extends the file to `bytes`, if it is shorter. Blocks its thread for a moment.
    ///
    /// # Errors
    /// The disk has no space for that. The file keeps its former size.
    pub(super) fn make(&self, bytes: usize) -> Result<(), SqliteError> {
        let before = self.bytes();
        if before >= bytes as u64 {
            return Ok(());
        }
        self.fill(before, bytes as u64).map_err(|error| {
            // The part that was written takes space that others need.
            let cut = OpenOptions::new().write(true).open(&self.0);
            let cut = cut.and_then(|file| file.set_len(before));
            if before == 0 || cut.is_err() {
                self.release();
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

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.0).map_or(0, |file| file.len())
    }

    /// Whether the file has its full size.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes() >= RESERVE_BYTES as u64
    }

    /// Whether a release frees space.
    pub(super) fn is_available(&self) -> bool {
        self.bytes() > 0
    }

    fn fill(&self, mut from: u64, to: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0)?;
        // Random: a file system may store uniform blocks without using space.
        let mut block = vec![0; 1024 * 1024];
        while from < to {
            fastrand::fill(&mut block);
            let part = block.len().min((to - from) as usize);
            file.write_all(&block[..part])?;
            from += part as u64;
        }
        Ok(())
    }

    /// Returns the free bytes of the disk, if the system tells.
    fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(self.0.parent()?).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Whether the disk has space for the full file. A try would take space from others for a
    /// moment.
    pub(super) fn fits(&self) -> bool {
        let missing = (RESERVE_BYTES as u64).saturating_sub(self.bytes());
        self.free_bytes().is_none_or(|bytes| bytes >= missing)
    }

    /// Whether plenty of space is left beside the full reserve.
    ///
    /// # Errors
    /// The database cannot be read.
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

    /// Removes the file, to free its space.
    pub(super) fn release(&self) {
        // A missing file was released before.
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// Size of a database, in pages.
struct Size {
    page_bytes: u64,
    pages: u64,
    free_pages: u64,
}

impl Size {
    fn free_bytes(&self) -> u64 {
        self.free_pages * self.page_bytes
    }

    fn used_bytes(&self) -> u64 {
        (self.pages - self.free_pages.min(self.pages)) * self.page_bytes
    }
}

fn size_of(connection: &Connection) -> Result<Size, SqliteError> {
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    // SQLite's counts are never negative.
    let count = |sql: &str| Ok::<_, SqliteError>(count(sql)?.unsigned_abs());
    Ok(Size {
        page_bytes: count("PRAGMA page_size")?,
        pages: count("PRAGMA page_count")?,
        free_pages: count("PRAGMA freelist_count")?,
    })
}

/// Writes to the file without changing it.
///
/// # Errors
/// The file cannot be written.
pub(super) fn probe(connection: &Connection) -> Result<(), SqliteError> {
    connection
        .prepare_cached("UPDATE app SET generation = generation")?
        .execute([])?;
    Ok(())
}

/// Restores the normal size of the write-ahead log.
///
/// # Errors
/// SQLite refuses the setting.
pub(super) fn relax(connection: &Connection) -> Result<(), SqliteError> {
    limit_log(connection, CHECKPOINT_PAGES, LOG_BYTES_KEPT)
}

/// Returns free pages of the file to the disk, if there are many or if space is low: then
/// `low_space` is the reserve. Returns whether another step would return more.
///
/// # Errors
/// The file cannot be written.
pub(super) fn vacuum(
    connection: &Connection,
    low_space: Option<&ReserveFile>,
) -> Result<bool, SqliteError> {
    let before = size_of(connection)?;
    let many = before.free_bytes() >= VACUUM_MIN_BYTES
        && before.free_pages * VACUUM_MIN_PART >= before.pages;
    let worth_it = before.free_pages > 0 && (low_space.is_some() || many);
    // The file shrinks at a checkpoint, and the next commit may be far away: so the next one
    // checkpoints. While space is low the log must stay short as well.
    let (pages, bytes_kept, step) = match (low_space, worth_it) {
        (Some(_), _) => (1, LOW_SPACE_LOG_BYTES_KEPT, LOW_SPACE_STEP_PAGES),
        (None, true) => (1, LOG_BYTES_KEPT, STEP_PAGES),
        (None, false) => (CHECKPOINT_PAGES, LOG_BYTES_KEPT, STEP_PAGES),
    };
    limit_log(connection, pages, bytes_kept)?;
    if !worth_it {
        return Ok(false);
    }
    incremental_vacuum(connection, step)?;
    // A file that another program made may not support it.
    let freed = size_of(connection)?.free_pages < before.free_pages;
    if low_space.is_none() && !freed {
        relax(connection)?;
    }
    let free_bytes = low_space.and_then(ReserveFile::free_bytes);
    Ok(freed && free_bytes.is_none_or(|bytes| bytes < TIGHT_BYTES))
}

/// Returns free pages of the file to the disk, few or many. Returns whether another step
/// would return more.
///
/// # Errors
/// The file cannot be written.
pub(super) fn vacuum_step(connection: &Connection) -> Result<bool, SqliteError> {
    let before = size_of(connection)?.free_pages;
    incremental_vacuum(connection, STEP_PAGES)?;
    let after = size_of(connection)?.free_pages;
    Ok(0 < after && after < before)
}

fn incremental_vacuum(connection: &Connection, pages: u32) -> Result<(), SqliteError> {
    let mut step = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = step.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Sets after how many pages the write-ahead log is moved to the file, and to which size it
/// is truncated.
fn limit_log(connection: &Connection, pages: u32, bytes_kept: u32) -> Result<(), SqliteError> {
    for (name, value) in [
        ("wal_autocheckpoint", pages),
        ("journal_size_limit", bytes_kept),
    ] {
        let sql = format!("PRAGMA {name} = {value}");
        connection.query_row(&sql, [], |_| Ok(()))?;
    }
    Ok(())
}

/// Formats a size for people.
pub(super) fn size_text(bytes: u64) -> String {
    const KIB: u64 = 1024;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_space_until_it_is_released() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = ReserveFile::new(folder.path());
        let length = || std::fs::metadata(&reserve.0).map(|file| file.len()).ok();
        for _ in 0..2 {
            for bytes in [RESERVE_HALF_BYTES, RESERVE_BYTES, RESERVE_BYTES] {
                reserve.make(bytes).expect("there is space");
                assert_eq!(length(), Some(bytes as u64));
            }
            reserve.make(RESERVE_HALF_BYTES).expect("it is there");
            assert_eq!(length(), Some(RESERVE_BYTES as u64), "it never shrinks");
            reserve.release();
            reserve.release();
            assert_eq!(length(), None);
        }
        let nowhere = ReserveFile::new(&folder.path().join("nowhere"));
        let error = nowhere
            .make(RESERVE_BYTES)
            .expect_err("there is no such folder");
        assert!(matches!(error, SqliteError::Unusable { .. }), "{error}");
    }

    /// Pages in the write-ahead log would still take space.
    #[test]
    fn free_pages_return_to_the_disk_without_another_write() {
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
        made.expect("there is space");
        limit_log(&connection, CHECKPOINT_PAGES, LOG_BYTES_KEPT).expect("it is set");
        connection
            .execute("DELETE FROM much", [])
            .expect("it is there");
        assert!(length() > 2 * VACUUM_MIN_BYTES, "{}", length());
        let mut steps = 0;
        loop {
            let tx = connection.unchecked_transaction().expect("it begins");
            let more = vacuum(&tx, None).expect("it is written");
            tx.commit().expect("it is written");
            if !more {
                break;
            }
            steps += 1;
        }
        assert!(
            steps > 1 && length() < VACUUM_MIN_BYTES,
            "{steps}: {}",
            length()
        );
        let pages = "PRAGMA wal_autocheckpoint";
        let pages: u32 = connection
            .query_row(pages, [], |row| row.get(0))
            .expect("it has a value");
        assert_eq!(pages, CHECKPOINT_PAGES, "as before");
    }
}
