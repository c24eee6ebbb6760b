//! `sql` beside the database's own bulk insert: rows with the message's id as primary key go into
//! a private PostgreSQL, by `file-in` and `sql` on memory, and by `psql` with the same number of
//! rows in each statement and transaction.
//!
//! `cargo bench -p brickwork-bench --bench databases`

#![allow(missing_docs, reason = "a program")]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use actix::System;
use brickwork::transport::Transports;
use brickwork::{App, Clock, MessageId, Workers, manifest};
use brickwork_bench::rounds::{Rounds, machine};
use brickwork_tests::postgres::Postgres;

const ROWS: usize = 100_000;
const BATCH: usize = 500;
const ROUNDS: usize = 5;
const TABLE: &str = "DROP TABLE IF EXISTS orders; \
     CREATE TABLE orders (id text PRIMARY KEY, customer text, cents bigint)";

fn main() {
    println!("{}\n", machine());
    let folder = tempfile::tempdir().expect("a folder can be made");
    let postgres = Postgres::start();
    prepare(folder.path(), &postgres);
    let timed = |work: &dyn Fn()| {
        postgres.sql(TABLE);
        let began = Instant::now();
        work();
        let took = began.elapsed().as_secs_f64();
        assert_eq!(
            postgres.sql("SELECT count(*) FROM orders"),
            ROWS.to_string()
        );
        took
    };
    Rounds::new(
        format!("{ROWS} rows into PostgreSQL, {BATCH} in a transaction"),
        "s",
    )
    .with("file-in to sql", || timed(&|| run(folder.path())))
    .with("psql, INSERT of many rows", || {
        timed(&|| postgres.run_file(&folder.path().join("insert.sql")))
    })
    .with("psql, COPY", || {
        timed(&|| postgres.run_file(&folder.path().join("copy.sql")))
    })
    .run(ROUNDS);
}

fn customer(number: usize) -> String {
    format!("customer-{}", number % 977)
}

/// Writes the manifest, its lines, and the scripts of `psql`.
fn prepare(folder: &Path, postgres: &Postgres) {
    let text = format!(
        "[app]\nname = \"bench\"\ntransport = \"memory:\"\n[admin]\nlisten = \"off\"\n\
         [services.lines]\nuse = \"file-in\"\nout = \"lines\"\nconfig.path = \"lines.jsonl\"\n\
         [services.keep]\nuse = \"sql\"\nin = \"lines\"\nmailbox = {BATCH}\n\
         [services.keep.config]\nurl = \"{}\"\ntable = \"orders\"\nid_column = \"id\"\n\
         batch = {BATCH}\ncolumns = {{ customer = \"msg.customer\", cents = \"msg.cents\" }}\n",
        postgres.url()
    );
    let (mut lines, mut insert, mut copy) = (String::new(), String::new(), String::new());
    for first in (0..ROWS).step_by(BATCH) {
        let rows = first..first + BATCH;
        let mut values = Vec::new();
        copy += "COPY orders FROM STDIN;\n";
        for number in rows {
            let (id, customer) = (MessageId::new(), customer(number));
            // Writing to a string can't fail.
            let _infallible = writeln!(lines, "{{\"customer\":\"{customer}\",\"cents\":{number}}}");
            let _infallible = writeln!(copy, "{id}\t{customer}\t{number}");
            values.push(format!("('{id}','{customer}',{number})"));
        }
        copy += "\\.\n";
        let _infallible = writeln!(insert, "INSERT INTO orders VALUES {};", values.join(","));
    }
    for (name, text) in [
        ("app.toml", text),
        ("lines.jsonl", lines),
        ("insert.sql", insert),
        ("copy.sql", copy),
    ] {
        std::fs::write(folder.join(name), text).expect("it can be written");
    }
}

/// Runs the app until all rows are written.
fn run(folder: &Path) {
    let catalog = brickwork_actors::catalog();
    let options = manifest::Options::default();
    System::new().block_on(async {
        let plan = manifest::load(
            &folder.join("app.toml"),
            &options,
            &catalog,
            &Transports::new(),
        );
        let plan = plan.unwrap_or_else(|report| panic!("{}", report.render(false)));
        let app = App::start(plan, &Transports::new(), Workers::Here, Clock::SYSTEM).await;
        let app = app.expect("the app starts");
        app.idle().await;
        app.stop().await;
    });
}
