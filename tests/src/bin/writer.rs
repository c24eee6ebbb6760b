//! Writes numbers into a database and prints each one when the database reports that it is on the
//! disk, for tests that watch from outside.
//!
//! `writer FILE COUNT` writes as the runtime does. `writer FILE COUNT unsynced` writes without
//! syncing.

use std::path::Path;

use brickwork::sqlite::rusqlite::Connection;
use brickwork::sqlite::{SqliteError, WriterPool};
use brickwork_tests::numbers;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, count) = match &arguments[..] {
        [file, count, ..] => (Path::new(file), count.parse::<i64>().expect("a count")),
        _ => panic!("usage: writer FILE COUNT [unsynced]"),
    };
    if arguments.len() > 2 {
        return unsynced(file, count).expect("it writes");
    }
    let database = numbers::open(file, &WriterPool::new(1)).expect("it opens");
    for n in 0..count {
        let written = database.write("numbers", move |tx| numbers::insert(tx, n));
        written.await.expect("it is written");
        println!("done {n}");
    }
}

fn unsynced(file: &Path, count: i64) -> Result<(), SqliteError> {
    let connection = Connection::open(file)?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.execute_batch(numbers::TABLE)?;
    for n in 0..count {
        numbers::insert(&connection, n)?;
        println!("done {n}");
    }
    Ok(())
}
