//! PostgreSQL and the app are killed by `kill -9` in the middle of their work: every message
//! arrives, and none twice.

use std::path::Path;
use std::time::Duration;

use brickwork_tests::kept::Queues;
use brickwork_tests::parts;
use brickwork_tests::postgres::Postgres;
use brickwork_tests::process::{Process, until};

use crate::{APP, PATIENCE, letters};

const LINES: u64 = 6_000;
/// Every so many lines, the database refuses one.
const REFUSED: u64 = 97;

fn prepare(folder: &Path, url: &str) {
    let manifest = format!(
        r#"{APP}
        [services.lines]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", rate = 2000 }}
        [services.rows]
        use = "sql"
        in = "lines"
        instances = 2
        [services.rows.config]
        url = "{url}"
        table = "rows"
        id_column = "id"
        columns = {{ n = "msg.n", tags = "['a', string(msg.n)]" }}
        batch = 100
        [services.counted]
        use = "sql"
        in = "lines"
        instances = 2
        [services.counted.config]
        url = "{url}"
        statement = "UPDATE counter SET n = n + $1, hits = hits + 1"
        params = ["msg.n"]
        batch = 100
        [services.kept]
        use = "sql"
        in = "lines"
        [services.kept.config]
        url = "{url}"
        table = "kept"
        columns = {{ n = "msg.n" }}
        batch = 100
        "#
    );
    let line = |n: u64| match n % REFUSED {
        0 => format!("{{\"n\":\"no number {n}\"}}"),
        _ => format!("{{\"n\":{n}}}"),
    };
    parts::write(folder, &manifest, (0..LINES).map(line));
}

fn start(folder: &Path, life: u32) -> Process {
    let logs = folder.join(format!("life-{life}"));
    std::fs::create_dir(&logs).expect("a folder can be made");
    parts::run(folder, &logs, &[])
}

/// Waits until some rows are there.
fn wait_for_rows(postgres: &Postgres, rows: u64) {
    until("rows arrive", PATIENCE, || {
        let found = postgres.try_sql("SELECT count(*) FROM rows")?;
        match found.parse::<u64>().expect("a number") >= rows {
            true => Ok(()),
            false => Err(format!("{found} rows")),
        }
    });
}

#[test]
fn every_message_is_written_once_while_database_and_app_are_killed() {
    let mut postgres = Postgres::start();
    postgres.sql(
        "CREATE TABLE rows (id text PRIMARY KEY, n bigint NOT NULL, tags text[]);
         CREATE TABLE counter (n bigint, hits bigint); INSERT INTO counter VALUES (0, 0);
         CREATE TABLE kept (n bigint NOT NULL)",
    );
    let folder = tempfile::tempdir().expect("a folder can be made");
    prepare(folder.path(), &postgres.url());
    let mut life = 0;
    for rows in [500, 1500, 2500] {
        let app = start(folder.path(), life);
        life += 1;
        wait_for_rows(&postgres, rows);
        postgres.kill();
        // The app finds its connections broken, and is killed in the outage.
        crate::logged(&app, "outside system is away");
        postgres.start_again();
        wait_for_rows(&postgres, rows + 400);
        app.stop();
    }
    let app = start(folder.path(), life);
    let good = LINES - LINES.div_ceil(REFUSED);
    let state = || {
        postgres.try_sql(
            "SELECT (SELECT count(*) FROM rows), (SELECT hits FROM counter), (SELECT count(*) FROM kept)",
        )
    };
    let expected = format!("{good}|{good}|{good}");
    until("all rows arrive", PATIENCE, || match state()? {
        found if found == expected => Ok(()),
        found => Err(found),
    });
    until(
        "the refused rows are dead letters",
        Duration::from_secs(30),
        || {
            let queues = Queues::open(&folder.path().join("data/queues")).ok_or("no queues")?;
            let found = queues.different_letters() as u64;
            if found == 3 * LINES.div_ceil(REFUSED) {
                Ok(())
            } else {
                Err(found.to_string())
            }
        },
    );
    app.stop();
    let sum: u64 = (0..LINES).filter(|n| n % REFUSED != 0).sum();
    let found = postgres.sql(
        "SELECT (SELECT sum(n) FROM rows), (SELECT n FROM counter), (SELECT sum(n) FROM kept), \
         (SELECT count(*) FROM rows WHERE tags <> ARRAY['a', n::text])",
    );
    assert_eq!(found, format!("{sum}|{sum}|{sum}|0"));
    for (error, payload) in letters(folder.path()) {
        let text = payload["n"].as_str().expect("only these are refused");
        assert!(text.starts_with("no number"), "{text}");
        assert!(error.contains("SQLSTATE 22P02"), "{error}");
    }
}
