//! TLS to PostgreSQL: verified, or not at all.

use std::path::Path;

use brickwork_tests::certificates::{Authority, Valid};
use brickwork_tests::parts;
use brickwork_tests::postgres::Postgres;

use crate::{APP, logged, run_until_idle};

/// Asks PostgreSQL whether the connection is encrypted.
fn prepare(folder: &Path, url: &str, more: &str) {
    let manifest = format!(
        r#"{APP}{}
        [services.ask]
        use = "sql"
        in = "lines"
        out = "answers"
        [services.ask.config]
        url = "{url}"
        mode = "query"
        statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        rows = "one"
        {more}
        [services.keep]
        use = "file-out"
        in = "answers"
        config.path = "out.jsonl"
        "#,
        parts::LINES
    );
    parts::write(folder, &manifest, parts::numbers(1));
}

fn answer(folder: &Path) -> String {
    run_until_idle(folder);
    std::fs::read_to_string(folder.join("out.jsonl")).expect("an answer")
}

#[test]
fn a_server_is_trusted_by_its_authority_and_name_or_the_connection_is_refused() {
    let authority = Authority::new("the authority of a test");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("it can be written");
    };
    write("ca.pem", &authority.certificate);
    write("other.pem", &Authority::new("another").certificate);
    let identity = authority.sign("database", &["localhost"], Valid::Now);
    let postgres = Postgres::with_tls(&identity);
    let url = format!("{}?sslmode=verify-full", postgres.url_by("localhost"));

    prepare(folder.path(), &url, "ca = 'ca.pem'");
    assert_eq!(answer(folder.path()), "{\"ssl\":true}\n");

    let plain = tempfile::tempdir().expect("a folder can be made");
    prepare(plain.path(), &postgres.url_by("localhost"), "");
    assert_eq!(answer(plain.path()), "{\"ssl\":false}\n");

    for (host, more, reason) in [
        ("localhost", "ca = 'other.pem'", "UnknownIssuer"),
        ("localhost", "", "UnknownIssuer"),
        ("127.0.0.1", "ca = 'ca.pem'", "not valid for name"),
        (
            "localhost",
            "ca = 'nothing.pem'",
            "can't read the certificates",
        ),
    ] {
        let url = format!("{}?sslmode=require", postgres.url_by(host));
        prepare(folder.path(), &url, more);
        let app = parts::run(folder.path(), folder.path(), &[]);
        let log = logged(&app, "outside system is away");
        assert!(log.contains(reason), "{host} {more}: {log}");
        app.stop();
    }
    let postgres = Postgres::start();
    let url = format!("{}?sslmode=require", postgres.url_by("localhost"));
    prepare(folder.path(), &url, "");
    let app = parts::run(folder.path(), folder.path(), &[]);
    let log = logged(&app, "outside system is away");
    assert!(log.contains("server does not support TLS"), "{log}");
    app.stop();
}
