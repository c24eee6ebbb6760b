//! Queries for each message, and values of each type.

use brickwork_tests::parts;
use brickwork_tests::postgres::Postgres;
use serde_json::{Value, json};

use crate::{APP, letters, run_until_idle};

fn output(folder: &std::path::Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

#[test]
fn values_of_every_type_survive_the_way_into_the_database_and_back() {
    let postgres = Postgres::start();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let url = postgres.url();
    let manifest = format!(
        r#"{APP}
        {lines}
        [services.write]
        use = "sql"
        in = "lines"
        out = {{ out = "written" }}
        [services.write.config]
        url = "{url}"
        table = "public.Mixed"
        columns = {{ i = "msg.i", b = "msg.b", num = "msg.num", f = "msg.f", t = "msg.t", j = "msg.j", u = "msg.u", at = "msg.at", plain = "msg.plain", d = "msg.d", tm = "msg.tm", raw = "msg.raw", ints = "msg.ints", texts = "msg.texts", mood = "msg.mood" }}
        setup = [
            "DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad', 'happy'); EXCEPTION WHEN duplicate_object THEN NULL; END $$",
            "CREATE TABLE IF NOT EXISTS \"Mixed\" (i bigint, b boolean, num numeric, f double precision, t text, j jsonb, u uuid, at timestamptz, plain timestamp, d date, tm time, raw bytea, ints integer[], texts text[], mood mood)",
        ]
        [services.read]
        use = "sql"
        in = "written"
        out = "found"
        [services.read.config]
        url = "{url}"
        mode = "query"
        statement = 'SELECT * FROM "Mixed" WHERE i IS NOT DISTINCT FROM $1'
        params = ["msg.i"]
        rows = "one"
        [services.keep]
        use = "file-out"
        in = "found"
        config.path = "out.jsonl"
        "#,
        lines = parts::LINES,
    );
    let lines = [
        r#"{"i":9007199254740993,"b":true,"num":12345678901234567890.0100,"f":0.1,"t":"ä\"\\\n{},","j":{"a":[1,null]},"u":"0190a1b2-0000-7000-8000-000000000001","at":"2026-03-01T12:00:00.25+02:00","plain":"2026-03-01T12:00:00","d":"2026-02-28","tm":"23:59:59.5","raw":"AP8=","ints":[1,null,-3],"texts":["a,\"b\\",""],"mood":"happy"}"#,
        r#"{"i":-1,"b":false,"num":-0.00001,"f":-1e300,"t":"","j":"text","u":"0190a1b2-0000-7000-8000-000000000001","at":"1969-12-31T23:59:59Z","plain":"1999-12-31T23:59:59.999999","d":"0001-01-01","tm":"00:00:00","raw":"","ints":[],"texts":[],"mood":"sad"}"#,
        r#"{"i":null,"b":null,"num":null,"f":null,"t":null,"j":null,"u":null,"at":null,"plain":null,"d":null,"tm":null,"raw":null,"ints":null,"texts":null,"mood":null}"#,
    ];
    parts::write(
        folder.path(),
        &manifest,
        lines.iter().map(|line| (*line).to_owned()),
    );
    run_until_idle(folder.path());
    assert_eq!(letters(folder.path()), []);
    let text = std::fs::read_to_string(folder.path().join("out.jsonl")).expect("an output");
    assert!(text.contains("\"num\":12345678901234567890.0100"), "{text}");
    assert!(text.contains("\"i\":9007199254740993"), "{text}");
    let mut found = output(folder.path(), "out.jsonl");
    let mut expected: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    expected[0]["at"] = json!("2026-03-01T10:00:00.250Z");
    expected[0]["tm"] = json!("23:59:59.500000");
    let key = |value: &Value| value["i"].to_string();
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(found, expected);
}

#[test]
fn a_result_is_a_list_or_one_row_or_a_message_for_each_and_is_bounded() {
    let postgres = Postgres::start();
    postgres.sql(
        "CREATE TABLE customer (id integer PRIMARY KEY, name text); \
         INSERT INTO customer VALUES (1, 'Ann'), (2, 'Bob'), (3, 'Cleo')",
    );
    let folder = tempfile::tempdir().expect("a folder can be made");
    let service = |name: &str, config: &str| {
        format!(
            r#"
            [services.{name}]
            use = "sql"
            in = "lines"
            out = {{ out = "{name}.found"{none} }}
            [services.{name}.config]
            url = "{url}"
            mode = "query"
            {config}
            [services.{name}-keep]
            use = "file-out"
            in = "{name}.found"
            config.path = "{name}.jsonl"
            "#,
            url = postgres.url(),
            none = match name {
                "one" => ", none = \"one.none\"",
                _ => "",
            },
        )
    };
    let up_to = "statement = 'SELECT id, name FROM customer WHERE id <= $1 ORDER BY id'\nparams = ['msg.id']";
    let exact = "statement = 'SELECT name FROM customer WHERE id = $1'\nparams = ['msg.id']";
    let manifest = format!(
        "{APP}{}{}{}{}{}\n[services.none-keep]\nuse = 'file-out'\nin = 'one.none'\nconfig.path = 'none.jsonl'\n",
        parts::LINES,
        service("all", up_to),
        service("each", &format!("{up_to}\nrows = 'each'")),
        service("one", &format!("{exact}\nrows = 'one'\ninto = 'customer'")),
        service("few", &format!("{up_to}\nrows_max = 2")),
    );
    let lines = ["{\"id\":3,\"big\":123456789012345678901}", "{\"id\":9}"];
    parts::write(
        folder.path(),
        &manifest,
        lines.iter().map(|line| (*line).to_owned()),
    );
    run_until_idle(folder.path());
    let row = |id: u32, name: &str| json!({"id": id, "name": name});
    let rows = [row(1, "Ann"), row(2, "Bob"), row(3, "Cleo")];
    assert_eq!(
        output(folder.path(), "all.jsonl"),
        [json!(rows), json!(rows)]
    );
    assert_eq!(
        output(folder.path(), "each.jsonl"),
        [&rows[..], &rows[..]].concat()
    );
    let one = std::fs::read_to_string(folder.path().join("one.jsonl")).expect("an output");
    assert_eq!(
        one,
        "{\"big\":123456789012345678901,\"customer\":{\"name\":\"Cleo\"},\"id\":3}\n"
    );
    assert_eq!(output(folder.path(), "none.jsonl"), [json!({"id": 9})]);
    let letters = letters(folder.path());
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters[0].0.contains("rows_max = 2"), "{letters:?}");
}
