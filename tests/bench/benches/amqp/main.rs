//! Brickwork over RabbitMQ beside the same work with lapin by hand: with the same guarantees, on
//! the same broker (quorum queues), in alternating rounds.
//!
//! `cargo bench -p brickwork-bench --bench amqp [-- hop|ask|services|recovery]`

#![allow(missing_docs, reason = "a program")]

mod ask;
mod hop;
mod recovery;
mod services;
mod work;

use brickwork_bench::rounds::machine;

fn main() {
    println!("{}\n", machine());
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|it| it == name);
    let bench = work::Bench::new();
    if is_chosen("hop") {
        hop::run(&bench);
    }
    if is_chosen("ask") {
        ask::run(&bench);
    }
    if is_chosen("services") {
        services::run(&bench);
    }
    if is_chosen("recovery") {
        // A separate broker with few queues, to be killed.
        drop(bench);
        recovery::run(&mut work::Bench::new());
    }
}
