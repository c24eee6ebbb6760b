//! `sql-poll`: every row once, in whatever order transactions commit, over crashes of the app and
//! of PostgreSQL.

use std::path::Path;

use brickwork::sqlite::rusqlite::Connection;
use brickwork_tests::parts;
use brickwork_tests::postgres::Postgres;
use brickwork_tests::process::{Process, until};

use crate::{APP, PATIENCE, logged, stop_gracefully};

const ROWS: u64 = 4_000;

/// Copies the table `rows` to the table `copies`.
fn prepare(folder: &Path, url: &str, more: &str) {
    let manifest = format!(
        r#"{APP}
        [services.rows]
        use = "sql-poll"
        out = "rows"
        [services.rows.config]
        url = "{url}"
        table = "rows"
        every = "50ms"
        lag = "100ms"
        {more}
        [services.copies]
        use = "sql"
        in = "rows"
        [services.copies.config]
        url = "{url}"
        table = "copies"
        id_column = "message"
        columns = {{ id = "msg.id" }}
        "#
    );
    parts::write(folder, &manifest, std::iter::empty());
}

fn start(folder: &Path, life: u32) -> Process {
    let logs = folder.join(format!("life-{life}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    parts::run(folder, &logs, &[])
}

/// Waits until a query over the copies has a result.
fn wait_for(postgres: &Postgres, query: &str, expected: &str) {
    until(query, PATIENCE, || match postgres.try_sql(query)? {
        found if found == expected => Ok(()),
        found => Err(found),
    });
}

const TABLES: &str = "CREATE TABLE rows (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()); \
     CREATE INDEX ON rows (at, id); \
     CREATE TABLE copies (message text PRIMARY KEY, id bigint NOT NULL)";
const IDS: &str = "SELECT string_agg(id::text, ',' ORDER BY id, message) FROM copies";

#[test]
fn a_row_of_a_transaction_that_commits_late_is_not_lost_and_none_is_doubled() {
    let postgres = Postgres::start();
    postgres.sql(TABLES);
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), &postgres.url(), "column = 'id'");
    let mut late = postgres.session();
    late.run("BEGIN; INSERT INTO rows DEFAULT VALUES");
    postgres.sql("INSERT INTO rows SELECT FROM generate_series(1, 3)");
    let app = start(folder.path(), 0);
    wait_for(&postgres, IDS, "2,3,4");
    app.stop();
    let app = start(folder.path(), 1);
    postgres.sql("INSERT INTO rows DEFAULT VALUES");
    wait_for(&postgres, IDS, "2,3,4,5");
    late.run("COMMIT");
    wait_for(&postgres, IDS, "1,2,3,4,5");
    app.stop();
    let app = start(folder.path(), 2);
    postgres.sql("INSERT INTO rows DEFAULT VALUES");
    wait_for(&postgres, IDS, "1,2,3,4,5,6");
    app.stop();
}

#[test]
fn rows_with_one_time_come_once_each_and_a_changed_row_comes_again() {
    let postgres = Postgres::start();
    postgres.sql(TABLES);
    postgres.sql("INSERT INTO rows (at) SELECT '2026-01-01' FROM generate_series(1, 25)");
    let folder = tempfile::tempdir().expect("a folder can be made");
    // The ties cross the ends of pages.
    prepare(
        folder.path(),
        &postgres.url(),
        "column = 'at'\nkey = 'id'\npage = 4\nfilter = 'id <> 7 -- not this one'",
    );
    let app = start(folder.path(), 0);
    let counts = "SELECT count(*), count(DISTINCT id), max(id) FROM copies";
    wait_for(&postgres, counts, "24|24|25");
    postgres.sql("UPDATE rows SET at = now() WHERE id IN (3, 4)");
    wait_for(&postgres, counts, "26|24|25");
    app.stop();
    let app = start(folder.path(), 1);
    postgres.sql("INSERT INTO rows DEFAULT VALUES");
    wait_for(&postgres, counts, "27|25|26");
    app.stop();
}

#[test]
fn a_source_that_begins_at_the_end_leaves_out_the_rows_before() {
    let postgres = Postgres::start();
    postgres.sql(TABLES);
    postgres.sql("INSERT INTO rows SELECT FROM generate_series(1, 5)");
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(
        folder.path(),
        &postgres.url(),
        "column = 'id'\nfrom = 'end'",
    );
    let app = start(folder.path(), 0);
    let saved = folder.path().join("data/positions/rows.json");
    until("the first position is saved", PATIENCE, || {
        if saved.exists() {
            Ok(())
        } else {
            Err("no position".to_owned())
        }
    });
    postgres.sql("INSERT INTO rows SELECT FROM generate_series(1, 2)");
    wait_for(&postgres, IDS, "6,7");
    app.stop();
}

#[test]
fn every_row_comes_once_while_writers_overlap_and_app_and_database_are_killed() {
    let mut postgres = Postgres::start();
    postgres.sql(TABLES);
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), &postgres.url(), "column = 'id'\npage = 100");
    for life in 0..4 {
        let app = start(folder.path(), life);
        let mut sessions: Vec<_> = (0..4).map(|_| postgres.session()).collect();
        for round in 0..5 {
            // Transactions overlap and commit in another order.
            for session in &mut sessions {
                session.run("BEGIN; INSERT INTO rows SELECT FROM generate_series(1, 50)");
            }
            let order = [2, 0, 3, 1];
            for index in order {
                sessions[(index + round) % 4].run("COMMIT");
            }
        }
        drop(sessions);
        if life == 1 {
            postgres.kill();
            logged(&app, "outside system is away");
            postgres.start_again();
        }
        app.stop();
    }
    let app = start(folder.path(), 4);
    let query = "SELECT count(*), count(DISTINCT id) FROM copies";
    wait_for(&postgres, query, &format!("{ROWS}|{ROWS}"));
    app.stop();
}

#[test]
fn a_table_of_sqlite_is_polled_and_a_wrong_column_is_reported() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let database = Connection::open(folder.path().join("shop.sqlite")).expect("a database");
    database
        .execute_batch(
            "CREATE TABLE rows (id INTEGER PRIMARY KEY, n INTEGER, name TEXT);
             INSERT INTO rows (n, name) VALUES (1, 'a'), (1, 'b'), (2, NULL)",
        )
        .expect("a table");
    let manifest = |column: &str| {
        format!(
            r#"{APP}
            [services.rows]
            use = "sql-poll"
            out = "rows"
            config = {{ path = "shop.sqlite", table = "rows", column = "{column}", key = "id", every = "50ms", lag = "0s", page = 1, type = "row.new", connect_timeout = "2s", statement_timeout = "2s" }}
            [services.keep]
            use = "file-out"
            in = "rows"
            config.path = "out.jsonl"
            "#
        )
    };
    parts::write(folder.path(), &manifest("n"), std::iter::empty());
    let app = start(folder.path(), 0);
    let wait_for_lines = |expected: &str| {
        until(expected, PATIENCE, || {
            let text = std::fs::read_to_string(folder.path().join("out.jsonl"));
            let text = text.map_err(|error| error.to_string())?;
            if text == expected { Ok(()) } else { Err(text) }
        });
    };
    let first = "{\"id\":1,\"n\":1,\"name\":\"a\"}\n{\"id\":2,\"n\":1,\"name\":\"b\"}\n{\"id\":3,\"n\":2,\"name\":null}\n";
    wait_for_lines(first);
    stop_gracefully(app);
    database
        .execute_batch("INSERT INTO rows (n, name) VALUES (2, 'd')")
        .expect("a row");
    let app = start(folder.path(), 1);
    wait_for_lines(&format!("{first}{{\"id\":4,\"n\":2,\"name\":\"d\"}}\n"));
    stop_gracefully(app);
    parts::write(folder.path(), &manifest("nothing"), std::iter::empty());
    let app = start(folder.path(), 2);
    logged(&app, "no such column: t.nothing");
    app.stop();
}
