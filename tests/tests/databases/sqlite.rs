//! SQLite keeps the same promises.

use brickwork::sqlite::rusqlite::Connection;
use brickwork_tests::parts;

use crate::{APP, letters, run_until_idle};

#[test]
fn rows_are_written_once_and_a_refused_one_is_a_dead_letter() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let manifest = format!(
        r#"{APP}
        [services.lines]
        use = "file-in"
        out = "lines"
        config = {{ path = "lines.jsonl", id = "/id" }}
        [services.rows]
        use = "sql"
        in = "lines"
        out = {{ out = "written" }}
        [services.rows.config]
        path = "shop.sqlite"
        table = "orders"
        id_column = "message"
        columns = {{ n = "msg.n", name = "msg.name" }}
        setup = ["CREATE TABLE IF NOT EXISTS orders (message TEXT PRIMARY KEY, n INTEGER CHECK (n < 100), name TEXT) STRICT"]
        [services.sums]
        use = "sql"
        in = "lines"
        [services.sums.config]
        path = "sums.sqlite"
        statement = "UPDATE total SET n = n + $1"
        params = ["msg.n"]
        setup = ["CREATE TABLE IF NOT EXISTS total (n INTEGER) STRICT", "INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total)"]
        [services.read]
        use = "sql"
        in = "written"
        out = "read"
        [services.read.config]
        path = "shop.sqlite"
        mode = "query"
        statement = "SELECT n, name FROM orders WHERE message = $1"
        params = ["msg.id"]
        [services.keep]
        use = "file-out"
        in = "read"
        config.path = "out.jsonl"
        "#
    );
    let lines = [
        r#"{"id":"a","n":1,"name":"ä"}"#,
        r#"{"id":"b","n":200,"name":"x"}"#,
        r#"{"id":"a","n":1,"name":"ä"}"#,
        r#"{"id":"c","n":2.0,"name":null}"#,
    ];
    parts::write(
        folder.path(),
        &manifest,
        lines.iter().map(|line| (*line).to_owned()),
    );
    run_until_idle(folder.path());
    let orders = Connection::open(folder.path().join("shop.sqlite")).expect("a database");
    let rows: String = orders
        .query_row(
            "SELECT group_concat(message || n, ',' ORDER BY message) FROM orders",
            [],
            |row| row.get(0),
        )
        .expect("rows");
    assert_eq!(rows, "a1,c2");
    let sums = Connection::open(folder.path().join("sums.sqlite")).expect("a database");
    let sum: i64 = sums
        .query_row("SELECT n FROM total", [], |row| row.get(0))
        .expect("a row");
    assert_eq!(sum, 203);
    let letters = letters(folder.path());
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(
        letters[0].0.contains("CHECK constraint failed"),
        "{letters:?}"
    );
    let read = std::fs::read_to_string(folder.path().join("out.jsonl")).expect("an output");
    assert!(read.contains("[{\"n\":1,\"name\":\"ä\"}]"), "{read}");
}
