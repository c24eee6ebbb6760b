//! `transact` with an inbox entry, one row of state and one message in the outbox, by many
//! instances; beside the same statements by hand, committed in groups.

use std::cell::RefCell;

use brickwork::prelude::*;
use brickwork::sqlite::rusqlite::{self, Connection};
use brickwork_bench::rounds::{Rounds, median};

use crate::app::{self, IN, OUT, Order};

const ORDERS: u64 = 20_000;
const ROUNDS: usize = 5;

/// Stores a row for each order and emits the order.
struct Ledger;

impl Service for Ledger {
    const NAME: &'static str = "ledger";
    const STORE: &'static [Migration] = &[Migration::new(
        "orders",
        "CREATE TABLE entry (number INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT",
    )];
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Order> for Ledger {
    async fn handle(&mut self, order: Order, cx: &mut Context) -> Result<(), Failure> {
        let keep = move |tx: &mut Tx<'_>| {
            tx.prepare_cached("INSERT INTO entry VALUES (?1, ?2)")?
                .execute((order.order, &order.text))?;
            tx.emit(&OUT, order)
        };
        cx.store()?.transact(keep).await
    }
}

fn ours(transport: &str, instances: u32) -> app::Ran {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let services = format!(
        "[services.orders]\nout = \"orders\"\nconfig.count = {ORDERS}\nconfig.bytes = 200\n\
         config.in_flight = 1024\n\
         [services.ledger]\nin = \"orders\"\nout = \"kept\"\ninstances = {instances}\n\
         store = true\nmailbox = 256\n[services.sink]\nin = \"kept\"\nmailbox = 256\n"
    );
    let catalog = Catalog::new().with::<Ledger>();
    app::run(folder.path(), transport, &services, catalog, ORDERS)
}

/// Writes the same rows on one thread with a commit per `group`, and removes each message from
/// the outbox.
fn by_hand(group: u64) -> f64 {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let store = Connection::open(folder.path().join("by-hand.sqlite")).expect("a database");
    let began = std::time::Instant::now();
    by_hand_in(&store, group).expect("it works");
    ORDERS as f64 / began.elapsed().as_secs_f64()
}

fn by_hand_in(store: &Connection, group: u64) -> rusqlite::Result<()> {
    store.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    store.pragma_update(None, "synchronous", "FULL")?;
    store.execute_batch(
        "CREATE TABLE inbox (n INTEGER PRIMARY KEY, id TEXT NOT NULL, input TEXT NOT NULL,
                             at_ms INTEGER NOT NULL, reply BLOB, UNIQUE (id, input)) STRICT;
         CREATE TABLE outbox (n INTEGER PRIMARY KEY AUTOINCREMENT, output TEXT NOT NULL,
                              head TEXT NOT NULL, payload BLOB NOT NULL, due_ms INTEGER) STRICT;
         CREATE TABLE entry (number INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;",
    )?;
    let text = "x".repeat(200);
    let (head, payload) = (
        "h".repeat(260),
        format!("{{\"order\":1,\"text\":\"{text}\"}}"),
    );
    let mut done = 0;
    while done < ORDERS {
        store.execute_batch("BEGIN IMMEDIATE")?;
        for n in done..done + group {
            let id = brickwork::MessageId::new().to_string();
            store
                .prepare_cached("INSERT INTO inbox (id, input, at_ms) VALUES (?1, 'in', 1)")?
                .execute([id])?;
            store
                .prepare_cached("INSERT INTO entry VALUES (?1, ?2)")?
                .execute((n, &text))?;
            let place = store
                .prepare_cached(
                    "INSERT INTO outbox (output, head, payload) VALUES ('out', ?1, ?2)",
                )?
                .insert((&head, payload.as_bytes()))?;
            if n >= group {
                let before = place - group as i64;
                store
                    .prepare_cached("DELETE FROM outbox WHERE n = ?1")?
                    .execute([before])?;
            }
        }
        store.execute_batch("COMMIT")?;
        done += group;
    }
    Ok(())
}

pub(crate) fn run() {
    let cpu = RefCell::new(Vec::new());
    let title = format!("{ORDERS} transactions: inbox, one row, one message in the outbox");
    Rounds::new(title, "/s")
        .with("64 instances, memory:", || {
            let ran = ours("memory:", 64);
            cpu.borrow_mut().push(ran.cpu_us);
            ran.rate
        })
        .with("1 instance, memory:", || ours("memory:", 1).rate)
        .with("by hand, 64 a commit", || by_hand(64))
        .with("by hand, 1 a commit", || by_hand(1))
        .run(ROUNDS);
    let cpu = median(&mut cpu.borrow_mut());
    println!("64 instances: {cpu:.1} µs of CPU a transaction, with source and sink\n");
}
