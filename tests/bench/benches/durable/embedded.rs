//! The embedded transport end to end: a source publishes 1 KiB, a service takes, handles and
//! acks; beside the same manifest on RabbitMQ, and beside the speed of the disk.

use std::cell::RefCell;

use brickwork::prelude::*;
use brickwork_bench::rounds::{Rounds, median};
use brickwork_tests::broker::Broker;

use crate::{app, fsync};

const MESSAGES: u64 = 60_000;
const ONE_BY_ONE: u64 = 3_000;
const BYTES: usize = 1000;
const ROUNDS: usize = 5;

fn one_hop(transport: &str, count: u64, in_flight: usize) -> app::Ran {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let services = format!(
        "[services.orders]\nout = \"orders\"\nconfig.count = {count}\nconfig.bytes = {BYTES}\n\
         config.in_flight = {in_flight}\n[services.sink]\nin = \"orders\"\nmailbox = 256\n"
    );
    app::run(folder.path(), transport, &services, Catalog::new(), count)
}

pub(crate) fn run() {
    let broker = Broker::start();
    let url = broker.url();
    let cpu = RefCell::new(Vec::new());
    let title = format!("{MESSAGES} durable messages of 1 KiB, 256 in flight, one hop");
    Rounds::new(title, "/s")
        .with("embedded", || {
            let ran = one_hop("embedded:queues", MESSAGES, 256);
            cpu.borrow_mut().push(ran.cpu_us);
            ran.rate
        })
        .with("the same on RabbitMQ", || one_hop(&url, MESSAGES, 256).rate)
        .with("the same in memory, nothing durable", || {
            one_hop("memory:", MESSAGES, 256).rate
        })
        .run(ROUNDS);
    let cpu = median(&mut cpu.borrow_mut());
    println!("embedded: {cpu:.1} µs of CPU a message\n");
    let each = Rounds::new("One message in flight", "µs a message")
        .with("embedded", || {
            1e6 / one_hop("embedded:queues", ONE_BY_ONE, 1).rate
        })
        .with("4 KiB and fdatasync, by hand", fsync::microseconds)
        .run(ROUNDS);
    println!("{:.2} times the machine's own fsync\n", each[0] / each[1]);
}
