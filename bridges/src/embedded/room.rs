//! Room on the disk: whether there is some, and giving it back.

use brickwork::sqlite::SqliteError;
use brickwork::sqlite::rusqlite::Connection;

/// Less than this isn't worth the work, in bytes;
const FREE_MIN: i64 = 4 * 1024 * 1024;
/// nor is less than this part of the file.
const FREE_PART: i64 = 4;
/// So many pages are given back with one commit.
const STEP_PAGES: u32 = 512;
/// There is room again when this much can be written, in bytes.
const PROBE_BYTES: u32 = 256 * 1024;

/// Writes as much as a group of publications might be.
///
/// # Errors
/// It can't be written.
pub(super) fn probe(connection: &Connection) -> Result<(), SqliteError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO room VALUES (1, zeroblob(?1))")?
        .execute([PROBE_BYTES])?;
    Ok(())
}

/// Gives some of what is free in the file back to the disk, if it is much. Whether there is
/// more.
///
/// # Errors
/// It can't be written.
pub(super) fn give_back(connection: &Connection) -> Result<bool, SqliteError> {
    connection.execute("DELETE FROM room", [])?;
    let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let (free, all) = (ask("PRAGMA freelist_count")?, ask("PRAGMA page_count")?);
    let bytes = free * ask("PRAGMA page_size")?;
    if bytes < FREE_MIN || free * FREE_PART < all {
        return Ok(false);
    }
    let mut step = connection.prepare(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
    let mut rows = step.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}
