//! Wrong statements, outages, and rows that the database refuses.

use std::path::Path;

use brickwork_tests::parts;
use brickwork_tests::postgres::{PASSWORD, Postgres};
use brickwork_tests::process::until;
use serde_json::json;

use crate::{APP, PATIENCE, letters, logged, run_until_idle};

fn keep(folder: &Path, config: &str, lines: &[&str]) {
    keep_with(folder, "", config, lines);
}

/// Writes a manifest with the service `keep`; `more` are further keys of the service.
fn keep_with(folder: &Path, more: &str, config: &str, lines: &[&str]) {
    let manifest = format!(
        "{APP}{}\n[services.keep]\nuse = 'sql'\nin = 'lines'\nretry.attempts = 2\n\
         restart = {{ backoff = {{ min = '50ms', max = '100ms' }} }}\n{more}\n\
         [services.keep.config]\n{config}",
        parts::LINES
    );
    let lines = lines.iter().map(|line| (*line).to_owned());
    parts::write(folder, &manifest, lines);
}

#[test]
fn a_wrong_statement_is_found_at_the_start_with_its_place() {
    let postgres = Postgres::start();
    for (statement, place) in [
        ("SELECT 1\n  FORM x", "at line 2, column"),
        (
            "SELECT id FROM nowhere",
            "does not exist (SQLSTATE 42P01) at line 1, column 16",
        ),
        (
            "SELECT $1::int, $2::int",
            "the statement has 2 parameters, and params has 0",
        ),
        ("SELECT '1 day'::interval AS i", "cast it, i::text"),
        ("SELECT 1 AS a, 2 AS a", "two columns have the name a"),
    ] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let config = format!(
            "url = '{}'\nmode = 'query'\nstatement = '''{statement}'''\n",
            postgres.url()
        );
        let more = "out = 'found'\n[topics.found]\nexternal = 'out'";
        keep_with(folder.path(), more, &config, &["{}"]);
        let process = parts::run(folder.path(), folder.path(), &[]);
        let log = logged(&process, "statement can't be prepared");
        assert!(log.contains(place), "{statement}: {log}");
        assert!(!log.contains(PASSWORD), "{log}");
        process.stop();
        assert_eq!(letters(folder.path()), [], "{statement}");
    }
}

#[test]
fn rows_that_the_database_refuses_are_dead_letters_with_its_reason_and_no_other_row() {
    let postgres = Postgres::start();
    postgres.sql(
        "CREATE TABLE rows (n smallint UNIQUE CHECK (n <> 13), name varchar(3) NOT NULL); \
         INSERT INTO rows VALUES (5, 'old')",
    );
    let folder = tempfile::tempdir().expect("a folder can be made");
    let config = format!(
        "url = '{}'\ntable = 'rows'\ncolumns = {{ n = 'msg.n', name = 'msg.name' }}\n",
        postgres.url()
    );
    let wrong = [
        (r#"{"n":5,"name":"dup"}"#, "SQLSTATE 23505"),
        (r#"{"n":13,"name":"x"}"#, "SQLSTATE 23514"),
        (r#"{"n":14,"name":null}"#, "SQLSTATE 23502"),
        (r#"{"n":15,"name":"long"}"#, "SQLSTATE 22001"),
        (r#"{"n":70000,"name":"x"}"#, "SQLSTATE 22003"),
        (r#"{"n":1.5,"name":"x"}"#, "SQLSTATE 22P02"),
        (
            r#"{"n":{},"name":"x"}"#,
            "an object is no value of the type int2",
        ),
        (r#"{"n":17,"name":"\u0000"}"#, "SQLSTATE 22021"),
        (r#"{"n":18}"#, "\"name\" is missing"),
    ];
    let good: Vec<String> = (100..200)
        .map(|n| format!("{{\"n\":{n},\"name\":\"ok\"}}"))
        .collect();
    let mut lines: Vec<&str> = good.iter().map(String::as_str).collect();
    for (nth, (line, _)) in wrong.iter().enumerate() {
        lines.insert(nth * 11, line);
    }
    keep(folder.path(), &config, &lines);
    run_until_idle(folder.path());
    assert_eq!(
        postgres.sql("SELECT count(*), count(DISTINCT n) FROM rows"),
        "101|101"
    );
    let letters = letters(folder.path());
    assert_eq!(letters.len(), wrong.len(), "{letters:?}");
    for (line, reason) in wrong {
        let payload: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let letter = letters.iter().find(|(_, found)| *found == payload);
        let (error, _) = letter.unwrap_or_else(|| panic!("{line}: {letters:?}"));
        assert!(error.contains(reason), "{line}: {error}");
    }
}

#[test]
fn an_outage_costs_no_attempt_and_ends_by_itself() {
    let mut postgres = Postgres::start();
    postgres.sql("CREATE TABLE rows (n integer)");
    postgres.kill();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let config = format!(
        "url = '{}'\ntable = 'rows'\ncolumns = {{ n = 'msg.n' }}\nstatement_timeout = '1s'\nconnect_timeout = '2s'\n",
        postgres.url()
    );
    keep(folder.path(), &config, &["{\"n\":1}", "{\"n\":2}"]);
    let app = parts::run(folder.path(), folder.path(), &[]);
    // Longer than the two attempts of a message would take.
    until("several tries", PATIENCE, || {
        let tries = app.stderr().matches("Connection refused").count();
        if tries >= 2 {
            Ok(())
        } else {
            Err(app.stderr())
        }
    });
    postgres.start_again();
    until("rows arrive", PATIENCE, || {
        let found = postgres.try_sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM rows")?;
        if found == "1,2" { Ok(()) } else { Err(found) }
    });
    logged(&app, "outside system is back");
    let log = app.stderr();
    assert!(
        !log.contains("dead-lettered") && !log.contains(PASSWORD),
        "{log}"
    );
    app.stop();
    assert_eq!(letters(folder.path()), []);
}

#[test]
fn a_message_that_comes_again_is_not_written_again() {
    let postgres = Postgres::start();
    postgres.sql("CREATE TABLE rows (n integer)");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let manifest = format!(
        "{APP}\n[services.lines]\nuse = 'file-in'\nout = 'lines'\n\
         config = {{ path = 'lines.jsonl', id = '/id' }}\n\
         [services.keep]\nuse = 'sql'\nin = 'lines'\n\
         config = {{ url = '{}', table = 'rows', columns = {{ n = 'msg.n' }} }}\n",
        postgres.url()
    );
    let lines = ["a", "b", "a", "c", "b"].iter().enumerate();
    let lines = lines.map(|(n, id)| json!({"id": id, "n": n}).to_string());
    parts::write(folder.path(), &manifest, lines);
    run_until_idle(folder.path());
    assert_eq!(
        postgres.sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM rows"),
        "0,1,3"
    );
    assert_eq!(
        postgres.sql("SELECT string_agg(owner || ' ' || id, ',' ORDER BY id) FROM brickwork_done"),
        "shop.keep a,shop.keep b,shop.keep c"
    );
}

#[test]
fn a_database_that_hangs_is_left_and_its_messages_are_written_once() {
    const LINES: usize = 300;
    let postgres = Postgres::start();
    postgres.sql("CREATE TABLE rows (n integer)");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let manifest = format!(
        "{APP}\n[services.lines]\nuse = 'file-in'\nout = 'lines'\n\
         config = {{ path = 'lines.jsonl', rate = 200 }}\n\
         [services.keep]\nuse = 'sql'\nin = 'lines'\nretry.attempts = 1\n\
         config = {{ url = '{}', table = 'rows', columns = {{ n = 'msg.n' }}, statement_timeout = '1s' }}\n",
        postgres.url()
    );
    parts::write(folder.path(), &manifest, parts::numbers(LINES as u64));
    let app = parts::run(folder.path(), folder.path(), &[]);
    until("some rows arrive", PATIENCE, || {
        let found = postgres.try_sql("SELECT count(*) FROM rows")?;
        if found == "0" { Err(found) } else { Ok(()) }
    });
    let frozen = postgres.freeze();
    logged(&app, "the database did not answer within 6s");
    drop(frozen);
    until("all rows arrive", PATIENCE, || {
        let found = postgres.try_sql("SELECT count(*), count(DISTINCT n) FROM rows")?;
        if found == format!("{LINES}|{LINES}") {
            Ok(())
        } else {
            Err(found)
        }
    });
    app.stop();
    assert_eq!(letters(folder.path()), []);
}
