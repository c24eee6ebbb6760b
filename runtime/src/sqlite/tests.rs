//! Promises of a database: commits, isolation of jobs, ownership, migrations.

mod threads;

use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

const STEPS: &[Migration] = &[Migration::new(
    "numbers",
    "CREATE TABLE number (n INTEGER PRIMARY KEY) STRICT",
)];

fn schema(owner: &str, steps: &[Migration]) -> Schema {
    Schema {
        owner: owner.into(),
        parts: vec![Part {
            name: "test",
            steps: steps.to_vec(),
        }],
    }
}

fn open(folder: &TempDir) -> Database {
    open_as(folder, "me", STEPS).expect("it opens")
}

fn open_as(folder: &TempDir, owner: &str, steps: &[Migration]) -> Result<Database, SqliteError> {
    open_with(folder, owner, steps, Options::default())
}

/// Opens a database whose jobs have 300 ms, for tests of slow statements.
fn open_impatient(folder: &TempDir) -> Database {
    let options = Options {
        job_max: Duration::from_millis(300),
        ..Options::default()
    };
    open_with(folder, "me", STEPS, options).expect("it opens")
}

fn open_with(
    folder: &TempDir,
    owner: &str,
    steps: &[Migration],
    options: Options,
) -> Result<Database, SqliteError> {
    let path = folder.path().join("some/where.sqlite");
    Database::open(&path, &schema(owner, steps), options, &WriterPool::new(2))
}

fn insert(tx: &Connection, n: i64) -> Result<(), SqliteError> {
    tx.prepare_cached("INSERT INTO number VALUES (?1)")?
        .execute([n])?;
    Ok(())
}

/// Returns the size of the write-ahead log, which grows with each commit.
fn wal_bytes(connection: &Connection) -> u64 {
    let wal = format!("{}-wal", connection.path().expect("a file"));
    std::fs::metadata(wal).expect("there is a log").len()
}

async fn numbers(database: &Database) -> Vec<i64> {
    let read = database.read("numbers", |connection| {
        let mut numbers = connection.prepare("SELECT n FROM number ORDER BY n")?;
        let numbers = numbers.query_map([], |row| row.get(0))?;
        Ok::<_, SqliteError>(numbers.collect::<Result<_, _>>()?)
    });
    read.await.expect("it reads")
}

#[tokio::test]
async fn committed_rows_are_in_the_file_after_a_close_and_an_open() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder);
    for n in 1..=3 {
        database.write("w", move |tx| insert(tx, n)).await.unwrap();
    }
    database.close().await;
    let refused = database.write("w", |tx| insert(tx, 4)).await;
    assert_eq!(refused, Err(SqliteError::Closed));
    let names: Vec<_> = std::fs::read_dir(folder.path().join("some"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["where.sqlite"], "the file alone is all of it");
    assert_eq!(numbers(&open(&folder)).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_failed_job_undoes_only_its_own_changes() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder);
    let jobs = (0..300i64).map(|n| {
        database.write("w", move |tx| {
            insert(tx, n)?;
            match n % 3 {
                0 => Ok(()),
                1 => insert(tx, n),
                _ => panic!("number {n}"),
            }
        })
    });
    for (n, outcome) in (0..).zip(futures_util::future::join_all(jobs).await) {
        match (n % 3, outcome) {
            (0, Ok(())) => {}
            (1, Err(SqliteError::Sql { text, .. })) => assert!(text.contains("UNIQUE"), "{text}"),
            (2, Err(SqliteError::Panicked { text, .. })) => {
                assert_eq!(text, format!("number {n}"));
            }
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    let there = numbers(&database).await;
    assert_eq!(there, (0..300).filter(|n| n % 3 == 0).collect::<Vec<_>>());
}

#[tokio::test]
async fn jobs_submitted_together_share_a_commit() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder);
    // While the first holds the writer, all others gather.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let first = database.write("w", move |tx| {
        gate.recv().expect("the gate opens");
        insert(tx, 1)
    });
    let first = tokio::spawn(first);
    tokio::task::yield_now().await;
    let others: Vec<_> = (2..200i64)
        .map(|n| {
            let database = database.clone();
            tokio::spawn(async move {
                database
                    .write("w", move |tx| {
                        insert(tx, n)?;
                        Ok::<_, SqliteError>(wal_bytes(tx))
                    })
                    .await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    go.send(()).expect("the first waits");
    first.await.unwrap().unwrap();
    let mut commits = std::collections::BTreeSet::new();
    for other in others {
        commits.insert(other.await.unwrap().unwrap());
    }
    assert_eq!(numbers(&database).await.len(), 199);
    assert!(commits.len() < 20, "{} commits", commits.len());
}

#[tokio::test]
async fn a_slow_statement_is_interrupted_and_other_jobs_go_on() {
    let folder = TempDir::new().unwrap();
    let database = open_impatient(&folder);
    let slow = database.write("ledger", |tx| {
        insert(tx, 1)?;
        let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)
                       SELECT count(*) FROM c";
        let count: i64 = tx.query_row(endless, [], |row| row.get(0))?;
        Ok::<_, SqliteError>(count)
    });
    let quick = database.write("stock", |tx| insert(tx, 2));
    let (slow, quick) = tokio::join!(slow, quick);
    let error = slow.expect_err("it never ends");
    assert!(
        matches!(&error, SqliteError::TooSlow { name, .. } if name == "ledger"),
        "{error}"
    );
    quick.expect("others go on");
    assert_eq!(numbers(&database).await, [2]);
}

#[tokio::test]
async fn a_slow_job_that_was_not_interrupted_keeps_its_own_error() {
    let folder = TempDir::new().unwrap();
    let database = open_impatient(&folder);
    let refused = database.write("ledger", |tx| {
        insert(tx, 1)?;
        std::thread::sleep(Duration::from_millis(400));
        Err::<(), _>(SqliteError::Undone)
    });
    assert_eq!(refused.await, Err(SqliteError::Undone));
    assert!(numbers(&database).await.is_empty());
}

type Work = fn(&Transaction<'_>) -> Result<(), SqliteError>;

/// Runs jobs in one commit, in this order.
async fn in_one_commit<const N: usize>(
    database: &Database,
    jobs: [(&'static str, Work); N],
) -> Vec<Result<(), SqliteError>> {
    let (submitted, waiting): (Vec<Box<dyn Job>>, Vec<_>) = jobs
        .into_iter()
        .map(|(name, work)| {
            let (job, done) = job::Closure::new(name, work);
            (job as Box<dyn Job>, done)
        })
        .unzip();
    database.submit_all(submitted);
    let mut outcomes = Vec::new();
    for done in waiting {
        outcomes.push(done.await.expect("it is told"));
    }
    outcomes
}

/// A writing statement without end.
const ENDLESS_INSERT: &str = "INSERT INTO number
    WITH RECURSIVE c(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c";

#[tokio::test]
async fn an_interrupted_writing_statement_is_blamed_on_its_own_job_alone() {
    let folder = TempDir::new().unwrap();
    let database = open_impatient(&folder);
    let outcomes = in_one_commit(
        &database,
        [
            ("stock", |tx| insert(tx, 1)),
            ("ledger", |tx| Ok(tx.execute_batch(ENDLESS_INSERT)?)),
        ],
    )
    .await;
    // SQLite then undoes the whole commit: the error of the other job names the culprit.
    assert!(
        matches!(&outcomes[0], Err(error @ SqliteError::Unusable { .. }) if error.to_string().contains("ledger")),
        "{outcomes:?}"
    );
    assert!(
        matches!(&outcomes[1], Err(SqliteError::TooSlow { name, .. }) if name == "ledger"),
        "{outcomes:?}"
    );
    database
        .write("w", |tx| insert(tx, 2))
        .await
        .expect("it goes on");
    assert_eq!(numbers(&database).await, [2]);
}

#[tokio::test]
async fn a_job_that_continues_after_a_rollback_of_sqlite_writes_nothing() {
    let folder = TempDir::new().unwrap();
    let database = open_impatient(&folder);
    let outcomes = in_one_commit(
        &database,
        [
            ("stock", |tx| insert(tx, 1)),
            ("ledger", |tx| {
                assert!(tx.execute_batch(ENDLESS_INSERT).is_err());
                let outside = insert(tx, 3);
                assert!(outside.is_err(), "it would be a transaction of its own");
                Ok(())
            }),
        ],
    )
    .await;
    assert!(
        matches!(
            &outcomes[..],
            [
                Err(SqliteError::Unusable { .. }),
                Err(SqliteError::TooSlow { .. })
            ]
        ),
        "{outcomes:?}"
    );
    database
        .write("w", |tx| insert(tx, 2))
        .await
        .expect("it goes on");
    assert_eq!(numbers(&database).await, [2]);
}

#[tokio::test]
async fn a_deferred_foreign_key_is_refused() {
    let folder = TempDir::new().unwrap();
    let step = |key: &str| {
        let sql = format!(
            "CREATE TABLE number (n INTEGER PRIMARY KEY) STRICT;
             CREATE TABLE of_it (n INTEGER REFERENCES number (n) {key}) STRICT"
        );
        Migration::from_strings("numbers".into(), sql)
    };
    for key in [
        "DEFERRABLE INITIALLY DEFERRED",
        "deferrable\n initially\n deferred",
    ] {
        let error = open_as(&folder, "me", &[step(key)]).expect_err("it is refused");
        assert!(
            matches!(&error, SqliteError::Migration { why, .. } if why.contains("the table of_it")),
            "{error}"
        );
    }
    // Nothing was done.
    let database = open_as(&folder, "me", &[step("")]).expect("it opens");
    let outcome = database
        .write("w", |tx| {
            tx.execute("INSERT INTO of_it VALUES (1)", [])?;
            Ok::<_, SqliteError>(())
        })
        .await;
    assert!(
        matches!(outcome, Err(SqliteError::Sql { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn statements_of_a_service_can_not_end_the_transaction_or_touch_runtime_tables() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder);
    for sql in [
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT job",
        "RELEASE job",
        "ATTACH 'other' AS other",
        "DELETE FROM brickwork_owner",
        "UPDATE brickwork_owner SET owner = 'me'",
        "SELECT owner FROM brickwork_owner",
        "DROP TABLE brickwork_owner",
        "PRAGMA synchronous = OFF",
    ] {
        let outcome = database
            .write("w", move |tx| {
                Ok::<_, SqliteError>(tx.restricted(|connection| connection.execute_batch(sql))?)
            })
            .await;
        assert!(
            matches!(&outcome, Err(SqliteError::Sql { .. })),
            "{sql}: {outcome:?}"
        );
    }
    let own = database.write("w", |tx| tx.restricted(|connection| insert(connection, 1)));
    own.await.expect("a service may use its own tables");
    assert_eq!(numbers(&database).await, [1]);
}

#[tokio::test]
async fn a_file_is_opened_only_for_its_owner() {
    let folder = TempDir::new().unwrap();
    open(&folder).close().await;
    let error = open_as(&folder, "you", STEPS).expect_err("it isn't yours");
    assert!(
        matches!(&error, SqliteError::OwnedByAnother { owner, wanted, .. } if owner == "me" && wanted == "you"),
        "{error}"
    );
    assert!(error.to_string().contains("where.sqlite"), "{error}");
}

#[tokio::test]
async fn migrations_run_once_and_a_changed_one_is_an_error() {
    let folder = TempDir::new().unwrap();
    let first = open(&folder);
    first.write("w", |tx| insert(tx, 1)).await.unwrap();
    first.close().await;
    let more = [
        STEPS[0].clone(),
        Migration::new("doubled", "UPDATE number SET n = n * 2"),
    ];
    for _ in 0..2 {
        let database = open_as(&folder, "me", &more).expect("it opens");
        assert_eq!(numbers(&database).await, [2]);
        database.close().await;
    }
    let changed = [
        STEPS[0].clone(),
        Migration::new("doubled", "UPDATE number SET n = n * 3"),
    ];
    for (steps, why) in [
        (&changed[..], "was changed after it had run here"),
        (&more[..1], "doesn't know it"),
    ] {
        let error = open_as(&folder, "me", steps).expect_err("it is not opened");
        let text = error.to_string();
        assert!(
            text.contains("migration 2 (doubled)") && text.contains(why),
            "{text}"
        );
    }
    let failing = [
        more[0].clone(),
        more[1].clone(),
        Migration::new(
            "half",
            "INSERT INTO number VALUES (7); INSERT INTO nowhere VALUES (1)",
        ),
    ];
    let error = open_as(&folder, "me", &failing).expect_err("it fails");
    assert!(error.to_string().contains("migration 3 (half)"), "{error}");
    let database = open_as(&folder, "me", &more).expect("nothing of it was done");
    assert_eq!(numbers(&database).await, [2]);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_not_changed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("some/where.sqlite");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let text = "not a database, but a diary, which is longer than a header".repeat(100);
    std::fs::write(&path, &text).unwrap();
    let error = open_as(&folder, "me", STEPS).expect_err("it is no database");
    assert!(error.is_damage(), "{error:?}");
    assert!(error.to_string().contains("where.sqlite"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn reads_do_not_wait_for_writers() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder);
    database.write("w", |tx| insert(tx, 1)).await.unwrap();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let writing = tokio::spawn({
        let database = database.clone();
        async move {
            let work = move |tx: &Transaction<'_>| {
                insert(tx, 2)?;
                gate.recv().expect("the gate opens");
                Ok::<_, SqliteError>(())
            };
            database.write("w", work).await
        }
    });
    tokio::task::yield_now().await;
    assert_eq!(numbers(&database).await, [1]);
    go.send(()).expect("it writes");
    writing.await.unwrap().unwrap();
    assert_eq!(numbers(&database).await, [1, 2]);
}

#[tokio::test]
async fn all_queries_of_a_reader_see_the_same_snapshot() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder);
    database.write("w", |tx| insert(tx, 1)).await.unwrap();
    let (looked, first_look) = tokio::sync::oneshot::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let reading = tokio::spawn({
        let database = database.clone();
        async move {
            let count = |connection: &Connection| {
                let sql = "SELECT count(*) FROM number";
                connection.query_row(sql, [], |row| row.get::<_, i64>(0))
            };
            let looks = move |connection: &Connection| {
                let before = count(connection)?;
                looked.send(()).expect("the test waits");
                gate.recv().expect("the gate opens");
                Ok::<_, SqliteError>((before, count(connection)?))
            };
            database.read("r", looks).await
        }
    });
    first_look.await.unwrap();
    database.write("w", |tx| insert(tx, 2)).await.unwrap();
    go.send(()).expect("it reads");
    assert_eq!(reading.await.unwrap().unwrap(), (1, 1));
    assert_eq!(numbers(&database).await, [1, 2]);
}
