//! Messages that are on the disk before they are confirmed: the embedded transport and the
//! stores.
//!
//! `cargo bench -p brickwork-bench --bench durable`, or with `-- embedded`, `-- transact`,
//! `-- entities`, `-- idle`, `-- fsync` for a part of it.

#![allow(missing_docs, reason = "a program")]

use brickwork_bench::rounds::machine;

mod app;
mod embedded;
mod entities;
mod fsync;
mod idle;
mod transact;

fn main() {
    if idle::measured() {
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |part: &str| {
        let named: Vec<&String> = wanted.iter().filter(|arg| !arg.starts_with('-')).collect();
        named.is_empty() || named.iter().any(|arg| *arg == part)
    };
    println!("{}\n", machine());
    if wants("fsync") {
        fsync::run();
    }
    if wants("embedded") {
        embedded::run();
    }
    if wants("transact") {
        transact::run();
    }
    if wants("entities") {
        entities::run();
    }
    if wants("idle") {
        idle::run();
    }
}
