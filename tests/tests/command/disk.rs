//! A confirmed write is on the disk, and a cut in the log leaves only whole commits.

use std::fs;
use std::path::Path;

use brickwork::sqlite::rusqlite::Connection;
use brickwork::sqlite::{SqliteError, WriterPool};
use brickwork_tests::numbers;
use brickwork_tests::syscalls::{Call, told_too_early, trace};
use tempfile::TempDir;

const WRITER: &str = env!("CARGO_BIN_EXE_writer");
const COUNT: usize = 20;

fn traced(more: &[&str]) -> Vec<Call> {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("numbers.sqlite");
    let file = file.to_str().expect("UTF-8");
    let count = COUNT.to_string();
    let mut arguments = vec![file, &*count];
    arguments.extend_from_slice(more);
    trace(Path::new(WRITER), &arguments, folder.path())
}

fn said(calls: &[Call]) -> usize {
    let said = calls.iter().filter(|call| matches!(call, Call::Said(_)));
    said.count()
}

/// A killed process leaves its page cache behind, so only the system calls can show this.
#[test]
fn nothing_is_confirmed_before_its_fsync() {
    let calls = traced(&[]);
    assert_eq!(said(&calls), COUNT);
    let synced = calls.iter().filter(|call| **call == Call::Synced).count();
    assert!(synced >= COUNT, "{synced} syncs for {COUNT} confirms");
    assert_eq!(told_too_early(&calls), Vec::<&str>::new());
}

/// Counter-check: the test above can fail.
#[test]
fn a_writer_that_does_not_wait_for_the_disk_is_detected() {
    let calls = traced(&["unsynced"]);
    assert_eq!(said(&calls), COUNT);
    assert!(told_too_early(&calls).len() >= COUNT - 1, "{calls:?}");
}

/// Whatever a power cut leaves of the last commits: the file opens to the state after some commit
/// and works from there.
#[tokio::test]
async fn a_log_that_is_cut_at_any_byte_of_its_tail_opens_to_a_committed_prefix() {
    /// Rows per commit.
    const GROUP: i64 = 2;
    const COMMITS: i64 = 4;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("numbers.sqlite");
    let wal = folder.path().join("numbers.sqlite-wal");
    let database = numbers::open(&file, &WriterPool::new(1)).expect("it opens");
    let mut lengths = Vec::new();
    for commit in 0..COMMITS {
        let written = database.write("numbers", move |tx| {
            (0..GROUP).try_for_each(|n| numbers::insert(tx, commit * GROUP + n))
        });
        written.await.expect("it is written");
        lengths.push(fs::metadata(&wal).expect("a log").len());
    }
    let (whole, log) = (
        fs::read(&file).expect("a file"),
        fs::read(&wal).expect("a log"),
    );
    let copies = TempDir::new().expect("a folder");
    let (file, wal) = (copies.path().join("a"), copies.path().join("a-wal"));
    let mut seen = std::collections::BTreeSet::new();
    // Every byte of the last commit and some of the earlier ones.
    let last = lengths[lengths.len() - 2] as usize;
    let before = (lengths[0] as usize..last).step_by(61);
    for cut in before.chain(last..=log.len()) {
        fs::write(&file, &whole).expect("it is copied");
        fs::write(&wal, &log[..cut]).expect("it is copied");
        let _old = fs::remove_file(copies.path().join("a-shm"));
        let connection = Connection::open(&file).expect("it opens");
        let there = numbers::all(&connection).unwrap_or_else(|error| panic!("at {cut}: {error}"));
        let committed = lengths
            .iter()
            .filter(|length| **length <= cut as u64)
            .count();
        let expected: Vec<i64> = (0..committed as i64 * GROUP).collect();
        assert_eq!(there, expected, "cut at {cut}");
        seen.insert(committed);
    }
    assert_eq!(seen.len() as i64, COMMITS);
    // Garbage in place of the last commit isn't a commit, either.
    for (at, byte) in (lengths[2] as usize..log.len()).step_by(97).zip(1u8..) {
        let mut damaged = log.clone();
        damaged[at] ^= byte.max(1);
        fs::write(&file, &whole).expect("it is copied");
        fs::write(&wal, &damaged).expect("it is copied");
        let _old = fs::remove_file(copies.path().join("a-shm"));
        let database = numbers::open(&file, &WriterPool::new(1)).expect("it opens");
        let there = database.read("numbers", numbers::all);
        let there = there.await.expect("it is read");
        assert_eq!(
            there,
            (0..(COMMITS - 1) * GROUP).collect::<Vec<_>>(),
            "at {at}"
        );
        let next = (COMMITS - 1) * GROUP;
        let written = database.write("numbers", move |tx| numbers::insert(tx, next));
        written.await.expect("it goes on");
        database.close().await;
    }
}

/// Damage of SQLite's own pages is an error, never data.
#[tokio::test]
async fn a_damaged_page_is_reported_and_the_file_stays_unchanged() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("numbers.sqlite");
    let database = numbers::open(&file, &WriterPool::new(1)).expect("it opens");
    let written = database.write("numbers", |tx| {
        (0..500).try_for_each(|n| numbers::insert(tx, n))
    });
    written.await.expect("it is written");
    database.close().await;
    let mut bytes = fs::read(&file).expect("a file");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&file, &bytes).expect("it is damaged");
    let database = numbers::open(&file, &WriterPool::new(1)).expect("its head is whole");
    let read = database.read("numbers", numbers::all).await;
    let error = read.expect_err("it is damaged").of(&file);
    assert!(
        matches!(&error, SqliteError::Damaged { path, .. } if *path == file),
        "{error:?}"
    );
    assert!(error.to_string().contains("numbers.sqlite"), "{error}");
    database.close().await;
    let after = fs::read(&file).expect("a file");
    let pages = |bytes: &[u8]| bytes.chunks(4096).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (before, after) = (pages(&bytes), pages(&after));
    let changed: Vec<usize> = (0..before.len().max(after.len()))
        .filter(|page| before.get(*page) != after.get(*page))
        .collect();
    assert_eq!(changed, Vec::<usize>::new(), "nothing was reset");
}
