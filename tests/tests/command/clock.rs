//! A clock that was wrong and is set right: no message waits longer than it was asked to.

use std::process::Command;
use std::time::Duration;

use brickwork::sqlite::rusqlite::Connection;
use brickwork_tests::parts::{self, LINES};
use brickwork_tests::process::until;

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_retry_that_was_put_off_while_the_clock_was_ahead_comes_in_time() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let manifest = format!(
        r#"
        [app]
        name = "clock"
        [admin]
        listen = "off"
        {LINES}
        [services.work]
        use = "chaos"
        in = "lines"
        out = "done"
        config.fail = 1.0
        retry = {{ attempts = 3, backoff = {{ min = "2s", max = "2s" }} }}
        [services.keep]
        use = "file-out"
        in = "done"
        config.path = "out.jsonl"
        "#
    );
    parts::write(folder.path(), &manifest, parts::numbers(1));
    let mut app = parts::run(folder.path(), folder.path(), &[]);
    until("the first attempt fails", PATIENCE, || {
        let log = app.stderr();
        if log.contains("attempt=1") {
            Ok(())
        } else {
            Err(log)
        }
    });
    // In order: the retry is in the file then.
    let id = app.id().to_string();
    let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(app.exit_code(PATIENCE), Some(0), "{}", app.stderr());

    // As it would be if the clock had been 400 days ahead.
    let file = folder.path().join("data/queues/queues.sqlite");
    let database = Connection::open(file).expect("it opens");
    let ahead_ms = 400_u64 * 24 * 3600 * 1000;
    database
        .execute("UPDATE app SET clock_ms = clock_ms + ?1", [ahead_ms as i64])
        .expect("it can be written");
    let rows = database.execute("UPDATE delayed SET due_ms = due_ms + ?1", [ahead_ms as i64]);
    assert_eq!(rows.expect("it can be written"), 1, "the message waits");
    drop(database);

    let mut again = parts::run(folder.path(), folder.path(), &["--until-idle"]);
    assert_eq!(again.exit_code(PATIENCE), Some(0), "{}", again.stderr());
    assert!(again.stderr().contains("attempt=3"), "{}", again.stderr());
}
